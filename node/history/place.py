"""Whether what a history has stored is of this node's log: entry for entry by index, term and digest, never by counts.

Raft's logs have this property: two logs that have an entry of the same index and term are equal up to there. So one
look at the last entry that was stored is enough. Where the log has it no more, a snapshot's mark may have it, and what
a way back undid is noted beside the data (`switch.Rewind`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import msgspec

from cluster.errors import MissingEntriesError
from cluster.ports import LogEntry
from cluster.tail import LogTail
from node.data_directory.marks import mark_of
from node.history.store import Progress
from node.migration import switch
from node.migration.found import SNAPSHOTS
from snapshots.abi import ABI
from snapshots.errors import SnapshotError
from snapshots.levels.level import ACCEPTED
from snapshots.naming import snapshot_paths
from snapshots.seal import read_seal


class Verdict(Enum):
    """What was found."""

    SAME = "the log has the entry"
    OTHER = "the log has another entry there"
    LATER = "the log does not go that far yet"
    UNKNOWN = "the entry is on this node no more"


def digest_of(entry: LogEntry) -> str:
    """What tells an entry from another one of the same index and term."""
    return hashlib.blake2b(entry.payload, digest_size=16).hexdigest()


def placed(progress: Progress, entry: LogEntry) -> Progress:
    """The progress with what tells its last entry from others."""
    return msgspec.structs.replace(progress, term=entry.term, digest=digest_of(entry), abi=ABI)


def undone(data: Path, progress: Progress) -> switch.Rewind | None:
    """The latest way back that undid the last entry that was stored."""
    if not progress.term:
        return None
    found = [rewind for rewind in switch.rewinds(data) if rewind.undid(progress.log_index, progress.term)]
    return min(found, key=lambda rewind: rewind.last_index, default=None)


def compare(data: Path, directories: Sequence[Path], progress: Progress, applied: int) -> tuple[Verdict, LogEntry | None]:
    """Compare the last entry that was stored with the log's, as far as the node has applied it; the latter where it is
    there.
    """
    if progress.log_index == 0:
        return Verdict.SAME, None
    if undone(data, progress) is not None:
        return Verdict.OTHER, None
    if applied < progress.log_index:
        return Verdict.LATER, None
    entry = _entry(directories, progress.log_index, applied) or _marked(data / SNAPSHOTS, progress.log_index)
    if entry is None:
        return Verdict.UNKNOWN, None
    same = progress.term in (0, entry.term) and (progress.abi != ABI or progress.digest == digest_of(entry))
    return (Verdict.SAME if same else Verdict.OTHER), entry


def _entry(directories: Sequence[Path], index: int, applied: int) -> LogEntry | None:
    tail = LogTail(directories, ACCEPTED, index)
    try:
        return tail.read(applied)[0]
    except MissingEntriesError:
        return None
    finally:
        tail.close()


def _marked(snapshots: Path, index: int) -> LogEntry | None:
    """The entry out of a snapshot's mark, which has the last two that it stands for."""
    for path in snapshot_paths(snapshots) if snapshots.is_dir() else []:
        try:
            manifest = read_seal(path).manifest
        except (SnapshotError, OSError):
            continue  # it was pruned meanwhile, or is damaged: the engine says so
        if manifest.abi in ACCEPTED and manifest.mark:
            mark = mark_of(manifest)
            for entry in (mark.last, mark.previous):
                if entry.index == index:
                    return entry
    return None

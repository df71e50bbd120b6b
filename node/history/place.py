"""A history's position in its node's log: whether the log still has what was stored, and which segments are not needed.

What was stored is compared entry for entry by index, term and digest, never by counts. Two Raft logs that have an entry
of the same index and term are equal up to that entry. Therefore one look at the last stored entry is enough. Where the
log no longer has that entry, a snapshot's manifest may have it. What a rollback undid is recorded beside the data
(`cutover.Rewind`)."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Sequence
from enum import Enum
from math import inf
from pathlib import Path

import msgspec

from cluster.errors import LogDamagedError, MissingEntriesError
from cluster.ports import LogEntry
from cluster.tail import LogTail, first_index
from node.config.settings import NodeConfig
from node.data_directory.marks import mark_of
from node.history.store import HistoryProgress
from node.migration import cutover
from node.migration.contents import SNAPSHOTS
from node.records.committed_log import level_at_start
from snapshots.abi import ABI
from snapshots.errors import SnapshotError
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED
from snapshots.naming import snapshot_paths
from snapshots.seal import read_seal
from statemachine.engine import Engine

log = logging.getLogger(__name__)


class LogMatch(Enum):
    """The result of comparing the last stored entry with the log."""

    SAME = "the log has the entry"
    OTHER = "the log has another entry there"
    LATER = "the log does not go that far yet"
    UNKNOWN = "this node no longer has the entry"


def digest_of(entry: LogEntry) -> str:
    """Return a digest that distinguishes entries of the same index and term."""
    return hashlib.blake2b(entry.payload, digest_size=16).hexdigest()


def placed(progress: HistoryProgress, entry: LogEntry) -> HistoryProgress:
    """Return the progress with the identity of its last entry."""
    return msgspec.structs.replace(progress, term=entry.term, digest=digest_of(entry), abi=ABI)


def undone(data: Path, progress: HistoryProgress) -> cutover.Rewind | None:
    """Return the latest rollback that undid the last stored entry."""
    if not progress.term:
        return None
    found = [rewind for rewind in cutover.rewinds(data) if rewind.undid(progress.log_index, progress.term)]
    return min(found, key=lambda rewind: rewind.last_index, default=None)


def compare(data: Path, directories: Sequence[Path], progress: HistoryProgress, applied: int) -> tuple[LogMatch, LogEntry | None]:
    """Compare the last stored entry with the log, as far as the node has applied it. Returns the log's entry too, if
    the log has it.
    """
    if progress.log_index == 0:
        return LogMatch.SAME, None
    if undone(data, progress) is not None:
        return LogMatch.OTHER, None
    if applied < progress.log_index:
        return LogMatch.LATER, None
    entry = _entry(directories, progress.log_index, applied) or _entry_of_snapshot(data / SNAPSHOTS, progress.log_index)
    if entry is None:
        return LogMatch.UNKNOWN, None
    same = progress.term in (0, entry.term) and (progress.abi != ABI or progress.digest == digest_of(entry))
    return (LogMatch.SAME if same else LogMatch.OTHER), entry


def _entry(directories: Sequence[Path], index: int, applied: int) -> LogEntry | None:
    """Return the log entry at an index, or None if the log no longer has it."""
    tail = LogTail(directories, ACCEPTED, index)
    try:
        return read(tail, applied)[0]
    except MissingEntriesError:
        return None
    finally:
        tail.close()


def read(tail: LogTail, applied: int) -> list[LogEntry]:
    """Return the next entries of a log as `LogTail.read` does. Damaged entries count as missing, because other nodes have them.

    Raises:
        MissingEntriesError: the next entry is in no segment, or damaged.
    """
    try:
        return tail.read(applied)
    except LogDamagedError as error:
        tail.close()
        log.error("the log entries from %d on cannot be read here: %s", tail.next_index, error)
        raise MissingEntriesError(tail.next_index) from error


def engine_for(entry: LogEntry, engine: Engine, directories: Sequence[Path]) -> Engine:
    """Return the engine that applies an entry. For the first entry it is an empty one of the level at which the log begins.
    When the reader began, this node may not have had that part of the log.
    """
    return states.empty(level_at_start(directories)) if entry.index == 1 else engine


def _entry_of_snapshot(snapshots: Path, index: int) -> LogEntry | None:
    """Return the entry from a snapshot's manifest, which has the last two entries that the snapshot covers."""
    for path in snapshot_paths(snapshots) if snapshots.is_dir() else []:
        try:
            manifest = read_seal(path).manifest
        except (SnapshotError, OSError):
            continue  # pruned in the meantime, or damaged, which the engine reports
        if manifest.abi in ACCEPTED and manifest.mark:
            mark = mark_of(manifest)
            for entry in (mark.last, mark.previous):
                if entry.index == index:
                    return entry
    return None


FETCHED = "log"
"""Subdirectory with log segments that a reader fetched from other nodes."""


def release(directories: Sequence[Path], index: int, place: Path, bytes_kept: int) -> None:
    """Delete segments in `place` whose entries are all at or below an index, except for the newest `bytes_kept` bytes.

    Args:
        directories: where segments lie; a segment ends where the next one of any of them begins.
    """
    segments = sorted((first_index(path), path) for directory in directories for path in directory.glob("log-*.seg"))
    following = dict(itertools.pairwise(sorted({first for first, _ in segments})))
    read = [path for first, path in segments if path.parent == place and following.get(first, inf) <= index + 1]
    kept = 0
    for path in reversed(read):
        with contextlib.suppress(FileNotFoundError):  # `migrate --finalize` deletes here, too
            kept += path.stat().st_size
            if kept > bytes_kept:
                path.unlink()


def needed_by_streams(config: NodeConfig) -> float:
    """Return the log entry after which the node's stream still needs the log; infinity without a stream."""
    if not config.streams.enabled:
        return inf
    states = config.streams_path / "state"
    return max((int(path.name) for path in snapshot_paths(states)), default=0) if states.is_dir() else 0

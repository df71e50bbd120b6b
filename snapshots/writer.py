"""`python -m snapshots.writer DIRECTORY`: writes one snapshot from its standard input, and ends.

It is a separate process, because a write to RocksDB holds the interpreter lock and would delay the engine's heartbeats.
It is started for each snapshot, so no long-lived process has to be supervised.

The snapshot is read back and checked before it gets its name, because the log that it covers is deleted afterwards. If
the process is killed at any time, the snapshot is complete or absent. If the input ends early, the snapshot is
discarded.

The input is changes to an earlier snapshot, or to an empty one. The earlier snapshot does not change; unchanged files
are shared with it.

Exit codes: 0 and the manifest's bytes on the standard output; 1 and a reason on the standard error; 3 when the input
ended early; 4 when the money in the tables does not add up: then the state itself is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from snapshots import durable
from snapshots.errors import SnapshotBusyError, SnapshotDamagedError, SnapshotError
from snapshots.frames import ATTACHMENTS, AnyFrame, Attached, Begin, Deleted, End, Purged, Rows, read_frames
from snapshots.job import EXIT_CONTRADICTION
from snapshots.manifest import Manifest, make_manifest
from snapshots.money import MoneyCheck, MoneyError
from snapshots.naming import snapshot_path
from snapshots.rocks import TABLE_FILE, RocksWriter, check_manifest
from snapshots.seal import FileEntry, Seal, new_digest, read_seal, seal_directory

EXIT_FAILED = 1
EXIT_INPUT_ENDED = 3
LOCK = "writer.lock"
NICENESS = 5
"""The priority is below that of the engine."""


class InputEnded(SnapshotError):  # noqa: N818 - not a fault: the parent died or cancelled
    """The input ended before the snapshot was complete."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the end of the process releases in any case.

    Raises:
        SnapshotBusyError: another process holds it.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SnapshotBusyError(f"{directory}: another process is writing a snapshot here") from None
        yield
    finally:
        os.close(descriptor)


def write(directory: Path, stream: BinaryIO) -> Manifest:
    """Write the snapshot from `stream` and return its manifest. The directory's lock must be held.

    Raises:
        InputEnded: the input ended before the snapshot was complete.
        SnapshotError, ValueError, OSError: the snapshot could not be made. Nothing of it is left then.
    """
    frames = read_frames(stream)
    begin = next(frames, None)
    if begin is None:
        raise InputEnded("nothing came")
    if not isinstance(begin, Begin):
        raise ValueError(f"the first frame is {type(begin).__name__}, not Begin")
    final = snapshot_path(directory, begin.fields.index)
    draft = final.with_name(final.name + durable.DRAFT)
    durable.remove_drafts(directory)
    draft.mkdir(mode=0o700)
    try:
        shared = share_files(snapshot_path(directory, begin.base), draft, begin) if begin.base else {}
        manifest = _fill(draft, begin, frames)
        check_manifest(draft, manifest)
        check_shared(seal_directory(draft, manifest), shared)
        durable.publish(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def share_files(base: Path, draft: Path, begin: Begin) -> dict[str, FileEntry]:
    """Put the files of the base into the draft: tables as hard links, which must still have the returned digests in the
    end; the others copied. Attachments are not taken over.

    Raises:
        SnapshotDamagedError: the base is not what was written.
        ValueError: it is of another schema.
    """
    seal = read_seal(base)
    if seal.manifest.abi != begin.abi or list(seal.manifest.row_counts) != begin.tables:
        raise ValueError(f"{base}: changes of another schema (ABI {begin.abi}) cannot be made to it (ABI {seal.manifest.abi})")
    shared = {}
    for entry in seal.files:
        if entry.name in ATTACHMENTS:
            continue
        source, target = base / entry.name, draft / entry.name
        if entry.name.endswith(TABLE_FILE):
            durable.link(source, target)
            shared[entry.name] = entry
            continue
        data = source.read_bytes()
        if len(data) != entry.size or new_digest(data).digest() != entry.digest:
            raise SnapshotDamagedError(str(source), "is not what was written")
        target.write_bytes(data)
    return shared


def check_shared(seal: Seal, shared: Mapping[str, FileEntry]) -> None:
    """Check that files shared with the base did not change, so that damage does not get a new checksum.

    Raises:
        SnapshotDamagedError: a shared file changed.
    """
    for entry in seal.files:
        if shared.get(entry.name, entry) != entry:
            raise SnapshotDamagedError(entry.name, "is shared with the previous snapshot, and is not what was written then")


def _fill(draft: Path, begin: Begin, frames: Iterator[AnyFrame]) -> Manifest:
    """Write the database. Returns the manifest if the input was complete."""
    writer = RocksWriter(draft, begin.tables)
    manifest = None
    try:
        counts = _take_changes(writer, draft, begin, frames)
        writer.settle(counts)
        money = MoneyCheck()
        summaries, full_hash = writer.read(counts, money.take)
        money.finish()
        if begin.fields.full_hash not in (b"", full_hash):
            raise ValueError("the rows do not have the announced full hash")
        manifest = make_manifest(begin.fields, begin.abi, summaries, full_hash)
    finally:
        writer.close(manifest)
    return manifest


def _take_changes(writer: RocksWriter, draft: Path, begin: Begin, frames: Iterator[AnyFrame]) -> dict[str, int]:
    """Write the input. Returns the number of rows that each table must have."""
    for frame in frames:
        match frame:
            case Rows(table, rows):
                writer.add(table, rows)
            case Deleted(table, keys):
                writer.delete(table, keys)
            case Purged(table, ranges):
                writer.purge(table, ranges)
            case Attached(name, data):
                _attach(draft, name, data)
            case End(counts):
                if list(counts) != begin.tables:
                    raise ValueError(f"the rows of {list(counts)} were counted, not those of {begin.tables}")
                return counts
            case _:
                raise ValueError(f"an unexpected {type(frame).__name__}")
    raise InputEnded("before the last frame")


def _attach(draft: Path, name: str, data: bytes) -> None:
    """Add a chunk to an attachment. Raises ValueError if there is no attachment of that name."""
    if name not in ATTACHMENTS:
        raise ValueError(f"a snapshot has no file {name!r}")
    with (draft / name).open("ab") as file:
        file.write(data)


def main() -> int:
    """Run the process. Returns its exit code."""
    # Ctrl-C in a terminal goes to all processes of the node; the parent decides, and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    directory = Path(sys.argv[1])
    try:
        with locked(directory):
            manifest = write(directory, sys.stdin.buffer)
    except MoneyError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONTRADICTION
    except InputEnded as error:
        sys.stderr.write(f"the input ended {error}\n")
        return EXIT_INPUT_ENDED
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes to the parent as the reason
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return EXIT_FAILED
    sys.stdout.buffer.write(msgspec.msgpack.encode(manifest))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

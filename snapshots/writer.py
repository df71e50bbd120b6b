"""`python -m snapshots.writer DIRECTORY`: writes one snapshot from what comes in by the standard input, and ends.

A process of its own, because a write to RocksDB holds the interpreter lock, and would stop the engine's heartbeats. It is started anew for each
snapshot: nothing has to be kept alive, and nothing can go stale.

The snapshot is read back and checked before it gets its name, since the log behind it is deleted on the strength of it. Whenever the process
is killed, the snapshot is there whole or not at all. If the input ends early, it is not made.

Exit codes: 0 and the manifest's bytes on the standard output; 1 and a reason on the standard error; 3 when the input ended early.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from snapshots import durable
from snapshots.errors import SnapshotBusyError, SnapshotError
from snapshots.frames import AnyFrame, Begin, End, Rows, Table, read_frames
from snapshots.manifest import Manifest, RowHasher, make_manifest
from snapshots.naming import snapshot_path
from snapshots.rocks import RocksWriter, read_tables
from snapshots.seal import seal_directory

EXIT_FAILED = 1
EXIT_INPUT_ENDED = 3
LOCK = "writer.lock"
NICENESS = 5
"""The engine goes first."""


class InputEnded(SnapshotError):  # noqa: N818 - not a fault: the parent died or cancelled
    """The input ended before the snapshot did."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; it goes with the process, however that ends.

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
    """Write the snapshot that comes in by `stream` and return its manifest. The directory's lock must be held.

    Raises:
        InputEnded: it did before the snapshot was whole.
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
        manifest = _fill(draft, begin, frames)
        read_tables(draft, manifest)
        seal_directory(draft, manifest)
        durable.publish(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _fill(draft: Path, begin: Begin, frames: Iterator[AnyFrame]) -> Manifest:
    """Write the database; the manifest if it all came."""
    writer = RocksWriter(draft, begin.tables)
    manifest = None
    try:
        manifest = _take_rows(writer, begin, frames)
    finally:
        writer.close(manifest)
    return manifest


def _take_rows(writer: RocksWriter, begin: Begin, frames: Iterator[AnyFrame]) -> Manifest:
    hasher = RowHasher()
    announced: list[str] = []
    for frame in frames:
        match frame:
            case Table(name, rows):
                announced.append(name)
                hasher.begin(name, rows)
            case Rows(rows) if announced:
                hasher.rows(rows)
                writer.add(announced[-1], rows)
            case End():
                summaries, full_hash = hasher.finish()
                if announced != begin.tables:
                    raise ValueError(f"the tables {announced} came, not {begin.tables}")
                if begin.fields.full_hash not in (b"", full_hash):
                    raise ValueError("the rows do not have the announced full hash")
                return make_manifest(begin.fields, begin.abi, summaries, full_hash)
            case _:
                raise ValueError(f"an unexpected {type(frame).__name__}")
    raise InputEnded(f"after {len(announced)} of {len(begin.tables)} tables")


def main() -> int:
    """The process. Returns its exit code."""
    # Ctrl-C in a terminal goes to all processes of the node; the parent decides, and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    directory = Path(sys.argv[1])
    try:
        with locked(directory):
            manifest = write(directory, sys.stdin.buffer)
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

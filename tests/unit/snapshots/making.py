"""Snapshots made by hand, for tests."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from snapshots.abi import ABI
from snapshots.frames import Begin, change_frames, frames
from snapshots.job import JobState, WriteJob
from snapshots.manifest import Manifest, Row, SnapshotFields
from snapshots.store import SnapshotStore
from snapshots.writer import write
from statemachine.freezing import RowChunk

Tables = dict[str, list[Row]]
FILE_LIMIT = 60.0


def fields(index: int, **changes: object) -> SnapshotFields:
    """Return what the engine would know of a snapshot at `index`."""
    base = SnapshotFields(index, 3, b"mark of %d" % index, index * 10, "0.0.1", 1_700_000_000_000_000_000)
    return msgspec.structs.replace(base, **changes)


def tables(rows: int = 50, salt: str = "") -> Tables:
    """Return three tables, one of them empty, with rows sorted by key."""
    encode = msgspec.msgpack.encode
    numbers = sorted((encode([number]), encode([number, f"{salt}{number}" * 5])) for number in range(rows))
    names = sorted((encode([f"name-{number}"]), encode([salt, number])) for number in range(rows // 2))
    return {"numbers": numbers, "nothing": [], "names": names}


def as_bytes(index: int, content: Tables, abi: str = ABI) -> bytes:
    """Return the bytes in the writer's pipe."""
    return b"".join(frames(Begin(fields(index), abi, list(content)), content))


def as_change_bytes(index: int, base: int, content: Tables, chunks: list[RowChunk], abi: str = ABI) -> bytes:
    """Return the bytes in the writer's pipe for changes that make `content` from the snapshot at `base`."""
    counts = {name: len(rows) for name, rows in content.items()}
    return b"".join(change_frames(Begin(fields(index), abi, list(content), base), counts, chunks))


def differences(old: Tables, new: Tables) -> list[RowChunk]:
    """Return the changes from one content to the other: a range in the middle of the removed rows is purged, the others
    are deleted.
    """
    chunks = []
    for name in new:
        before, after = dict(old[name]), dict(new[name])
        gone = sorted(before.keys() - after.keys())
        purged = [(gone[0], gone[0] + b"\x00")] if gone else []
        chunks.append(RowChunk(name, [row for row in new[name] if before.get(row[0]) != row[1]], gone[1:], purged))
    return chunks


def made_of_changes(directory: Path, index: int, base: int, old: Tables, new: Tables, abi: str = ABI) -> Manifest:
    """Write a snapshot as changes to the one at `base`, in this process."""
    return write(directory, io.BytesIO(as_change_bytes(index, base, new, differences(old, new), abi)))


def made(directory: Path, index: int, content: Tables, abi: str = ABI) -> Manifest:
    """Write a snapshot in this process."""
    directory.mkdir(exist_ok=True)
    return write(directory, io.BytesIO(as_bytes(index, content, abi)))


def wait(job: WriteJob) -> JobState:
    """Poll until the job has ended."""
    until = time.monotonic() + FILE_LIMIT
    while job.poll() is JobState.RUNNING:
        assert time.monotonic() < until, "the writer does not end"
        time.sleep(0.002)
    return job.poll()


def names(directory: Path) -> list[str]:
    """Return the names in a directory of snapshots, except the lock."""
    return sorted(path.name for path in directory.iterdir() if path.name != "writer.lock")


def check_whole_or_absent(directory: Path, expected: dict[int, Tables]) -> int:
    """Open a store after a kill, and check that its newest snapshot is one of `expected`, with all its rows. Returns
    its index, or 0 without one.
    """
    store = SnapshotStore(directory)
    newest = store.newest()
    assert all(len(name) == 20 for name in names(directory)), names(directory)
    if newest is None:
        return 0
    assert store.load(newest) == expected[newest.index]
    return newest.index


def rows_of(tables: Mapping[str, Iterable[Row]]) -> dict[str, list[Row]]:
    """All rows that `SnapshotStore.build` gives."""
    return {name: list(rows) for name, rows in tables.items()}

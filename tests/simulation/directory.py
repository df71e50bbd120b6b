"""Snapshot directories that a power loss tears: real files in memory, and what of them is on the disk.

`snapshots` makes things durable by `os.fsync` and gives names by `os.rename`; both go through here (`installed`), and each may be the last thing
that a process does. RocksDB itself is stood in for by one plain file (`PlainWriter`), because opening one for each snapshot would take most of
a run, and because its files hold clocks and random names: a seed would not be the same run again. Everything above it is the real code:
frames, manifest, ABI, seal, store, transfer.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapshots.errors import SnapshotDamagedError
from snapshots.frames import Begin, frames
from snapshots.job import JobState
from snapshots.manifest import Manifest, Row, RowHasher
from snapshots.writer import locked, write
from tests.simulation.disk import PowerLossError, SimDisk, broken

PLAIN_FILE = "tables"


class WriterKilledError(Exception):
    """The snapshot's writer is gone; the node goes on."""


class SnapshotDisk(SimDisk):
    """A node's disk: the log's files in memory, and a directory with snapshots.

    Attributes:
        path: the directory. writing: whether the snapshot's writer is at work: by `kill_chance` it is killed.
    """

    def __init__(self, rng: Any, path: Path) -> None:
        super().__init__(rng)
        self.path = path
        self.snapshot_death_chance = 0.0
        self.kill_chance = 0.0
        self.writing = False
        self._dead = False
        self._names: dict[int, dict[str, int]] = {}
        self._data: dict[int, bytes] = {}
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)

    def snapshot_operation(self) -> None:
        """Each fsync and rename comes here first."""
        if self._dead:
            raise PowerLossError
        if self.fate("disk-dies", bool(self.snapshot_death_chance) and self.rng.random() < self.snapshot_death_chance):
            self._dead = True
            raise PowerLossError
        if self.writing and self.fate("disk-kills-writer", bool(self.kill_chance) and self.rng.random() < self.kill_chance):
            self._dead = True
            raise WriterKilledError
        if self.fails():
            raise broken()

    @property
    def dead(self) -> bool:
        """Whether whoever is at work here is gone: what they would still do does not happen."""
        return self._dead

    def die(self) -> None:
        """The process is about to be gone."""
        self._dead = True

    def writer_gone(self) -> None:
        """After the writer was killed: the directory is as it left it."""
        self._dead = False

    def synced(self, descriptor: int) -> None:
        """A file or directory is on the disk as it is now."""
        inode = os.fstat(descriptor).st_ino
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            with os.scandir(f"/proc/self/fd/{descriptor}") as entries:
                self._names[inode] = {entry.name: entry.inode() for entry in entries}
        else:
            self._data[inode] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def crash(self, *, power_loss: bool) -> None:
        super().crash(power_loss=power_loss)
        if power_loss:
            self._tear()
        self._dead = self.writing = False
        self._all_synced(self.path)

    def _tear(self) -> None:
        left = self._tree(self.path.stat().st_ino, self.path)
        assert isinstance(left, dict)
        shutil.rmtree(self.path)
        self.path.mkdir()
        for name, contents in left.items():
            if isinstance(contents, bytes):
                (self.path / name).write_bytes(contents)
            else:
                (self.path / name).mkdir()
                for file, data in contents.items():
                    (self.path / name / file).write_bytes(data)

    def _tree(self, inode: int, path: Path | None) -> dict[str, Any]:
        """A directory after a power loss: its names as they were at the last fsync, or as they are; its files likewise."""
        seen = {entry.name: entry for entry in path.iterdir()} if path is not None else {}
        inodes = {name: entry.stat().st_ino for name, entry in sorted(seen.items())}
        here = {inodes[name]: seen[name] for name in inodes}
        durable = self._names.get(inode, {})
        names = inodes if path is not None and self.rng.random() < 0.5 else durable
        tree: dict[str, Any] = {}
        for name, number in sorted(names.items()):
            entry = here.get(number)
            if number in self._names or (entry is not None and entry.is_dir()):
                tree[name] = self._tree(number, entry)
            else:
                tree[name] = self._torn(number, entry)
        return tree

    def _torn(self, inode: int, path: Path | None) -> bytes:
        durable = self._data.get(inode, b"")
        seen = path.read_bytes() if path is not None else durable
        if seen.startswith(durable):
            return seen[: self.rng.randint(len(durable), len(seen))]
        return self.rng.choice([durable, seen])

    def _all_synced(self, path: Path) -> None:
        self._names.clear()
        self._data.clear()
        for directory in (path, *(entry for entry in path.iterdir() if entry.is_dir())):
            entries = {entry.name: entry for entry in directory.iterdir()}
            self._names[directory.stat().st_ino] = {name: entry.stat().st_ino for name, entry in entries.items()}
            self._data.update((entry.stat().st_ino, entry.read_bytes()) for entry in entries.values() if entry.is_file())


class _Os:
    """The module `os`, as `snapshots` sees it."""

    def __init__(self, find: Callable[[str], SnapshotDisk | None]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        disk = self._find(os.readlink(f"/proc/self/fd/{descriptor}"))
        if disk is not None:
            disk.snapshot_operation()
            disk.synced(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        disk = self._find(str(old))
        if disk is not None and old.exists():
            disk.snapshot_operation()
        os.rename(old, new)


class _Shutil:
    """The module `shutil`, as `snapshots` sees it: the dead remove nothing."""

    def __init__(self, find: Callable[[str], SnapshotDisk | None]) -> None:
        self._find = find

    def rmtree(self, path: Path, ignore_errors: bool = False) -> None:
        disk = self._find(str(path))
        if disk is None or not disk.dead:
            shutil.rmtree(path, ignore_errors=ignore_errors)


class SimWriteJob:
    """See `snapshots.job.WriteJob`: the writer's code in this process, all at once, some polls after the snapshot was begun."""

    def __init__(
        self,
        disk: SnapshotDisk,
        directory: Path,
        begin: Begin,
        tables: Mapping[str, Collection[Row]],
        on_done: Callable[[Manifest], None],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._begin = begin
        self._tables = tables
        self._on_done = on_done
        self._state = JobState.RUNNING
        self.reason = ""
        self.manifest: Manifest | None = None

    @property
    def settled(self) -> bool:
        return self._state is not JobState.RUNNING

    def poll(self) -> JobState:
        if self._state is JobState.RUNNING and self._disk.rng.random() < 0.1:
            self._run()
        return self._state

    def _run(self) -> None:
        data = b"".join(frames(self._begin, self._tables))
        self._disk.writing = True
        try:
            with locked(self._directory):
                self.manifest = write(self._directory, io.BytesIO(data))
        except WriterKilledError:
            self._disk.writer_gone()
            self._state, self.reason = JobState.FAILED, "killed"
            return
        except OSError as error:
            self._state, self.reason = JobState.FAILED, str(error)
            return
        finally:
            self._disk.writing = False
        self._state = JobState.DONE
        self._on_done(self.manifest)


class PlainWriter:
    """See `snapshots.rocks.RocksWriter`: all rows and the manifest in one file."""

    def __init__(self, directory: Path, tables: Iterable[str]) -> None:
        self._path = directory / PLAIN_FILE
        self._tables: dict[str, list[Row]] = {name: [] for name in tables}

    def add(self, table: str, rows: Iterable[Row]) -> None:
        self._tables[table].extend(rows)

    def close(self, manifest: Manifest | None) -> None:
        self._path.write_bytes(msgspec.msgpack.encode((manifest, self._tables)))


def read_plain(directory: Path, manifest: Manifest, keep: Callable[[str, list[Row]], None] | None = None) -> None:
    """See `snapshots.rocks.read_tables`."""
    try:
        stored, tables = msgspec.msgpack.decode(
            (directory / PLAIN_FILE).read_bytes(), type=tuple[Manifest | None, dict[str, list[Row]]]
        )
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotDamagedError(str(directory), f"cannot be read: {error}") from error
    hasher = RowHasher()
    for name, rows in tables.items():
        hasher.begin(name, len(rows))
        hasher.rows(rows)
        if keep is not None:
            keep(name, rows)
    if not is_what_was_written(hasher, stored, manifest):
        raise SnapshotDamagedError(str(directory), "its rows are not those that were written")


def is_what_was_written(hasher: RowHasher, stored: Manifest | None, manifest: Manifest) -> bool:
    """Whether rows and manifest are those of the seal."""
    return stored == manifest and hasher.finish() == (manifest.tables, manifest.full_hash)


@contextlib.contextmanager
def installed(disks: Callable[[], Iterable[SnapshotDisk]], *, rocks: bool) -> Iterator[None]:
    """The snapshots of `disks` tear; with `rocks` they are in RocksDB."""

    def find(path: str) -> SnapshotDisk | None:
        return next((disk for disk in disks() if path.startswith(str(disk.path))), None)

    def job(directory: Path, *args: Any) -> SimWriteJob:
        disk = find(str(directory))
        assert disk is not None
        return SimWriteJob(disk, directory, *args)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("durable", "transfer"):
            patch.setattr(f"snapshots.{module}.os", _Os(find))
        for module in ("durable", "transfer", "writer"):
            patch.setattr(f"snapshots.{module}.shutil", _Shutil(find))
        patch.setattr("snapshots.store.WriteJob", job)
        if not rocks:
            patch.setattr("snapshots.writer.RocksWriter", PlainWriter)
            for module in ("writer", "store", "transfer"):
                patch.setattr(f"snapshots.{module}.read_tables", read_plain)
        yield

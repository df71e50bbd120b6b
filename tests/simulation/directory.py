"""Snapshot directories that a power loss tears: real files in memory, and which of their bytes are on the disk.

`snapshots` makes files durable by `os.fsync` and names them by `os.rename`. Both calls go through this module
(`installed`), and each may be the last one of a process. `PlainWriter` replaces RocksDB by plain files of changes: a
database for each snapshot would take most of the time of a run, and RocksDB writes clocks and random names into its
files, so a seed would not give the same run again. Everything above RocksDB is the real code: freezing, frames, sharing
files with the previous snapshot, manifest, ABI, seal, store, transfer.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapshots.errors import SnapshotDamagedError, SnapshotError
from snapshots.job import JobState
from snapshots.manifest import Manifest, Row, RowHasher, TableSummary
from snapshots.rocks import TABLE_FILE, Keep, Made
from snapshots.writer import locked, write
from tests.simulation.disk import KilledError, PowerLossError, SimDisk, broken

MANIFEST = "manifest"
FILES_MAX = 4
"""The number of files of changes in a snapshot after which the next one is written in full."""


class WriterKilledError(Exception):
    """The snapshot's writer was killed. The node continues."""


class SnapshotDisk(SimDisk):
    """A node's disk: the log's files in memory, and a directory with snapshots.

    Attributes:
        path: the directory.
        writing: whether the snapshot's writer runs. It is killed with `kill_chance`.
        damaged: whether bits in the directory were flipped. A writer may then refuse to continue.
    """

    def __init__(self, rng: Any, path: Path) -> None:
        super().__init__(rng)
        self.path = path
        self.snapshot_death_chance = 0.0
        self.kill_chance = 0.0
        self.writing = False
        self.damaged = False
        self._death: PowerLossError | None = None
        self._names: dict[int, dict[str, int]] = {}
        self._data: dict[int, bytes] = {}
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)

    def snapshot_operation(self) -> None:
        """Called before each fsync and rename."""
        if self._death is not None:
            raise self._death
        if self.fate("disk-dies", bool(self.snapshot_death_chance) and self.rng.random() < self.snapshot_death_chance):
            self._death = self.death()
            raise self._death
        if self.writing and self.fate("disk-kills-writer", bool(self.kill_chance) and self.rng.random() < self.kill_chance):
            self._death = KilledError()
            raise WriterKilledError
        if self.fails():
            raise broken()

    @property
    def dead(self) -> bool:
        """Whether the running process is dead. Its further operations have no effect."""
        return self._death is not None

    def die(self) -> None:
        """Note that the process dies now."""
        self._death = self._death or KilledError()

    def writer_gone(self) -> None:
        """Continue after the writer was killed. The directory stays as the writer left it."""
        self._death = None

    def synced(self, descriptor: int) -> None:
        """Record that the present contents of a file or directory are on the disk."""
        inode = os.fstat(descriptor).st_ino
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            with os.scandir(f"/proc/self/fd/{descriptor}") as entries:
                self._names[inode] = {entry.name: entry.inode() for entry in entries}
        else:
            self._data[inode] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def rotted(self, path: Path, data: bytes) -> None:
        """Change the bytes of a file on the disk."""
        path.write_bytes(data)
        self._data[path.stat().st_ino] = data

    def crash(self, *, power_loss: bool) -> None:
        super().crash(power_loss=power_loss)
        if power_loss:
            self._tear()
            self._all_synced(self.path)
        self._death = None
        self.writing = False

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
        """Restore a directory after a power loss: its names and its files are those of the last fsync, or the present
        ones.
        """
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
    """Replaces the module `os` in `snapshots`."""

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
    """Replaces the module `shutil` in `snapshots`. A dead process removes nothing."""

    def __init__(self, find: Callable[[str], SnapshotDisk | None]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(shutil, name)

    def rmtree(self, path: Path, ignore_errors: bool = False) -> None:
        disk = self._find(str(path))
        if disk is None or not disk.dead:
            shutil.rmtree(path, ignore_errors=ignore_errors)


class SimWriteJob:
    """See `snapshots.job.WriteJob`. The input is read in small parts while the engine continues. Then the writer's code
    runs at once.
    """

    def __init__(self, disk: SnapshotDisk, directory: Path, pieces: Iterator[bytes], on_done: Callable[[Manifest], None]) -> None:
        self._disk = disk
        self._directory = directory
        self._pieces = pieces
        self._taken: list[bytes] = []
        self._on_done = on_done
        self._state = JobState.RUNNING
        self.reason = ""
        self.contradiction = False
        self.manifest: Manifest | None = None

    @property
    def settled(self) -> bool:
        return self._state is not JobState.RUNNING

    def poll(self) -> JobState:
        if self._state is JobState.RUNNING and self._disk.rng.random() < 0.3:
            piece = next(self._pieces, None)
            if piece is None:
                self._run(b"".join(self._taken))
            else:
                self._taken.append(piece)
        return self._state

    def _run(self, data: bytes) -> None:
        self._disk.writing = True
        try:
            with locked(self._directory):
                self.manifest = write(self._directory, io.BytesIO(data))
            self._on_done(self.manifest)
            self._state = JobState.DONE
        except WriterKilledError:
            self._disk.writer_gone()
            self._fail("killed")
        except OSError as error:
            self._fail(str(error))
        except (SnapshotError, ValueError) as error:
            self.contradiction = not self._disk.damaged
            self._fail(str(error))
        finally:
            self._disk.writing = False

    def _fail(self, reason: str) -> None:
        self._state, self.reason = JobState.FAILED, reason


CHECKSUM_BYTES = 4


def checked(data: bytes) -> bytes:
    """Return the contents of a file of changes after its checksum was verified, as RocksDB verifies its blocks. Raises
    ValueError.
    """
    if zlib.crc32(data[CHECKSUM_BYTES:]) != int.from_bytes(data[:CHECKSUM_BYTES], "big"):
        raise ValueError("a file does not match its checksum")
    return data[CHECKSUM_BYTES:]


Change = tuple[str, str, list[Any]]
"""What to do (add, delete or purge), to which table, and the rows, keys or ranges."""


class PlainWriter:
    """See `snapshots.rocks.RocksWriter`. Each snapshot adds a file with its changes, which the next ones share, and has
    a file with the manifest.
    """

    def __init__(self, directory: Path, tables: Iterable[str]) -> None:
        self._directory = directory
        self._changes: list[Change] = []
        self._tables: dict[str, dict[bytes, bytes]] = {name: {} for name in tables}
        self._files = sorted(directory.glob(f"*{TABLE_FILE}"))
        for file in self._files:
            for change in msgspec.msgpack.decode(checked(file.read_bytes()), type=list[Change]):
                self._apply(change)

    def add(self, table: str, rows: Iterable[Row]) -> None:
        self._note(("add", table, list(rows)))

    def delete(self, table: str, keys: Iterable[bytes]) -> None:
        self._note(("delete", table, list(keys)))

    def purge(self, table: str, ranges: Iterable[tuple[bytes, bytes]]) -> None:
        self._note(("purge", table, list(ranges)))

    def _note(self, change: Change) -> None:
        self._changes.append(change)
        self._apply(change)

    def _apply(self, change: Change) -> None:
        what, name, arguments = change
        table = self._tables[name]
        for one in arguments:
            if what == "add":
                table[one[0]] = one[1]
            elif what == "delete":
                table.pop(one, None)
            else:
                for key in [key for key in table if one[0] <= key < one[1]]:
                    del table[key]

    def tables(self) -> dict[str, list[Row]]:
        """Return all rows, sorted by key."""
        return {name: sorted(table.items()) for name, table in self._tables.items()}

    def settle(self, _counts: Mapping[str, int]) -> None:
        """Write the changes to a file. If there are too many files, write one file with all rows."""
        number = int(self._files[-1].stem) + 1 if self._files else 1
        if len(self._files) > FILES_MAX:
            self._changes = [("add", name, list(table.items())) for name, table in self._tables.items()]
            for file in self._files:
                file.unlink()
        data = msgspec.msgpack.encode(self._changes)
        (self._directory / f"{number:06d}{TABLE_FILE}").write_bytes(zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "big") + data)

    def read(self, counts: Mapping[str, int], keep: Keep | None = None) -> tuple[list[TableSummary], bytes]:
        hasher = RowHasher()
        for name, rows in self.tables().items():
            hasher.begin(name, counts[name])
            hasher.rows(rows)
            if keep is not None:
                keep(name, rows)
        return hasher.finish()

    def close(self, manifest: Manifest | None) -> None:
        (self._directory / MANIFEST).write_bytes(msgspec.msgpack.encode(manifest))


def check_plain_manifest(directory: Path, manifest: Manifest) -> None:
    """See `snapshots.rocks.check_manifest`."""
    if msgspec.msgpack.decode((directory / MANIFEST).read_bytes(), type=Manifest) != manifest:
        raise SnapshotDamagedError(str(directory), "has another manifest")


def read_plain(directory: Path, manifest: Manifest, keep: Keep | None = None) -> None:
    """See `snapshots.rocks.read_tables`."""
    try:
        check_plain_manifest(directory, manifest)
        found = PlainWriter(directory, manifest.row_counts).read(manifest.row_counts, keep)
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise SnapshotDamagedError(str(directory), f"cannot be read: {error}") from error
    if found != (manifest.tables, manifest.full_hash):
        raise SnapshotDamagedError(str(directory), "its rows are not those that were written")


def made_of_plain(directory: Path, manifest: Manifest, make: Callable[[Mapping[str, Iterator[Row]]], Made]) -> Made:
    """See `snapshots.rocks.made_of_tables`."""
    tables: dict[str, list[Row]] = {name: [] for name in manifest.row_counts}
    read_plain(directory, manifest, lambda name, rows: tables[name].extend(rows))
    return make({name: iter(rows) for name, rows in tables.items()})


@contextlib.contextmanager
def installed(disks: Callable[[], Iterable[SnapshotDisk]], *, rocks: bool) -> Iterator[None]:
    """Let the snapshots of `disks` tear. With `rocks` they are stored in RocksDB."""

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
            for module in ("store", "transfer"):
                patch.setattr(f"snapshots.{module}.read_tables", read_plain)
            patch.setattr("snapshots.store.made_of_tables", made_of_plain)
            patch.setattr("snapshots.writer.check_manifest", check_plain_manifest)
        yield

"""What a disk would still have after the power was lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random
from typing import Self

import msgspec

ROOT = 1
SECTOR = 512
"""Bytes that a disk writes whole; a torn write ends at such a border."""

_MODEL = "model.json"


class Write(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a file that were written and not synced. A length of -1: the file was cut or extended to `offset`."""

    offset: int
    length: int


class NameChange(msgspec.Struct, frozen=True, array_like=True):
    """A name in a directory that was given to file or directory `id`, or taken away (`id` is 0), and not synced."""

    name: str
    id: int


class Model(msgspec.Struct):
    """The durable state: names by directory, contents as files named by id; and all that waits to be synced, in order.

    Files and directories have ids of their own, since a file system uses inode numbers again.
    """

    names: dict[int, dict[str, int]] = msgspec.field(default_factory=lambda: {ROOT: {}})
    directories: set[int] = msgspec.field(default_factory=lambda: {ROOT})
    waiting_names: dict[int, list[NameChange]] = {}
    waiting_writes: dict[int, list[Write]] = {}
    last_id: int = ROOT

    def new_id(self, *, directory: bool) -> int:
        """Return an id for a new file or directory, of which nothing is durable yet."""
        self.last_id += 1
        if directory:
            self.directories.add(self.last_id)
            self.names[self.last_id] = {}
        return self.last_id

    def name(self, directory: int, name: str, target: int) -> None:
        """Record that a name was made (`target` is an id) or removed (0)."""
        self.waiting_names.setdefault(directory, []).append(NameChange(name, target))

    def wrote(self, file: int, offset: int, length: int) -> None:
        """Bytes of a file changed, or its length (`length` -1)."""
        writes = self.waiting_writes.setdefault(file, [])
        if writes and length >= 0 and writes[-1].length >= 0 and writes[-1].offset + writes[-1].length == offset:
            writes[-1] = Write(writes[-1].offset, writes[-1].length + length)
        else:
            writes.append(Write(offset, length))

    def synced_names(self, directory: int, count: int | None = None) -> None:
        """Make the first `count` changes of a directory's names durable, or all of them."""
        for change in self.waiting_names.pop(directory, [])[:count]:
            if change.id:
                self.names[directory][change.name] = change.id
            else:
                self.names[directory].pop(change.name, None)


class Store:
    """A model with the durable contents, in a directory of its own.

    Args:
        directory: where the contents and, between mounts, the model are kept.
        live: the directory that the file system shows.
    """

    def __init__(self, directory: Path, live: Path) -> None:
        self._contents = directory / "contents"
        self._file = directory / _MODEL
        self.live = live
        self.model = Model()

    @classmethod
    def begin(cls, directory: Path, live: Path) -> tuple[Self, dict[tuple[int, int], int]]:
        """Return a store in which everything that the live directory holds is durable, and the ids of its files, by
        device and inode.
        """
        shutil.rmtree(directory, ignore_errors=True)
        store = cls(directory, live)
        store._contents.mkdir(parents=True)
        ids: dict[tuple[int, int], int] = {}
        store._take_in(live, ROOT, ids)
        return store, ids

    def _take_in(self, directory: Path, number: int, ids: dict[tuple[int, int], int]) -> None:
        status = directory.stat()
        ids[status.st_dev, status.st_ino] = number
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            key = (status.st_dev, status.st_ino)
            if entry.is_dir(follow_symlinks=False):
                child = self.model.new_id(directory=True)
                self._take_in(Path(entry.path), child, ids)
            elif entry.is_file(follow_symlinks=False):
                child = ids.get(key) or self.model.new_id(directory=False)
                if key not in ids:
                    shutil.copyfile(entry.path, self.content(child))
                ids[key] = child
            else:
                continue  # sockets do not outlive their process
            self.model.names[number][entry.name] = child

    def content(self, file: int) -> Path:
        """Return the path of the durable bytes of a file."""
        return self._contents / str(file)

    def sync(self, file: int, live: int, size: int, writes: list[Write] | None = None) -> None:
        """Make durable what was written to a file, or the given part of it.

        Args:
            live: a descriptor of the live file.
            size: the length that becomes durable.
        """
        durable = os.open(self.content(file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for write in self.model.waiting_writes.pop(file, []) if writes is None else writes:
                if write.length > 0:
                    os.pwrite(durable, os.pread(live, write.length, write.offset), write.offset)
            os.ftruncate(durable, size)
        finally:
            os.close(durable)

    def save(self) -> None:
        """Keep the model for `lose_power`."""
        self._file.write_bytes(msgspec.json.encode(self.model))

    def load(self) -> None:
        """Read what `save` kept."""
        self.model = msgspec.json.decode(self._file.read_bytes(), type=Model)


def lose_power(store: Store, random: Random | None, paths: dict[int, Path]) -> None:
    """Make the live directory what the disk has after the power was lost. The file system must be unmounted.

    Args:
        random: None: only synced data is left. Else a random part of the pending writes of each file and directory is
            left too, in order, the last one torn at a sector's border.
        paths: where files with waiting writes lie in the live directory, by id; those that have no name are lost.
    """
    store.load()
    if random is not None:
        for file in sorted(store.model.waiting_writes):
            if file in paths:
                _tear(store, file, paths[file], random)
        for directory in sorted(store.model.waiting_names):
            store.model.synced_names(directory, random.randrange(len(store.model.waiting_names[directory]) + 1))
    for entry in list(os.scandir(store.live)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    _bring_back(store, ROOT, store.live, {})


def _tear(store: Store, file: int, path: Path, random: Random) -> None:
    """Make a part of a file's waiting writes durable."""
    waiting = store.model.waiting_writes[file]
    kept = waiting[: random.randrange(len(waiting) + 1)]
    if kept and kept[-1].length > SECTOR:
        last = kept[-1]
        kept[-1] = Write(last.offset, random.randrange(0, last.length, SECTOR))
    durable = store.content(file)
    size = durable.stat().st_size if durable.exists() else 0
    for write in kept:
        size = write.offset if write.length < 0 else max(size, write.offset + write.length)
    with path.open("rb") as live:
        store.sync(file, live.fileno(), size, kept)


def _bring_back(store: Store, number: int, directory: Path, made: dict[int, Path]) -> None:
    for name, child in sorted(store.model.names[number].items()):
        path = directory / name
        if child in store.model.directories:
            path.mkdir(mode=0o700)
            _bring_back(store, child, path, made)
        elif child in made:
            os.link(made[child], path)
        else:
            if store.content(child).exists():
                shutil.copyfile(store.content(child), path)
            else:
                path.touch()
            path.chmod(0o600)
            made[child] = path

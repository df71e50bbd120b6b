"""A directory on a real disk, with the durability that `ports.Disk` promises."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cluster.ports import DiskFile


class RealFile:
    """A file open for appending, unbuffered. See `ports.DiskFile`."""

    def __init__(self, path: Path, fsync: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._fsync = fsync

    def append(self, data: bytes) -> None:
        """Write at the end, whole."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """fdatasync, unless the operator gave up durability (`raft.fsync = false`)."""
        if self._fsync:
            os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        """Cut to `size` bytes."""
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        """Close."""
        os.close(self._fd)


class RealDisk:
    """See `ports.Disk`.

    Args:
        archive_to: keeps log segments that are no longer needed; without it they are deleted.
        archives: asked for each such segment; the answer may change while the node runs.
    """

    def __init__(
        self, directory: Path, *, fsync: bool = True, archive_to: Path | None = None, archives: Callable[[], bool] = lambda: True
    ) -> None:
        self._directory = directory
        self._fsync = fsync
        self._archive_to = archive_to
        self._archives = archives
        for each in (directory, archive_to):
            if each is not None and not each.is_dir():
                each.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._sync_directory(each.parent)

    def names(self) -> list[str]:
        """All files, sorted; leftovers of an interrupted `replace` are none."""
        return sorted(entry.name for entry in self._directory.iterdir() if entry.is_file() and not entry.name.endswith(".tmp"))

    def read(self, name: str) -> bytes:
        """A file whole."""
        return (self._directory / name).read_bytes()

    def open(self, name: str) -> DiskFile:
        """Open for appending, created when absent."""
        return RealFile(self._directory / name, self._fsync)

    def replace(self, name: str, data: bytes) -> None:
        """Write anew: temporary file, fsync, rename, fsync of the directory."""
        temporary = self._directory / f"{name}.tmp"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if self._fsync:
                os.fsync(file.fileno())
        temporary.replace(self._directory / name)
        self.sync_names()

    def remove(self, name: str) -> None:
        """Delete."""
        (self._directory / name).unlink()

    def archive(self, name: str) -> None:
        """Move to the archive, or delete."""
        if self._archive_to is None or not self._archives():
            self.remove(name)
        else:
            (self._directory / name).replace(self._archive_to / name)

    def sync_names(self) -> None:
        """fsync of the directory, and of the archive first: a segment is in one of them at any time."""
        if self._archive_to is not None:
            self._sync_directory(self._archive_to)
        self._sync_directory(self._directory)

    def _sync_directory(self, directory: Path) -> None:
        if not self._fsync:
            return
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

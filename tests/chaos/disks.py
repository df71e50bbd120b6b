"""Disks that fail on demand, mounted over a node's data directory: one becomes full, and one answers writes with EIO.
They need root.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from tests.chaos.errors import CommandFailedError, NotPossibleError
from tests.chaos.system import call, need_root

SPACE_BYTES = 24 * 1024 * 1024
"""Space beyond the contents of the data directory when it is moved there."""


class FullDisk:
    """A file system in memory over a data directory; the node must be down for `insert` and `remove`."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._aside = data.with_name(data.name + ".aside")
        self._ballast = data / "ballast"

    def check(self) -> None:
        """Raise `NotPossibleError` if this machine cannot provide the disk."""
        need_root("mount", "umount", "cp")
        probe = self._data.with_name(self._data.name + ".probe")
        probe.mkdir()
        try:
            call("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(probe))
            call("umount", str(probe))
        except CommandFailedError as error:
            raise NotPossibleError(str(error)) from error
        finally:
            probe.rmdir()

    def insert(self) -> None:
        """Mount the disk, and copy the contents of the data directory to it."""
        self._data.rename(self._aside)
        self._data.mkdir(mode=0o700)
        self._mount(_size(self._aside) + SPACE_BYTES)
        call("cp", "-a", f"{self._aside}/.", str(self._data))

    def _mount(self, size: int) -> None:
        call("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(self._data))

    def fail(self) -> None:
        """Leave no free byte."""
        fill(self._ballast)

    def remove(self) -> None:
        """Unmount the disk, and leave its contents in the data directory. The method also completes an interrupted call."""
        self._ballast.unlink(missing_ok=True)
        if os.path.ismount(self._data):
            saved = self._data.with_name(self._data.name + ".saved")
            call("cp", "-a", str(self._data), str(saved))
            call("umount", str(self._data))
            self._data.rmdir()
            saved.rename(self._data)
            shutil.rmtree(self._aside, ignore_errors=True)
        elif self._aside.exists():
            self._data.rmdir()
            self._aside.rename(self._data)


class BadDisk(FullDisk):
    """An ext4 file system on a loop device whose backing store runs out of space: its writes fail with EIO."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self._store = data.with_name(data.name + ".store")

    def check(self) -> None:
        """Raise `NotPossibleError` if this machine cannot provide the disk."""
        need_root("mkfs.ext4", "losetup")
        super().check()
        try:
            call("losetup", "--find")
        except CommandFailedError as error:
            raise NotPossibleError(str(error)) from error

    def _mount(self, size: int) -> None:
        self._store.mkdir()
        call("mount", "-t", "tmpfs", "-o", f"size={size + SPACE_BYTES}", "tmpfs", str(self._store))
        image = self._store / "image"
        with image.open("wb") as file:
            file.truncate(size * 4)
        call("mkfs.ext4", "-q", "-E", "nodiscard", str(image))
        call("mount", "-o", "loop", str(image), str(self._data))

    def fail(self) -> None:
        """Leave the loop device no space to write to."""
        fill(self._store / "ballast")

    def remove(self) -> None:
        """Unmount the disk, and restore the earlier contents of the data directory. They are an old copy, on which the node
        must not run again.
        """
        for mounted in (self._data, self._store):
            if os.path.ismount(mounted):
                call("umount", str(mounted))
        if self._store.exists():
            self._store.rmdir()
        if self._aside.exists():
            self._data.rmdir()
            self._aside.rename(self._data)


def fill(path: Path) -> None:
    """Write until the file system of `path` is full."""
    chunk = 1024 * 1024
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        while chunk:
            try:
                os.write(descriptor, bytes(chunk))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                chunk //= 2
    finally:
        os.close(descriptor)


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*"))

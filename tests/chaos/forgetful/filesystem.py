"""The file system: `python -m tests.chaos.forgetful.filesystem MOUNT LIVE STORE CONTROL`; it runs until it is
unmounted.

CONTROL is a file that whoever makes faults may write at any time, JSON of `Control`: it is read at each sync.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import mfusepy
import msgspec

from tests.chaos.forgetful.control import PATHS, Control
from tests.chaos.forgetful.model import ROOT, Store

_STATUS = ("st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid", "st_blocks", "st_ino")


class Forgetful(mfusepy.Operations):  # type: ignore[misc]
    """The operations. One lock: what is durable must not depend on the order of threads."""

    use_ns = True

    def __init__(self, live: Path, store: Path, control: Path) -> None:
        self._live = live
        self._store, self._ids = Store.begin(store, live)
        self._model = self._store.model
        self._directory = store
        self._control = control
        self._failed = 0
        self._random = Random(0)
        self._handles: dict[int, int] = {}
        self._lock = threading.RLock()

    def __call__(self, operation: str, *arguments: Any) -> Any:
        method = getattr(self, operation, None)
        if method is None:
            raise mfusepy.FuseOSError(errno.ENOSYS)
        try:
            if operation in ("fsync", "fsyncdir"):
                return method(*arguments)
            with self._lock:
                return method(*arguments)
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno or errno.EIO) from error

    def _path(self, path: str) -> str:
        return f"{self._live}{path}"

    def _id(self, path: str) -> int:
        status = os.lstat(self._path(path))
        return self._ids[status.st_dev, status.st_ino]

    def _parent(self, path: str) -> tuple[int, str]:
        directory, _, name = path.rpartition("/")
        return (self._id(directory) if directory else ROOT), name

    def _appear(self, path: str, *, directory: bool) -> int:
        """Record that a file or directory was made, and return its id."""
        status = os.lstat(self._path(path))
        number = self._model.new_id(directory=directory)
        self._ids[status.st_dev, status.st_ino] = number
        parent, name = self._parent(path)
        self._model.name(parent, name, number)
        return number

    def destroy(self, path: str) -> None:
        """Keep the model of the disk when the file system is unmounted."""
        paths = {}
        for directory, _, files in os.walk(self._live):
            for name in files:
                full = os.path.join(directory, name)
                status = os.lstat(full)
                number = self._ids.get((status.st_dev, status.st_ino))
                if number is not None:
                    paths[number] = full
        (self._directory / PATHS).write_bytes(msgspec.json.encode(paths))
        self._store.save()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = os.lstat(self._path(path)) if fh is None or fh not in self._handles else os.fstat(fh)
        found = {name: getattr(status, name) for name in _STATUS}
        for name in ("st_atime", "st_mtime", "st_ctime"):
            found[name] = getattr(status, f"{name}_ns")
        return found

    def access(self, path: str, amode: int) -> int:
        return 0

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._path(path))]

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._live)
        names = (
            "f_bavail",
            "f_bfree",
            "f_blocks",
            "f_bsize",
            "f_favail",
            "f_ffree",
            "f_files",
            "f_flag",
            "f_frsize",
            "f_namemax",
        )
        return {name: getattr(found, name) for name in names}

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._path(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._path(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._path(path), ns=times) if times is not None else os.utime(self._path(path))
        return 0

    def readlink(self, path: str) -> str:
        return os.readlink(self._path(path))

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._path(path), mode)
        self._appear(path, directory=True)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._path(path))
        parent, name = self._parent(path)
        self._model.name(parent, name, 0)
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        os.mknod(self._path(path), mode, dev)
        return 0

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        handle = os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        self._handles[handle] = self._appear(path, directory=False)
        return handle

    def open(self, path: str, flags: int) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        handle = os.open(self._path(path), (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC)
        self._handles[handle] = self._id(path)
        if flags & os.O_TRUNC:
            self._cut(handle, 0)
        return handle

    def release(self, path: str, fh: int) -> int:
        self._handles.pop(fh, None)
        os.close(fh)
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        written = os.pwrite(fh, data, offset)
        self._model.wrote(self._handles[fh], offset, written)
        return written

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        if fh is not None and fh in self._handles:
            self._cut(fh, length)
            return 0
        handle = self.open(path, os.O_RDWR)
        try:
            self._cut(handle, length)
        finally:
            self.release(path, handle)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, length: int, fh: int) -> int:
        if mode:
            raise OSError(errno.EOPNOTSUPP, "only plain allocation")
        os.posix_fallocate(fh, offset, length)
        self._model.wrote(self._handles[fh], os.fstat(fh).st_size, -1)
        return 0

    def _cut(self, handle: int, length: int) -> None:
        os.ftruncate(handle, length)
        self._model.wrote(self._handles[handle], length, -1)

    def unlink(self, path: str) -> int:
        full = self._path(path)
        status = os.lstat(full)
        os.unlink(full)
        parent, name = self._parent(path)
        self._model.name(parent, name, 0)
        if status.st_nlink == 1:
            self._ids.pop((status.st_dev, status.st_ino), None)
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self._path(source), self._path(target))
        parent, name = self._parent(target)
        self._model.name(parent, name, self._id(source))
        return 0

    def rename(self, old: str, new: str) -> int:
        status = os.lstat(self._path(old))
        number = self._ids.get((status.st_dev, status.st_ino), 0)  # a socket has none, and is durable in nothing
        replaced = os.lstat(self._path(new)) if os.path.lexists(self._path(new)) else None
        source, source_name = self._parent(old)
        target, target_name = self._parent(new)
        os.rename(self._path(old), self._path(new))
        if replaced is not None and replaced.st_nlink == 1:
            self._ids.pop((replaced.st_dev, replaced.st_ino), None)
        self._model.name(target, target_name, number)
        self._model.name(source, source_name, 0)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        control = self._controls(path)
        if control.lies or control.holds:
            return 0
        # Synced as a disk does it: what was written before, and not what comes while the sync is under way.
        with self._lock:
            self._store.sync(self._handles[fh], fh, os.fstat(fh).st_size)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        if self._controls(path).lies:
            return 0
        with self._lock:
            self._model.synced_names(self._id(path) if path != "/" else ROOT)
        return 0

    def _controls(self, path: str) -> Control:
        """Return what is to go wrong with this sync. Delays, failures and holds happen here."""
        try:
            control = msgspec.json.decode(self._control.read_bytes(), type=Control)
        except (FileNotFoundError, msgspec.DecodeError):
            self._failed = 0
            return Control()
        if not path.rpartition("/")[2].startswith(control.prefix):
            return Control()
        if control.failures > self._failed:
            self._failed += 1
            raise OSError(errno.EIO, "a fault")
        if control.delay[1]:
            time.sleep(self._random.uniform(*control.delay))
        while control.holds and self._control.exists():
            time.sleep(0.01)
        return control


def main() -> None:
    """Mount, and serve until unmounted."""
    mount, live, store, control = map(Path, sys.argv[1:5])
    operations = Forgetful(live, store, control)
    mfusepy.FUSE(
        operations,
        str(mount),
        foreground=True,
        nothreads=False,
        fsname="forgetful",
        default_permissions=True,
        attr_timeout=0,
        entry_timeout=0,
    )


if __name__ == "__main__":
    main()

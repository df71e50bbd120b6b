"""A directory on a real disk, with the durability that `ports.Disk` requires.

Every OSError names its path. A shortage of descriptors or memory before anything was written does no harm, so opening
is retried, with a reserve descriptor (`Opener`). An error of a write or a sync is raised: the contents of the disk are
then unknown, and the node must stop.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.ports import DiskFile

log = logging.getLogger(__name__)

TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
"""Errors of a temporary shortage of the system."""

OPEN_TRIES = 20
OPEN_PAUSE = 0.005
"""Attempts to open a file, and seconds between them: 0.1 s in all, a third of the shortest election timeout."""

RESERVE = 2
"""Reserve descriptors for a shortage: one for a file, one for a directory."""


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an OSError of a system call on a descriptor name the path."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise type(error)(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
        raise


class Opener:
    """Opens files even if the process or the system has no descriptors left.

    Attributes:
        shortages: how often a file could not be opened at the first attempt.
    """

    def __init__(self) -> None:
        self._reserve: list[int] = []
        self._short = False
        self.shortages = 0
        self._refill()

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Return a descriptor of `path`.

        Raises:
            OSError: the file cannot be opened. A shortage of descriptors or memory raises it after `OPEN_TRIES`
                attempts. Nothing was written.
        """
        for attempt in range(OPEN_TRIES):
            try:
                descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
            except OSError as error:
                if error.errno not in TRANSIENT or attempt == OPEN_TRIES - 1:
                    raise
                self._note_shortage(attempt, path, error)
                if self._reserve:
                    os.close(self._reserve.pop())
                else:
                    time.sleep(OPEN_PAUSE)
            else:
                if not attempt and self._short:
                    self._short = False
                    log.info("%s was opened after a shortage of descriptors or memory", path)
                return descriptor
        raise AssertionError("the last try returns or raises")

    def _note_shortage(self, attempt: int, path: Path, error: OSError) -> None:
        """Count and log that a file could not be opened."""
        if not attempt:
            self.shortages += 1
        if not self._short:
            self._short = True
            log.warning("%s could not be opened (%s): nothing was written, and it will be tried again", path, error.strerror)

    def close(self, descriptor: int) -> None:
        """Close a descriptor, and fill up the reserve if it was used."""
        os.close(descriptor)
        if len(self._reserve) < RESERVE:
            self._refill()

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._reserve) < RESERVE:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def give_up(self) -> None:
        """Close the reserve."""
        while self._reserve:
            os.close(self._reserve.pop())

    def __del__(self) -> None:
        self.give_up()


class RealFile:
    """A file open for appending, unbuffered. See `ports.DiskFile`."""

    def __init__(self, path: Path, fsync: bool, opener: Opener, synced: Callable[[float], None] = lambda _seconds: None) -> None:
        self._path = path
        self._synced = synced
        self._opener = opener
        self._fd = opener.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._fsync = fsync

    def append(self, data: bytes) -> None:
        """Append all bytes."""
        view = memoryview(data)
        with _named(self._path):
            while view:
                view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """fdatasync, unless the operator gave up durability (`raft.fsync = false`)."""
        if self._fsync:
            begun = time.perf_counter()
            with _named(self._path):
                os.fdatasync(self._fd)
            self._synced(time.perf_counter() - begun)

    def truncate(self, size: int) -> None:
        """Cut to `size` bytes."""
        with _named(self._path):
            os.ftruncate(self._fd, size)

    def close(self) -> None:
        """Close the file."""
        self._opener.close(self._fd)


class RealDisk:
    """See `ports.Disk`.

    Args:
        archive_to: keeps log segments that are no longer needed; without it they are deleted.
        archives: called for each such segment; says whether it is archived. The answer may change while the node runs.
        synced: called after each fdatasync of an open file, with its duration in seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool = True,
        archive_to: Path | None = None,
        archives: Callable[[], bool] = lambda: True,
        synced: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._synced = synced
        self._directory = directory
        self._fsync = fsync
        self._archive_to = archive_to
        self._archives = archives
        self._opener = Opener()
        for each in (directory, archive_to):
            if each is not None and not each.is_dir():
                each.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._sync_directory(each.parent)

    def names(self) -> list[str]:
        """Return all files, sorted, without leftovers of an interrupted `replace`."""
        return sorted(entry.name for entry in self._directory.iterdir() if entry.is_file() and not entry.name.endswith(".tmp"))

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        return (self._directory / name).read_bytes()

    def settle(self, name: str) -> None:
        """fsync, then drop the file's pages from the cache, so that `read` reads the disk."""
        path = self._directory / name
        if not self._fsync:
            return
        with self._opened(path, os.O_RDONLY) as descriptor, _named(path):
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def open(self, name: str) -> DiskFile:
        """Open for appending, created when absent."""
        return RealFile(self._directory / name, self._fsync, self._opener, self._synced)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file: temporary file, fsync, rename, fsync of the directory."""
        temporary = self._directory / f"{name}.tmp"
        with self._opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor, _named(temporary):
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if self._fsync:
                os.fsync(descriptor)
        temporary.replace(self._directory / name)
        self.sync_names()

    def remove(self, name: str) -> None:
        """Delete a file."""
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
        with self._opened(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor, _named(directory):
            os.fsync(descriptor)

    @contextlib.contextmanager
    def _opened(self, path: Path, flags: int) -> Iterator[int]:
        """Open a file for the block. Yields its descriptor."""
        descriptor = self._opener.open(path, flags)
        try:
            yield descriptor
        finally:
            self._opener.close(descriptor)

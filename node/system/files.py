"""Files that must be there, whole, after a power loss."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Create a file with `mode` from its first moment on, durable on return but for its name (`sync_directory`).

    Raises:
        FileExistsError: there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_lines(path: Path, lines: Iterable[bytes], mode: int) -> None:
    """Create a file of lines, durable, and whole or not there.

    Raises:
        FileExistsError: there is one.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "is there already; name another file", str(path))
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_directory(path.parent)


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file anew, durable and atomic: whole at any moment, old or new."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    write_new(draft, data, mode)
    os.replace(draft, path)
    sync_directory(path.parent)

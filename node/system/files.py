"""Writes files that must exist completely after a power loss."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from snapshots.durable import sync_path

T = TypeVar("T")


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Create a file with `mode` from its creation on. Its contents are durable on return; its name needs
    `snapshots.durable.sync_path`. If it cannot be written, nothing is left.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with named(path), open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Create a file of lines, durable and atomic, that only its owner can read. If that fails, nothing is left.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "exists already; name another file", str(path))
    # The directory is a user's, and may hold files with any name.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with named(path), open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


@contextlib.contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Let the block fill a directory, or make it. If the block fails, nothing new is left, as far as it can be removed."""
    existed = directory.exists()
    before = set(directory.iterdir()) if directory.is_dir() else set()
    try:
        yield
    except BaseException:
        for path in set(directory.iterdir()) - before if directory.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if not existed:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError of the block name a path: a failed write or fsync does not name its file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file, durable and atomic: it always has the old or the new contents. If root writes it, its owner
    stays.
    """
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    write_new(draft, data, mode)
    if os.geteuid() == 0 and path.exists():
        former = path.stat()
        os.chown(draft, former.st_uid, former.st_gid)
    os.replace(draft, path)
    sync_path(path.parent)


def decoded_lines(path: Path, decoder: msgspec.json.Decoder[T], fault: Callable[[str], Exception]) -> Iterator[T]:
    """Decode the lines of a file of JSON.

    Raises:
        The error that `fault` makes of a text with file and line: a line cannot be decoded.
        OSError: the file cannot be read.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise fault(f"{path}, line {number}: {error}") from error

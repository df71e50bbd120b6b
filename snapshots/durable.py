"""Directories that are created and deleted atomically, even if the process is killed.

A directory that is being written has a suffix after its final name. A rename gives it the final name, after all its
contents are on the disk. A rename also removes that name before any contents are deleted. `clean` removes what a killed
process left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path

DRAFT = ".tmp"
INCOMING = ".incoming"
REPLACED = ".old"
TRASH = ".trash"
_OWN = re.compile(
    rf"([0-9]{{20}}|[0-9a-f]{{16}})({re.escape(DRAFT)}|{re.escape(INCOMING)}|{re.escape(REPLACED)}|{re.escape(TRASH)})"
)
"""Names of unfinished directories: a snapshot's index or a random name, then a suffix. A backup's directory may be any
directory of a user, and hold other files with these suffixes.
"""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)


def sync_path(path: Path) -> None:
    """Sync a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Sync all files of a directory without subdirectories, then the directory."""
    for path in sorted(directory.iterdir()):
        sync_path(path)
    sync_path(directory)


def link(source: Path, target: Path) -> None:
    """Give a file that never changes another name: a hard link, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)


def publish(draft: Path, final: Path) -> None:
    """Give a finished directory its name, durably. It replaces a directory that already has the name."""
    old = final.with_name(final.name + REPLACED)
    if final.exists():
        os.rename(final, old)
    os.rename(draft, final)
    sync_path(final.parent)
    remove(old)


def discard(final: Path) -> None:
    """Delete a finished directory, if it exists."""
    trash = final.with_name(final.name + TRASH)
    remove(trash)  # of a process that was killed here before
    with contextlib.suppress(FileNotFoundError):
        os.rename(final, trash)
        sync_path(final.parent)
        remove(trash)


def remove(path: Path) -> None:
    """Delete a directory without a final name, or a file, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_drafts(parent: Path) -> None:
    """Delete drafts that a killed writer left. The caller must be sure that no writer runs."""
    for path in parent.glob(f"*{DRAFT}"):
        if _OWN.fullmatch(path.name):
            remove(path)


def clean(parent: Path) -> None:
    """Remove what a killed process left, and restore the name of a directory that was being replaced. Other files stay."""
    for path in sorted(parent.iterdir()):
        if _OWN.fullmatch(path.name) is None:
            continue
        if path.name.endswith(REPLACED):
            final = path.with_name(path.name.removesuffix(REPLACED))
            if final.exists():
                remove(path)
            else:
                os.rename(path, final)
        else:
            remove(path)
    sync_path(parent)

"""Directories that appear whole, and disappear whole, whatever moment the process is killed at.

A directory in the making has a suffix behind its final name. Only a rename gives it the final name, after everything in it is on the disk; and
only a rename takes that name away before anything in it is deleted. `clean` puts in order what a kill left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

DRAFT = ".tmp"
INCOMING = ".incoming"
REPLACED = ".old"
TRASH = ".trash"


def sync_path(path: Path) -> None:
    """fsync of a file or directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """fsync of all files in a directory without subdirectories, then of the directory."""
    for path in sorted(directory.iterdir()):
        sync_path(path)
    sync_path(directory)


def publish(draft: Path, final: Path) -> None:
    """Give a finished directory its name, durably; one that has the name already makes way."""
    old = final.with_name(final.name + REPLACED)
    if final.exists():
        os.rename(final, old)
    os.rename(draft, final)
    sync_path(final.parent)
    if old.exists():
        shutil.rmtree(old)


def discard(final: Path) -> None:
    """Delete a finished directory; fine if it is gone."""
    trash = final.with_name(final.name + TRASH)
    with contextlib.suppress(FileNotFoundError):
        os.rename(final, trash)
        sync_path(final.parent)
        shutil.rmtree(trash)


def clean(parent: Path) -> None:
    """Remove what a killed process left, and give back the name to a directory that was being replaced."""
    for path in sorted(parent.iterdir()):
        if path.name.endswith(REPLACED):
            final = path.with_name(path.name.removesuffix(REPLACED))
            if final.exists():
                shutil.rmtree(path)
            else:
                os.rename(path, final)
        elif path.name.endswith((DRAFT, INCOMING, TRASH)):
            shutil.rmtree(path)
    sync_path(parent)

"""The directories of snapshots: one per snapshot, named by the log index in 20 digits, so that names sort like indexes."""

from __future__ import annotations

import re
from pathlib import Path

from snapshots import durable

_NAME = re.compile(r"[0-9]{20}")


def snapshot_path(directory: Path, index: int) -> Path:
    """Return the directory of the snapshot at a log index."""
    return directory / f"{index:020d}"


def snapshot_paths(directory: Path) -> list[Path]:
    """Return the directories of all finished snapshots, oldest first."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def prune(directory: Path, keep: int) -> None:
    """Delete all but the newest `keep` snapshots."""
    for path in snapshot_paths(directory)[:-keep]:
        durable.discard(path)

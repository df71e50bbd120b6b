"""Which segments of the log the readers of a node (history, streams) no longer need."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from math import inf
from pathlib import Path

from cluster.tail import first_index
from node.config.settings import NodeConfig
from snapshots.naming import snapshot_paths


def release(directories: Sequence[Path], index: int, place: Path, bytes_kept: int) -> None:
    """Delete segments in `place` whose entries are all at or below an index, but for the newest `bytes_kept` bytes of
    them.

    Args:
        directories: where segments lie; a segment ends where the next one of any of them begins.
    """
    segments = sorted((first_index(path), path) for directory in directories for path in directory.glob("log-*.seg"))
    following = dict(itertools.pairwise(sorted({first for first, _ in segments})))
    read = [path for first, path in segments if path.parent == place and following.get(first, inf) <= index + 1]
    kept = 0
    for path in reversed(read):
        with contextlib.suppress(FileNotFoundError):  # `migrate --finalize` deletes there, too
            kept += path.stat().st_size
            if kept > bytes_kept:
                path.unlink()


def needed_by_streams(config: NodeConfig) -> float:
    """The log entry behind which the node's stream still needs the log; infinity where it keeps none."""
    if not config.streams.enabled:
        return inf
    states = config.streams_path / "state"
    return max((int(path.name) for path in snapshot_paths(states)), default=0) if states.is_dir() else 0

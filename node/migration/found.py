"""What lies in a data directory, and of which ABI it is. Only reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.log import segment_abis
from node.errors import DataDirectoryError
from snapshots.manifest import Manifest
from snapshots.naming import snapshot_paths
from snapshots.seal import read_seal

SNAPSHOTS = "snapshots"
LOG = "log"


@dataclass(frozen=True)
class Found:
    """A data directory's contents. `snapshot` is the newest one; `abi` that of everything, None if nothing was stored yet."""

    data: Path
    abi: str | None
    snapshot: Path | None
    manifest: Manifest | None

    @property
    def writer(self) -> str:
        """The software that wrote the newest snapshot, for a person."""
        return f"software {self.manifest.software}" if self.manifest is not None else "software that left no snapshot"


def look(data: Path) -> Found:
    """What is in a data directory.

    Raises:
        SnapshotDamagedError, LogDamagedError: a snapshot's seal or a segment's header cannot be read.
        DataDirectoryError: snapshot and log are of different ABIs.
    """
    paths = snapshot_paths(data / SNAPSHOTS) if (data / SNAPSHOTS).is_dir() else []
    snapshot = paths[-1] if paths else None
    manifest = read_seal(snapshot).manifest if snapshot is not None else None
    abis = dict.fromkeys(segment_abis(data / LOG).values())
    if manifest is not None:
        abis[manifest.abi] = None
    if len(abis) > 1:
        raise DataDirectoryError(
            f"{data}: snapshot and log are of different ABIs: {', '.join(abis)}. Restore one of both from a copy, or give the node an "
            "empty data directory and start it with --rejoin; nothing was changed"
        )
    return Found(data, next(iter(abis), None), snapshot, manifest)

"""Reads what a data directory contains, and its ABI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cluster.log import segment_abis
from node.errors import DataDirectoryError
from snapshots.abi.releases import Releases
from snapshots.errors import UnknownAbiError
from snapshots.levels.level import SUPPORTED
from snapshots.manifest import Manifest
from snapshots.naming import snapshot_paths
from snapshots.seal import read_seal

SNAPSHOTS = "snapshots"
LOG = "log"


@dataclass(frozen=True)
class Found:
    """A data directory's contents. `snapshot` is the newest one. `abi` is that of snapshot and log, None if nothing was
    stored yet.
    """

    data: Path
    abi: str | None
    snapshot: Path | None
    manifest: Manifest | None

    @property
    def writer(self) -> str:
        """Return the software that wrote the newest snapshot, for a person."""
        return f"software {self.manifest.software}" if self.manifest is not None else "software that left no snapshot"


def check_known(found: Found, releases: Releases, own: str) -> None:
    """Refuse data whose ABI has no description here; the version tells whether it is a later one or one that was never
    released.

    Args:
        own: the version of this software.

    Raises:
        UnknownAbiError: the text names the software that wrote the data.
    """
    if found.abi is None or found.abi in releases.abis:
        return
    known = [releases.title(abi) for abi in releases.abis]
    if found.manifest is None:
        raise UnknownAbiError(found.abi, known)
    writer = found.manifest.software
    what = "later than" if _order(writer) > _order(own) else "a build that was never released, not later than"
    raise UnknownAbiError(found.abi, known, f"version {writer}, {what} this one ({own}),")


def _order(version: str) -> list[int]:
    """Return the numbers of a version, for comparisons."""
    return [int(number) for number in re.findall(r"\d+", version)]


def first_abi(data: Path) -> str | None:
    """Return the ABI of the newest snapshot, else of the log's first entry; None if there is neither.

    Raises:
        SnapshotDamagedError, LogDamagedError: as `look` raises them.
    """
    paths = snapshot_paths(data / SNAPSHOTS) if (data / SNAPSHOTS).is_dir() else []
    if paths:
        return read_seal(paths[-1]).manifest.abi
    return next(iter(segment_abis(data / LOG).values()), None)


def look(data: Path) -> Found:
    """Return the contents of a data directory.

    Raises:
        SnapshotDamagedError, LogDamagedError: a snapshot's seal or a segment's header cannot be read.
        DataDirectoryError: snapshot and log are of different ABIs.
    """
    paths = snapshot_paths(data / SNAPSHOTS) if (data / SNAPSHOTS).is_dir() else []
    snapshot = paths[-1] if paths else None
    manifest = read_seal(snapshot).manifest if snapshot is not None else None
    abis: dict[str, None] = dict.fromkeys(segment_abis(data / LOG).values())
    if manifest is not None:
        abis[manifest.abi] = None
    if len(abis) > 1 and {level.abi for level in SUPPORTED}.issuperset(abis):
        # The level changed in this log. Only the engine knows the present level; for readers the later one counts.
        abis = {level.abi: None for level in reversed(SUPPORTED) if level.abi in abis}
    elif len(abis) > 1:
        raise DataDirectoryError(
            f"{data}: snapshot and log are of different ABIs: {', '.join(abis)}: one of them was restored from another time. Nothing was changed. "
            "With the other nodes up, give the node an empty data directory and start it with --rejoin"
        )
    return Found(data, next(iter(abis), None), snapshot, manifest)

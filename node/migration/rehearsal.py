"""Migrates a copy of the data, and reports the steps of a start, its needs, and the changes. The source is only read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.config.file import load
from node.config.settings import NodeConfig
from node.errors import DirectoryError
from node.migration.contents import LOG, SNAPSHOTS, Found, check_known, look
from node.migration.conversion import Builder, Built, Progress
from node.migration.differences import TableDifference, differences, new_names
from node.migration.start import SCRIPTS
from node.system import software
from snapshots.levels.level import ACCEPTED, BROUGHT_TO
from snapshots.migration.chain import Chains
from snapshots.migration.run import Counted, uncounted
from snapshots.migration.scripts import tsv_schema


@dataclass(frozen=True)
class NodeData:
    """A node's data, with its configuration if that is there too."""

    node_id: str
    data: Path
    scripts: Path
    config: NodeConfig | None


def places(directory: Path) -> list[NodeData]:
    """Return the data in a directory: that of a cluster, of a node, or a data directory itself.

    Raises:
        DirectoryError: the directory belongs to neither a cluster nor a node, and is no data directory.
        ConfigError: a node's configuration is invalid.
    """
    paths = [directory / "node.toml"] if (directory / "node.toml").is_file() else sorted(directory.glob("*/node.toml"))
    if paths:
        configs = map(load, paths)
        return [NodeData(config.node_id, config.data_path, Path(config.directory) / SCRIPTS, config) for config in configs]
    if (directory / SNAPSHOTS).is_dir() or (directory / LOG).is_dir():
        return [NodeData("", directory, directory.resolve().parent / SCRIPTS, None)]
    raise DirectoryError(
        f"{directory}: neither a cluster's, nor a node's, nor a data directory (no node.toml, no {SNAPSHOTS}, no {LOG})"
    )


@dataclass(frozen=True)
class Rehearsal:
    """The result of a rehearsal. `built` is None if the data already has the wanted ABI, or nothing was stored yet."""

    place: NodeData
    found: Found
    target: str
    built: Built | None
    chains: Chains

    def differences(self) -> Iterator[TableDifference]:
        """Return the changes by table."""
        built = self.built
        if built is None or self.found.abi is None:
            return
        old, new = (tsv_schema(self.chains.releases.schema(abi)) for abi in (self.found.abi, self.target))
        yield from differences(built.before, old, built.after, new, new_names(built.before, built.report.steps))


def rehearse(
    place: NodeData,
    target: str | None = None,
    *,
    known: Chains | None = None,
    progress: Progress = lambda _line: None,
    counted: Counted = uncounted,
) -> Rehearsal:
    """Run the steps of a start, or those to another ABI, on a copy in a temporary directory.

    Args:
        progress, counted: see `Builder`.

    Raises:
        UnknownAbiError, MigrationError: the migration would fail, for this reason.
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data is damaged or inconsistent.
        OSError: the disk is full, or cannot be read or written.
    """
    known = known or Chains(scripts=place.scripts)
    wanted = known.releases.schema(target or BROUGHT_TO.abi).abi
    found = look(place.data)
    if target is None and found.abi in ACCEPTED:
        return Rehearsal(place, found, wanted, None, known)
    check_known(found, known.releases, software.version())
    steps = known.find(found.abi, wanted) if found.abi is not None else []
    if not steps:
        return Rehearsal(place, found, wanted, None, known)
    with tempfile.TemporaryDirectory(prefix="quorumbook-rehearsal-") as name:
        built = Builder(found, Path(name) / "data", steps, known.releases, place.node_id, progress, counted).build()
    return Rehearsal(place, found, wanted, built, known)

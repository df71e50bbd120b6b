"""The data with which a node starts, and the check of the other nodes before that data is migrated.

A node starts with its newest snapshot and the log after it, else with the log, else (in a cluster that has never run)
with a dataset. `start.from` can require one of them. With `log` the snapshot's state is rebuilt from the whole log and
must have the snapshot's hash.

One cluster cannot use two ABIs. A node that migrated while the others run the previous version would be isolated, and
the cluster would lose its spare node unnoticed. The node therefore asks all reachable nodes first, and changes nothing
while one of them serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from cluster.raft import Raft
from node.config.settings import NodeAddress, NodeConfig
from node.data_directory.identity import DirectoryIdentity, Stage
from node.engine.entries import Encode
from node.engine.replicated_engine import ReplicatedEngine
from node.errors import ConnectionLost, DataDirectoryError, DatasetError, RequestFailed
from node.keys.encryption import ClusterKeys
from node.migration.contents import look
from node.native.connection import NativeConnection
from node.native.protocol import Welcome
from node.records import datasets
from node.records.datasets import Seeding
from node.records.txlog import rebuilt_snapshot
from node.tls.pki import client_context
from snapshots.abi import ABI
from snapshots.errors import MigrationError
from snapshots.levels.states import restored
from snapshots.manifest import Manifest
from snapshots.store import SnapshotStore
from statemachine.engine import Engine

log = logging.getLogger(__name__)


def check_start(config: NodeConfig, known: DirectoryIdentity, *, has_snapshot: bool) -> None:
    """Check that the data required by `start.from` exists.

    Raises:
        DataDirectoryError: naming the setting and what to change.
    """
    source = config.start.source
    if source == "snapshot" and not has_snapshot:
        raise DataDirectoryError(
            f'start.from is "snapshot", and there is none in {config.data_path / "snapshots"}; set it to "auto"'
        )
    if source == "dataset" and known.stage is not Stage.NEW:
        raise DataDirectoryError(
            f'start.from is "dataset", and this node has run on {config.data_path} already; set it to "auto" to continue with this data'
        )


def seeding_of(
    config: NodeConfig, known: DirectoryIdentity, machine: ReplicatedEngine, raft: Raft, encode: Encode
) -> Seeding | None:
    """Return the dataset that this node proposes if it is the first leader. Returns None if no dataset is configured or
    the node has a state.

    Raises:
        DatasetError: the dataset is invalid. A node that has run before only logs this, because the cluster does not
            need the dataset.
    """
    if not config.start.dataset or config.start.source in ("snapshot", "log") or machine.engine.sequence:
        return None
    try:
        dataset = datasets.load(config.path(config.start.dataset), ClusterKeys(config.cluster_key_path))
    except DatasetError as error:
        if known.stage is Stage.NEW:
            raise
        log.warning("the dataset is not used: %s", error)
        return None
    log.info("dataset %s is complete: %d commands", dataset.name, len(dataset.commands))
    return Seeding(dataset, lambda: machine.engine, raft, encode=encode)


def snapshot_loader(config: NodeConfig, store: SnapshotStore) -> Callable[[Manifest], Engine]:
    """Return the function that builds the state of a snapshot. With `start.from = "log"` the state at the start comes
    from the log, and later ones from the leader's snapshots.
    """
    from_log = config.start.source == "log"

    def load(manifest: Manifest) -> Engine:
        nonlocal from_log
        if from_log:
            from_log = False
            log.info("building the state at index %d from the log", manifest.index)
            return rebuilt_snapshot(config, manifest)
        return store.build(manifest, partial(restored, manifest.abi, verified=True))

    return load


CHECK = "no other node runs the version before"
"""The name of the check in a `MigrationError`."""


def check_other_nodes(config: NodeConfig) -> None:
    """Check that no other node runs on the ABI of this node's data, before this data is migrated.

    Raises:
        MigrationError: naming them. Nothing was changed.
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data cannot be trusted.
    """
    abi = look(config.data_path).abi
    if abi is None or abi == ABI:
        return
    running = [welcome for welcome in asyncio.run(_greetings(config)) if welcome.abi == abi]
    if running:
        names = ", ".join(f"{welcome.node_id} (version {welcome.software})" for welcome in running)
        raise MigrationError(
            CHECK,
            "",
            f"{names} would refuse this node once its data is migrated: two ABIs cannot be in one cluster. Stop all nodes, then start "
            "them with the new version (docs/migrations.md)",
        )


async def _greetings(config: NodeConfig) -> list[Welcome]:
    """Return the greetings of the other nodes that can be reached."""
    others = [node for node in config.nodes if node.node_id != config.node_id]
    found = await asyncio.gather(*(_greeting(config, node) for node in others))
    return [welcome for welcome in found if welcome is not None]


async def _greeting(config: NodeConfig, node: NodeAddress) -> Welcome | None:
    """Return the greeting of another node, or None if it does not answer or belongs to another cluster."""
    try:
        connection = await NativeConnection.open(node.native, tls=client_context(config), client=f"start of {config.node_id}")
    except (ConnectionLost, RequestFailed):
        return None
    welcome = connection.welcome
    await connection.close()
    return welcome if welcome.cluster_id == config.cluster_id else None

"""What a node begins with: its newest snapshot and the log behind it, else the log, else (a cluster that has never run) a dataset.

`start.from` can insist on one of them. `log`: the snapshot's state is built again from the whole log, from its first entry on, and must have
the snapshot's hash.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster.raft import Raft
from node.config.settings import NodeConfig
from node.engine.replicated_engine import ReplicatedEngine
from node.errors import DataDirectoryError, DatasetError
from node.identity import Identity, Stage
from node.keys.sealing import ClusterKeys
from node.records import datasets
from node.records.datasets import Seeding
from node.records.txlog import rebuilt_snapshot
from snapshots.manifest import Manifest
from snapshots.store import SnapshotStore
from statemachine.engine import Engine

log = logging.getLogger(__name__)


def check(config: NodeConfig, known: Identity, *, has_snapshot: bool) -> None:
    """Refuse a start from what is not there.

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
            f'start.from is "dataset", and this node has run on {config.data_path} already; set it to "auto" to go on with what is there'
        )


def seeding(config: NodeConfig, known: Identity, machine: ReplicatedEngine, raft: Raft) -> Seeding | None:
    """The dataset that this node puts into the log if it is the first to lead; None where there is none, or the node has a state.

    Raises:
        DatasetError: the dataset is not right. On a node that has run before, that is only told: the cluster has its state elsewhere.
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
    log.info("dataset %s is whole: %d commands", dataset.name, len(dataset.commands))
    return Seeding(dataset, lambda: machine.engine, raft)


def loader(config: NodeConfig, store: SnapshotStore) -> Callable[[Manifest], Engine]:
    """How the state of a snapshot is made. With `start.from = "log"` the one at the start comes from the log, later ones from the leader's."""
    from_log = config.start.source == "log"

    def load(manifest: Manifest) -> Engine:
        nonlocal from_log
        if from_log:
            from_log = False
            log.info("building the state at index %d from the log", manifest.index)
            return rebuilt_snapshot(config, manifest)
        return Engine.restore(store.load(manifest), verified=True)

    return load

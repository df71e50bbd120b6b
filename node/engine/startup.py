"""The data with which a node starts, and the diagnosis when it cannot start or continue.

A node starts with its newest snapshot and the log after it, else with the log, else (in a cluster that has never run)
with a dataset. `start.from` can require one of them. With `log` the snapshot's state is rebuilt from the whole log and
must have the snapshot's hash.

A diagnosis names the fault, its place and the remedy, with the exit code for its kind. Damage is never reported as a
problem of versions. It names the path of damaged data, and a full disk.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster.errors import LogAbiError, LogDamagedError
from cluster.raft import Raft
from node import exit_codes
from node.config.settings import NodeConfig
from node.data_directory.identity import Identity, Stage
from node.engine.entries import Encode
from node.engine.replicated_engine import ReplicatedEngine
from node.errors import DataDirectoryError, DatasetError
from node.keys.encryption import ClusterKeys
from node.records import datasets
from node.records.datasets import Seeding
from node.records.txlog import rebuilt_snapshot
from snapshots.errors import MigrationError, SnapshotAbiError, SnapshotDamagedError, UnknownAbiError
from snapshots.levels.states import restored
from snapshots.manifest import Manifest
from snapshots.store import SnapshotStore
from statemachine.engine import Engine

log = logging.getLogger(__name__)


def check_start(config: NodeConfig, known: Identity, *, has_snapshot: bool) -> None:
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
            f'start.from is "dataset", and this node has run on {config.data_path} already; set it to "auto" to go on with what is there'
        )


def seeding_of(config: NodeConfig, known: Identity, machine: ReplicatedEngine, raft: Raft, encode: Encode) -> Seeding | None:
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
        return restored(manifest.abi, store.load(manifest), verified=True)

    return load


DAMAGED = (
    "Nothing was changed. With the other nodes up, move the data directory away and start the node with --rejoin: it takes everything from "
    "them. An older copy of the directory must not take its place. See Failures in docs/operations.md"
)
NOT_MIGRATED = "the data in {} is sound and as it was: the version that wrote it can still start on it"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Diagnosis(msgspec.Struct, frozen=True):
    """The exit code and the lines of the message."""

    code: int
    lines: tuple[str, ...]


def diagnosis_of_start(config: NodeConfig, error: BaseException) -> Diagnosis:
    """Return the diagnosis of a start that failed with `error`."""
    data = config.data_path
    match error:
        case LogDamagedError():
            return _damaged(f"the log in {data / 'log'} is damaged: {error}")
        case SnapshotDamagedError():
            return _damaged(f"a snapshot is damaged: {error.place}: {error.what}")
        case MigrationError() | UnknownAbiError() | SnapshotAbiError() | LogAbiError():
            return Diagnosis(exit_codes.NOT_MIGRATED, (str(error), NOT_MIGRATED.format(data)))
        case OSError():
            return Diagnosis(exit_codes.CANNOT_START, (diagnosis_of_disk(data, error),))
    return Diagnosis(exit_codes.CANNOT_START, (str(error),))


def _damaged(what: str) -> Diagnosis:
    return Diagnosis(exit_codes.CANNOT_START, (what, DAMAGED))


def diagnosis_of_disk(data: Path, error: OSError) -> str:
    """Describe an error of the disk with its path and, for a full disk, with its name and usage."""
    if error.errno not in FULL:
        return str(error)
    place = Path(error.filename) if error.filename else data
    while not place.exists():
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
        room = f"the file system of {place} has {usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.1f} MB free"
    except OSError:
        room = f"the file system of {place}"
    return f"the disk is full: {error}; {room}. Free space, then start the node again: nothing that was acknowledged is lost"

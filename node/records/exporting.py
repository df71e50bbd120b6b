"""Exports the whole state of a node as TSV files, and begins a new cluster with such files."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import msgspec

from cluster.messages import NO_OP
from cluster.ports import LogEntry, SnapshotMark
from node.cluster_directory import ClusterDirectory
from node.config.settings import NodeConfig
from node.errors import DirectoryError, NodeStartError
from node.native.connection import NativeConnection
from node.native.protocol import ControlAction, StatusQuery
from node.records import backup
from node.records.backup import Progress, no_progress
from node.system import files, software
from node.system.processes import PID_FILE, locked_pid
from snapshots.errors import SnapshotError
from snapshots.job import JobState
from snapshots.levels.level import ACCEPTED, OWN
from snapshots.levels.states import converted, level_of, restored
from snapshots.manifest import Manifest, SnapshotFields
from snapshots.naming import snapshot_path
from snapshots.store import SnapshotStore
from snapshots.tsv import read_tables, write_tables
from statemachine.engine import Engine

POLL = 0.05
SNAPSHOT_SECONDS = 120.0
"""How long a running node may take for a snapshot."""

TABLES_WRITTEN = "the tables are written"
IMPORT_INDEX = 2
"""Log index of imported state. Raft begins its log with the entry before."""


def newest_state(config: NodeConfig, progress: Progress = no_progress) -> tuple[Manifest, Engine]:
    """Return the state in a node's newest snapshot. The node may be running.

    Raises:
        NoSnapshotError: it has none.
        SnapshotError, StateError: it cannot be trusted.
    """
    with tempfile.TemporaryDirectory(prefix="quorumbook-") as place:
        manifest = backup.back_up(backup.snapshots_of(config), Path(place), progress)
        progress("the snapshot is read", 0, 0)
        store = SnapshotStore(Path(place), accepts=ACCEPTED)
        return manifest, restored(manifest.abi, store.load(manifest))


def is_running(config: NodeConfig) -> bool:
    """Return whether a node's supervisor holds its data directory."""
    return locked_pid(config.data_path / PID_FILE) is not None


async def snapshot_now(config: NodeConfig, seconds: float = SNAPSHOT_SECONDS) -> None:
    """Make a running node of this machine take a snapshot of its present state, and wait for it. It is asked over the socket
    in its data directory, so no API key is needed.

    Raises:
        ConnectionLost, RequestFailed: it does not answer.
        NodeStartError: it takes longer than `seconds`.
    """
    connection = await NativeConnection.open(f"unix:{config.engine_socket}")
    try:
        async with asyncio.timeout(seconds):
            status = await connection.query(StatusQuery())
            wanted = status.applied_index
            while status.snapshot_index < wanted:
                await connection.control(ControlAction.SNAPSHOT)
                await asyncio.sleep(POLL)
                status = await connection.query(StatusQuery())
    except TimeoutError:
        raise NodeStartError(f"{config.node_id} has no newer snapshot after {seconds:g} s; its log says why") from None
    finally:
        await connection.close()


def export_tables(config: NodeConfig, target: Path, progress: Progress) -> tuple[Manifest, dict[str, int]]:
    """Write a node's newest snapshot as TSV files. Returns the snapshot's manifest and the number of rows by table.

    The files are of this software's level. A state of the level before is converted as by the change of the level, because a
    cluster that begins with it would otherwise refuse it.

    Args:
        progress: called with bytes while the snapshot is copied, and with rows while the files are written.

    Raises:
        DirectoryError: the target holds something.
        SnapshotError, StateError, OSError: the snapshot cannot be read, or the files not be written. Then none is left.
    """
    if target.exists() and any(target.iterdir()):
        raise DirectoryError(f"{target} is not empty; name another directory")
    manifest, engine = newest_state(config, progress)
    if level_of(engine) is not OWN:
        engine = converted(engine, level_of(engine), OWN)
    total = sum(manifest.row_counts.values())
    progress(TABLES_WRITTEN, 0, total)
    with files.filled(target), files.named(target):
        return manifest, write_tables(target, dict(engine.tables()), progress=lambda rows: progress(TABLES_WRITTEN, rows, total))


def import_tables(source: Path, layout: ClusterDirectory, progress: Progress) -> Engine:
    """Give all nodes of a new cluster the state in TSV files. Everything is checked before anything is written.

    Args:
        progress: called at each stage, and as `backup.restore` does.

    Raises:
        TsvError, StateError: the files are not a whole state.
        DirectoryError, DataDirectoryError, NodeRunningError: as `backup.restore`: the cluster is not a new one.
        SnapshotError, OSError: a snapshot could not be written.
    """
    progress("the tables are read", 0, 0)
    engine = Engine.restore(read_tables(source))
    with tempfile.TemporaryDirectory(prefix="quorumbook-") as place:
        progress("a snapshot of them is written", 0, 0)
        backup.restore(_written(Path(place), engine), layout, progress)
    return engine


def _written(directory: Path, engine: Engine) -> Path:
    """Write a snapshot of a state without a log."""
    mark = SnapshotMark(LogEntry(bytes([NO_OP]), IMPORT_INDEX, 1), LogEntry(bytes([NO_OP]), IMPORT_INDEX - 1, 1))
    fields = SnapshotFields(
        index=mark.index,
        term=mark.last.term,
        mark=msgspec.msgpack.encode(mark),
        sequence=engine.sequence,
        software=software.version(),
        created_at=time.time_ns(),
        full_hash=engine.full_hash(),
    )
    job = SnapshotStore(directory).begin(fields, dict(engine.tables()))
    while job.poll() is JobState.RUNNING:
        time.sleep(POLL)
    if job.poll() is not JobState.DONE:
        raise SnapshotError(f"the imported state cannot be written: {job.reason}")
    return snapshot_path(directory, mark.index)

"""The whole state of a node as TSV files, and a cluster that begins with such files."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cluster import hardstate
from cluster.hardstate import HardState
from cluster.messages import NO_OP
from cluster.ports import LogEntry, SnapshotMark
from cluster.storage import RealDisk
from node import identity, software
from node.config import NodeConfig
from node.connection import NativeConnection
from node.errors import DirectoryError
from node.identity import Stage
from node.processes import PID_FILE, locked_pid
from node.protocol import ControlAction, StatusQuery
from snapshots.errors import NoSnapshotError, SnapshotError
from snapshots.job import JobState
from snapshots.manifest import Manifest, SnapshotFields
from snapshots.store import SnapshotStore
from snapshots.tsv import read_tables, write_tables
from statemachine.engine import Engine

SNAPSHOTS = "snapshots"
"""Name of the directory with a node's snapshots, in its data directory."""

POLL = 0.05
IMPORT_INDEX = 2
"""Log index that imported state stands at; Raft begins its log with the entry before."""

_UNFINISHED = shutil.ignore_patterns("*.tmp", "*.incoming", "*.old", "*.trash", "writer.lock")


def newest_state(config: NodeConfig) -> tuple[Manifest, Engine]:
    """The state in a node's newest snapshot; the node may be running.

    Raises:
        NoSnapshotError: it has none.
        SnapshotError, StateError: it cannot be trusted.
    """
    with tempfile.TemporaryDirectory(prefix="quorumbook-") as place:
        copy = Path(place) / SNAPSHOTS
        if (config.data_path / SNAPSHOTS).is_dir():
            shutil.copytree(config.data_path / SNAPSHOTS, copy, ignore=_UNFINISHED, copy_function=_link)
        store = SnapshotStore(copy)
        manifest = store.newest()
        if manifest is None:
            raise NoSnapshotError(f"{config.data_path / SNAPSHOTS}: there is no snapshot yet")
        return manifest, Engine.restore(store.load(manifest))


def _link(source: str, target: str) -> str:
    """A second name for a file that is never changed once its snapshot is there; a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def is_running(config: NodeConfig) -> bool:
    """Whether a node's supervisor holds its data directory."""
    return locked_pid(config.data_path / PID_FILE) is not None


async def snapshot_now(config: NodeConfig, seconds: float = 120.0) -> None:
    """Have a running node of this machine take a snapshot of what it has applied by now, and wait for it.

    Raises:
        ConnectionLost, RequestFailed: it does not answer.
        TimeoutError: it takes longer.
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
    finally:
        await connection.close()


def export_tables(config: NodeConfig, target: Path) -> tuple[Manifest, dict[str, int]]:
    """Write a node's newest snapshot as TSV files. The snapshot's description, and the number of rows a table.

    Raises:
        DirectoryError: the target holds something.
        SnapshotError, StateError, OSError: the snapshot cannot be read, or the files not be written.
    """
    if target.exists() and any(target.iterdir()):
        raise DirectoryError(f"{target} is not empty; name another directory")
    manifest, engine = newest_state(config)
    return manifest, write_tables(target, dict(engine.tables()))


def import_tables(source: Path, configs: Sequence[NodeConfig]) -> Engine:
    """Make TSV files the state that the nodes of a new cluster begin with: a snapshot on each of them. All of it is checked first.

    Raises:
        DirectoryError: a node has run already.
        TsvError, StateError: the files are not a whole state; nothing was changed.
        SnapshotError, OSError: a snapshot could not be written.
    """
    for config in configs:
        if identity.read(config).stage is not Stage.NEW or (config.data_path / SNAPSHOTS).exists() or is_running(config):
            raise DirectoryError(
                f"{config.data_path}: this node has a state already; import into a cluster that quorumbook init has just made"
            )
    engine = Engine.restore(read_tables(source))
    for config in configs:
        _write_snapshot(config, engine)
    return engine


def _write_snapshot(config: NodeConfig, engine: Engine) -> None:
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
    disk = RealDisk(config.data_path / "log", fsync=True, archive_to=None)
    hardstate.store(disk, HardState(term=1, commit_index=mark.index))
    job = SnapshotStore(config.data_path / SNAPSHOTS).begin(fields, dict(engine.tables()))
    while job.poll() is JobState.RUNNING:
        time.sleep(POLL)
    if job.poll() is not JobState.DONE:
        raise SnapshotError(f"{config.data_path}: {job.reason}")

"""Snapshots outside a running node: lists, verifies and copies them, and begins a new cluster with one.

A restored cluster is a new cluster with its own id, certificates and operator's key (`quorumbook init`). Its nodes do
not know what the old nodes acknowledged after the snapshot, so old and new nodes must never accept each other. Every
node begins with the same snapshot, as if the snapshot's last entry were committed, in that entry's term and without a
vote. So the first leader is elected in a later term. The snapshot's membership is removed, because the old addresses
mean nothing here; the new configuration lists the members.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from cluster import hardstate
from cluster.hardstate import HardState
from cluster.ports import SnapshotMark
from cluster.storage import RealDisk
from node.cluster_directory import ClusterDirectory
from node.config.settings import NodeConfig
from node.data_directory import identity
from node.data_directory.marks import mark_of
from node.errors import DataDirectoryError, DirectoryError
from node.keys.encryption import ClusterKeys
from node.system.processes import PID_FILE, PidFile
from snapshots.errors import NoSnapshotError, SnapshotDamagedError
from snapshots.frames import Begin, change_frames
from snapshots.levels.level import ACCEPTED
from snapshots.levels.states import restored
from snapshots.manifest import Manifest, Row, SnapshotFields
from snapshots.naming import snapshot_path, snapshot_paths
from snapshots.rocks import read_tables
from snapshots.seal import check_files, read_seal
from snapshots.store import SnapshotStore
from snapshots.transfer import Source
from snapshots.writer import locked, write
from statemachine.engine import Engine

CHUNK_BYTES = 1024 * 1024
ATTEMPTS = 5

Progress = Callable[[str, int, int], None]
"""Takes the stage of the work, the steps done in it, and all its steps (0: unknown)."""


def no_progress(stage: str, done: int = 0, total: int = 0) -> None:
    """Ignore the progress."""


class Listed(msgspec.Struct, frozen=True):
    """A snapshot on disk. `bytes` is the size of all files, and `shared` the size of the files that other snapshots share."""

    path: str
    manifest: Manifest
    bytes: int
    shared: int


def snapshots_of(config: NodeConfig) -> Path:
    """Return the directory of a node's snapshots."""
    return config.data_path / "snapshots"


def listed(directory: Path) -> list[Listed]:
    """Return all snapshots of a directory, oldest first. A snapshot that is deleted in the meantime is left out.

    Raises:
        SnapshotDamagedError: a snapshot's seal is not what was written.
    """
    found = []
    for path in snapshot_paths(directory) if directory.is_dir() else []:
        try:
            sizes = [(file.stat().st_size, file.stat().st_nlink) for file in path.iterdir()]
            manifest = read_seal(path).manifest
        except (FileNotFoundError, SnapshotDamagedError):
            if path.exists():
                raise
            continue
        shared = sum(size for size, names in sizes if names > 1)
        found.append(Listed(str(path), manifest, sum(size for size, _ in sizes), shared))
    return found


def check_snapshot(path: Path) -> None:
    """Check that a path is that of a snapshot.

    Raises:
        DirectoryError: it is not.
    """
    if not (path.is_dir() and is_snapshot(path)):
        raise DirectoryError(f"{path}: expected a snapshot, a directory named by its index such as {1:020d}")


def is_snapshot(path: Path) -> bool:
    """Return whether a directory has the name of a complete snapshot. Other files beside snapshots have other names."""
    return path.resolve() in {each.resolve() for each in snapshot_paths(path.resolve().parent)}


def verify(path: Path, progress: Progress = no_progress) -> Manifest:
    """Check a snapshot as a node does at its start: files, rows, hashes, and the state's invariants. O(everything).

    Args:
        progress: called with the rows that were read, and all rows.

    Raises:
        SnapshotDamagedError: it is not what was written.
        StateError: it is, and the state in it is wrong.
    """
    return _verified(path, progress)[0]


def _verified(path: Path, progress: Progress) -> tuple[Manifest, Engine]:
    """Read a snapshot and check all of it."""
    progress(f"{path}: the files are compared", 0, 0)
    manifest = check_files(path).manifest
    tables: dict[str, list[Row]] = {name: [] for name in manifest.row_counts}
    read, total = 0, sum(manifest.row_counts.values())

    def take(name: str, rows: list[Row]) -> None:
        nonlocal read
        tables[name].extend(rows)
        read += len(rows)
        progress(f"{path}: the rows are read", read, total)

    read_tables(path, manifest, take)
    progress(f"{path}: the state is checked", 0, 0)
    return manifest, restored(manifest.abi, tables)


def unusable_keys(engine: Engine, layout: ClusterDirectory) -> list[str]:
    """Return the API keys that a node of the cluster could not decrypt, because another cluster's keys encrypt them."""
    holders = [ClusterKeys(config.cluster_key_path) for config in layout.configs.values()]
    return [row.key_id for row in engine.api_keys() if not all(keys.opens(row) for keys in holders)]


def back_up(directory: Path, target: Path, progress: Progress = no_progress) -> Manifest:
    """Copy the newest snapshot of a node to `target`. The node may run. The copy is checked, and is complete or absent.

    Args:
        progress: called with the bytes that were copied, and all bytes.

    Raises:
        NoSnapshotError: there is none.
        SnapshotDamagedError: it is not what was written.
        SnapshotRefusedError: it is of another schema, or could not be written.
        DataDirectoryError: the target is the data directory of a node.
        OSError: the target cannot be a directory.
    """
    if (target / identity.FILE).exists():
        raise DataDirectoryError(f"{target} is the data directory of a node: name another directory for the copy")
    store: SnapshotStore | None = None
    for _ in range(ATTEMPTS):
        paths = snapshot_paths(directory) if directory.is_dir() else []
        if not paths:
            break
        store = store or SnapshotStore(target, keep=sys.maxsize, accepts=ACCEPTED)
        with contextlib.suppress(FileNotFoundError), _source(paths[-1]) as source:
            return _copy(source, store, "the snapshot", progress)
    raise NoSnapshotError(f"{directory}: there is no snapshot; take one first")


@contextlib.contextmanager
def _source(path: Path) -> Iterator[Source]:
    """Return a snapshot to read.

    Raises:
        FileNotFoundError: it was deleted in the meantime.
    """
    try:
        source = Source(path)
    except SnapshotDamagedError:
        if not path.exists():
            raise FileNotFoundError(path) from None
        raise
    try:
        yield source
    finally:
        source.close()


def _copy(source: Source, store: SnapshotStore, what: str, progress: Progress) -> Manifest:
    """Copy a snapshot into a store."""
    sink = store.open_sink()
    try:
        for offset in range(0, source.size, CHUNK_BYTES):
            progress(f"{what} is copied", offset, source.size)
            sink.write(source.read(offset, CHUNK_BYTES))
        progress(f"{what} is checked", 0, 0)
    except BaseException:
        sink.abort()
        raise
    return sink.finish()


def restore(path: Path, layout: ClusterDirectory, progress: Progress = no_progress) -> tuple[Manifest, Engine]:
    """Begin a new cluster, as `quorumbook init` made it, with the state of a snapshot. Returns that state. An
    interrupted call may be repeated, and the nodes do not start before one has ended.

    Args:
        progress: called with rows while the snapshot is read, and with bytes while a node gets it.

    Raises:
        DirectoryError: `path` is not a snapshot, or a node of the cluster has no directory here.
        DataDirectoryError: a node has run already.
        NodeRunningError: a node runs.
        SnapshotDamagedError, SnapshotRefusedError, StateError: the snapshot cannot be used.
    """
    check_snapshot(path)
    wanted = {node.node_id for config in layout.configs.values() for node in config.nodes}
    if wanted != set(layout.node_ids):
        raise DirectoryError(
            f"{layout.directory}: expected the directories of all nodes ({', '.join(sorted(wanted))}), found "
            f"{', '.join(layout.node_ids)}. Restore before the nodes' directories go to their machines: all must begin with the same state"
        )
    with contextlib.ExitStack() as running:
        for config in layout.configs.values():
            _check_unused(config)
            running.callback(PidFile.acquire(config.data_path / PID_FILE).release)
        manifest, engine = _verified(path, progress)
        for config in layout.configs.values():
            identity.mark_restoring(config)
        for config in layout.configs.values():
            _restore_node(path, config, progress)
        for config in layout.configs.values():
            identity.mark_restoring(config, ended=True)
    return manifest, engine


def _check_unused(config: NodeConfig) -> None:
    """Check that a node has never run. Raises DataDirectoryError."""
    known = identity.read(config, restoring=True)
    log = config.data_path / "log"
    stored = RealDisk(log).names() if log.is_dir() else []
    if known.stage not in (identity.Stage.NEW, identity.Stage.RESTORING) or known.joined or set(stored) - {hardstate.FILE}:
        raise DataDirectoryError(
            f"{config.data_path}: node {config.node_id} has run already, and its state would be lost. Restore into a new cluster: "
            "quorumbook init"
        )


def _restore_node(path: Path, config: NodeConfig, progress: Progress) -> None:
    """Write the snapshot without the old membership, then term and commit index. Without the latter, a start would take
    the disk for a lost one.
    """
    directory = snapshots_of(config)
    store = SnapshotStore(directory, keep=1, accepts=ACCEPTED)
    with _source(path) as source:
        manifest = _copy(source, store, f"{config.node_id}: the snapshot", progress)
    mark = mark_of(manifest)
    fields = SnapshotFields(
        manifest.index,
        manifest.term,
        msgspec.msgpack.encode(SnapshotMark(mark.last, mark.previous)),
        manifest.sequence,
        manifest.software,
        manifest.created_at,
        manifest.full_hash,
    )
    begin = Begin(fields, manifest.abi, list(manifest.row_counts), base=manifest.index)
    with locked(directory):
        write(directory, io.BytesIO(b"".join(change_frames(begin, manifest.row_counts, []))))
    assert mark_of(read_seal(snapshot_path(directory, manifest.index)).manifest).members is None
    hardstate.store(RealDisk(config.data_path / "log"), HardState(term=mark.last.term, commit_index=mark.index))

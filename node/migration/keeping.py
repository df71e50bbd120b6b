"""The data that a node keeps when the level changes, so that `quorumbook rollback` can return to the former version.

It keeps the newest snapshot of the former level, with its files as hard links, and the log after it up to the entry
before the change of the level. The data is in `data/former/ABI`, as after a migration with all nodes stopped, until
`quorumbook migrate --finalize`.
"""

from __future__ import annotations

import time
from pathlib import Path

from cluster import hardstate
from cluster.log import DurableLog, read_segments
from cluster.storage import RealDisk
from node.migration import cutover
from node.migration.contents import LOG, SNAPSHOTS
from node.migration.conversion import link_tree
from node.system import files, software
from snapshots import durable
from snapshots.levels.level import SetLevel
from snapshots.naming import snapshot_paths
from snapshots.seal import read_seal

DRAFT = "keeping.tmp"


def keep(data: Path, node_id: str, change: SetLevel, index: int) -> bool:
    """Keep the data of the former level, unless that was done before. Returns whether it is kept now. Runs in a thread
    beside the engine.

    Args:
        index: of the log entry that changed the level.

    Raises:
        OSError, SnapshotError, ClusterError: it cannot be kept.
    """
    target = data / cutover.FORMER / change.old.abi
    if (target / cutover.RECORD).exists():
        return False
    draft = data / DRAFT
    durable.remove(draft)
    (draft / SNAPSHOTS).mkdir(mode=0o700, parents=True)
    snapshot_index = _keep_snapshot(data, draft, change.old.abi)
    last_index, last_term = _keep_log(data, draft, node_id, change.old.abi, index)
    if last_index < index - 1 and snapshot_index < index - 1:
        durable.remove(draft)
        return False  # this node no longer has the entries: it installed a snapshot of the new level
    record = cutover.MigrationRecord(
        change.old.abi, change.to.abi, software.version(), time.time_ns(), snapshot_index, index - 1, last_term
    )
    files.write_new(draft / cutover.RECORD, cutover.encoded(record))
    target.parent.mkdir(mode=0o700, exist_ok=True)
    durable.remove(target)
    draft.rename(target)
    durable.sync_path(target.parent)
    return True


def forget(data: Path, abi: str) -> None:
    """Remove the kept data of the level with this ABI, because the cluster is at that level again. Runs in a thread.

    Raises:
        OSError: it cannot be removed.
    """
    durable.remove(data / cutover.FORMER / abi)


def _keep_snapshot(data: Path, draft: Path, abi: str) -> int:
    """Keep the newest snapshot of an ABI. Returns its index, or 0 if there is none."""
    for path in reversed(snapshot_paths(data / SNAPSHOTS)):
        manifest = read_seal(path).manifest
        if manifest.abi == abi:
            link_tree(path, draft / SNAPSHOTS / path.name)
            return manifest.index
    return 0


def _keep_log(data: Path, draft: Path, node_id: str, abi: str, end: int) -> tuple[int, int]:
    """Write the entries before `end`, and the hard state; index and term of the last one."""
    disk = RealDisk(draft / LOG)
    log = DurableLog(disk, node_id=node_id, abi=abi)
    last = 0, 0
    for entry in read_segments(data / LOG, abis=[abi]):
        if entry.index < end:
            log.append(entry)
            last = entry.index, entry.term
    log.close()
    state = hardstate.load(RealDisk(data / LOG))
    if state is not None:
        hardstate.store(disk, state)
    return last

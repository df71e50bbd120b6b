"""Keeps the exchange's state as the history has applied it, so that a start need not apply the whole log again.

The history writes snapshots of its own to `data/history/state`, in the format of the node's snapshots. If there is
none, because the history was enabled later or another version wrote it, it begins with a snapshot of the node.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cluster.log import segment_abis
from node.history.projection import Totals
from node.system import software
from snapshots import durable
from snapshots.errors import SnapshotDamagedError, SnapshotError
from snapshots.job import JobState, WriteJob
from snapshots.levels.level import ACCEPTED, OWN, Level, by_abi
from snapshots.levels.states import level_of, restored
from snapshots.manifest import Row, SnapshotFields
from snapshots.naming import snapshot_paths
from snapshots.rocks import read_tables
from snapshots.seal import check_files
from snapshots.store import SnapshotStore
from statemachine.engine import Engine
from statemachine.tables import BalanceRow

log = logging.getLogger(__name__)


class StateStore:
    """The snapshots of one history, written while it runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = SnapshotStore(directory, keep=1, accepts=ACCEPTED)
        self._job: WriteJob | None = None
        self._job_engine: Engine | None = None
        self._base: tuple[Engine, int] | None = None
        """The engine whose changes are counted from the snapshot at this index."""
        self.index = 0
        """The index of the newest snapshot."""

    def load(self) -> tuple[Engine, int] | None:
        """Return the newest state and its log index; None if there is none that this version can read."""
        try:
            manifest = self._store.newest()
            if manifest is None:
                return None
            if manifest.abi not in ACCEPTED:
                log.warning("the history's own state has ABI %s: it is not used", manifest.abi[:12])
                return None
            engine = restored(manifest.abi, self._store.load(manifest))
        except SnapshotDamagedError as error:
            log.warning("the history's own state is not used: %s", error)
            return None
        self._base = engine, manifest.index
        self.index = manifest.index
        return engine, manifest.index

    def begin(self, engine: Engine, index: int) -> None:
        """Start writing the state after log entry `index`, unless it is written already or another one is being
        written.
        """
        if self._job is not None or index <= self.index:
            return
        base = self._base[1] if self._base is not None and self._base[0] is engine else None
        frozen = engine.freeze(whole=base is None)
        self._base = None
        fields = SnapshotFields(
            index=index, term=0, mark=b"", sequence=engine.sequence, software=software.version(), created_at=time.time_ns()
        )
        self._job, self._job_engine = self._store.begin_changes(fields, frozen, base or 0, abi=level_of(engine).abi), engine

    def poll(self) -> None:
        """Check whether the snapshot in progress is finished.

        Raises:
            SnapshotError: the state contradicts itself.
        """
        if self._job is None or self._job.poll() is JobState.RUNNING:
            return
        job, self._job = self._job, None
        if job.contradiction:
            raise SnapshotError(job.reason)
        if job.manifest is None:
            log.error("the history's state was not written: %s", job.reason)
            return
        assert self._job_engine is not None
        self._base = self._job_engine, job.manifest.index
        self.index = job.manifest.index

    def forget(self, beyond: int) -> None:
        """Delete states of log entries after `beyond`: they belong to a log that was undone."""
        self.cancel()
        self._base, self.index = None, 0
        for path in snapshot_paths(self._directory):
            if int(path.name) > beyond:
                durable.remove(path)

    def cancel(self) -> None:
        """Cancel the snapshot that is being written."""
        if self._job is not None:
            self._job.cancel()
            self._job = None


def level_at_start(directories: Iterable[Path]) -> Level:
    """Return the level of the first entry of a log in these directories."""
    abis: dict[str, str] = {}
    for directory in directories:
        abis |= segment_abis(directory) if directory.is_dir() else {}
    found = [by_abi(abi) for _, abi in sorted(abis.items()) if abi in ACCEPTED]
    return found[0] or OWN if found else OWN


def node_state(snapshots: Path, up_to: float) -> tuple[Engine, int] | None:
    """Return the newest of the node's snapshots of this ABI at or below an index. If the node prunes it in the
    meantime, the next one is tried.
    """
    if not snapshots.is_dir():
        return None
    for path in reversed(snapshot_paths(snapshots)):
        if int(path.name) > up_to:
            continue
        tables: dict[str, list[Row]] = {}
        try:
            manifest = check_files(path).manifest
            if manifest.abi not in ACCEPTED:
                continue
            tables.update({name: [] for name in manifest.row_counts})
            read_tables(path, manifest, lambda name, rows, kept=tables: kept[name].extend(rows))  # type: ignore[misc]  # bound now
        except (SnapshotError, OSError) as error:
            log.warning("%s is not used: %s", path, error)
            continue
        return restored(manifest.abi, tables), manifest.index
    return None


def totals_of(engine: Engine) -> Totals:
    """Return every account's balances. O(everything)."""
    totals: Totals = {}
    for name, found in engine.tables():
        if name == "balance":
            for _, encoded in found:
                row = msgspec.msgpack.decode(encoded, type=BalanceRow)
                totals[row.account_id, row.currency] = row.available + row.hold
    return totals

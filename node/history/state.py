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

from node.history.projection import Totals
from node.records.committed_log import level_at_start
from node.system import software
from snapshots import durable
from snapshots.errors import SnapshotDamagedError, SnapshotError
from snapshots.job import JobState, WriteJob
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED
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
    """The snapshots of one history or stream, written while it runs.

    Args:
        every, seconds: a state is due after this many commands, or after this many seconds with at least one command. At
            most that much is applied again after a start.
    """

    def __init__(self, directory: Path, every: int, seconds: float) -> None:
        self._directory = directory
        self._every = every
        self._seconds = seconds
        self._sequence, self._since = 0, time.monotonic()
        """The state of which the commands and seconds are counted: its sequence, and when it was begun."""
        self._store = SnapshotStore(directory, keep=1, accepts=ACCEPTED)
        self._job: WriteJob | None = None
        self._job_engine: Engine | None = None
        self._base: tuple[Engine, int] | None = None
        """The engine whose changes are counted from the snapshot at this index."""
        self.index = 0
        """The index of the newest snapshot."""

    def start(self, up_to: float, snapshots: Path, log: Iterable[Path]) -> tuple[Engine, int]:
        """Return the latest state up to a log index: one of this store, else one of the node's `snapshots`, else the
        empty state at which the log in these directories begins.
        """
        found = self._load()
        if found is None or found[1] > up_to:
            found = node_state(snapshots, up_to) or (states.empty(level_at_start(log)), 0)
        self._sequence, self._since = found[0].sequence, time.monotonic()
        return found

    def is_due(self, engine: Engine) -> bool:
        """Return whether a state should be written."""
        applied = engine.sequence - self._sequence
        return applied >= self._every or (applied > 0 and time.monotonic() >= self._since + self._seconds)

    def _load(self) -> tuple[Engine, int] | None:
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
        self._sequence, self._since = engine.sequence, time.monotonic()
        if self._job is not None or index <= self.index:
            return
        base = self._base[1] if self._base is not None and self._base[0] is engine else None
        frozen = engine.freeze(whole=base is None)
        self._base = None
        fields = SnapshotFields(
            index=index, term=0, mark=b"", sequence=engine.sequence, software=software.version(), created_at=time.time_ns()
        )
        self._job, self._job_engine = self._store.begin_changes(fields, frozen, base or 0, abi=level_of(engine).abi), engine

    def adopt(self, path: Path) -> None:
        """Take one of the node's snapshots over as the newest state, instead of writing one.

        Raises:
            SnapshotError, OSError: it is gone or damaged; the state is the one before.
        """
        self.cancel()
        manifest = self._store.adopt(path)
        self._base, self.index = None, manifest.index
        self._sequence, self._since = manifest.sequence, time.monotonic()

    def poll(self) -> bool:
        """Return whether the snapshot in progress has just come to be on disk.

        Raises:
            SnapshotError: the state contradicts itself.
        """
        if self._job is None or self._job.poll() is JobState.RUNNING:
            return False
        job, self._job = self._job, None
        if job.contradiction:
            raise SnapshotError(job.reason)
        if job.manifest is None:
            log.error("the history's state was not written: %s", job.reason)
            return False
        assert self._job_engine is not None
        self._base = self._job_engine, job.manifest.index
        self.index = job.manifest.index
        return True

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

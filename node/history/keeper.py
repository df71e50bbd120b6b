"""Following the log: from the last entry that is stored to the last one that the node has applied.

The engine here is at most a little behind the database: its state is written now and then, the rows with every piece of the log. So after a start
the entries in between are applied once more, without storing anything, until both are at the same entry.

Log segments that are archived stay until they are behind the state that is on disk, and then as long as `history.log_bytes` has room for them, for
the histories of other nodes. Entries that are not there all the same (the history was switched on later, or the node took a snapshot from another
one in their place) are asked of other nodes (`fetching`). Where none has them they leave a gap, which is stored and told.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from math import inf
from pathlib import Path

import msgspec

from cluster.log import command_of
from cluster.ports import LogEntry
from cluster.tail import LogTail, first_index
from node.config.settings import NodeConfig
from node.errors import HistoryError
from node.history.projection import Projection, Rows, Step, apply, order_row
from node.history.state import StateStore, node_state, totals_of
from node.history.store import Gap, HistoryStore, Progress
from node.migration import switch
from node.migration.found import LOG, SNAPSHOTS
from snapshots.abi import ABI
from statemachine.commands import decode_batch
from statemachine.engine import Engine
from statemachine.events import OrderState
from statemachine.types import OrderStatus

log = logging.getLogger(__name__)

COMMANDS_PER_TRANSACTION = 2_000
COMMAND_BYTES = 80
"""About so long is a command in the log: enough to know how many entries make a transaction."""
REASON = "no node has kept them"
FETCHED = "log"
STATE_EVERY = 100_000
STATE_SECONDS = 600.0
"""After so many commands, or so many seconds with any, the state is written: that much is applied again after a start."""


class Keeper:
    """One history, its place in the log, and its engine.

    Args:
        config: the node's.
        store: its database.
        state: its own snapshots.
    """

    def __init__(self, config: NodeConfig, store: HistoryStore, state: StateStore) -> None:
        self._config = config
        self._store = store
        self._state = state
        self._archive = config.data_path / switch.ARCHIVE
        self._directories = [config.data_path / LOG, self._archive, self.fetched]
        stored = store.progress.log_index
        loaded = state.load()
        if loaded is None or loaded[1] > stored:
            loaded = node_state(config.data_path / SNAPSHOTS, stored) or (Engine(), 0)
        self._begin(*loaded)
        self._state_sequence, self._state_since = self._engine.sequence, time.monotonic()

    @property
    def fetched(self) -> Path:
        """Where segments of other nodes' logs are put."""
        return self._config.history_path / FETCHED

    def _begin(self, engine: Engine, index: int) -> None:
        """Go on from the state after an entry."""
        self._engine = engine
        self._projection = Projection(engine, {})
        self._tail = LogTail(self._directories, ABI, index + 1)
        self._queued: list[LogEntry] = []
        if index == self.progress.log_index:
            self._arrive()

    def _arrive(self) -> None:
        """The engine is where the database is: from here on there are rows to store."""
        if self._engine.sequence != self.progress.sequence:
            raise HistoryError(
                f"after log entry {self.progress.log_index} the history has {self.progress.sequence} commands, the log "
                f"{self._engine.sequence}: this is not the history of this node's log. Begin anew on an empty database"
            )
        self._projection = Projection(self._engine, totals_of(self._engine))

    @property
    def progress(self) -> Progress:
        """Up to where everything is stored."""
        return self._store.progress

    def advance(self, applied: int) -> bool:
        """Store a piece of what the node has applied, up to entry `applied`; whether there was any.

        Raises:
            MissingEntriesError: the next entry is not here: put a segment with it into `fetched`, or `skip` it.
            HistoryError: the log and the database contradict each other.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used.
        """
        self._tend_state()
        stored = self.progress.log_index
        entries = self._piece(applied, stored)
        if not entries:
            return False
        steps = [step for entry in entries for step in self._apply(entry)]
        last = entries[-1].index
        if last > stored:
            rows = self._projection.rows(steps, self._store.known_orders)
            self._store.write(rows, Progress(last, self._engine.sequence, self._engine.time))
        elif last == stored:
            self._arrive()
        return True

    def _piece(self, applied: int, stored: int) -> list[LogEntry]:
        """Entries for one transaction; none beyond the last one stored together with earlier ones."""
        if not self._queued:
            self._queued = self._tail.read(applied)
        piece: list[LogEntry] = []
        commands = 0
        for entry in self._queued:
            piece.append(entry)
            commands += len(entry.payload) // COMMAND_BYTES + 1
            if commands >= COMMANDS_PER_TRANSACTION or entry.index == stored:
                break
        del self._queued[: len(piece)]
        return piece

    def _apply(self, entry: LogEntry) -> list[Step]:
        payload = command_of(entry)
        return [] if payload is None else apply(self._engine, decode_batch(payload))

    def skip(self, wanted: int) -> None:
        """Go on without entry `wanted`, from a snapshot of the node's that stands for it.

        Raises:
            HistoryError: there is none.
        """
        found = node_state(self._config.data_path / SNAPSHOTS, inf)
        if found is None or found[1] < wanted:
            raise HistoryError(f"log entry {wanted} is neither in the node's log nor in a snapshot of it")
        engine, index = found
        before = self.progress
        if index > before.log_index:
            gap = Gap(before.log_index + 1, index, before.sequence + 1, engine.sequence, REASON)
            log.warning("a gap: log entries %d to %d, commands %d to %d, are missing", *msgspec.structs.astuple(gap)[:4])
            self._store.skip(gap, _rows_of_state(engine, before.time), Progress(index, engine.sequence, engine.time))
        self._tail.close()
        self._begin(engine, index)

    def write_state(self) -> None:
        """Begin to write the state, unless it is on disk or being written."""
        index = self._tail.next_index - 1 - len(self._queued)
        if index >= self.progress.log_index:
            self._state.begin(self._engine, index)
            self._state_sequence, self._state_since = self._engine.sequence, time.monotonic()

    def _tend_state(self) -> None:
        """Begin to write the state when it is due; when one is on disk, let go of the log that it stands for."""
        written = self._state.index
        self._state.poll()
        if self._state.index != written:
            self._release_log()
        applied = self._engine.sequence - self._state_sequence
        if applied >= STATE_EVERY or (applied and time.monotonic() >= self._state_since + STATE_SECONDS):
            self.write_state()

    def _release_log(self) -> None:
        """Delete the segments that nobody needs any more: fetched ones, and archived ones beyond what stays for other nodes' histories."""
        segments = sorted((first_index(path), path) for directory in self._directories for path in directory.glob("log-*.seg"))
        following = dict(itertools.pairwise(sorted({first for first, _ in segments})))
        read = [path for first, path in segments if following.get(first, inf) <= self._state.index + 1]
        for path in read:
            if path.parent == self.fetched:
                path.unlink()
        if self._config.raft.archive_log or switch.may_go_back(self._config.data_path):
            return
        kept = 0
        for path in reversed(read):
            if path.parent == self._archive:
                with contextlib.suppress(FileNotFoundError):  # `migrate --finalize` deletes there, too
                    kept += path.stat().st_size
                    if kept > self._config.history.log_bytes:
                        path.unlink()

    def close(self) -> None:
        """Close everything. What is not stored yet is in the log."""
        self._state.cancel()
        self._tail.close()
        self._store.close()


def _rows_of_state(engine: Engine, since: int) -> Rows:
    """The currencies, products and orders that a state knows, but for orders that were done before `since`: they are stored, perhaps in files
    already. What command placed an order is not known any more: 0."""
    rows = Rows()
    rows.currencies = [{"currency": row.currency, "scale": row.scale} for row in engine.currencies()]
    fixed = ("product_id", "base", "quote", "tick", "lot")
    rows.products = [{name: getattr(row, name) for name in fixed} for row in engine.products()]
    for name, found in engine.tables():
        if name in ("order", "done_order"):
            for _, encoded in found:
                order = msgspec.msgpack.decode(encoded, type=OrderState)
                if order.status is not OrderStatus.DONE or order.done_at >= since:
                    rows.orders[order.order_id] = order_row(order, 0)
    return rows

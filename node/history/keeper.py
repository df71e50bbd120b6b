"""Follows the log, from the last stored entry to the last entry that the node has applied.

The engine here is at most a little behind the database: its state is written at intervals, the rows with every chunk of
the log. After a start the entries in between are applied again without storing anything, until the engine has reached
the database.

Archived log segments stay until the state on disk covers them. After that they stay as long as `history.log_bytes` has
room, for the histories of other nodes. Entries can be missing, because the history was enabled later or the node
installed a snapshot in their place. They are then fetched from other nodes (`fetching`). If no node has them, the
history records a gap and logs it.

Before anything is stored, and again after every start of the engine, the history checks that its last entry belongs to
this log (`place`). If a rollback undid that entry, the history is cut back to the last common entry. A history of
another log is set aside, and a new one begins. Until this check has succeeded the history does not answer: readers
compare `progress.confirmed_by` with the engine's start.
"""

from __future__ import annotations

import logging
from math import inf
from pathlib import Path

import msgspec

from cluster.errors import MissingEntriesError
from cluster.log import command_of
from cluster.ports import LogEntry
from cluster.tail import LogTail
from node.config.settings import NodeConfig
from node.errors import HistoryError
from node.history.cutting import cut, set_aside
from node.history.place import FETCHED, LogMatch, compare, engine_for, needed_by_streams, placed, read, release, undone
from node.history.projection import HistoryRows, HistoryStep, Projection, apply, order_row
from node.history.state import StateStore, node_state, totals_of
from node.history.store import HistoryProgress, HistoryStore, LogGap
from node.migration import cutover
from node.migration.contents import LOG, SNAPSHOTS
from snapshots import durable
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, is_level_entry
from statemachine.engine import Engine
from statemachine.events import OrderState
from statemachine.types import OrderStatus

log = logging.getLogger(__name__)

COMMANDS_PER_TRANSACTION = 2_000
COMMAND_BYTES = 80
"""Approximate size of a command in the log, for estimating how many entries make a transaction."""
REASON = "no node has kept them"


class OtherLogError(HistoryError):
    """The stored history does not belong to the node's log."""


class Keeper:
    """One history, its position in the log, and its engine.

    Args:
        config: the node's.
        store: its database.
        state: its own snapshots.
    """

    def __init__(self, config: NodeConfig, store: HistoryStore, state: StateStore) -> None:
        self._config = config
        self._store = store
        self._state = state
        self._archive = config.data_path / cutover.ARCHIVE
        # What was fetched comes first: a segment of the same name that is here could not be read.
        self._directories = [self.fetched, config.data_path / LOG, self._archive]
        self._start = ""
        self._compared = self._confirmed = False
        self._gap_end = -1
        self._boundaries = {record.last_index for record in cutover.former(config.data_path)}
        self._begin(*self._state_at(store.progress.log_index))

    def _state_at(self, index: int) -> tuple[Engine, int]:
        return self._state.start(index, self._config.data_path / SNAPSHOTS, self._directories)

    @property
    def fetched(self) -> Path:
        """The directory of segments that were fetched from other nodes."""
        return self._config.history_path / FETCHED

    def _begin(self, engine: Engine, index: int) -> None:
        """Continue from the state after an entry."""
        self._engine = engine
        self._projection = Projection(engine, {})
        self._tail = LogTail(self._directories, ACCEPTED, index + 1)
        self._queued: list[LogEntry] = []
        self._caught_up = False

    def _catch_up(self) -> None:
        """Begin to make rows: the engine has reached the database's place.

        Raises:
            OtherLogError: they contradict each other.
        """
        if self._engine.sequence != self.progress.sequence:
            raise OtherLogError(
                f"after log entry {self.progress.log_index} the history has {self.progress.sequence} commands, the log "
                f"{self._engine.sequence}"
            )
        if not self.progress.term:
            self._compare_orders()
        sequence, under = self.progress.sequence, 0
        try:
            under = self._store.entries_under(sequence, self._config.history_path)
        except HistoryError as error:  # the entries of that command are in a file
            log.error("what time alone causes next may repeat positions of the ledger: %s", error)
        self._projection = Projection(self._engine, totals_of(self._engine), (sequence, under))
        self._caught_up = True

    def _compare_orders(self) -> None:
        """Compare the open orders, where an earlier version stored no term, to find whether the history is of this log."""
        fields = ("account_id", "client_oid", "product_id", "price", "size", "created_at", "filled_size")
        stored = {number: [row[name] for name in fields] for number, row in self._store.open_orders().items()}
        states = [msgspec.msgpack.decode(row, type=OrderState) for _, row in dict(self._engine.tables())["order"]]
        known = {order.order_id: [getattr(order, name) for name in fields] for order in states}
        if stored != known:
            raise OtherLogError(f"after log entry {self.progress.log_index} other orders are open than the history has")

    def note_start(self, start: str) -> None:
        """Record the engine's start. After a new start the log may be another one."""
        if start != self._start:
            self._start, self._compared, self._confirmed = start, False, False

    def _is_of_this_log(self, applied: int) -> bool:
        """Return whether the stored history is of this log; False while the log does not reach that far.

        Raises:
            MissingEntriesError: the entry that tells is not here.
            OtherLogError: it is not.
        """
        verdict, _ = compare(self._config.data_path, self._directories, self.progress, applied)
        if verdict is LogMatch.LATER:
            return False
        if verdict is LogMatch.OTHER:
            raise OtherLogError(f"the log has another entry {self.progress.log_index}, or none")
        if verdict is LogMatch.UNKNOWN and self._gap_end < self.progress.log_index:
            raise MissingEntriesError(self.progress.log_index)
        return True

    def _confirm(self, applied: int) -> None:
        """Record that the history is of this log: the last entry is the same, and so is the state after it."""
        progress = self.progress
        _, entry = compare(self._config.data_path, self._directories, progress, applied)
        self._store.confirm(progress if entry is None else placed(progress, entry), self._start)
        self._confirmed = True

    @property
    def progress(self) -> HistoryProgress:
        """The position up to which everything is stored."""
        return self._store.progress

    def advance(self, applied: int) -> bool:
        """Store a chunk of what the node has applied, up to entry `applied`. Returns whether there was any.

        Raises:
            MissingEntriesError: the next entry is not here: put a segment with it into `fetched`, or `skip` it.
            HistoryError: the log and the database contradict each other.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used.
        """
        self._tend_state()
        try:
            return self._advance(applied)
        except OtherLogError as error:
            self._leave(error)
            return True

    def _advance(self, applied: int) -> bool:
        """Store the next entries. Returns whether there were any."""
        stored = self.progress.log_index
        self._compared = self._compared or self._is_of_this_log(applied)
        if not self._compared:
            return False
        if not self._confirmed and self.progress.term:
            self._confirm(applied)  # the entry itself was compared, so readers need not wait for the engine to reach it
        if self._tail.next_index - 1 - len(self._queued) == stored and not self._caught_up:
            self._catch_up()
        if self._caught_up and not self._confirmed:
            self._confirm(applied)
        entries = self._chunk(applied, stored)
        if not entries:
            return False
        steps = [step for entry in entries for step in self._apply(entry)]
        last = entries[-1]
        if last.index > stored:
            rows = self._projection.rows(steps, self._store.known_orders)
            self._store.write(rows, placed(HistoryProgress(last.index, self._engine.sequence, self._engine.time), last))
        return True

    def _leave(self, error: OtherLogError) -> None:
        """Leave entries that are not of this log: cut the history back to where a rollback continued, or begin a new
        one.

        Raises:
            MissingEntriesError: entries that lead to that place are not here.
            HistoryError: the old history is set aside; the process begins again with a new one.
        """
        progress = self.progress
        rewind = undone(self._config.data_path, progress)
        if rewind is None or self._gap_end >= progress.log_index:
            raise self._aside(str(error))
        engine, index = self._state_at(rewind.last_index)
        last = None
        tail = LogTail(self._directories, ACCEPTED, index + 1)
        try:
            while tail.next_index <= rewind.last_index:
                for last in read(tail, rewind.last_index):
                    engine = engine_for(last, engine, self._directories)
                    payload = command_of(last)
                    if payload is not None:
                        engine, _ = states.apply(engine, payload)
        finally:
            tail.close()
        back = HistoryProgress(rewind.last_index, engine.sequence, engine.time)
        back = back if last is None else placed(back, last)
        cut(self._store.database, self._config.history_path, engine, back)
        self._store.progress = back
        log.warning(
            "log entries %d to %d were undone by a rollback: the history is cut back to entry %d, sequence %d",
            rewind.last_index + 1, progress.log_index, rewind.last_index, engine.sequence,
        )  # fmt: skip
        self._state.forget(rewind.last_index)
        self._tail.close()
        durable.remove(self.fetched)  # it may have undone entries
        self._begin(engine, rewind.last_index)

    def _aside(self, why: str) -> HistoryError:
        """Set a history of another log aside."""
        self.close()
        place = set_aside(self._config, f"of-another-log-{self.progress.log_index}")
        self._state.forget(0)
        return HistoryError(f"this is not the history of this node's log: {why}. It is set aside ({place}), and a new one begins")

    def _chunk(self, applied: int, stored: int) -> list[LogEntry]:
        """Return entries for one transaction. It does not mix entries that are already stored with new ones."""
        if not self._queued:
            self._queued = read(self._tail, applied)
        chunk: list[LogEntry] = []
        commands = 0
        for entry in self._queued:
            chunk.append(entry)
            commands += len(entry.payload) // COMMAND_BYTES + 1
            if commands >= COMMANDS_PER_TRANSACTION or entry.index == stored or entry.index in self._boundaries:
                break
        del self._queued[: len(chunk)]
        return chunk

    def _apply(self, entry: LogEntry) -> list[HistoryStep]:
        """Apply an entry to the history's engine. Returns its steps."""
        if entry.index == 1:
            self._engine = engine_for(entry, self._engine, self._directories)
            self._projection.go_on_with(self._engine)
        payload = command_of(entry)
        if payload is None:
            return []
        if is_level_entry(payload):
            self._engine, _ = states.apply(self._engine, payload)
            self._projection.go_on_with(self._engine)
            return []
        return apply(self._engine, payload)

    def skip(self, wanted: int) -> None:
        """Continue without entry `wanted`, from one of the node's snapshots that covers it.

        Raises:
            HistoryError: there is none.
        """
        if not self._compared and wanted <= self.progress.log_index:
            self._gap_end = self.progress.log_index  # no node has the entry that could decide: whatever follows is behind a gap
            return
        found = node_state(self._config.data_path / SNAPSHOTS, inf)
        if found is None or found[1] < wanted:
            raise HistoryError(f"log entry {wanted} is neither in the node's log nor in a snapshot of it")
        engine, index = found
        before = self.progress
        if index > before.log_index:
            gap = LogGap(before.log_index + 1, index, before.sequence + 1, engine.sequence, REASON)
            log.warning("a gap: log entries %d to %d, commands %d to %d, are missing", *msgspec.structs.astuple(gap)[:4])
            self._store.skip(gap, _rows_of_state(engine, before.time), HistoryProgress(index, engine.sequence, engine.time))
        self._tail.close()
        self._begin(engine, index)
        self._confirmed = (
            False  # the state is this node's own, so there is nothing to compare; it is confirmed when the engine has arrived
        )
        self._gap_end = index

    def write_state(self) -> None:
        """Start writing the state, unless it is on disk or being written."""
        index = self._tail.next_index - 1 - len(self._queued)
        if index >= self.progress.log_index:
            self._state.begin(self._engine, index)

    def _tend_state(self) -> None:
        """Start writing the state when it is due. When one is on disk, delete the log segments that it covers."""
        if self._state.poll():
            self._release_log()
        if self._state.is_due(self._engine):
            self.write_state()

    def _release_log(self) -> None:
        """Delete segments that nobody needs: fetched ones, and archived ones beyond the space kept for other nodes'
        histories.
        """
        index = self._state.index
        release(self._directories, index, self.fetched, 0)
        if self._config.raft.archive_log or cutover.may_go_back(self._config.data_path):
            return
        release(
            self._directories, int(min(index, needed_by_streams(self._config))), self._archive, self._config.history.log_bytes
        )

    def close(self) -> None:
        """Close everything. Commands that are not stored yet are in the log."""
        self._state.cancel()
        self._tail.close()
        self._store.close()


def _rows_of_state(engine: Engine, since: int) -> HistoryRows:
    """Return the currencies, products and orders of a state, except orders that were done before `since`, which are
    already stored or in files. The command that placed an order is no longer known, so its sequence is 0.
    """
    rows = HistoryRows()
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

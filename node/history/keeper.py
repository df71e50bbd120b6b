"""Following the log: from the last entry that is stored to the last one that the node has applied.

The engine here is at most a little behind the database: its state is written now and then, the rows with every piece of
the log. So after a start the entries in between are applied once more, without storing anything, until both are at the
same entry.

Log segments that are archived stay until they are behind the state that is on disk, and then as long as
`history.log_bytes` has room for them, for the histories of other nodes. Entries that are not there all the same (the
history was switched on later, or the node took a snapshot from another one in their place) are asked of other nodes
(`fetching`). Where none has them they leave a gap, which is stored and told.

Before anything is stored, and again whenever the engine was started anew, the history looks whether its last entry is
one of this log (`place`). If a way back undid it, the history is cut back to where the log goes on from; a history of
another log is set aside, and a new one begins. Until then it does not answer: readers compare `progress.confirmed_by`
with the engine's start.
"""

from __future__ import annotations

import logging
import time
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
from node.history.place import FETCHED, Verdict, compare, needed_by_streams, placed, release, undone
from node.history.projection import Projection, Rows, Step, apply, order_row
from node.history.state import StateStore, level_at_start, node_state, totals_of
from node.history.store import Gap, HistoryStore, Progress
from node.migration import switch
from node.migration.found import LOG, SNAPSHOTS
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, is_level_entry
from statemachine.engine import Engine
from statemachine.events import OrderState
from statemachine.types import OrderStatus

log = logging.getLogger(__name__)

COMMANDS_PER_TRANSACTION = 2_000
COMMAND_BYTES = 80
"""About so long is a command in the log: enough to know how many entries make a transaction."""
REASON = "no node has kept them"
STATE_EVERY = 100_000
STATE_SECONDS = 600.0
"""After so many commands, or so many seconds with any, the state is written: that much is applied again after a start."""


class OtherLogError(HistoryError):
    """What a history has stored is not of the node's log."""


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
        self._start = ""
        self._compared = self._confirmed = False
        self._beyond = -1
        self._boundaries = {record.last_index for record in switch.former(config.data_path)}
        self._begin(*self._state_at(store.progress.log_index))
        self._state_sequence, self._state_since = self._engine.sequence, time.monotonic()

    def _state_at(self, index: int) -> tuple[Engine, int]:
        """The latest state up to an entry that is on disk: the history's own, else one of the node's, else the empty
        one.
        """
        loaded = self._state.load()
        if loaded is None or loaded[1] > index:
            loaded = node_state(self._config.data_path / SNAPSHOTS, index) or (states.empty(level_at_start(self._directories)), 0)
        return loaded

    @property
    def fetched(self) -> Path:
        """Where segments of other nodes' logs are put."""
        return self._config.history_path / FETCHED

    def _begin(self, engine: Engine, index: int) -> None:
        """Go on from the state after an entry."""
        self._engine = engine
        self._projection = Projection(engine, {})
        self._tail = LogTail(self._directories, ACCEPTED, index + 1)
        self._queued: list[LogEntry] = []
        self._arrived = False

    def _arrive(self) -> None:
        """The engine is where the database is: from here on there are rows to store.

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
        self._projection = Projection(self._engine, totals_of(self._engine))
        self._arrived = True

    def _compare_orders(self) -> None:
        """What an earlier version stored has no term: the open orders tell whether it is of this log."""
        fields = ("account_id", "client_oid", "product_id", "price", "size", "created_at", "filled_size")
        stored = {number: [row[name] for name in fields] for number, row in self._store.open_orders().items()}
        states = [msgspec.msgpack.decode(row, type=OrderState) for _, row in dict(self._engine.tables())["order"]]
        known = {order.order_id: [getattr(order, name) for name in fields] for order in states}
        if stored != known:
            raise OtherLogError(f"after log entry {self.progress.log_index} other orders are open than the history has")

    def meet(self, start: str) -> None:
        """The engine was started as `start`: if that is news, its log may be another one than before."""
        if start != self._start:
            self._start, self._compared, self._confirmed = start, False, False

    def _is_of_this_log(self, applied: int) -> bool:
        """Whether what is stored is of this log; False while the log does not go that far.

        Raises:
            MissingEntriesError: the entry that tells is not here.
            OtherLogError: it is not.
        """
        verdict, _ = compare(self._config.data_path, self._directories, self.progress, applied)
        if verdict is Verdict.LATER:
            return False
        if verdict is Verdict.OTHER:
            raise OtherLogError(f"the log has another entry {self.progress.log_index}, or none any more")
        if verdict is Verdict.UNKNOWN and self._beyond < self.progress.log_index:
            raise MissingEntriesError(self.progress.log_index)
        return True

    def _confirm(self, applied: int) -> None:
        """Note that the history is of this log: the entry is, and the state after it is what the history leads to."""
        progress = self.progress
        _, entry = compare(self._config.data_path, self._directories, progress, applied)
        self._store.confirm(progress if entry is None else placed(progress, entry), self._start)
        self._confirmed = True

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
        try:
            return self._advance(applied)
        except OtherLogError as error:
            self._leave(error)
            return True

    def _advance(self, applied: int) -> bool:
        stored = self.progress.log_index
        self._compared = self._compared or self._is_of_this_log(applied)
        if not self._compared:
            return False
        if not self._confirmed and self.progress.term:
            self._confirm(applied)  # the entry itself was compared: readers need not wait for the engine to arrive
        if self._tail.next_index - 1 - len(self._queued) == stored and not self._arrived:
            self._arrive()
        if self._arrived and not self._confirmed:
            self._confirm(applied)
        entries = self._piece(applied, stored)
        if not entries:
            return False
        steps = [step for entry in entries for step in self._apply(entry)]
        last = entries[-1]
        if last.index > stored:
            rows = self._projection.rows(steps, self._store.known_orders)
            self._store.write(rows, placed(Progress(last.index, self._engine.sequence, self._engine.time), last))
        return True

    def _leave(self, error: OtherLogError) -> None:
        """What is stored is not of this log: cut it back to the entry from which a way back went on, or begin a new
        history.

        Raises:
            MissingEntriesError: entries that lead to that place are not here.
            HistoryError: the old history is set aside; the process begins again with a new one.
        """
        progress = self.progress
        rewind = undone(self._config.data_path, progress)
        if rewind is None or self._beyond >= progress.log_index:
            raise self._aside(str(error))
        engine, index = self._state_at(rewind.last_index)
        last = None
        tail = LogTail(self._directories, ACCEPTED, index + 1)
        try:
            while tail.next_index <= rewind.last_index:
                for last in tail.read(rewind.last_index):
                    payload = command_of(last)
                    if payload is not None:
                        engine, _ = states.apply(engine, payload)
        finally:
            tail.close()
        back = Progress(rewind.last_index, engine.sequence, engine.time)
        back = back if last is None else placed(back, last)
        cut(self._store.database, self._config.history_path, engine, back)
        self._store.progress = back
        log.warning(
            "log entries %d to %d were undone by a way back: the history is cut back to entry %d, sequence %d",
            rewind.last_index + 1, progress.log_index, rewind.last_index, engine.sequence,
        )  # fmt: skip
        self._state.forget(rewind.last_index)
        self._tail.close()
        self._begin(engine, rewind.last_index)

    def _aside(self, why: str) -> HistoryError:
        """Put a history of another log out of the way."""
        self.close()
        place = set_aside(self._config, f"of-another-log-{self.progress.log_index}")
        self._state.forget(0)
        return HistoryError(f"this is not the history of this node's log: {why}. It is set aside ({place}), and a new one begins")

    def _piece(self, applied: int, stored: int) -> list[LogEntry]:
        """Entries for one transaction; none beyond the last one stored together with earlier ones."""
        if not self._queued:
            self._queued = self._tail.read(applied)
        piece: list[LogEntry] = []
        commands = 0
        for entry in self._queued:
            piece.append(entry)
            commands += len(entry.payload) // COMMAND_BYTES + 1
            if commands >= COMMANDS_PER_TRANSACTION or entry.index == stored or entry.index in self._boundaries:
                break
        del self._queued[: len(piece)]
        return piece

    def _apply(self, entry: LogEntry) -> list[Step]:
        payload = command_of(entry)
        if payload is None:
            return []
        if is_level_entry(payload):
            self._engine, _ = states.apply(self._engine, payload)
            self._projection.go_on_with(self._engine)
            return []
        return apply(self._engine, payload)

    def skip(self, wanted: int) -> None:
        """Go on without entry `wanted`, from a snapshot of the node's that stands for it.

        Raises:
            HistoryError: there is none.
        """
        if not self._compared and wanted <= self.progress.log_index:
            self._beyond = self.progress.log_index  # no node has what would tell: what comes next is behind a gap
            return
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
        self._confirmed = (
            False  # the state is this node's own, so there is nothing to compare; it is noted when the engine has arrived
        )
        self._beyond = index

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
        """Delete the segments that nobody needs any more: fetched ones, and archived ones beyond what stays for other
        nodes' histories.
        """
        index = self._state.index
        release(self._directories, index, self.fetched, 0)
        if self._config.raft.archive_log or switch.may_go_back(self._config.data_path):
            return
        release(
            self._directories, int(min(index, needed_by_streams(self._config))), self._archive, self._config.history.log_bytes
        )

    def close(self) -> None:
        """Close everything. What is not stored yet is in the log."""
        self._state.cancel()
        self._tail.close()
        self._store.close()


def _rows_of_state(engine: Engine, since: int) -> Rows:
    """The currencies, products and orders that a state knows, but for orders that were done before `since`: they are
    stored, perhaps in files already. What command placed an order is not known any more: 0."""
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

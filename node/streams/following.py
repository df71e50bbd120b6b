"""Following the node's log: from the entry that the broker has to the one that the node has applied, with an engine of
its own.

The engine's state is written to disk now and then (`data/streams/state`), so that a start need not apply the whole log
again. At a start the entries between that state and the broker's place are applied without publishing anything. A state
behind the broker's place is of no use: another node may have streamed meanwhile, and then the engine is brought
forward; after that the place is found again by `Broker.begin`.
"""

from __future__ import annotations

import logging
import time
from math import inf
from pathlib import Path

from cluster.log import command_of
from cluster.ports import LogEntry
from cluster.tail import LogTail
from node.config.settings import NodeConfig
from node.errors import StreamError
from node.history.place import FETCHED, release
from node.history.projection import Step, apply
from node.history.state import StateStore, level_at_start, node_state
from node.migration import switch
from node.streams.broker import Broker, Place, Record
from node.streams.records import Writer
from node.system import files
from snapshots import durable
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, is_level_entry
from statemachine.engine import Engine

log = logging.getLogger(__name__)

RECORDS_PER_BATCH = 2_000
"""Of one transaction, about: a log entry is never split."""

STATE_EVERY = 200_000
STATE_SECONDS = 900.0
"""After so many commands, or so many seconds with any, the state is written."""

STATE = "state"
SEEN = "rollbacks"
"""Names in the stream's directory: its own state, and how many rollbacks it has seen."""


class Following:
    """One stream of a node.

    Args:
        config: the node's.
        broker: where the records go.
        writer: makes them.
    """

    def __init__(self, config: NodeConfig, broker: Broker, writer: Writer) -> None:
        self._config = config
        self._broker = broker
        self._writer = writer
        self._forget_undone()
        self._state = StateStore(config.streams_path / STATE)
        data = config.data_path
        self._directories = [data / "log", data / switch.ARCHIVE, self.fetched]
        self._place = Place(config.cluster_id, 0, 0)
        self._before: Place | None = None
        self._engine, self._index = Engine(), 0
        self._tail: LogTail | None = None
        self._queued: list[LogEntry] = []
        self._state_sequence, self._state_since = 0, time.monotonic()
        self._pending: tuple[list[Record], Place] | None = None
        self._cut_to: int | None = None
        """A rollback undid what the broker has behind this log entry: that must be published first."""
        self.published = 0

    @property
    def fetched(self) -> Path:
        """Where segments of other nodes' logs are put."""
        return self._config.streams_path / FETCHED

    @property
    def place(self) -> Place:
        """How far the broker is."""
        return self._place

    def begin(self) -> None:
        """Take the stream over, and find the broker's place.

        Raises:
            BrokerError: it cannot be reached.
            StreamError: its place is of another cluster.
        """
        found = self._broker.begin()
        self._place = found or Place(self._config.cluster_id, 0, 0)
        if self._place.cluster_id != self._config.cluster_id:
            raise StreamError(
                f"the topics hold the stream of cluster {self._place.cluster_id!r}, and this is {self._config.cluster_id!r}: "
                "set another streams.prefix"
            )
        undone = self.undone(self._place)
        if undone is not None:
            self._begin_cut(undone)
            return
        pending = self._pending
        if pending is not None and pending[1] == self._place:
            self._pending = None  # it was committed, and only the answer was lost
        elif pending is not None and found != self._before:
            self._pending = None  # another node has streamed meanwhile
            self._restore(self._place.index)
        elif self._tail is None or (pending is None and self._index > self._place.index):
            self._restore(self._place.index)

    def undone(self, place: Place) -> int | None:
        """The log entry to which the rollbacks on this node's data go back, if they undid this place."""
        ways = [way.last_index for way in switch.rewinds(self._config.data_path) if way.undid(place.index, place.term)]
        return min(ways, default=None)

    def _forget_undone(self) -> None:
        """After a rollback, remove the stream's own state and what it fetched: both may be of entries that were undone."""
        now = switch.rewinds(self._config.data_path)
        seen = self._config.streams_path / SEEN
        if len(now) != (int(seen.read_text()) if seen.exists() else 0):
            for name in (STATE, FETCHED):
                durable.remove(self._config.streams_path / name)
            files.replace(seen, str(len(now)).encode())

    def _begin_cut(self, index: int) -> None:
        """A rollback undid what the broker has behind log entry `index`. Bring the engine there; `advance` goes on."""
        log.warning("a rollback undid what is published behind log entry %d: the stream is cut back", index)
        self._pending, self._cut_to = None, index
        self._restore(index)

    def _cut(self, applied: int) -> bool:
        """Publish the cut when the engine is there; False while the log does not go that far."""
        assert self._cut_to is not None
        while self._index < self._cut_to:
            entry = self._next(min(applied, self._cut_to))
            if entry is None:
                return False
            self._apply(entry)
        place = Place(self._config.cluster_id, self._cut_to, 0, self._config.node_id)
        self._broker.cut(self._writer.cuts(self._engine, self._cut_to), place)
        self._cut_to, self._place = None, place
        return True

    def begin_behind_snapshot(self) -> bool:
        """Begin behind the node's newest snapshot, where the broker has nothing yet and the log before it is gone.
        False where that is no way.
        """
        if self._place.index or node_state(self._config.data_path / "snapshots", inf) is None:
            return False
        self._restore(inf)
        self._place = Place(self._config.cluster_id, self._index, 0, self._config.node_id)
        log.warning("the log before entry %d is gone: the stream begins behind it", self._index + 1)
        return True

    def _restore(self, up_to: float) -> None:
        """The newest state on disk at or below an index: the stream's own, else one of the node's, else the empty one."""
        if self._tail is not None:
            self._tail.close()
        found = self._state.load()
        if found is None or found[1] > up_to:
            found = node_state(self._config.data_path / "snapshots", up_to) or (
                states.empty(level_at_start(self._directories)),
                0,
            )
        self._engine, self._index = found
        self._tail = LogTail(self._directories, ACCEPTED, self._index + 1)
        self._queued = []
        self._state_sequence, self._state_since = self._engine.sequence, time.monotonic()

    def advance(self, applied: int) -> bool:
        """Publish what the node has applied, up to a batch; False where there is nothing more.

        Raises:
            MissingEntriesError: the next entry is not here: put a segment with it into `fetched`.
            FencedError, BrokerError: as `Broker.publish`.
            StreamError: the broker's place is not of this log.
        """
        assert self._tail is not None, "begin comes first"
        self._poll_state()
        if self._cut_to is not None:
            return self._cut(applied)
        if self._pending is not None:
            return self._publish(*self._pending)
        records: list[Record] = []
        last: LogEntry | None = None
        while len(records) < RECORDS_PER_BATCH:
            entry = self._next(applied)
            if entry is None:
                break
            records += self._taken(entry)
            if entry.index > self._place.index:
                last = entry
        if last is None:
            return False
        return self._publish(records, Place(self._config.cluster_id, last.index, last.term, self._config.node_id))

    def _publish(self, records: list[Record], place: Place) -> bool:
        """Publish a batch; it is kept while the broker does not take it."""
        self._pending, self._before = (records, place), self._place if self._place.index else None
        self._broker.publish(records, place)
        self._pending, self._place = None, place
        self.published += len(records)
        self._tend_state()
        return True

    def _next(self, applied: int) -> LogEntry | None:
        if not self._queued:
            assert self._tail is not None
            self._queued = self._tail.read(applied)
        return self._queued.pop(0) if self._queued else None

    def _taken(self, entry: LogEntry) -> list[Record]:
        """Apply an entry; its records, none where the broker has them."""
        if entry.index == self._place.index and self._place.term not in (0, entry.term):
            raise StreamError(
                f"the broker has log entry {entry.index} of term {self._place.term}, and this log one of term {entry.term}: a way back undid "
                "what was published. Consumers must be told: begin with another streams.prefix"
            )
        steps = self._apply(entry)
        return self._writer.records(self._engine, steps, entry.index) if steps and entry.index > self._place.index else []

    def _apply(self, entry: LogEntry) -> list[Step]:
        """Apply an entry. Returns the steps of its commands."""
        payload = command_of(entry)
        steps: list[Step] = []
        if payload is not None and is_level_entry(payload):
            self._engine, _ = states.apply(self._engine, payload)
        elif payload is not None:
            steps = apply(self._engine, payload)
        self._index = entry.index
        return steps

    def _poll_state(self) -> None:
        """Note that a state is on disk, and let go of the log that it stands for."""
        written = self._state.index
        self._state.poll()
        if self._state.index == written:
            return
        release(self._directories, self._state.index, self.fetched, 0)
        config = self._config
        if not (config.raft.archive_log or config.history.enabled or switch.may_go_back(config.data_path)):
            release(self._directories, self._state.index, config.data_path / switch.ARCHIVE, 0)

    def _tend_state(self) -> None:
        """Write the state when it is due."""
        applied = self._engine.sequence - self._state_sequence
        if applied >= STATE_EVERY or (applied and time.monotonic() >= self._state_since + STATE_SECONDS):
            self.write_state()

    def write_state(self) -> None:
        """Begin to write the state. It is never ahead of what the broker has."""
        if self._index and self._index == self._place.index and not self._queued:
            self._state.begin(self._engine, self._index)
            self._state_sequence, self._state_since = self._engine.sequence, time.monotonic()

    def close(self) -> None:
        """Close everything. What is not published is in the log."""
        self._state.cancel()
        if self._tail is not None:
            self._tail.close()
        self._broker.close()

"""Follows the node's log with a separate engine: from the broker's position to the entry that the node has applied.

The engine's state is written to disk at intervals (`data/streams/state`), so that a start does not apply the whole log
again. At a start the entries between that state and the broker's position are applied without publishing them. A state
after the broker's position cannot be used. If another node has streamed in the meantime, the engine is brought forward
to the position that `Broker.begin` returns.
"""

from __future__ import annotations

import logging
from math import inf
from pathlib import Path

from cluster.log import command_of
from cluster.ports import LogEntry
from cluster.tail import LogTail
from node.config.settings import NodeConfig
from node.errors import StreamError
from node.history.place import FETCHED, engine_for, read, release
from node.history.projection import HistoryStep, apply
from node.history.state import StateStore, node_state
from node.migration import cutover
from node.streams.broker import Broker, Record, StreamProgress
from node.streams.records import RecordWriter
from node.system import files
from snapshots import durable
from snapshots.errors import SnapshotError
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, is_level_entry
from snapshots.naming import snapshot_paths
from statemachine.engine import Engine

log = logging.getLogger(__name__)

RECORDS_PER_BATCH = 2_000
"""Approximate number of records in one transaction. A log entry is never split."""

STATE_EVERY = 200_000
STATE_SECONDS = 900.0
"""See `StateStore`."""

STATE = "state"
SEEN = "rollbacks"
"""Names in the stream's directory: its state, and the number of rollbacks that it has handled."""


class NodeStream:
    """One stream of a node.

    Args:
        config: the node's configuration.
        broker: the destination of the records.
        writer: makes the records.
    """

    def __init__(self, config: NodeConfig, broker: Broker, writer: RecordWriter) -> None:
        self._config = config
        self._broker = broker
        self._writer = writer
        self._forget_undone()
        self._state = StateStore(config.streams_path / STATE, STATE_EVERY, STATE_SECONDS)
        data = config.data_path
        # What was fetched comes first: a segment of the same name that is here could not be read.
        self._directories = [self.fetched, data / "log", data / cutover.ARCHIVE]
        self._position = StreamProgress(config.cluster_id, 0, 0)
        self._before: StreamProgress | None = None
        self._engine, self._index = Engine(), 0
        self._tail: LogTail | None = None
        self._queued: list[LogEntry] = []
        self._pending: tuple[list[Record], StreamProgress] | None = None
        self._cut_to: int | None = None
        """The last log entry that a rollback kept, or None. The cut must be published before further records."""
        self.published = 0

    @property
    def fetched(self) -> Path:
        """The directory of log segments that were fetched from other nodes."""
        return self._config.streams_path / FETCHED

    @property
    def position(self) -> StreamProgress:
        """The broker's position."""
        return self._position

    def begin(self) -> None:
        """Take the stream over, and read the broker's position.

        Raises:
            BrokerError: the broker cannot be reached.
            StreamError: the broker's position belongs to another cluster.
        """
        found = self._broker.begin()
        self._position = found or StreamProgress(self._config.cluster_id, 0, 0)
        if self._position.cluster_id != self._config.cluster_id:
            raise StreamError(
                f"the topics hold the stream of cluster {self._position.cluster_id!r}, and this is {self._config.cluster_id!r}: "
                "set another streams.prefix"
            )
        undone = self.undone(self._position)
        if undone is not None:
            self._begin_cut(undone)
            return
        pending = self._pending
        if pending is not None and pending[1] == self._position:
            self._pending = None  # the batch was committed, and only the answer was lost
        elif pending is not None and found != self._before:
            self._pending = None  # another node has streamed in the meantime
            self._restore(self._position.index)
        elif self._tail is None or (pending is None and self._index > self._position.index):
            self._restore(self._position.index)

    def undone(self, position: StreamProgress) -> int | None:
        """Return the last log entry that the rollbacks of this node's data kept, or None if they did not undo this position."""
        ways = [way.last_index for way in cutover.rewinds(self._config.data_path) if way.undid(position.index, position.term)]
        return min(ways, default=None)

    def _forget_undone(self) -> None:
        """After a rollback, remove the stream's state and fetched segments, which may include undone entries."""
        now = str(len(cutover.rewinds(self._config.data_path))).encode()
        seen = self._config.streams_path / SEEN
        if now != (seen.read_bytes() if seen.exists() else b"0"):  # a damaged file, too
            for name in (STATE, FETCHED):
                durable.remove(self._config.streams_path / name)
            files.replace(seen, now)

    def _begin_cut(self, index: int) -> None:
        """Bring the engine to log entry `index`, after which a rollback undid published entries. `advance` continues."""
        log.warning("a rollback undid events that were published after log entry %d: the stream is cut back", index)
        self._pending, self._cut_to = None, index
        self._restore(index)

    def _cut(self, applied: int) -> bool:
        """Publish the cut after the engine has reached its entry. Returns False while the log ends before it."""
        assert self._cut_to is not None
        while self._index < self._cut_to:
            entry = self._next(min(applied, self._cut_to))
            if entry is None:
                return False
            self._apply(entry)
        position = StreamProgress(self._config.cluster_id, self._cut_to, 0, self._config.node_id)
        self._broker.cut(self._writer.cuts(self._engine, self._cut_to), position)
        self._cut_to, self._position = None, position
        return True

    def begin_behind_snapshot(self) -> bool:
        """Begin after the node's newest snapshot, if the broker has no position yet and the log before the snapshot is
        gone. Returns False if that is not possible.
        """
        if self._position.index or node_state(self._config.data_path / "snapshots", inf) is None:
            return False
        self._restore(inf)
        self._position = StreamProgress(self._config.cluster_id, self._index, 0, self._config.node_id)
        log.warning("the log before entry %d is gone: the stream begins after it", self._index + 1)
        return True

    def stand_by(self, position: StreamProgress) -> None:
        """Prepare to take over while another node publishes, without applying the log: the newest of the node's
        snapshots that the broker's position covers becomes the stream's state. The log before it is released. Otherwise
        the log of a node that never publishes would grow without bound.
        """
        snapshots = self._config.data_path / "snapshots"
        paths = snapshot_paths(snapshots) if snapshots.is_dir() else []
        covered = [path for path in paths if self._state.index < int(path.name) <= position.index]
        if not covered or self.undone(position) is not None:
            return
        try:
            self._state.adopt(covered[-1])
        except (SnapshotError, OSError) as error:  # the node may have pruned it in the meantime
            log.info("%s does not become the state of the stream: %s", covered[-1], error)
            return
        if self._tail is not None:  # what it would continue with may be released now
            self._tail.close()
        self._tail, self._pending, self._queued = None, None, []
        self._engine, self._index = Engine(), 0
        self._release_log()

    def _restore(self, up_to: float) -> None:
        """Load the latest state up to an index: see `StateStore.start`."""
        if self._tail is not None:
            self._tail.close()
        self._engine, self._index = self._state.start(up_to, self._config.data_path / "snapshots", self._directories)
        self._tail = LogTail(self._directories, ACCEPTED, self._index + 1)
        self._queued = []

    def advance(self, applied: int) -> bool:
        """Publish up to one batch of the entries that the node has applied. Returns False if there is none.

        Raises:
            MissingEntriesError: the next entry is missing. Put a segment that has it into `fetched`.
            FencedError, BrokerError: as `Broker.publish`.
            StreamError: the broker's position does not belong to this log.
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
            if entry.index > self._position.index:
                last = entry
        if last is None:
            return False
        return self._publish(records, StreamProgress(self._config.cluster_id, last.index, last.term, self._config.node_id))

    def _publish(self, records: list[Record], position: StreamProgress) -> bool:
        """Publish a batch. It is kept until the broker has accepted it."""
        self._pending, self._before = (records, position), self._position if self._position.index else None
        self._broker.publish(records, position)
        self._pending, self._position = None, position
        self.published += len(records)
        self._tend_state()
        return True

    def _next(self, applied: int) -> LogEntry | None:
        """Return the next committed entry, or None if there is none yet."""
        if not self._queued:
            assert self._tail is not None
            self._queued = read(self._tail, applied)
        return self._queued.pop(0) if self._queued else None

    def _taken(self, entry: LogEntry) -> list[Record]:
        """Apply an entry, and return its records, or none if the broker has them."""
        if entry.index == self._position.index and self._position.term not in (0, entry.term):
            raise StreamError(
                f"the broker has log entry {entry.index} of term {self._position.term}, and this log one of term {entry.term}: a rollback undid "
                "published events. Consumers must know of this: begin with another streams.prefix"
            )
        steps = self._apply(entry)
        return self._writer.records(self._engine, steps, entry.index) if steps and entry.index > self._position.index else []

    def _apply(self, entry: LogEntry) -> list[HistoryStep]:
        """Apply an entry. Returns the steps of its commands."""
        self._engine = engine_for(entry, self._engine, self._directories)
        payload = command_of(entry)
        steps: list[HistoryStep] = []
        if payload is not None and is_level_entry(payload):
            self._engine, _ = states.apply(self._engine, payload)
        elif payload is not None:
            steps = apply(self._engine, payload)
        self._index = entry.index
        return steps

    def _poll_state(self) -> None:
        """Release the log that a state covers as soon as it is on disk."""
        if self._state.poll():
            self._release_log()

    def _release_log(self) -> None:
        """Delete the log that the state on disk covers, except for what others need."""
        release(self._directories, self._state.index, self.fetched, 0)
        config = self._config
        if not (config.raft.archive_log or config.history.enabled or cutover.may_go_back(config.data_path)):
            release(self._directories, self._state.index, config.data_path / cutover.ARCHIVE, 0)

    def _tend_state(self) -> None:
        """Write the state if it is due."""
        if self._state.is_due(self._engine):
            self.write_state()

    def write_state(self) -> None:
        """Begin to write the state. It never includes entries after the broker's position."""
        if self._index and self._index == self._position.index and not self._queued:
            self._state.begin(self._engine, self._index)

    def close(self) -> None:
        """Close everything. Unpublished entries remain in the log."""
        self._state.cancel()
        if self._tail is not None:
            self._tail.close()
        self._broker.close()

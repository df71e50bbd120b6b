"""Implements `cluster.ports.Snapshots` with the snapshot store and the engine.

The engine freezes the rows that changed since the previous snapshot in one step. They are encoded while the engine
continues, and another process writes them. That process also sums the money in the tables: a state that has lost or
created money never becomes a snapshot, and the node stops.

A thread checks a snapshot that the leader sends and builds its state, so the node continues to answer. No step keeps
the interpreter for long: rows are read in chunks, and the state is built in parts (`statemachine.turns`), so the event
loop runs after each of these or `SWITCH_INTERVAL`. An old state is freed in chunks (`statemachine.teardown`). At the
end the event loop only renames the snapshot and replaces the old engine by the new one.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial

from cluster.ports import CaptureState, SnapshotMark, SnapshotRefusedError, SnapshotSink, SnapshotSource, SnapshotUnreadableError
from node.data_directory.marks import encode_mark, mark_of
from node.engine import market as kept_market
from node.engine.market import Market
from node.engine.replicated_engine import ReplicatedEngine
from snapshots.errors import SnapshotDamagedError, SnapshotError
from snapshots.job import JobState, WriteJob
from snapshots.levels.states import level_of, restored
from snapshots.manifest import Manifest, Row, SnapshotFields
from snapshots.store import SnapshotStore
from snapshots.transfer import Sink, Source
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.teardown import clear

log = logging.getLogger(__name__)


class SnapshotPort:
    """See `cluster.ports.Snapshots`.

    Args:
        now_ns: nanoseconds since the epoch, for the manifest.
        load: builds the state of a stored snapshot. `IncomingSnapshot` builds that of a received one.
        executor: runs the checks of received snapshots and of the newest one. The default is a thread of its own.
    """

    def __init__(
        self,
        store: SnapshotStore,
        machine: ReplicatedEngine,
        *,
        software: str,
        now_ns: Callable[[], int] = time.time_ns,
        load: Callable[[Manifest], Engine] | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._store = store
        self._machine = machine
        self._software = software
        self._load = load or (lambda manifest: store.build(manifest, partial(restored, manifest.abi, verified=True)))
        self._now_ns = now_ns
        self._job: WriteJob | None = None
        self._base: int | None = 0
        """Index of the snapshot that the engine's changes are relative to; 0 for the empty state, None if that snapshot
        no longer exists.
        """
        self._based = machine.engine
        """The engine whose changes count from that snapshot."""
        machine.let_go = self._let_go
        self._captured: Engine | None = None
        """The engine whose state is being written."""
        self._executor = executor or ThreadPoolExecutor(1, "snapshot check")
        self._look: Future[Manifest | None] | None = None
        self._taken: tuple[Manifest, Engine, Market] | None = None
        """The last received snapshot and its state, until the state is restored."""
        self.written: Callable[[], object] = lambda: None
        """Called when an own snapshot is on disk, before the log is compacted."""
        self.taken = 0
        self.failed = 0
        self.failure = ""
        """Why the last snapshot that failed did."""
        self.pause_last_ms = 0
        self.sequence = 0
        """Number of commands in the state that was last restored or captured."""
        self.since = time.monotonic()
        """Time of that restore or capture, or of the start, in monotonic seconds."""

    @property
    def base(self) -> int | None:
        """The index of the snapshot on disk from which the state's changes count; None while one is written, or if
        there is none.
        """
        return self._base if self._based is self._machine.engine else None

    def newest(self) -> SnapshotMark | None:
        """See `ports.Snapshots`."""
        manifest = self._store.newest()
        return None if manifest is None else mark_of(manifest)

    def restore(self, mark: SnapshotMark) -> None:
        """See `ports.Snapshots`."""
        manifest = self._store.newest()
        assert manifest is not None
        assert mark_of(manifest) == mark
        old = self._machine.engine
        taken, self._taken = self._taken, None
        if taken is not None and taken[0] == manifest:
            self._machine.replace(taken[1], taken[2])
        else:
            with collector_off():
                engine = self._load(manifest)
                market = kept_market.decode(self._store.attachment(manifest, kept_market.FILE), manifest.index)
                self._machine.replace(engine, market)
        self._base, self._based = mark.index, self._machine.engine
        if old is not self._captured:
            self._executor.submit(old.release)
        self._note()
        log.info("state restored from the snapshot at index %d, sequence %d", mark.index, manifest.sequence)

    def capture(self, mark: SnapshotMark) -> None:
        """See `ports.Snapshots`. The engine pauses while references to its rows are copied. Most rows are encoded after
        it continues.
        """
        started = time.monotonic()
        engine = self._machine.engine
        # A snapshot of another level has other rows, so the first snapshot of a level is written in full.
        base = None if self.damaged or engine is not self._based else self._base
        frozen = self._machine.freeze(whole=base is None)
        self._base = None
        fields = SnapshotFields(
            index=mark.index,
            term=mark.last.term,
            mark=encode_mark(mark),
            sequence=engine.sequence,
            software=self._software,
            created_at=self._now_ns(),
        )
        market = self._machine.market()
        attachments = {kept_market.FILE: lambda: kept_market.encode(mark.index, market)}
        self._job = self._store.begin_changes(fields, frozen, base or 0, attachments, abi=level_of(engine).abi)
        self._captured = engine
        self._note()
        self.pause_last_ms = round((time.monotonic() - started) * 1e3)
        log.info("snapshot at index %d begun, sequence %d; paused for %d ms", mark.index, engine.sequence, self.pause_last_ms)

    def _let_go(self, engine: Engine) -> None:
        """Free a state that is no longer needed. A state that is being written is freed when the write ends (`poll`)."""
        if engine is not self._captured:
            self._executor.submit(engine.release)

    def _note(self) -> None:
        """Record the sequence and the time of the latest snapshot."""
        self.sequence = self._machine.engine.sequence
        self.since = time.monotonic()

    def poll(self) -> CaptureState:
        """See `ports.Snapshots`."""
        job = self._job
        if job is None:
            return CaptureState.IDLE
        state = job.poll()
        if state is JobState.RUNNING:
            return CaptureState.RUNNING
        self._job = None
        captured, self._captured = self._captured, None
        if captured is not None and captured is not self._machine.engine:
            self._executor.submit(captured.release)
        assert not job.contradiction, f"the state contradicts itself: {job.reason}"
        if state is JobState.DONE:
            self.taken += 1
            if job.manifest is not None and captured is self._machine.engine:
                self._base, self._based = job.manifest.index, captured
            log.info("snapshot at index %d is on disk", job.manifest.index if job.manifest else 0)
            self.written()
            return CaptureState.DONE
        self.failed += 1
        self.failure = job.reason
        log.error("no snapshot: %s", job.reason)
        return CaptureState.FAILED

    @property
    def damaged(self) -> bool:
        """See `ports.Snapshots`."""
        if self._look is None or not self._look.done():
            return False
        found = self._look.result()
        return found is not None and found is self._store.newest()

    def examine(self) -> None:
        """See `ports.Snapshots`."""
        manifest = self._store.newest()
        if manifest is not None and (self._look is None or self._look.done()):
            self._look = self._executor.submit(self._compare, manifest)

    def _compare(self, manifest: Manifest) -> Manifest | None:
        """Check a snapshot. Returns its manifest if it is damaged, else None. Runs in the executor."""
        try:
            self._store.check(manifest)
        except SnapshotDamagedError as error:
            if manifest is not self._store.newest():
                return None  # newer snapshots may have replaced it and removed its files
            log.error("the newest snapshot is damaged, a new one will replace it: %s: %s", error.place, error.what)
            return manifest
        log.info("the newest snapshot, at index %d, is intact", manifest.index)
        return None

    def open_source(self) -> SnapshotSource:
        """See `ports.Snapshots`."""
        with _reading():
            return _Source(self._store.open_source())

    def open_sink(self) -> SnapshotSink:
        """See `ports.Snapshots`."""
        return IncomingSnapshot(self._store.open_sink(), self._executor, self._came_in)

    def _came_in(self, manifest: Manifest, engine: Engine, market: Market) -> None:
        """Keep the state of a received snapshot for `restore`."""
        self._taken = (manifest, engine, market)

    def counters(self) -> dict[str, int]:
        """Return the counters since the start, for the status."""
        return {"snapshots_taken": self.taken, "snapshots_failed": self.failed, "snapshot_pause_last_ms": self.pause_last_ms}

    def cancel(self) -> None:
        """Cancel an active capture and the waiting checks of received snapshots, because the node stops."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._job is not None:
            self._job.cancel()
            self._job = None


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Handle an unreadable snapshot. The state in memory and the log are not affected."""
    try:
        yield
    except SnapshotDamagedError as error:
        raise SnapshotUnreadableError(f"{error.place}: {error.what}") from error
    except OSError as error:
        raise SnapshotUnreadableError(str(error)) from error


class _Source:
    """See `cluster.ports.SnapshotSource`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.mark = mark_of(source.manifest)
        self.size = source.size

    def read(self, offset: int, length: int) -> bytes:
        """See `ports.SnapshotSource`."""
        with _reading():
            return self._source.read(offset, length)

    def close(self) -> None:
        """See `ports.SnapshotSource`."""
        self._source.close()


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Turn off garbage collection during a restore, and exclude the new objects from later collections: all of them are
    long-lived.

    Collections took half of a restore's time, and a full collection after it took 220 ms for 300,000 rows. Excluded
    objects are freed by their reference counts.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


class IncomingSnapshot:
    """See `cluster.ports.SnapshotSink`.

    Args:
        executor: runs the checks, one at a time.
        taken: called by `poll` with manifest, state and market, after the snapshot is renamed.
    """

    def __init__(self, sink: Sink, executor: Executor, taken: Callable[[Manifest, Engine, Market], None]) -> None:
        self._sink = sink
        self._executor = executor
        self._taken = taken
        self._state: Future[tuple[Engine, Market]] | None = None

    def write(self, data: bytes) -> None:
        """See `ports.SnapshotSink`."""
        self._sink.write(data)

    def finish(self) -> None:
        """See `ports.SnapshotSink`."""
        assert self._state is None
        self._state = self._executor.submit(self._check)

    def _check(self) -> tuple[Engine, Market]:
        """Verify the snapshot, and build its state. Runs in the executor."""
        tables: defaultdict[str, list[Row]] = defaultdict(list)
        try:
            with collector_off():
                manifest = self._sink.verify(lambda table, rows: tables[table].extend(rows))
                engine = restored(manifest.abi, {name: tables[name] for name in manifest.row_counts}, verified=True)
                return engine, kept_market.decode(self._sink.attachment(kept_market.FILE), manifest.index)
        finally:
            clear(*tables.values())

    def poll(self) -> SnapshotMark | None:
        """See `ports.SnapshotSink`."""
        assert self._state is not None
        if not self._state.done():
            return None
        try:
            engine, market = self._state.result()
            manifest = self._sink.publish()
        except StateError as error:
            self._sink.abort()
            raise SnapshotRefusedError(f"its rows make no state: {error}") from error
        except SnapshotError as error:
            raise SnapshotRefusedError(str(error)) from error
        self._state = None
        self._taken(manifest, engine, market)
        return mark_of(manifest)

    def abort(self) -> None:
        """See `ports.SnapshotSink`."""
        self._sink.abort()
        state, self._state = self._state, None
        if state is not None and not state.cancel():
            self._executor.submit(_let_go, state)


def _let_go(state: Future[tuple[Engine, Market]]) -> None:
    """Free the state of a received snapshot that is not needed."""
    if state.exception() is None:
        state.result()[0].release()

"""Snapshots as Raft asks for them (`cluster.ports.Snapshots`), over the snapshot store and the engine.

The engine hands out at once what changed since the snapshot before, frozen in the state after the mark; encoding and
writing it goes on while the engine does, the writing in another process. There the money in the tables is counted: a
state that has lost or made money never becomes a snapshot, and the node stops.

A snapshot on its way in from the leader is checked, and its state made, in a thread, so that the node goes on
answering. Nothing in that takes the interpreter for long: rows are read in chunks, and the state is made in Python, so
the event loop has its turn after each chunk, or `SWITCH_INTERVAL`. What is of no use any more is taken apart in chunks
(`statemachine.teardown`). What is left for the end, in the event loop, is to give the snapshot its name and to put the
new engine in the place of the old.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

from cluster.ports import CaptureState, SnapshotMark, SnapshotRefusedError, SnapshotSink, SnapshotSource, SnapshotUnreadableError
from node.engine import market as kept_market
from node.engine.market import Market
from node.engine.replicated_engine import ReplicatedEngine
from node.marks import encode_mark, mark_of
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
        load: makes the state of a snapshot that was there before; of one that comes in, `IncomingSnapshot` does.
        executor: where snapshots are checked, incoming ones and the newest; a thread of its own by default.
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
        self._load = load or (lambda manifest: restored(manifest.abi, store.load(manifest), verified=True))
        self._now_ns = now_ns
        self._job: WriteJob | None = None
        self._base: int | None = 0
        """Index of the snapshot that the engine's changes are relative to; 0 for the empty state, None when there is
        none such any more.
        """
        self._based = machine.engine
        """The engine whose changes count from that snapshot."""
        machine.let_go = self._let_go
        self._captured: Engine | None = None
        """Whose state is being written."""
        self._executor = executor or ThreadPoolExecutor(1, "snapshot check")
        self._look: Future[Manifest | None] | None = None
        self._taken: tuple[Manifest, Engine, Market] | None = None
        """The snapshot that came in last, until it is restored, with its state."""
        self.taken = 0
        self.failed = 0
        self.pause_last_ms = 0
        self.sequence = 0
        """How many commands are in the state that was restored or captured last."""
        self.since = time.monotonic()
        """When that was, or the start; monotonic seconds."""

    def newest(self) -> SnapshotMark | None:
        """See the port."""
        manifest = self._store.newest()
        return None if manifest is None else mark_of(manifest)

    def restore(self, mark: SnapshotMark) -> None:
        """See the port."""
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
        """See the port. The engine pauses to refer to its rows; most are encoded while it goes on."""
        started = time.monotonic()
        engine = self._machine.engine
        # A snapshot of another level has other rows: the first one of a level is written whole.
        base = None if self.damaged or engine is not self._based else self._base
        frozen = engine.freeze(whole=base is None)
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
        """Release a state that is not needed any more. One that is being written is let go when it is (`poll`)."""
        if engine is not self._captured:
            self._executor.submit(engine.release)

    def _note(self) -> None:
        self.sequence = self._machine.engine.sequence
        self.since = time.monotonic()

    def poll(self) -> CaptureState:
        """See the port."""
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
            return CaptureState.DONE
        self.failed += 1
        log.error("no snapshot: %s", job.reason)
        return CaptureState.FAILED

    @property
    def damaged(self) -> bool:
        """See the port."""
        if self._look is None or not self._look.done():
            return False
        found = self._look.result()
        return found is not None and found is self._store.newest()

    def examine(self) -> None:
        """See the port."""
        manifest = self._store.newest()
        if manifest is not None and (self._look is None or self._look.done()):
            self._look = self._executor.submit(self._compare, manifest)

    def _compare(self, manifest: Manifest) -> Manifest | None:
        """The manifest of a snapshot that is damaged, else None. Runs in the executor."""
        try:
            self._store.check(manifest)
        except SnapshotDamagedError as error:
            if manifest is not self._store.newest():
                return None  # others came meanwhile, and its files may have been removed for them
            log.error("the newest snapshot is damaged, a fresh one is to take its place: %s: %s", error.place, error.what)
            return manifest
        log.info("the newest snapshot, at index %d, is what was written", manifest.index)
        return None

    def open_source(self) -> SnapshotSource:
        """See the port."""
        with _reading():
            return _Source(self._store.open_source())

    def open_sink(self) -> SnapshotSink:
        """See the port."""
        return IncomingSnapshot(self._store.open_sink(), self._executor, self._came_in)

    def _came_in(self, manifest: Manifest, engine: Engine, market: Market) -> None:
        self._taken = (manifest, engine, market)

    def counters(self) -> dict[str, int]:
        """What was done since the start, for the status."""
        return {"snapshots_taken": self.taken, "snapshots_failed": self.failed, "snapshot_pause_last_ms": self.pause_last_ms}

    def cancel(self) -> None:
        """Give up a capture under way, and the checks of incoming snapshots that wait: the node stops."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._job is not None:
            self._job.cancel()
            self._job = None


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """A snapshot that cannot be read says nothing against the state in memory, nor against the log."""
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
        """See the port."""
        with _reading():
            return self._source.read(offset, length)

    def close(self) -> None:
        """See the port."""
        self._source.close()


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection meanwhile, and what was made is never walked over: all that a restore makes stays.

    Collections took half of a restore's time, and a full one behind it 220 ms for 300,000 rows. What is frozen goes by
    its reference counts.
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
        executor: where the check runs; one at a time.
        taken: called with manifest, state and market, from `poll`, once the snapshot has its name.
    """

    def __init__(self, sink: Sink, executor: Executor, taken: Callable[[Manifest, Engine, Market], None]) -> None:
        self._sink = sink
        self._executor = executor
        self._taken = taken
        self._state: Future[tuple[Engine, Market]] | None = None

    def write(self, data: bytes) -> None:
        """See the port."""
        self._sink.write(data)

    def finish(self) -> None:
        """See the port."""
        assert self._state is None
        self._state = self._executor.submit(self._check)

    def _check(self) -> tuple[Engine, Market]:
        """Runs in the executor."""
        tables: defaultdict[str, list[Row]] = defaultdict(list)
        try:
            with collector_off():
                manifest = self._sink.verify(lambda table, rows: tables[table].extend(rows))
                engine = restored(manifest.abi, {name: tables[name] for name in manifest.row_counts}, verified=True)
                return engine, kept_market.decode(self._sink.attachment(kept_market.FILE), manifest.index)
        finally:
            clear(*tables.values())

    def poll(self) -> SnapshotMark | None:
        """See the port."""
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
        """See the port."""
        self._sink.abort()
        state, self._state = self._state, None
        if state is not None and not state.cancel():
            self._executor.submit(_let_go, state)


def _let_go(state: Future[tuple[Engine, Market]]) -> None:
    """Of the state of a snapshot that nobody wants any more."""
    if state.exception() is None:
        state.result()[0].release()

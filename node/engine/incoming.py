"""A snapshot on its way in from the leader: checked, and its state made, in a thread, so that the node goes on answering meanwhile.

Nothing in that takes the interpreter for long: rows are read in pieces, the state is made in Python, so the event loop has its turn after
each piece, or `SWITCH_INTERVAL`; and what is of no use any more is taken apart in pieces (`statemachine.teardown`). What is left for the end, in
the event loop, is to give the snapshot its name and to put the new engine in the place of the old.
"""

from __future__ import annotations

import contextlib
import gc
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

from cluster.ports import SnapshotMark, SnapshotRefusedError
from node.engine import saved_market
from node.engine.saved_market import Market
from node.marks import mark_of
from snapshots.errors import SnapshotError
from snapshots.manifest import Manifest, Row
from snapshots.transfer import Sink
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.teardown import clear


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection meanwhile, and what was made is never walked over: all that a restore makes stays.

    Collections took half of a restore's time, and a full one behind it 220 ms for 300,000 rows. What is frozen goes by its reference counts.
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
                engine = Engine.restore({name: tables[name] for name in manifest.row_counts}, verified=True)
                return engine, saved_market.decode(self._sink.attachment(saved_market.FILE), manifest.index)
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

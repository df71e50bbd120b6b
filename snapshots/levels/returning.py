"""A second state at the level before. It is prepared for a return of the level while the present state trades, so that
commands wait only for the conversion of what changed in the last moments.

The second state is made from the newest snapshot, in a thread. Each later snapshot is incremental, and the second state
takes over what it writes. The entry that checks the states applies nothing else, so the last changes are then read from
the present state. If a change cannot be taken over, the second state is dropped, and the whole present state is
converted at the entry. The second state exists in memory only.

The order of use:  `build`, then `follow` after each snapshot, both in a thread; `take` at the check, in a thread
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from snapshots.errors import SnapshotError
from snapshots.levels.level import Level
from snapshots.levels.lowering import broken, lowered_rows, refusal
from snapshots.levels.obstacles import Obstacles, Row
from snapshots.levels.raising import first_hash
from snapshots.levels.v0_2_0 import FormerEngine
from snapshots.levels.v0_2_0_back import Lowering
from snapshots.levels.v0_2_0_patch import Patch, PatchError
from statemachine.engine import Engine
from statemachine.freezing import Frozen, RowChunk

CHANGES_MAX = 3_000_000
"""Rows of snapshots that may wait to be taken over. It bounds the memory of a return that nobody completes."""

ENCODED_SECONDS = 10.0
"""Seconds for a snapshot under way to be encoded, when the states are checked."""

_SAME = ("currency", "product", "account", "api_key", "balance", "order", "done_order")
"""Tables that have as many rows at the level before."""


class ReturnError(SnapshotError):
    """The second state cannot be kept up. The whole state is converted instead."""


class _Changes:
    """What one snapshot writes. `complete`: all of it was encoded."""

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        self.chunks: list[RowChunk] = []
        self.rows = 0
        frozen.seen = self._seen

    def _seen(self, chunk: RowChunk) -> None:
        self.chunks.append(chunk)
        self.rows += len(chunk.rows) + len(chunk.deleted)


class PreparedReturn:
    """See the module.

    Args:
        engine: the state, whose changes count from the newest snapshot.
        to: the level before.

    Attributes:
        failure: why it cannot be used any more, or "".
    """

    def __init__(self, engine: Engine, to: Level) -> None:
        self.engine = engine
        self.to = to
        self.failure = ""
        self._made: FormerEngine | None = None
        self._patch: Patch | None = None
        self._obstacles = Obstacles()
        self._lowering = Lowering(self._obstacles)
        self._waiting: deque[_Changes] = deque()
        self._working = threading.Lock()
        """Held while a thread works on the state."""
        self._freezing = threading.Lock()
        """Held while the changes of `engine` are frozen or looked up."""

    @property
    def ready(self) -> bool:
        """Whether it can be used at the check."""
        return self._made is not None and not self.failure

    def freeze(self, *, whole: bool) -> Frozen:
        """Freeze the engine for a snapshot, whose changes are taken over here too. See `Engine.freeze`."""
        with self._freezing:
            frozen = self.engine.freeze(whole=whole)
            if whole:
                self.failure = "a snapshot was written in full"
            elif sum(changes.rows for changes in self._waiting) > CHANGES_MAX:
                self.failure = "more changed than can be taken over"
            else:
                self._waiting.append(_Changes(frozen))
                return frozen
            self._waiting.clear()
            return frozen

    def build(self, tables: Mapping[str, list[Row]]) -> None:
        """Make the state from the newest snapshot. O(everything).

        Raises:
            LossError: something in it would be lost.
        """
        with self._at_work():
            self._made = lowered_rows(tables, bytes(16), self.to, self._lowering)
            self._patch = Patch(self._made.core_state, self._lowering)

    def follow(self) -> int:
        """Take over the snapshots that are encoded. Returns the number of rows.

        Raises:
            LossError: something that was put to use since would be lost.
            ReturnError: they cannot be taken over.
        """
        with self._at_work():
            taken = self._follow(0.0)
            if self.failure:
                raise ReturnError(self.failure)
            return taken

    def take(self) -> Engine:
        """Return the state at the level before, equal to a conversion of the whole present state, which does not change
        meanwhile. O(changes since the last snapshot that was taken over).

        Raises:
            LossError: something would be lost.
            ReturnError: it cannot be used.
        """
        with self._at_work():
            chunks = list(self._rest())
            self._take_over(chunks)
            engine, patch = self._made, self._patch
            assert engine is not None
            assert patch is not None
            (counter,) = next(chunk.rows for chunk in chunks if chunk.table == "counter")
            try:
                patch.finish(counter, first_hash(self.engine.state_hash, self.to))
            except AssertionError as error:
                raise broken(self.to, error) from error
            self._lowering.check_collected()
            if self._obstacles:
                raise refusal(self.to, self._obstacles)
            expected, actual = self.engine.patch().counts(), engine.counts()
            different = [name for name in _SAME if expected[name] != actual[name]]
            if different:
                raise ReturnError(f"the state at the level before has another number of rows: {', '.join(different)}")
            self._made = self._patch = None
            return engine

    def stop(self) -> Engine | None:
        """End the preparation. Returns the state, for the caller to release. A thread that works on it releases it."""
        self.failure = self.failure or "it was ended"
        with self._freezing:
            self._waiting.clear()
        if not self._working.acquire(blocking=False):
            return None
        try:
            made, self._made, self._patch = self._made, None, None
            return made
        finally:
            self._working.release()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Work on the state. If that fails, or it was ended meanwhile, the state is released."""
        try:
            with self._working:
                yield
        except BaseException as error:
            self.failure = self.failure or str(error) or type(error).__name__
            raise
        finally:
            if self.failure and (made := self.stop()) is not None:
                made.release()

    def _rest(self) -> Frozen:
        """Return what changed since the last snapshot, after all snapshots were taken over."""
        end = time.monotonic() + ENCODED_SECONDS
        while True:
            self._follow(max(end - time.monotonic(), 0.0))
            with self._freezing:
                if not self._waiting:
                    return self.engine.changes_since_freeze()
            if time.monotonic() >= end:
                raise ReturnError("a snapshot under way was not encoded in time")

    def _follow(self, seconds: float) -> int:
        """Take over the snapshots that are encoded within this time, in order. Returns the number of rows."""
        end = time.monotonic() + seconds
        taken = 0
        while (changes := self._next()) is not None:
            while not changes.frozen.complete:
                if time.monotonic() >= end:
                    return taken
                time.sleep(0.005)
            self._take_over(changes.chunks)
            taken += changes.rows
            with self._freezing:
                if changes in self._waiting:
                    self._waiting.popleft()
        return taken

    def _next(self) -> _Changes | None:
        with self._freezing:
            return self._waiting[0] if self._waiting else None

    def _take_over(self, chunks: list[RowChunk]) -> None:
        """Apply changes to the returning state. A failure makes the state unusable."""
        if self._patch is None or self.failure:
            raise ReturnError(self.failure or "the state is not made yet")
        try:
            self._patch.take(chunks)
        except PatchError as error:
            if not self._obstacles:
                raise ReturnError(str(error)) from error
        except AssertionError as error:
            raise broken(self.to, error) from error
        if self._obstacles:
            raise refusal(self.to, self._obstacles)

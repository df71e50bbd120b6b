"""Barriers for linearizable reads: a read that joined before a barrier began reflects everything acknowledged before it was asked for.

A barrier is a log entry, which all nodes sync, so reads share them: all that come while one is under way wait for the next. Answers are given a few a
turn of the loop, however many reads have waited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from cluster.raft import Done, ProposeResult
from node.engine.handover import After

INTERVAL = 0.005
"""Seconds between barriers, so that however many clients read, they write at most 200 entries a second. The first read after a pause waits for
nothing."""

WAITING_MAX = 10_000
"""Reads that may wait."""

ANSWERS_PER_TURN = 1
"""Reads answered in one turn of the loop: a list of a thousand orders takes two to four milliseconds."""

Answered = Callable[[bool], None]
"""Answers a read: whether its barrier has passed, or leadership was lost."""


class Log(Protocol):
    """The part of `cluster.raft.Raft` that is used here."""

    def barrier(self, done: Done) -> None: ...


class Barriers:
    """At most one under way.

    Args:
        later: `loop.call_soon`. after: `loop.call_later`.
        clock: monotonic seconds.
        held: whether nothing may be proposed now; `go_on` is called when that is over.
    """

    def __init__(
        self,
        log: Log,
        *,
        later: Callable[[Callable[[], None]], object],
        after: After,
        clock: Callable[[], float],
        held: Callable[[], bool],
    ) -> None:
        self._log = log
        self._later = later
        self._after = after
        self._clock = clock
        self._held = held
        self._waiting: list[Answered] = []
        self._passed: deque[tuple[Answered, bool]] = deque()
        self._under_way = False
        self._begun = float("-inf")
        self._scheduled = False

    def join(self, answered: Answered) -> bool:
        """Have `answered` called after the next barrier; False, and nothing done, where too many wait."""
        if len(self._waiting) + len(self._passed) >= WAITING_MAX:
            return False
        self._waiting.append(answered)
        self.go_on()
        return True

    def go_on(self) -> None:
        """Begin a barrier if reads wait for one and it may be."""
        if self._under_way or self._held() or not self._waiting:
            return
        self._under_way = True
        seconds = self._begun + INTERVAL - self._clock()
        if seconds > 0:
            self._after(seconds, self._due)
        else:
            self._begin()

    def _due(self) -> None:
        if self._held():
            self._under_way = False
        else:
            self._begin()

    def _begin(self) -> None:
        self._begun = self._clock()
        joined, self._waiting = self._waiting, []

        def done(result: ProposeResult) -> None:
            self._under_way = False
            passed = result.error is None
            if not passed:
                self._begun = float("-inf")
            self._passed.extend((answered, passed) for answered in joined)
            if not self._scheduled:
                self._answer()
            self.go_on()

        self._log.barrier(done)

    def _answer(self) -> None:
        self._scheduled = False
        for _ in range(min(ANSWERS_PER_TURN, len(self._passed))):
            answered, passed = self._passed.popleft()
            answered(passed)
        if self._passed and not self._scheduled:
            self._scheduled = True
            self._later(self._answer)

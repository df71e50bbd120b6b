"""Giving leadership away while clients send commands (Ongaro's thesis, 3.10).

Raft hands over to a follower that has everything. Under load there is always something that the followers do not have yet, so for that
moment nothing new goes into the log: it waits, and is refused towards the new leader when that has taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

LEVEL_SECONDS = 1.0
"""For a follower to have everything."""

ELECTED_SECONDS = 1.0
"""For it to be elected."""

POLL = 0.005

After = Callable[[float, Callable[[], None]], object]
"""Runs a function after so many seconds (`loop.call_later`)."""


class Leadership(Protocol):
    """The part of `cluster.raft.Raft` that is used here."""

    @property
    def is_leader(self) -> bool: ...
    def transfer_leadership(self, successor: str = "") -> bool: ...


class Handover:
    """At most one at a time.

    Args:
        hold: called when nothing new may be proposed; what it returns is called when it may again.
        ended: called when a handover is over, whoever leads then.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        raft: Leadership,
        *,
        hold: Callable[[], Callable[[], None]],
        ended: Callable[[], None],
        after: After,
        clock: Callable[[], float],
    ) -> None:
        self._raft = raft
        self._hold = hold
        self._release: Callable[[], None] = lambda: None
        self._ended = ended
        self._after = after
        self._clock = clock
        self._until = 0.0
        self._asked = False
        self._successor = ""
        self._waiting: list[Callable[[bool], None]] = []
        self.under_way = False

    def begin(self, done: Callable[[bool], None], successor: str = "") -> None:
        """Hand over to `successor`, or whoever is most up to date; `done` gets whether another node was asked to lead, perhaps at once.

        While a handover is under way, a second one joins it, whoever it names.
        """
        if self.under_way and self._asked:
            done(True)
            return
        self._waiting.append(done)
        if not self.under_way:
            self.under_way, self._asked, self._successor = True, False, successor
            self._until = self._clock() + LEVEL_SECONDS
            self._release = self._hold()
            self._step()

    def _step(self) -> None:
        if self._raft.is_leader and not self._asked and self._raft.transfer_leadership(self._successor):
            self._asked = True
            self._until = self._clock() + ELECTED_SECONDS
            self._tell(True)
        if self._raft.is_leader and self._clock() < self._until:
            self._after(POLL, self._step)
            return
        self.under_way = False
        self._release()
        self._ended()
        self._tell(False)

    def _tell(self, asked: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(asked)

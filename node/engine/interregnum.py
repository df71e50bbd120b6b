"""Requests that come just after the leader was lost: they wait a moment for the next one, instead of being sent away and coming back.

Only just after: who waits does not know what becomes of the request, and must not be left so while there is no majority.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from node.engine.handover import After

WAIT_SECONDS = 0.3
"""Longer than most elections. Who has waited so long is told what is known, and looks elsewhere."""


class WaitingRoom:
    """Holds requests until `release`, or `WAIT_SECONDS` after the first of them at the latest.

    Args:
        after: `loop.call_later`.
        units_max: commands and reads that may wait; of one share as many as there is room for more, so at most half of them.
    """

    def __init__(self, after: After, units_max: int) -> None:
        self._after = after
        self._units_max = units_max
        self._units = 0
        self._shares: Counter[str] = Counter()
        self._waiting: list[Callable[[], None]] = []
        self._released = 0

    def admit(self, units: int, again: Callable[[], None], share: str = "") -> bool:
        """Call `again` when it is time to, unless there is no room for more of this share (False)."""
        if self._shares[share] + units > self._units_max - self._units:
            return False
        self._shares[share] += units
        if not self._waiting:
            number = self._released
            self._after(WAIT_SECONDS, lambda: self._time_is_over(number))
        self._units += units
        self._waiting.append(again)
        return True

    def _time_is_over(self, number: int) -> None:
        if number == self._released:
            self.release()

    def release(self) -> None:
        """Let everybody out, in the order in which they came."""
        self._released += 1
        self._units = 0
        self._shares.clear()
        waiting, self._waiting = self._waiting, []
        for again in waiting:
            again()

"""The times of answers, and the longest time without one: the effect of a failover on clients.

Time is divided into slots; those with an acknowledged request are stored. Slots of several processes, on machines with
synchronous clocks, can be combined.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

SLOT = 0.05
"""Seconds: how exact a gap is."""


class Continuity:
    """The slots of one run."""

    def __init__(self) -> None:
        self._slots: set[int] = set()
        self._told: set[int] = set()

    def note(self, now: float) -> None:
        """An answer came at `now`, in seconds."""
        self._slots.add(int(now / SLOT))

    def news(self) -> list[int]:
        """The slots since the last call, for another process."""
        fresh = sorted(self._slots - self._told)
        self._told |= self._slots
        return fresh

    def merge(self, slots: Iterable[int]) -> None:
        """Add the slots of another process."""
        self._slots.update(slots)

    def clear(self) -> None:
        """Drop all slots."""
        self._slots.clear()
        self._told.clear()

    def longest_gap(self) -> tuple[float, float]:
        """The longest time without an answer between the first and the last one, and when it began; both in seconds."""
        ordered = sorted(self._slots)
        steps = [(after - before - 1, before + 1) for before, after in itertools.pairwise(ordered)]
        empty, begin = max(steps, default=(0, 0))
        return empty * SLOT, begin * SLOT

"""Rolling statistics over a product's trades: 24 hours in full, by minute, and the volume of 30 days, by hour.

They depend on the trades only, so every node and every gateway has the same figures. The engine's feed keeps them, and
they survive its restart. A gateway gets them from the engine and updates them with the events.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile

import msgspec

from statemachine.events import OrderMatched

MINUTE = 60 * 1_000_000_000
HOUR = 60 * MINUTE
DAY_MINUTES = 24 * 60
MONTH_HOURS = 30 * 24


class Span(msgspec.Struct, array_like=True):
    """The trades of one minute or hour, which `number` counts since the epoch: first, highest and lowest price, and the
    volume in base units.
    """

    number: int = 0
    open: int = 0
    high: int = 0
    low: int = 0
    volume: int = 0

    def add(self, other: Span) -> None:
        """Add a later span."""
        if not self.open:
            self.open, self.low = other.open, other.low
        self.high, self.low = max(self.high, other.high), min(self.low, other.low)
        self.volume += other.volume


class Figures(msgspec.Struct, frozen=True, array_like=True):
    """`Statistics` as they are stored and sent: at most 1,440 minutes and 720 hours with trades, oldest first."""

    minutes: list[Span] = []
    hours: list[Span] = []


class _Window:
    """The latest `length` spans of `unit` nanoseconds. The sum over complete spans is cached, so a query costs O(1),
    except for the first one in a span.
    """

    def __init__(self, unit: int, length: int, spans: list[Span]) -> None:
        self._unit = unit
        self._length = length
        self.spans: deque[Span] = deque(spans)
        self._kept: tuple[tuple[int, int], Span] = ((-1, -1), Span())

    def add(self, time_ns: int, price: int, size: int) -> None:
        """Add a trade. It makes no span of its own, because every node does this for each trade."""
        number = time_ns // self._unit
        spans = self.spans
        if not spans or spans[-1].number != number:
            spans.append(Span(number, price, price, price, size))
            while spans[0].number <= number - self._length:
                spans.popleft()
            return
        last = spans[-1]
        if price > last.high:
            last.high = price
        elif price < last.low:
            last.low = price
        last.volume += size

    def total(self, now: int) -> Span:
        """Return the trades of the latest `length` units, the last of which contains `now` (nanoseconds)."""
        spans, number = self.spans, now // self._unit
        if not spans:
            return Span()
        last, first = spans[-1], number - self._length
        key, kept = self._kept
        if key != (number, last.number):
            kept = Span()
            for span in spans:
                if first < span.number < last.number:
                    kept.add(span)
            self._kept = ((number, last.number), kept)
        total = msgspec.structs.replace(kept)
        if last.number > first:
            total.add(last)
        return total

    def freeze(self) -> list[Span]:
        """Return a copy of the spans. Only the last one can change later."""
        spans = list(self.spans)
        if spans:
            spans[-1] = msgspec.structs.replace(spans[-1])
        return spans


class Statistics:
    """Rolling statistics; see the module. Trades come in order."""

    def __init__(self, figures: Figures | None = None) -> None:
        figures = figures or Figures()
        self._day = _Window(MINUTE, DAY_MINUTES, figures.minutes)
        self._month = _Window(HOUR, MONTH_HOURS, figures.hours)

    def add(self, trade: OrderMatched) -> None:
        """Add a trade."""
        time_ns, price, size = trade.time, trade.price, trade.size
        self._day.add(time_ns, price, size)
        self._month.add(time_ns, price, size)

    def day(self, now: int) -> Span:
        """Return the trades of the 24 hours before `now` (nanoseconds), from a full minute on."""
        return self._day.total(now)

    def since(self, minute: int) -> Span:
        """Return the trades of this minute (its number since the epoch) and of later ones, within 24 hours."""
        found = list(takewhile(lambda span: span.number >= minute, reversed(self._day.spans)))
        total = Span(minute)
        for span in reversed(found):
            total.add(span)
        return total

    def month_volume(self, now: int) -> int:
        """Return the volume of the 30 days before `now` (nanoseconds), from a full hour on."""
        return self._month.total(now).volume

    def freeze(self) -> Figures:
        """Return a copy of the figures, which later trades do not change."""
        return Figures(self._day.freeze(), self._month.freeze())

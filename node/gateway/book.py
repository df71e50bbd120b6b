"""The book by price levels as the feed shows it, and the trades' statistics; both follow the events of one product.

`LevelBook` starts from the book at level 3 and applies every later event, so it is at every moment what a client that did the same would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sortedcontainers import SortedDict

from node.native.protocol import BookView
from statemachine.events import AnyEvent, OrderChanged, OrderDone, OrderMatched, OrderOpened
from statemachine.types import Side

MINUTE = 60 * 1_000_000_000
DAY_MINUTES = 24 * 60
MONTH_MINUTES = 30 * DAY_MINUTES


class LevelBook:
    """Total size by price on each side. A level that is empty does not exist."""

    def __init__(self, view: BookView) -> None:
        self.sides: dict[Side, SortedDict] = {Side.BUY: SortedDict(), Side.SELL: SortedDict()}
        for side, orders in ((Side.BUY, view.bid_orders), (Side.SELL, view.ask_orders)):
            for order in orders:
                self._add(side, order.price, order.size)

    def apply(self, event: AnyEvent) -> tuple[Side, int] | None:
        """Follow an event. The level that it changed, if any."""
        match event:
            case OrderOpened():
                return self._add(event.side, event.price, event.remaining)
            case OrderMatched() if not event.auction:
                return self._add(event.side, event.price, -event.size)
            case OrderChanged() if event.resting:
                return self._add(event.side, event.price, event.new - event.old)
            case OrderDone() if event.resting:
                return self._add(event.side, event.price, -event.remaining)
            case _:
                return None

    def best(self, side: Side) -> tuple[int, int]:
        """Best price and its size; zeros where the side is empty."""
        levels = self.sides[side]
        if not levels:
            return 0, 0
        price, size = levels.peekitem(-1 if side is Side.BUY else 0)
        return price, size

    def levels(self, side: Side) -> list[tuple[int, int]]:
        """All levels, best first."""
        rows = list(self.sides[side].items())
        return rows[::-1] if side is Side.BUY else rows

    def size_at(self, side: Side, price: int) -> int:
        """The total size at a price; 0 where nobody is."""
        size: int = self.sides[side].get(price, 0)
        return size

    def _add(self, side: Side, price: int, size: int) -> tuple[Side, int] | None:
        if size == 0:
            return None
        levels = self.sides[side]
        total = levels.get(price, 0) + size
        assert total >= 0, f"level {price} of {side.name} fell below zero: the feed and the book differ"
        if total:
            levels[price] = total
        else:
            del levels[price]
        return side, price


@dataclass
class Span:
    """Trades of a stretch of time: first, highest, lowest price, and the volume in base units."""

    minute: int = 0
    open: int = 0
    high: int = 0
    low: int = 0
    volume: int = 0

    def add(self, other: Span) -> None:
        """Take in a later span."""
        if not self.open:
            self.open, self.low = other.open, other.low
        self.high, self.low = max(self.high, other.high), min(self.low, other.low)
        self.volume += other.volume


class Statistics:
    """Rolling figures over the trades seen, minute by minute: 24 hours in full, the volume over 30 days.

    The sums over whole minutes are kept until the minute ends, so a question costs O(1) but for the first of its minute.
    """

    def __init__(self) -> None:
        self.last: OrderMatched | None = None
        self._minutes: deque[Span] = deque()
        self._kept: dict[int, tuple[tuple[int, int], Span]] = {}

    @property
    def last_price(self) -> int:
        """The price of the last trade; 0 where there was none."""
        return self.last.price if self.last is not None else 0

    def begin(self, minutes: Iterable[Span], last: OrderMatched) -> None:
        """Begin with what was traded before: whole minutes in order, and the last trade in them."""
        self._minutes.extend(minutes)
        self.last = last

    def add(self, trade: OrderMatched) -> None:
        """Count a trade; trades come in order."""
        self.last = trade
        minute = trade.time // MINUTE
        if not self._minutes or self._minutes[-1].minute != minute:
            self._minutes.append(Span(minute))
            while self._minutes[0].minute <= minute - MONTH_MINUTES:
                self._minutes.popleft()
        self._minutes[-1].add(Span(minute, trade.price, trade.price, trade.price, trade.size))

    def day(self, now: int) -> Span:
        """The 24 hours before `now` (nanoseconds)."""
        return self._window(now // MINUTE, DAY_MINUTES)

    def month_volume(self, now: int) -> int:
        """The volume of the 30 days before `now` (nanoseconds)."""
        return self._window(now // MINUTE, MONTH_MINUTES).volume

    def _window(self, minute: int, length: int) -> Span:
        """The trades of the last `length` minutes."""
        if not self._minutes:
            return Span()
        last = self._minutes[-1]
        key, kept = self._kept.get(length, ((-1, -1), Span()))
        if key != (minute, last.minute):
            kept = Span()
            for span in self._minutes:
                if minute - length < span.minute < last.minute:
                    kept.add(span)
            self._kept[length] = ((minute, last.minute), kept)
        total = replace(kept)
        if last.minute > minute - length:
            total.add(last)
        return total

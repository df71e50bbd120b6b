"""The order book of one product: price levels in price order, orders in time order within a level. And its stop orders, by stop price.

There is one code for both sides. A side sorts its levels by a *key*, the price times the side's `direction` (+1 for asks, -1 for
bids), so that the best level always has the smallest key, and "would trade with" is always `level.key <= limit`.

Costs, with L levels: adding to a level that exists and removing from a level O(1); a level coming or going O(log L); best O(1).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import cast

from sortedcontainers import SortedDict, SortedList

from statemachine.draining import drain
from statemachine.events import OrderState
from statemachine.limits import AMOUNT_MAX
from statemachine.types import OrderType, Side, StopType

NO_LIMIT = AMOUNT_MAX
"""As a key limit: every price is good. No key is larger, because no price is."""


# Looked up once: a member of an enumeration costs ten times as much when it is looked up in its class.
_BUY, _MARKET = Side.BUY, OrderType.MARKET


def _place(order: OrderState) -> tuple[int, int]:
    """Where an order stands among those of its price. Orders that version 0.1.0 opened have no sequence; they came in the order of their ids."""
    return order.opened_sequence, order.order_id


class PriceLevel:
    """The resting orders at one price, first come, first served.

    `total` is the sum of their remaining sizes. A level in a book is never empty.
    """

    __slots__ = ("key", "orders", "price", "total")

    def __init__(self, price: int, key: int) -> None:
        self.price = price
        self.key = key
        self.total = 0
        self.orders: OrderedDict[int, OrderState] = OrderedDict()

    @property
    def first(self) -> OrderState:
        """The order that trades next."""
        return next(iter(self.orders.values()))


class BookSide:
    """All resting orders that buy, or all that sell.

    Change:   `add`, `remove`, `reduce`, `fill`, `release`
    Look:     `best`, `limit_key`, `crosses`, `in_order`, `page`, `resting`
    """

    __slots__ = ("best", "direction", "levels")

    def __init__(self, direction: int) -> None:
        self.direction = direction
        self.levels: SortedDict = SortedDict()
        self.best: PriceLevel | None = None
        """The level with the smallest key, kept at hand because every order asks for it."""

    def add(self, order: OrderState) -> None:
        """Append an order at its price. O(1) at a level that exists, else O(log L)."""
        key = order.price * self.direction
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = PriceLevel(order.price, key)
            if self.best is None or key < self.best.key:
                self.best = level
        level.orders[order.order_id] = order
        level.total += order.remaining

    def fill(self, orders: Iterable[OrderState]) -> None:
        """`add` each of these, in time order, to a side that is empty. O(orders + L log L)."""
        assert not self.levels, "the side is not empty"
        levels: dict[int, PriceLevel] = {}
        for order in orders:
            level = levels.get(order.price)
            if level is None:
                level = levels[order.price] = PriceLevel(order.price, order.price * self.direction)
            level.orders[order.order_id] = order
            level.total += order.remaining
        self.levels.update((level.key, level) for level in levels.values())
        self.best = self.levels.peekitem(0)[1] if levels else None

    def remove(self, order: OrderState) -> None:
        """Take an order out, with whatever remains of it. O(1), O(log L) when it was the last of its level."""
        key = order.price * self.direction
        level = self.levels[key]
        del level.orders[order.order_id]
        level.total -= order.remaining
        if not level.orders:
            del self.levels[key]
            if level is self.best:
                self.best = self.levels.peekitem(0)[1] if self.levels else None

    def reduce(self, order: OrderState, by: int) -> None:
        """Tell the order's level that `by` of its remaining size goes. The order keeps its place in time. O(1)."""
        self.levels[order.price * self.direction].total -= by

    def limit_key(self, order: OrderState) -> int:
        """The largest key of this side that an aggressor may trade with."""
        return NO_LIMIT if order.order_type is _MARKET else order.price * self.direction

    def crosses(self, price: int) -> bool:
        """Would a limit order of the other side at `price` trade at once?"""
        return self.best is not None and self.best.key <= price * self.direction

    def in_order(self) -> Iterator[PriceLevel]:
        """The levels, best first."""
        return cast("Iterator[PriceLevel]", iter(self.levels.values()))

    def release(self) -> None:
        """Empty it in small steps (`draining`). O(orders + L log L)."""
        self.best = None
        while self.levels:
            drain(self.levels.popitem()[1].orders)

    def page(self, price: int, opened_sequence: int, order_id: int, limit: int) -> list[OrderState]:
        """Up to `limit` orders, in the order in which they trade, behind the place that an order at `price` with these numbers has or had; from the
        beginning where `price` is 0.

        O(limit + log L), and one copy of the references of each level that it begins or ends in.
        """
        found: list[OrderState] = []
        levels = self.levels.irange(price * self.direction) if price else iter(self.levels)
        for key in levels:
            level = self.levels[key]
            orders = list(level.orders.values())
            start = 0
            if level.price == price:
                start = bisect_right(orders, (opened_sequence, order_id), key=_place)
            found += orders[start : start + limit - len(found)]
            if len(found) >= limit:
                break
        return found

    def resting(self) -> Iterator[OrderState]:
        """The orders, in the order in which they trade."""
        for level in self.in_order():
            yield from level.orders.values()


class Book:
    """Both sides of a product. Never crossed: the best bid is below the best ask after every command."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = BookSide(-1)
        self.asks = BookSide(+1)

    def side(self, side: Side) -> BookSide:
        """Where orders of `side` rest."""
        return self.bids if side is _BUY else self.asks

    def opposite(self, side: Side) -> BookSide:
        """What orders of `side` trade with."""
        return self.asks if side is _BUY else self.bids


class StopBook:
    """The stop orders of a product that wait for a trade: stop prices and order ids. Adding and removing O(log n).

    Change:   `add`, `fill`, `remove`, `take`, `release`
    Look:     `len`, `waiting`
    """

    __slots__ = ("entries", "losses")

    def __init__(self) -> None:
        self.losses: SortedList = SortedList()
        """Triggered by a trade at the stop price or below: the highest first."""
        self.entries: SortedList = SortedList()
        """Triggered by a trade at the stop price or above: the lowest first."""

    def __len__(self) -> int:
        return len(self.losses) + len(self.entries)

    def _kind(self, order: OrderState) -> SortedList:
        return self.losses if order.stop is StopType.LOSS else self.entries

    def add(self, order: OrderState) -> None:
        """A stop order begins to wait."""
        self._kind(order).add((order.stop_price, order.order_id))

    def fill(self, orders: Iterable[OrderState]) -> None:
        """`add` each of these. O(n log n)."""
        orders = list(orders)
        for side, stop in ((self.losses, StopType.LOSS), (self.entries, StopType.ENTRY)):
            side.update((order.stop_price, order.order_id) for order in orders if order.stop is stop)

    def remove(self, order: OrderState) -> None:
        """A stop order that waits does so no more."""
        self._kind(order).remove((order.stop_price, order.order_id))

    def take(self, lowest: int, highest: int) -> list[int]:
        """Remove those that trades between these two prices trigger; their order ids, rising. O(log n + found)."""
        first_loss = self.losses.bisect_left((lowest, 0))
        end_of_entries = self.entries.bisect_left((highest + 1, 0))
        taken = [*self.losses[first_loss:], *self.entries[:end_of_entries]]
        if taken:
            del self.losses[first_loss:]
            del self.entries[:end_of_entries]
        return sorted(order_id for _, order_id in taken)

    def release(self) -> None:
        """Empty it in small steps (`draining`)."""
        drain(self.losses, self.entries)

    def waiting(self) -> Iterator[tuple[StopType, int, int]]:
        """All of them: kind, stop price, order id."""
        for stop, side in ((StopType.LOSS, self.losses), (StopType.ENTRY, self.entries)):
            for stop_price, order_id in side:
                yield stop, stop_price, order_id

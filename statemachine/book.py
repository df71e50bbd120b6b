"""The order book of one product: price levels in price order, and orders in time order within a price level. `StopBook`
has the waiting stop orders by stop price.

Both sides share the code. A side sorts its price levels by a *key*, the price times the side's `direction` (+1 for
asks, -1 for bids). So the best level always has the smallest key, and "would trade with" is always `level.key <=
limit`.

Costs, with L levels: adding to an existing level O(log L); removing an order O(1), or O(log L) for the last one of its
level; best O(1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from operator import attrgetter

from sortedcontainers import SortedList

from statemachine.entities import Order, PriceLevel
from statemachine.limits import AMOUNT_MAX
from statemachine.teardown import clear
from statemachine.turns import turn
from statemachine.types import OrderType, Side, StopType

NO_LIMIT = AMOUNT_MAX
"""A key limit that every price satisfies, because no price is larger."""

CHUNK = 512
"""The largest number of levels in one list. Adding or removing a level moves at most as many places."""

_NO_LIMIT = NO_LIMIT
_CHUNK: int = CHUNK
_MARKET: int = OrderType.MARKET
_BUY: int = Side.BUY
_LOSS: int = StopType.LOSS
_key = attrgetter("key")


def _place(order: Order) -> tuple[int, int]:
    """Return the sort key of an order among those of its price. Orders that version 0.1.0 opened have no sequence; the
    order of their ids is their time order.
    """
    return order.opened_sequence, order.order_id


def _follows(order: Order) -> tuple[int, int]:
    """Return the sort key of a trailing stop order among those of its kind: the best price traded since it was
    accepted, once it follows one.
    """
    assert order.terms is not None, "a trailing stop order has options"
    trail: int = order.terms.trail
    return (order.stop_price + trail if order.stop == StopType.LOSS else trail - order.stop_price), order.order_id


def _waiting(order: Order) -> tuple[int, int]:
    """Return the sort key of a stop order among those of its kind."""
    return (-order.stop_price if order.stop == _LOSS else order.stop_price), order.order_id


class BookSide:
    """All resting orders that buy, or all that sell.

    Change:   `add`, `remove`, `reduce`, `arrange`, `clear`
    Look:     `best`, `limit_key`, `crosses`, `in_order`, `page`, `count_at`, `resting`

    Levels are stored in lists of up to `CHUNK`, sorted from the worst to the best, and so are the lists. Most changes
    happen at the best level, which is the last of the last list, so few entries have to move.
    """

    __slots__ = ("best", "chunks", "direction")

    def __init__(self, direction: int) -> None:
        self.direction = direction
        self.chunks: list[list[PriceLevel]] = []
        self.best: PriceLevel | None = None
        """The level with the smallest key, cached because every order reads it."""

    def add(self, order: Order) -> None:
        """Append an order at its price. O(log L), O(1) at the best level."""
        key = order.price * self.direction
        level = self.best
        if level is None or level.key != key:
            level = self._level(order.price, key)
        level.append(order)

    def _level(self, price: int, key: int) -> PriceLevel:
        """Return the level with a key; it is created if there is none."""
        if not self.chunks:
            self.chunks.append([])
        number = self._chunk_of(key)
        chunk = self.chunks[number]
        place = self._place_in(chunk, key)
        if place < len(chunk):
            level = chunk[place]
            if level.key == key:
                return level
        level = PriceLevel(price, key)
        chunk.insert(place, level)
        best = self.best
        if best is None or key < best.key:
            self.best = level
        if len(chunk) > _CHUNK:
            half = len(chunk) // 2
            self.chunks.insert(number + 1, chunk[half:])
            del chunk[half:]
        return level

    def _chunk_of(self, key: int) -> int:
        """Return the index of the list that holds, or would hold, a level with this key: the last list that begins with
        a key as large or larger.
        """
        low, high = 0, len(self.chunks) - 1
        while low < high:
            middle = (low + high + 1) // 2
            chunk = self.chunks[middle]
            level = chunk[0]
            if level.key >= key:
                low = middle
            else:
                high = middle - 1
        return low

    def _place_in(self, chunk: list[PriceLevel], key: int) -> int:
        """Return the index in a list of the first level whose key is as small or smaller. Most prices are near the
        best, so the search begins there, with steps that double.
        """
        low, high, step = 0, len(chunk), 1
        while step <= high:
            level = chunk[high - step]
            if level.key > key:
                low = high - step + 1
                break
            high -= step
            step += step
        while low < high:
            middle = (low + high) // 2
            level = chunk[middle]
            if level.key > key:
                low = middle + 1
            else:
                high = middle
        return low

    def arrange(self, levels: Iterable[PriceLevel]) -> None:
        """Take over levels, none of them empty, in any order, while there are none. O(L log L)."""
        assert not self.chunks, "the side is not empty"
        ordered = sorted(levels, key=_key, reverse=True)
        half = _CHUNK // 2
        self.chunks = [ordered[start : start + half] for start in range(0, len(ordered), half)]
        self.best = ordered[-1] if ordered else None

    def remove(self, order: Order) -> None:
        """Remove an order, with all that remains of it. O(1), or O(log L) for the last one of its level."""
        level = order.level
        assert level is not None, "the order is on no price level"
        level.unlink(order)
        if level.count == 0:
            self._drop(level)

    def _drop(self, level: PriceLevel) -> None:
        """Remove an empty level."""
        if level is self.best:
            number = len(self.chunks) - 1
            chunk = self.chunks[number]
            chunk.pop()
        else:
            number = self._chunk_of(level.key)
            chunk = self.chunks[number]
            del chunk[self._place_in(chunk, level.key)]
        if not chunk:
            del self.chunks[number]
        if level is self.best:
            if self.chunks:
                chunk = self.chunks[len(self.chunks) - 1]
                self.best = chunk[len(chunk) - 1]
            else:
                self.best = None

    def reduce(self, order: Order, by: int) -> None:
        """Subtract `by` of the order's remaining size from its level. The order keeps its place in time. O(1)."""
        level = order.level
        assert level is not None, "the order is on no price level"
        level.total -= by

    def limit_key(self, order: Order) -> int:
        """Return the largest key of this side that a taker may trade with."""
        return _NO_LIMIT if order.order_type == _MARKET else order.price * self.direction

    def crosses(self, price: int) -> bool:
        """Return whether a limit order of the other side at `price` would trade at once."""
        best = self.best
        return best is not None and best.key <= price * self.direction

    def in_order(self) -> Iterator[PriceLevel]:
        """Yield the levels, best first."""
        return (level for chunk in reversed(self.chunks) for level in reversed(chunk))

    def clear(self) -> None:
        """Empty the side in small steps (`teardown`). O(orders + L)."""
        self.best = None
        while self.chunks:
            chunk = self.chunks.pop()
            while chunk:
                turn()
                level = chunk.pop()
                while level.first is not None:
                    level.unlink(level.first)

    def page(self, price: int, opened_sequence: int, order_id: int, limit: int, last: Order | None = None) -> list[Order]:
        """Return up to `limit` orders, in the order in which they trade, after the place that an order at `price` with
        these numbers has or had. With `price` 0 they begin with the best.

        O(limit + log L), and O(orders of the level) if that order is done.

        Args:
            last: that order, if it is known; it may be done.
        """
        found: list[Order] = []
        place = opened_sequence, order_id
        for level in self._from(price * self.direction) if price else self.in_order():
            order = level.first
            if level.price == price and last is not None and last.level is level:
                order = last.behind
            elif level.price == price:
                while order is not None and _place(order) <= place:
                    order = order.behind
            while order is not None and len(found) < limit:
                found.append(order)
                order = order.behind
            if len(found) >= limit:
                break
        return found

    def count_at(self, price: int) -> int:
        """Return how many orders rest at a price. O(log L)."""
        if not self.chunks:
            return 0
        key = price * self.direction
        chunk = self.chunks[self._chunk_of(key)]
        place = self._place_in(chunk, key)
        return chunk[place].count if place < len(chunk) and chunk[place].key == key else 0

    def _from(self, key: int) -> Iterator[PriceLevel]:
        """Yield the levels with this key or a larger one, best first."""
        if self.chunks:
            number = self._chunk_of(key)
            chunk = self.chunks[number]
            place = self._place_in(chunk, key)
            there = place < len(chunk) and chunk[place].key == key
            yield from reversed(chunk[: place + 1 if there else place])
            for before in reversed(self.chunks[:number]):
                yield from reversed(before)

    def resting(self) -> Iterator[Order]:
        """Yield the orders, in the order in which they trade."""
        for level in self.in_order():
            yield from level.orders()


class Filling:
    """Puts orders on an empty side, in the order of their ids: `add` each, then `finish`.

    That is nearly the order in which they came to the book: only stop orders, icebergs and those of an auction came
    later. So an order goes behind the others at its price at once. If the last of them came to the book later, `finish`
    puts the order in its place. O(1) for an order, O(n log n) for the orders of a level to which one came too late.
    """

    __slots__ = ("_late", "_levels", "_side")

    def __init__(self, side: BookSide) -> None:
        self._side = side
        self._levels: dict[int, PriceLevel] = {}
        self._late: dict[int, list[Order]] = {}

    def add(self, order: Order) -> None:
        """Add an order, whose id is the largest so far."""
        level = self._levels.get(order.price)
        if level is None:
            level = self._levels[order.price] = PriceLevel(order.price, order.price * self._side.direction)
        last = level.last
        if last is not None and last.opened_sequence > order.opened_sequence:
            self._late.setdefault(order.price, []).append(order)
        else:
            level.append(order)

    def finish(self) -> None:
        """Put the late orders in their places, and the levels on the side."""
        for price, late in self._late.items():
            turn()
            level = self._levels[price]
            queue = sorted(level.orders() + late, key=_place)
            while level.first is not None:
                level.unlink(level.first)
            for order in queue:
                level.append(order)
        self._side.arrange(self._levels.values())


class Collection:
    """The orders of an auction book, by order id, and by account and price. Adding and removing cost O(log n)."""

    __slots__ = ("orders", "own")

    def __init__(self) -> None:
        self.orders: OrderedDict[int, Order] = OrderedDict()
        """The orders in the order in which they were added. Unlike in a plain dictionary, finding the first one is fast
        after many were removed.
        """
        self.own: dict[str, tuple[SortedList, SortedList]] = {}
        """For each account with orders here: the prices at which it buys, and those at which it sells."""

    def add(self, order: Order) -> None:
        """Add an order."""
        self.orders[order.order_id] = order
        prices = self.own.get(order.account_id)
        if prices is None:
            prices = self.own[order.account_id] = (SortedList(), SortedList())
        prices[order.side != _BUY].add(order.price)

    def remove(self, order: Order) -> None:
        """Remove an order, because it is done or goes to the order book."""
        del self.orders[order.order_id]
        prices = self.own[order.account_id]
        prices[order.side != _BUY].remove(order.price)
        if not prices[0] and not prices[1]:
            del self.own[order.account_id]

    def crosses_own(self, account_id: str, side: int, price: int, leaving: Order | None = None) -> bool:
        """Return whether an order of this account would trade with one of its own here. `leaving` is an order of the
        other side that does not count.
        """
        prices = self.own.get(account_id)
        if prices is None:
            return False
        bids, asks = prices
        others = asks if side == _BUY else bids
        best = 0 if side == _BUY else len(others) - 1
        if leaving is not None and others and others[best] == leaving.price:
            best += 1 if side == _BUY else -1
        if not 0 <= best < len(others):
            return False
        return bool(others[best] <= price) if side == _BUY else bool(others[best] >= price)

    def clear(self) -> None:
        """Empty the book in small steps (`teardown`)."""
        clear(self.orders, self.own)


class StopBook:
    """The stop orders of a product that wait for a trade: stop prices and order ids. Adding and removing O(log n).

    Change:   `add`, `fill`, `remove`, `take`, `release`
    Look:     `len`, `count`, `triggers`, `waiting`

    `highest_loss` and `lowest_entry` are the stop prices that trigger first, cached because every trade reads them.
    """

    __slots__ = (
        "count",
        "entries",
        "falling",
        "highest_loss",
        "losses",
        "lowest_entry",
        "moves_above",
        "moves_below",
        "rising",
        "trailing",
    )

    def __init__(self) -> None:
        self.losses: SortedList = SortedList()
        """Stop orders that a trade at the stop price or below triggers. The highest comes first, so the key is minus
        the stop price.
        """
        self.entries: SortedList = SortedList()
        """Stop orders that a trade at the stop price or above triggers. The lowest comes first."""
        self.trailing = 0
        self.rising: SortedList = SortedList()
        """Trailing stop losses by the price from which they follow: a higher trade moves them."""
        self.falling: SortedList = SortedList()
        """Trailing stop entries, by minus the price: a lower trade moves them."""
        self._update()

    def _update(self) -> None:
        """Update the cached prices after a change. `add` and `remove` of an order that does not trail update them
        without a look at the lists.
        """
        self.count = len(self.losses) + len(self.entries)
        self.highest_loss: int = -self.losses[0][0] if self.losses else 0
        self.lowest_entry: int = self.entries[0][0] if self.entries else _NO_LIMIT
        self.trailing = len(self.rising) + len(self.falling)
        self.moves_above: int = self.rising[0][0] if self.rising else _NO_LIMIT
        self.moves_below: int = -self.falling[0][0] if self.falling else 0

    def __len__(self) -> int:
        return self.count

    def _kind(self, order: Order) -> SortedList:
        return self.losses if order.stop == _LOSS else self.entries

    def add(self, order: Order) -> None:
        """Add a stop order."""
        self._kind(order).add(_waiting(order))
        self.count += 1
        if order.terms is not None and order.terms.trail:
            (self.rising if order.stop == _LOSS else self.falling).add(_follows(order))
            self._update()
        elif order.stop != _LOSS:
            self.lowest_entry = min(self.lowest_entry, order.stop_price)
        elif order.stop_price > self.highest_loss:
            self.highest_loss = order.stop_price

    def fill(self, orders: Iterable[Order]) -> None:
        """Add stop orders. O(n log n)."""
        orders = list(orders)
        for side, stop in ((self.losses, StopType.LOSS), (self.entries, StopType.ENTRY)):
            side.update([_waiting(order) for order in orders if order.stop == stop])
        trailing = [order for order in orders if order.terms is not None and order.terms.trail]
        self.rising.update([_follows(order) for order in trailing if order.stop == StopType.LOSS])
        self.falling.update([_follows(order) for order in trailing if order.stop != StopType.LOSS])
        self._update()

    def remove(self, order: Order) -> None:
        """Remove a stop order."""
        self._kind(order).remove(_waiting(order))
        self.count -= 1
        if order.terms is not None and order.terms.trail:
            self.forget(order)
        elif order.stop != _LOSS:
            if order.stop_price == self.lowest_entry:
                self.lowest_entry = self.entries[0][0] if self.entries else _NO_LIMIT
        elif order.stop_price == self.highest_loss:
            self.highest_loss = -self.losses[0][0] if self.losses else 0

    def forget(self, order: Order) -> None:
        """Remove a stop order from the trailing ones."""
        if order.terms is not None and order.terms.trail:
            (self.rising if order.stop == StopType.LOSS else self.falling).discard(_follows(order))
        self._update()

    def concerns(self, lowest: int, highest: int) -> bool:
        """Return whether trades between these two prices trigger or move any stop order. O(1)."""
        return self.count != 0 and (
            self.triggers(lowest, highest) or (self.trailing != 0 and (highest > self.moves_above or lowest < self.moves_below))
        )

    def behind(self, lowest: int, highest: int) -> list[int]:
        """Return the order ids, ascending, of the trailing orders that trades between these two prices move. O(log n +
        found).
        """
        found = self.rising[: self.rising.bisect_left((highest, 0))]
        found += self.falling[: self.falling.bisect_left((-lowest, 0))]
        return sorted([order_id for _, order_id in found])

    def triggers(self, lowest: int, highest: int) -> bool:
        """Return whether trades between these two prices trigger any stop order. O(1)."""
        return self.count != 0 and (lowest <= self.highest_loss or (highest >= self.lowest_entry and len(self.entries) > 0))

    def take(self, lowest: int, highest: int, most: int) -> list[int]:
        """Remove up to `most` stop losses and `most` stop entries that trades between these two prices trigger. Those
        whose stop price was passed first come first; at one price, those with the smallest ids. Returns their order
        ids, ascending. O(log n + found).
        """
        taken: list[tuple[int, int]] = []
        for side, last in ((self.losses, -lowest), (self.entries, highest)):
            end = min(side.bisect_left((last + 1, 0)), most)
            if end:
                taken += side[:end]
                del side[:end]
        if taken:
            self._update()
        return sorted([order_id for _, order_id in taken])

    def clear(self) -> None:
        """Empty the book in small steps (`teardown`)."""
        clear(self.losses, self.entries, self.rising, self.falling)
        self._update()

    def waiting(self) -> Iterator[tuple[StopType, int, int]]:
        """Yield all waiting stop orders: kind, stop price, order id."""
        for stop, side in ((StopType.LOSS, self.losses), (StopType.ENTRY, self.entries)):
            for key, order_id in side:
                yield stop, abs(key), order_id

"""Auctions: orders go into an auction book while nothing trades, and then trade at one price.

While a product's status is AUCTION, limit orders that may rest go into the auction book: they are received and hold
money, but are not on the order book. Orders that rested before stay on the order book. An order that would trade with
an order of its own account, on either book, is rejected. So every size counted can trade, and the indicative price and
size are those at which the auction trades. When the product changes to a status in which it trades, the auction opens:

1. One price is found for all orders together, by the rules that exchanges publish for opening and closing auctions
   (ASX, "Determining the match price"; Xetra, "Price determination in auctions"). Of all multiples of the tick it is
   the one

   - at which most can trade;
   - of these, that leaves the smallest surplus;
   - of these, the highest if all of them leave a surplus of buys, the lowest if all leave a surplus of sells (market
     pressure);
   - else the one nearest to the last trade, or the lowest if nothing traded yet.

2. All orders that accept that price trade at it. On each side the best price comes first; at one price, orders of the
   order book come first, then those of the auction book, each in time order. The earlier of two orders is the maker,
   and each pays its own rate of fees.
3. The remainders of the orders of the auction book go to the order book, in the order in which they were received.
4. The event of the new status is emitted. Then the stop orders that the opening triggered enter.

If this is more work than one log entry may do (`limits.WORK_PER_ENTRY`), the next entries continue the opening, before
any new order of the product. From the moment at which the price is found until all trades at it are done, no order of
the product leaves for another reason.

Version 0.2.0 accepted orders that cross others of their account. When two such orders meet, the self-trade prevention
of the later one decides, as in `matching`, and the price stays.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, takewhile
from typing import NamedTuple

from statemachine import collars, stops
from statemachine.book import BookSide
from statemachine.emit import order_changed, order_received, status_changed
from statemachine.entities import Account, Order, Product
from statemachine.icebergs import fold, unfold
from statemachine.limits import AMOUNT_MAX, LEVELS_PER_UNIT, LOOKS_PER_UNIT
from statemachine.matching import close, close_on_side, decrement_size, match, taker_of, trade
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.types import DoneReason, GoodFor, Opening, OrderStatus, ProductStatus, Reason, SelfTradePrevention, Side

TRADING = (ProductStatus.ONLINE, ProductStatus.POST_ONLY, ProductStatus.LIMIT_ONLY)
"""The statuses in which a product trades. A change to one of them opens an auction."""

_OPEN: int = OrderStatus.OPEN
_OWN_ORDERS_CROSS = Reject(Reason.OWN_ORDERS_CROSS, "price", "an order of the account would trade with it")


class Indication(NamedTuple):
    """The result of an auction if it opened now: `size` would trade at `price`, and `surplus` more would buy (negative:
    sell) there. All are zero if nothing would trade. The traded size and the size of sells are never more than
    `limits.AMOUNT_MAX`, because they are on hold. A larger size of buys is given as that limit.

    The best prices and their sizes count all orders that take part, on the book and in the auction book. They are zero
    for an empty side.
    """

    price: int
    size: int
    surplus: int
    best_bid: int
    best_bid_size: int
    best_ask: int
    best_ask_size: int


class _Sums:
    """The cumulative size of one side, order book and auction book together, for all prices up to a key. O(levels up to
    that key).
    """

    def __init__(self, product: Product, side: Side, last_key: int) -> None:
        self._direction = product.side(side).direction
        self._parts: list[tuple[list[int], list[int]]] = []
        self.levels = 0
        for place in (product.side(side), product.collected(side)):
            levels = list(takewhile(lambda level: level.key <= last_key, place.in_order()))
            self._parts.append(
                ([level.key for level in levels], list(accumulate([level.total + level.hidden for level in levels], initial=0)))
            )
            self.levels += len(levels)

    def at(self, price: int) -> int:
        """Return the size that accepts a price. O(log levels)."""
        key = price * self._direction
        return sum(sums[bisect_right(keys, key)] for keys, sums in self._parts)


def collect(state: State, product: Product, order: Order) -> None:
    """Put an accepted order into the auction book. O(log n)."""
    order_received(state, product, order)
    state.wait(order)
    add(state, product, order)


def add(state: State, product: Product, order: Order) -> None:
    """Append an order to the auction book. O(log n)."""
    order.opened_sequence = state.place_in_queue()
    product.collected(order.side).add(order)
    product.collection.add(order)
    state.work += 1


def crosses_own(state: State, account: Account, product: Product, side: int, price: int, leaving: Order | None = None) -> bool:
    """Return whether an order would trade with one of its own account, on the auction book or the order book. O(log n);
    if it would trade with the order book, O(the account's open orders).

    Args:
        leaving: an order of the auction book that does not count.
    """
    other = leaving if leaving is not None and leaving.product is product and leaving.side != side else None
    if product.collection.crosses_own(account.account_id, side, price, other):
        return True
    others = product.opposite(side)
    if not others.crosses(price):
        return False
    state.work += account.open_count // LOOKS_PER_UNIT
    limit = price * others.direction
    order = account.oldest
    while order is not None:
        if order.status == _OPEN and order.product is product and order.side != side and order.price * others.direction <= limit:
            return True
        order = order.newer
    return False


def check_own(
    state: State, account: Account, product: Product, side: int, price: int, leaving: Order | None = None
) -> Reject | None:
    """Return the reject of an order that an auction could trade with one of its own account (`crosses_own`).

    None if the entry has no units of work left: then the order waits, and is checked at its turn.
    """
    if state.work >= state.work_max:
        return None
    return _OWN_ORDERS_CROSS if crosses_own(state, account, product, side, price, leaving) else None


def indicate(product: Product) -> Indication:
    """Return the result of an auction if it opened now. O(levels that cross)."""
    return _indicate(product)[0]


def look(state: State, product: Product) -> Indication:
    """Return the result of `indicate`, and count its price levels as work of the entry."""
    found, levels = _indicate(product)
    state.work += 1 + levels // LEVELS_PER_UNIT
    return found


def _indicate(product: Product) -> tuple[Indication, int]:
    """Return the indication, and the number of price levels that were visited for it."""
    best_bid, bid_size = _best(product, Side.BUY)
    best_ask, ask_size = _best(product, Side.SELL)
    best = (best_bid, min(bid_size, AMOUNT_MAX), best_ask, min(ask_size, AMOUNT_MAX))
    if best_ask == 0 or best_bid < best_ask:
        return Indication(0, 0, 0, *best), 0
    buys, sells = _Sums(product, Side.BUY, -best_ask), _Sums(product, Side.SELL, best_bid)
    price = _price(buys, sells, range(best_ask, best_bid + 1, product.tick), product.last_price)
    buying, selling = buys.at(price), sells.at(price)
    found = Indication(price, min(buying, selling), min(buying - selling, AMOUNT_MAX), *best)
    return found, buys.levels + sells.levels


def _best(product: Product, side: Side) -> tuple[int, int]:
    """Return the best price of a side, and the size there."""
    levels = [place.best for place in (product.side(side), product.collected(side)) if place.best is not None]
    if not levels:
        return 0, 0
    key = min(level.key for level in levels)
    return abs(key), sum(level.total + level.hidden for level in levels if level.key == key)


def _price(buys: _Sums, sells: _Sums, prices: range, last_price: int) -> int:
    """Return the uncross price by the module's rules, among all prices that some buy and some sell accept. O(log prices
    * log levels).

    The higher the price, the less would buy and the more would sell. So most trades at the last price at which at least
    as much would buy as sell, or at the first at which less would; and at the prices beside these at which the same
    orders would trade.
    """

    def orders(price: int) -> tuple[int, int]:
        """Return the sizes at a price: minus the size that would buy, and the size that would sell. Both rise with the
        price.
        """
        return -buys.at(price), sells.at(price)

    def judged(place: int) -> tuple[int, int]:
        """Return the sort key of a price: minus the size that trades, and the surplus. The best price has the smallest key."""
        bought, sold = orders(prices[place])
        return -min(-bought, sold), abs(bought + sold)

    rising = bisect_right(prices, 0, key=lambda price: sum(orders(price)))
    before, after = rising - 1, rising
    candidates = [place for place in (before, after) if 0 <= place < len(prices)]
    best = min(map(judged, candidates))
    chosen = [place for place in candidates if judged(place) == best]
    surplus = -sum(orders(prices[chosen[0]]))
    if chosen == [before] and surplus > 0:
        return prices[before]
    if chosen == [after]:
        return prices[after]
    lowest = prices[bisect_left(prices, orders(prices[chosen[0]]), key=orders)]
    highest = prices[bisect_right(prices, orders(prices[chosen[-1]]), key=orders) - 1]
    return min(max(last_price, lowest), highest)


def begin(state: State, product: Product) -> None:
    """Begin to open the auction; `go_on` does the work."""
    product.opening, product.opening_price, product.opening_size = Opening.PRICE, 0, 0
    state.set_busy(product)


def go_on(state: State, product: Product, limit: int) -> bool:
    """Continue an opening until it is complete, or the entry has done `limit` units of work. Returns whether it is
    complete.
    """
    if product.opening == Opening.PRICE:
        if state.work >= limit:
            return False
        found, levels = _indicate(product)
        state.work += levels // LEVELS_PER_UNIT
        product.opening, product.opening_price = Opening.MEETING, found.price
    if product.opening == Opening.MEETING:
        if not _uncross(state, product, limit):
            return False
        product.opening = Opening.ENTERING
    while product.collection.orders:
        if state.work >= limit:
            return False
        order = next(iter(product.collection.orders.values()))
        state.lowest = state.highest = 0
        state.touch(order)
        product.collected(order.side).remove(order)
        product.collection.remove(order)
        if order.terms is not None and order.terms.good_for == GoodFor.AUCTION:
            state.work += 1
            close(state, product, order, DoneReason.AUCTION_OVER, False)
            continue
        order.status = _OPEN
        match(state, product, order)
        if product.stops.count:
            stops.note_prices(state, product)
    product.opening = Opening.NONE
    price = product.opening_price if product.opening_size else 0
    emit_status(state, product)
    if product.trigger_low:
        stops.take_triggered(state, product)
    if price and product.stops.trailing:
        stops.trail(state, product, price, price)
    return True


def _uncross(state: State, product: Product, limit: int) -> bool:
    """Match orders at the auction's price. Returns whether no further pair accepts it."""
    price = product.opening_price
    while price:
        bid, ask = _next(product, Side.BUY, price), _next(product, Side.SELL, price)
        if bid is None or ask is None:
            break
        if state.work >= limit:
            return False
        state.lowest = state.highest = 0
        state.work += 2
        product.opening_size += _cross(state, product, price, bid, ask)
        if product.stops.count:
            stops.note_prices(state, product)
    return True


def emit_status(state: State, product: Product) -> None:
    """Emit the product's status, with the size and price of its auction's opening."""
    price, size = (product.opening_price, product.opening_size) if product.opening_size else (0, 0)
    product.opening_price = product.opening_size = 0
    if size and product.controls is not None:
        collars.note_auction(state, product, price)
    status_changed(state, product, price, size)


def _next(product: Product, side: Side, price: int) -> tuple[BookSide, Order] | None:
    """Return the order of a side that trades next at the auction's price, and the book side that contains it."""
    place, collected = product.side(side), product.collected(side)
    if collected.best is not None and (place.best is None or collected.best.key < place.best.key):
        place = collected
    if place.best is None or place.best.key > price * place.direction:
        return None
    first = place.best.first
    assert first is not None, "a level in a book is never empty"
    return place, first


def _cross(state: State, product: Product, price: int, bid: tuple[BookSide, Order], ask: tuple[BookSide, Order]) -> int:
    """Trade two orders with each other, and return the size. An order of the order book is earlier than all orders of
    the auction book.
    """
    earlier, later = (bid, ask) if _came(bid[1]) < _came(ask[1]) else (ask, bid)
    (maker_side, maker), (taker_side, taker) = earlier, later
    state.touch(maker)
    state.touch(taker)
    if maker.account is taker.account:
        _prevent(state, product, earlier, later)
        return 0
    shown = unfold(maker), unfold(taker)
    size = min(maker.remaining, taker.remaining)
    maker_side.reduce(maker, size)
    taker_side.reduce(taker, size)
    before = shown[0]
    trade(state, product, taker_of(state, taker), maker, size, price, True)
    for order, slice_shown in zip((maker, taker), shown, strict=True):
        if order.remaining and order.status == OrderStatus.OPEN:
            fold(order, slice_shown)
    if maker.status == OrderStatus.OPEN:
        order_changed(state, product, maker, before, maker.remaining, False, True, True)
    for side, order in (earlier, later):
        if order.remaining == 0:
            close_on_side(state, product, side, order, DoneReason.FILLED)
    return size


def _came(order: Order) -> tuple[bool, int, int]:
    """Return the place in time of an order in an opening. Versions before 0.3.0 stored no place for the orders of an
    auction book but their ids.
    """
    return order.status != _OPEN, order.opened_sequence, order.order_id


def _prevent(state: State, product: Product, earlier: tuple[BookSide, Order], later: tuple[BookSide, Order]) -> None:
    """Apply the self-trade prevention of the later order."""
    stp, by = SelfTradePrevention(later[1].stp), min(earlier[1].remaining, later[1].remaining)
    leaving = {
        SelfTradePrevention.DC: (earlier[1].remaining == by, later[1].remaining == by),
        SelfTradePrevention.CO: (True, False),
        SelfTradePrevention.CN: (False, True),
        SelfTradePrevention.CB: (True, True),
    }[stp]
    for (side, order), leaves in zip((earlier, later), leaving, strict=True):
        if leaves:
            close_on_side(state, product, side, order, DoneReason.CANCELLED)
        elif stp == SelfTradePrevention.DC:
            side.reduce(order, by)
            decrement_size(state, product, order, by, order.status == OrderStatus.OPEN)

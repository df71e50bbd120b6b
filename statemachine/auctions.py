"""Auctions: orders are collected while nothing trades, and then meet at one price.

While a product's status is AUCTION, limit orders that may rest are collected: received, their money on hold, on no book. Orders that rested
before stay on the book. When the product goes on to a status in which it trades, the auction opens:

1. One price is found for all orders together, by the rules that exchanges publish for opening and closing auctions (ASX, "Determining the match
   price"; Xetra, "Price determination in auctions"). Of all multiples of the tick it is the one

   - at which most can trade;
   - of these, that leaves the smallest surplus;
   - of these, the highest if all of them leave a surplus of buys, the lowest if all leave a surplus of sells (market pressure);
   - else the one nearest to the last trade, or the lowest if nothing traded yet.

2. What accepts that price trades at it: on each side the best price first, at a price orders from the book first, then collected ones, each
   in the order in which they came. The earlier of two orders that meet is the maker, and each pays its own rate of fees.
3. When two orders of one account meet, the later one's self-trade prevention says what happens, as in `matching`. The price stays.
4. What is left of the collected orders goes to the book, in the order of their ids. As a rule nothing can trade any more then; where self-trade
   prevention took away one side only, what is left enters as an order that has just come, and trades at the makers' prices.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import groupby, takewhile
from operator import attrgetter
from typing import NamedTuple

from statemachine.book import BookSide
from statemachine.entities import Order, Product
from statemachine.limits import AMOUNT_MAX
from statemachine.matching import Aggressor, decrement_size, leave_side, match, trade
from statemachine.state import State
from statemachine.tell import order_changed, order_received
from statemachine.types import DoneReason, OrderStatus, ProductStatus, SelfTradePrevention, Side

TRADING = (ProductStatus.ONLINE, ProductStatus.POST_ONLY, ProductStatus.LIMIT_ONLY)
"""The statuses in which a product trades: going on to one of them opens an auction."""

_key, _order_id = attrgetter("key"), attrgetter("order_id")


class Indication(NamedTuple):
    """What an auction would do if it opened now: `size` would trade at `price`, and `surplus` more would buy (negative: sell) there. Zeros when
    nothing would trade. What is traded, and what sells, is never more than `limits.AMOUNT_MAX`: it is on hold; sizes of buys are told up to that.

    The best prices, and the sizes there, are over all orders that take part, those on the book and those collected; zeros where a side is empty.
    """

    price: int
    size: int
    surplus: int
    best_bid: int
    best_bid_size: int
    best_ask: int
    best_ask_size: int


class _Stretch(NamedTuple):
    """Prices, from lowest to highest, at which as much would buy and as much would sell."""

    lowest: int
    highest: int
    buys: int
    sells: int


def collect(state: State, product: Product, order: Order) -> None:
    """Let an accepted order wait for the auction to open. O(1), O(log L) at a price without a level."""
    order_received(state, product, order)
    state.wait(order)
    product.collected(order.side).add(order)


def indicate(product: Product) -> Indication:
    """What an auction would do if it opened now. O(levels that cross)."""
    best_bid, bid_size = next(_levels(product, Side.BUY), (0, 0))
    best_ask, ask_size = next(_levels(product, Side.SELL), (0, 0))
    best = (best_bid, min(bid_size, AMOUNT_MAX), best_ask, min(ask_size, AMOUNT_MAX))
    if best_ask == 0 or best_bid < best_ask:
        return Indication(0, 0, 0, *best)
    buys = dict(takewhile(lambda level: level[0] >= best_ask, _levels(product, Side.BUY)))
    sells = dict(takewhile(lambda level: level[0] <= best_bid, _levels(product, Side.SELL)))
    stretches = _stretches(buys, sells, product.tick)
    price = _price(stretches, product.last_price)
    there = next(stretch for stretch in stretches if stretch.lowest <= price <= stretch.highest)
    return Indication(price, min(there.buys, there.sells), min(there.buys - there.sells, AMOUNT_MAX), *best)


def open_auction(state: State, product: Product) -> tuple[int, int]:
    """Open the auction: the price, and how much traded at it, zeros when nothing did. O(levels that cross + orders that trade or were collected)."""
    price, traded = indicate(product).price, 0
    while price:
        bid, ask = _next(product, Side.BUY, price), _next(product, Side.SELL, price)
        if bid is None or ask is None:
            break
        traded += _meet(state, product, price, bid, ask)
    for order in sorted([*product.buys.resting(), *product.sells.resting()], key=_order_id):
        state.touch(order)
        product.collected(order.side).remove(order)
        order.status = OrderStatus.OPEN
        match(state, product, order)
    return (price, traded) if traded else (0, 0)


def _levels(product: Product, side: Side) -> Iterator[tuple[int, int]]:
    """Price and size of all orders of a side that take part, best price first."""
    sides = product.side(side), product.collected(side)
    for _, found in groupby(merge(*(each.in_order() for each in sides), key=_key), key=_key):
        levels = list(found)
        yield levels[0].price, sum(level.total for level in levels)


def _stretches(buys: dict[int, int], sells: dict[int, int], tick: int) -> list[_Stretch]:
    """All prices from the lowest of these to the highest, in order. The sizes only change at a price that an order names, or a tick above it."""
    prices = sorted(buys | sells)
    buying, selling = sum(buys.values()), 0
    found = []
    for price, following in zip(prices, [*prices[1:], prices[-1]], strict=True):
        selling += sells.get(price, 0)
        found.append(_Stretch(price, price, buying, selling))
        buying -= buys.get(price, 0)
        if following - price > tick:
            found.append(_Stretch(price + tick, following - tick, buying, selling))
    return found


def _price(stretches: list[_Stretch], last_price: int) -> int:
    """The price by the module's rules. The best stretches lie side by side: with the price, buys only fall and sells only rise."""
    fewest = min((-min(s.buys, s.sells), abs(s.buys - s.sells)) for s in stretches)
    best = [s for s in stretches if (-min(s.buys, s.sells), abs(s.buys - s.sells)) == fewest]
    lowest, highest = best[0].lowest, best[-1].highest
    if all(s.buys > s.sells for s in best):
        return highest
    if all(s.buys < s.sells for s in best):
        return lowest
    return min(max(last_price, lowest), highest)


def _next(product: Product, side: Side, price: int) -> tuple[BookSide, Order] | None:
    """Who of a side trades next at the auction's price, and where it lies."""
    place, collected = product.side(side), product.collected(side)
    if collected.best is not None and (place.best is None or collected.best.key < place.best.key):
        place = collected
    if place.best is None or place.best.key > price * place.direction:
        return None
    first = place.best.first
    assert first is not None, "a level in a book is never empty"
    return place, first


def _meet(state: State, product: Product, price: int, bid: tuple[BookSide, Order], ask: tuple[BookSide, Order]) -> int:
    """Two orders meet: how much they trade. What is on the book came before all that was collected, so the smaller id is the earlier order's."""
    earlier, later = (bid, ask) if bid[1].order_id < ask[1].order_id else (ask, bid)
    (maker_side, maker), (taker_side, taker) = earlier, later
    state.touch(maker)
    state.touch(taker)
    if maker.account is taker.account:
        _prevent(state, product, earlier, later)
        return 0
    size = min(maker.remaining, taker.remaining)
    maker_side.reduce(maker, size)
    taker_side.reduce(taker, size)
    before = maker.remaining
    trade(state, product, Aggressor(taker), maker, size, price, True)
    if maker.status == OrderStatus.OPEN:
        order_changed(state, product, maker, before, maker.remaining, False, True, True)
    for side, order in (earlier, later):
        if order.remaining == 0:
            leave_side(state, product, side, order, DoneReason.FILLED)
    return size


def _prevent(state: State, product: Product, earlier: tuple[BookSide, Order], later: tuple[BookSide, Order]) -> None:
    """Self-trade prevention, as the later order wants it."""
    stp, by = SelfTradePrevention(later[1].stp), min(earlier[1].remaining, later[1].remaining)
    leaving = {
        SelfTradePrevention.DC: (earlier[1].remaining == by, later[1].remaining == by),
        SelfTradePrevention.CO: (True, False),
        SelfTradePrevention.CN: (False, True),
        SelfTradePrevention.CB: (True, True),
    }[stp]
    for (side, order), leaves in zip((earlier, later), leaving, strict=True):
        if leaves:
            leave_side(state, product, side, order, DoneReason.CANCELLED)
        elif stp == SelfTradePrevention.DC:
            side.reduce(order, by)
            decrement_size(state, product, order, by, order.status == OrderStatus.OPEN)

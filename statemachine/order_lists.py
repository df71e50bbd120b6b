"""Lists of an account's orders: one pass over them, newest first, that stops when it has enough.

An account has at most `limits.OPEN_ORDERS_PER_ACCOUNT` open orders and `limits.DONE_ORDERS_PER_ACCOUNT` done ones, so a
pass over all of them takes about a millisecond, even if few orders are wanted.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from itertools import dropwhile, islice, takewhile
from operator import attrgetter

import msgspec

from statemachine.entities import Account, Order, Product
from statemachine.types import Side

_id = attrgetter("order_id")


class Wanted(msgspec.Struct, frozen=True):
    """The conditions of the wanted orders.

    Attributes:
        product_id: only orders of this product; "": any.
        open: include orders that are not done.
        done: include orders that are done.
        before_id: only ids below it; 0: any.
        above_id: only ids above it.
        statuses: only these, as a sum of 2**status; 0: any.
        created_from, created_to: nanoseconds since the epoch, the first included, the last not; 0: any.
        holds: only orders that hold some of this currency; "": any.
    """

    product_id: str = ""
    open: bool = True
    done: bool = False
    before_id: int = 0
    above_id: int = 0
    statuses: int = 0
    created_from: int = 0
    created_to: int = 0
    holds: str = ""


def newest(account: Account, products: Mapping[str, Product], wanted: Wanted, limit: int) -> list[Order]:
    """Return up to `limit` orders of an account, newest first. They are the live objects: the caller takes their rows
    before the next batch is applied.
    """
    _check(wanted)
    opened: Iterable[Order] = ()
    done: list[Order] = []
    if wanted.open:
        opened = _chosen(_opened(account), products, wanted)
    if wanted.done:
        done = list(_chosen(sorted(account.done, key=_id, reverse=True), products, wanted))
    if not done:
        return list(islice(opened, limit))
    return list(islice(heapq.merge(opened, done, key=_id, reverse=True), limit))


def _opened(account: Account) -> Iterator[Order]:
    """Yield the open orders, newest first. Ids only grow, so the queue of open orders is in the order of ids."""
    return account.newest_first()


def _check(wanted: Wanted) -> None:
    numbers = (wanted.before_id, wanted.above_id, wanted.statuses, wanted.created_from, wanted.created_to)
    assert all(number >= 0 for number in numbers), "the caller has checked the numbers"


def _chosen(orders: Iterable[Order], products: Mapping[str, Product], wanted: Wanted) -> Iterator[Order]:
    """Yield the wanted orders among orders that come newest first. Their times fall with their ids, because time never
    runs backwards, so the pass ends behind the wanted ids and times. Only conditions that are set are checked, one
    after the other.
    """
    selected = orders
    if wanted.before_id:
        before = wanted.before_id
        selected = dropwhile(lambda order: order.order_id >= before, selected)
    if wanted.created_to:
        end = wanted.created_to
        selected = dropwhile(lambda order: order.created_at >= end, selected)
    if wanted.above_id:
        above = wanted.above_id
        selected = takewhile(lambda order: order.order_id > above, selected)
    if wanted.created_from:
        first = wanted.created_from
        selected = takewhile(lambda order: order.created_at >= first, selected)
    if wanted.product_id:
        product_id = wanted.product_id
        selected = (order for order in selected if order.product.product_id == product_id)
    if wanted.statuses:
        statuses = wanted.statuses
        selected = (order for order in selected if statuses >> order.status & 1)
    if wanted.holds:
        holding_sides = dict.fromkeys(_sides_that_hold(products, wanted.holds))
        selected = (order for order in selected if order.hold and (order.product.product_id, order.side) in holding_sides)
    return iter(selected)


def _sides_that_hold(products: Mapping[str, Product], currency: str) -> list[tuple[str, int]]:
    """Return the pairs of product and side whose orders hold the currency: a buy holds the quote currency, a sell the
    base currency.
    """
    held = [(product_id, int(Side.BUY)) for product_id, product in products.items() if product.quote == currency]
    return held + [(product_id, int(Side.SELL)) for product_id, product in products.items() if product.base == currency]

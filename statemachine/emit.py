"""What is told of a product: one function for each event of `events`, by the same name. It numbers the event and writes it to the batch's events.

A field stands here once, in the order of its struct; `tests/unit/statemachine/test_twins.py` decodes what is written with the structs.
"""

from __future__ import annotations

from statemachine.entities import Order, Product
from statemachine.state import State


def _begin(state: State, product: Product, tag: int, fields: int) -> None:
    """What every event begins with. `fields` counts its fields without the tag."""
    product.sequence += 1
    events = state.events
    events.array(fields + 1)
    events.number(tag)
    events.text(product.product_id)
    events.number(product.sequence)
    events.number(state.time)


def _end(state: State, product: Product) -> None:
    state.event_ends.append(state.events.size())
    state.event_products.append(product.product_id)


def order_received(state: State, product: Product, order: Order) -> None:
    """An order passed every check, and matches or is collected."""
    _begin(state, product, 1, 11)
    events = state.events
    events.number(order.order_id)
    events.text(order.account.account_id)
    events.text(order.client_oid)
    events.number(order.side)
    events.number(order.order_type)
    events.number(order.price)
    events.number(order.size)
    events.number(order.funds)
    _end(state, product)


def order_opened(state: State, product: Product, order: Order) -> None:
    """What is left of an order rests on the book from now on."""
    _begin(state, product, 2, 8)
    events = state.events
    events.number(order.order_id)
    events.text(order.account.account_id)
    events.number(order.side)
    events.number(order.price)
    events.number(order.remaining)
    _end(state, product)


def order_matched(
    state: State,
    product: Product,
    maker: Order,
    taker: Order,
    price: int,
    size: int,
    maker_fee: int,
    taker_fee: int,
    auction: bool,
) -> None:
    """A trade, the product's latest."""
    _begin(state, product, 3, 14)
    events = state.events
    events.number(product.last_trade_id)
    events.number(maker.order_id)
    events.number(taker.order_id)
    events.text(maker.account.account_id)
    events.text(taker.account.account_id)
    events.number(maker.side)
    events.number(price)
    events.number(size)
    events.number(maker_fee)
    events.number(taker_fee)
    events.flag(auction)
    _end(state, product)


def order_changed(
    state: State, product: Product, order: Order, old: int, new: int, by_funds: bool, resting: bool, auction: bool
) -> None:
    """An order goes on with less than it had: of its size, or (`by_funds`) of its funds."""
    _begin(state, product, 4, 12)
    events = state.events
    events.number(order.order_id)
    events.text(order.account.account_id)
    events.number(order.side)
    events.number(order.price)
    events.number(old)
    events.number(new)
    events.flag(by_funds)
    events.flag(resting)
    events.flag(auction)
    _end(state, product)


def order_done(state: State, product: Product, order: Order, reason: int, resting: bool) -> None:
    """An order is done."""
    _begin(state, product, 5, 11)
    events = state.events
    events.number(order.order_id)
    events.text(order.account.account_id)
    events.number(order.side)
    events.number(order.order_type)
    events.number(order.price)
    events.number(order.remaining)
    events.number(reason)
    events.flag(resting)
    _end(state, product)


def order_activated(state: State, product: Product, order: Order) -> None:
    """A stop order was accepted and waits."""
    _begin(state, product, 6, 13)
    events = state.events
    events.number(order.order_id)
    events.text(order.account.account_id)
    events.text(order.client_oid)
    events.number(order.side)
    events.number(order.order_type)
    events.number(order.stop)
    events.number(order.stop_price)
    events.number(order.price)
    events.number(order.size)
    events.number(order.funds)
    _end(state, product)


def status_changed(state: State, product: Product, open_price: int, open_size: int) -> None:
    """The product's status is another."""
    _begin(state, product, 7, 6)
    events = state.events
    events.number(product.status)
    events.number(open_price)
    events.number(open_size)
    _end(state, product)

"""Encoders of events: one function for each event of `events`, by the same name. Each numbers the event and appends it
to the events of the batch.

An event of an order is also reported in the active streams of its account (`streams`), directly after the event.

Each field is written once, in the order of its struct. `tests/unit/statemachine/test_twins.py` decodes the bytes with
the structs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statemachine.commands import CorrectTrade
from statemachine.entities import Order, Product
from statemachine.state import State
from statemachine.types import ChangeReason, DoneReason, OrderType, ReportKind, TimeInForce

if TYPE_CHECKING:
    from statemachine.corrections import Correction
    from statemachine.streams import Stream

_FILLED: int = DoneReason.FILLED
_NEW: int = ReportKind.NEW
_TRADE: int = ReportKind.TRADE
_TRIGGERED: int = ReportKind.TRIGGERED
_RESTATED: int = ReportKind.RESTATED
_DONE: int = ReportKind.DONE
_SELF_TRADE: int = ChangeReason.SELF_TRADE
_AUCTION: int = ChangeReason.AUCTION
_AMENDED: int = ChangeReason.AMENDED
_TRAILED: int = ChangeReason.TRAILED
_REPORT_AMENDED: int = ReportKind.AMENDED
_REPORT_TRAILED: int = ReportKind.TRAILED
_REPRICED: int = ChangeReason.REPRICED
_REPORT_REPRICED: int = ReportKind.REPRICED
_LIMIT: int = OrderType.LIMIT
_GTC: int = TimeInForce.GTC
_UNNAMED = ("", "")


def _begin(state: State, product: Product, tag: int, fields: int) -> None:
    """Write the fields with which every event begins. `fields` counts the event's fields without the tag."""
    product.sequence += 1
    events = state.events
    events.array(fields + 1)
    events.number(tag)
    events.text(product.product_id)
    events.number(product.sequence)
    events.number(state.time)


def _shown(order: Order, size: int) -> int:
    """Return the public part of a size: for an iceberg, one slice."""
    if order.terms is None or not order.terms.display_size:
        return size
    display: int = order.terms.display_size
    return min(display, size)


def _end(state: State, product: Product) -> None:
    state.events.mark()
    state.event_products.append(product.product_id)


def order_received(state: State, product: Product, order: Order) -> None:
    """Emit that an order passed every check. It matches next, or goes to the auction book."""
    _begin(state, product, 1, 11)
    events = state.events
    events.number(order.order_id)
    events.text(order.account.account_id)
    events.text(order.client_oid)
    events.number(order.side)
    events.number(order.order_type)
    events.number(order.price)
    events.number(_shown(order, order.size))
    events.number(order.funds)
    _end(state, product)
    if order.account.streams is not None:
        report(state, product, order, _TRIGGERED if order.stop else _NEW, 0, 0, 0, False)


def order_opened(state: State, product: Product, order: Order) -> None:
    """Emit that the remainder of an order rests on the book."""
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
    """Emit the product's latest trade."""
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
    if maker.account.streams is not None:
        report(state, product, maker, _TRADE, price, size, maker_fee, False)
    if taker.account.streams is not None:
        report(state, product, taker, _TRADE, price, size, taker_fee, True)


def _changed(
    state: State,
    product: Product,
    order: Order,
    price: int,
    old: int,
    new: int,
    by_funds: bool,
    resting: bool,
    auction: bool,
    reason: int,
    new_price: int,
    new_stop_price: int,
    requeued: bool,
) -> None:
    """Write an `OrderChanged`. See there for the fields."""
    _begin(state, product, 4, 16)
    events = state.events
    events.number(order.order_id)
    events.text(order.account.account_id)
    events.number(order.side)
    events.number(price)
    events.number(old)
    events.number(new)
    events.flag(by_funds)
    events.flag(resting)
    events.flag(auction)
    events.number(reason)
    events.number(new_price)
    events.number(new_stop_price)
    events.flag(requeued)
    _end(state, product)


def order_changed(
    state: State, product: Product, order: Order, old: int, new: int, by_funds: bool, resting: bool, auction: bool
) -> None:
    """Emit that the remaining size of an order, or with `by_funds` its remaining funds, was reduced."""
    reason = _AUCTION if auction else _SELF_TRADE
    _changed(state, product, order, order.price, old, new, by_funds, resting, auction, reason, 0, 0, False)
    if order.account.streams is not None and not auction:
        report(state, product, order, _RESTATED, 0, 0, 0, False)


def order_amended(
    state: State, product: Product, order: Order, price: int, remaining: int, resting: bool, requeued: bool
) -> None:
    """Emit that the owner amended an order. The order has its new values; `price` and `remaining` are those before."""
    shown, left = _shown(order, remaining), _shown(order, order.remaining)
    _changed(state, product, order, price, shown, left, False, resting, False, _AMENDED, order.price, order.stop_price, requeued)
    if order.account.streams is not None:
        report(state, product, order, _REPORT_AMENDED, 0, 0, 0, False)


def order_repriced(state: State, product: Product, order: Order, price: int) -> None:
    """Emit the new price of an order that is about to rest. The order has it already; `price` is the one before."""
    left = _shown(order, order.remaining)
    _changed(state, product, order, price, left, left, False, False, False, _REPRICED, order.price, 0, False)
    if order.account.streams is not None:
        report(state, product, order, _REPORT_REPRICED, 0, 0, 0, False)


def order_trailed(state: State, product: Product, order: Order) -> None:
    """Emit that the stop price of a trailing stop order followed the market."""
    _changed(state, product, order, 0, 0, 0, False, False, False, _TRAILED, 0, order.stop_price, False)
    if order.account.streams is not None:
        report(state, product, order, _REPORT_TRAILED, 0, 0, 0, False)


def order_done(state: State, product: Product, order: Order, reason: int, resting: bool) -> None:
    """Emit that an order is done."""
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
    if order.account.streams is not None and (reason != _FILLED or order.size == 0):
        report(state, product, order, _DONE, 0, 0, 0, False)


def order_activated(state: State, product: Product, order: Order) -> None:
    """Emit that a stop order was accepted and waits."""
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
    events.number(_shown(order, order.size))
    events.number(order.funds)
    _end(state, product)
    if order.account.streams is not None:
        report(state, product, order, _NEW, 0, 0, 0, False)


def status_changed(state: State, product: Product, open_price: int, open_size: int) -> None:
    """Emit that the product's status changed."""
    _begin(state, product, 7, 8)
    events = state.events
    events.number(product.status)
    events.number(open_price)
    events.number(open_size)
    events.number(product.cause)
    events.number(product.until)
    _end(state, product)


def trading_switched(state: State, product: Product, scope: int, switches: int, note: str) -> None:
    """Emit that the switches of the product or of the venue changed."""
    _begin(state, product, 30, 6)
    events = state.events
    events.number(scope)
    events.number(switches)
    events.text(note)
    _end(state, product)


def auction_indicated(state: State, product: Product, price: int, size: int, surplus: int, until: int, extended: bool) -> None:
    """Emit the indicative price and size of the product's auction."""
    _begin(state, product, 31, 8)
    events = state.events
    events.number(price)
    events.number(size)
    events.number(surplus)
    events.number(until)
    events.flag(extended)
    _end(state, product)


def trade_corrected(state: State, product: Product, command: CorrectTrade, kind: int, fees: tuple[int, int]) -> None:
    """Emit that a trade was busted, or its price corrected. `fees` are the buyer's and the seller's after it."""
    _begin(state, product, 32, 12)
    events = state.events
    events.number(kind)
    events.number(command.trade_id)
    events.text(command.buyer_id)
    events.text(command.seller_id)
    events.number(command.size)
    events.number(command.price)
    events.number(command.new_price)
    events.number(fees[0])
    events.number(fees[1])
    _end(state, product)


def report(state: State, product: Product, order: Order, kind: int, price: int, size: int, fee: int, taking: bool) -> None:
    """Report the product's latest event in the streams of an order's account, which has at least one. A trade has its
    price, its size and the order's fee.
    """
    for stream in order.account.streams or ():
        _report(state, product, order, stream, kind, price, size, fee, taking)


def _report(
    state: State, product: Product, order: Order, stream: Stream, kind: int, price: int, size: int, fee: int, taking: bool
) -> None:
    """Emit a report of an event of an order in a report stream."""
    named = _named(state, order, kind)
    _begin_in_stream(state, stream, 20, 29)
    events = state.events
    events.number(kind)
    events.text(product.product_id)
    events.number(product.sequence)
    events.number(order.order_id)
    events.text(order.client_oid)
    events.number(order.side)
    events.number(order.order_type)
    events.number(order.time_in_force)
    events.number(order.stop)
    events.number(order.price)
    events.number(order.stop_price)
    events.number(order.size)
    events.number(order.funds)
    events.number(order.remaining + order.reserve)
    events.number(order.filled_size)
    events.number(order.executed_value)
    events.number(order.fill_fees)
    events.number(order.done_reason)
    events.number(order.expires_at)
    events.number(product.last_trade_id if size else 0)
    events.number(price)
    events.number(size)
    events.number(fee)
    events.flag(taking)
    events.text(named[0])
    events.text(named[1])
    _end_in_stream(state, stream)


def _named(state: State, order: Order, kind: int) -> tuple[str, str]:
    """Return the command id of the request that cancelled or amended the order, and the order's `client_oid` before it."""
    requested = state.requested
    if requested is None or requested.order is not order or kind not in (_DONE, _REPORT_AMENDED):
        return _UNNAMED
    return requested.command_id, requested.client_oid


def report_correction(state: State, product: Product, correction: Correction) -> None:
    """Report the product's latest event, a corrected trade, in the streams of one side's account."""
    order = state.orders.get(correction.order_id)
    if order is not None and (order.account is not correction.account or order.product is not product):
        order = None
    for stream in correction.account.streams or ():
        _correction(state, product, stream, correction, order)


def _correction(state: State, product: Product, stream: Stream, correction: Correction, order: Order | None) -> None:
    """Write a corrected trade. The fields of the order are 0 if the exchange no longer keeps the order."""
    _begin_in_stream(state, stream, 20, 29)
    events = state.events
    events.number(correction.kind)
    events.text(product.product_id)
    events.number(product.sequence)
    events.number(correction.order_id)
    events.text(order.client_oid if order is not None else "")
    events.number(correction.side)
    events.number(order.order_type if order is not None else _LIMIT)
    events.number(order.time_in_force if order is not None else _GTC)
    events.number(order.stop if order is not None else 0)
    events.number(order.price if order is not None else 0)
    events.number(order.stop_price if order is not None else 0)
    events.number(order.size if order is not None else 0)
    events.number(order.funds if order is not None else 0)
    events.number(order.remaining + order.reserve if order is not None else 0)
    events.number(order.filled_size if order is not None else 0)
    events.number(order.executed_value if order is not None else 0)
    events.number(order.fill_fees if order is not None else 0)
    events.number(order.done_reason if order is not None else 0)
    events.number(order.expires_at if order is not None else 0)
    events.number(correction.trade_id)
    events.number(correction.price)
    events.number(correction.size)
    events.number(correction.fee)
    events.flag(False)
    events.text("")
    events.text("")
    _end_in_stream(state, stream)


def stream_noted(state: State, stream: Stream, origin: str, text: str) -> None:
    """Write a session's message into the stream."""
    _begin_in_stream(state, stream, 21, 6)
    events = state.events
    events.text(origin)
    events.text(text)
    events.number(stream.base)
    _end_in_stream(state, stream)


def _begin_in_stream(state: State, stream: Stream, tag: int, fields: int) -> None:
    """Begin an event of a report stream, as `_begin` begins one of a product."""
    stream.sequence += 1
    events = state.events
    events.array(fields + 1)
    events.number(tag)
    events.text(stream.stream_id)
    events.number(stream.sequence)
    events.number(state.time)


def _end_in_stream(state: State, stream: Stream) -> None:
    state.events.mark()
    state.event_products.append(stream.stream_id)

"""Checks of answers that need only the command and the answer.

A client does not know the book, but it knows its own order. An answer is wrong if it names another account, fills more
than the order's size, trades at a worse price than the limit, or rejects a well-formed command for an unexpected
reason.
"""

from __future__ import annotations

from loadtest.market import CURRENCIES
from statemachine.commands import AnyCommand, CancelAll, CancelOrder, Deposit, PlaceOrder, Transfer, Withdraw
from statemachine.events import AnyOutcome, Cancelled, Done, OrderState, Placed, Rejected, Transferred
from statemachine.types import OrderStatus, OrderType, Reason, Side, TimeInForce

EXPECTED_REASONS: dict[type, frozenset[Reason]] = {
    PlaceOrder: frozenset(
        {
            Reason.POST_ONLY_WOULD_TAKE,
            Reason.INSUFFICIENT_FUNDS,
            Reason.TOO_MANY_OPEN_ORDERS,
            Reason.PRODUCT_IN_AUCTION,
            Reason.OWN_ORDERS_CROSS,
        }
    ),
    CancelOrder: frozenset({Reason.UNKNOWN_ORDER, Reason.ORDER_ALREADY_DONE, Reason.AUCTION_OPENING}),
}
"""The reasons for which the exchange may reject a well-formed command of a flow. Any other reason is a fault."""


def fault(command: AnyCommand, outcome: AnyOutcome) -> str:
    """Return what is wrong with `outcome` as the answer to `command`, or ""."""
    if isinstance(outcome, Rejected):
        allowed = EXPECTED_REASONS.get(type(command), frozenset())
        if outcome.reason is Reason.PRODUCT_IN_AUCTION and isinstance(command, PlaceOrder) and _is_collected(command):
            return "an auction refused an order that it collects"
        return "" if outcome.reason in allowed else f"rejected: {outcome.reason.name} {outcome.field} {outcome.detail}".rstrip()
    expected = _OUTCOMES.get(type(command), Done)
    if not isinstance(outcome, expected):
        return f"answered by {type(outcome).__name__}, expected {expected.__name__}"
    if isinstance(command, PlaceOrder) and isinstance(outcome, Placed):
        return _order_fault(command, outcome.order)
    if isinstance(command, CancelOrder | CancelAll) and isinstance(outcome, Cancelled):
        return _cancel_fault(command, outcome.orders)
    return ""


_OUTCOMES: dict[type, type] = {
    PlaceOrder: Placed,
    CancelOrder: Cancelled,
    CancelAll: Cancelled,
    Deposit: Transferred,
    Withdraw: Transferred,
    Transfer: Transferred,
}


def _is_collected(command: PlaceOrder) -> bool:
    """Return whether an auction collects the order, as a stop order or for the uncross."""
    return bool(command.stop) or (may_rest(command) and not command.post_only)


def _order_fault(command: PlaceOrder, order: OrderState) -> str:
    """Return what is wrong with the order in an answer, or ""."""
    for name in ("account_id", "client_oid", "product_id", "side", "order_type", "price", "size", "funds", "stop", "stop_price"):
        sent, shown = getattr(command, name), getattr(order, name)
        if sent != shown:
            return f"{name} {shown!r}, sent {sent!r}"
    if order.size and order.filled_size > order.size:
        return f"filled {order.filled_size} of {order.size}"
    if command.stop and order.status is not OrderStatus.ACTIVE:
        return f"stop {command.stop.name}, and the order is {order.status.name}"
    if not command.stop and order.status is not OrderStatus.DONE and not may_rest(command):
        return f"a {command.order_type.name} {command.time_in_force.name} order rests"
    if not command.stop and order.status is OrderStatus.ACTIVE and (order.filled_size or not _is_collected(command)):
        return "an auction collected it, and it traded or was post-only"
    if command.time_in_force is TimeInForce.FOK and order.filled_size not in (0, order.size):
        return f"fill or kill filled {order.filled_size} of {order.size}"
    if order.expires_at != (order.created_at + command.cancel_after if command.cancel_after else 0):
        return f"leaves at {order.expires_at}, {command.cancel_after} after {order.created_at} was wanted"
    if command.post_only and order.filled_size:
        return "post-only took"
    return _value_fault(command, order)


def may_rest(command: PlaceOrder) -> bool:
    """Return whether the unfilled part of the order may rest on the book."""
    return command.order_type is OrderType.LIMIT and command.time_in_force in (TimeInForce.GTC, TimeInForce.GTT)


def _value_fault(command: PlaceOrder, order: OrderState) -> str:
    """Return what is wrong with the value of a trade, or ""."""
    if command.funds and command.side is Side.BUY and order.executed_value + order.fill_fees > command.funds:
        return f"spent {order.executed_value + order.fill_fees} of {command.funds}"
    if command.order_type is OrderType.MARKET:
        return ""
    limit_value = command.price * order.filled_size // 10 ** CURRENCIES[command.product_id.partition("-")[0]]
    if command.side is Side.BUY and order.executed_value > limit_value:
        return f"bought for {order.executed_value}, the limit allows {limit_value}"
    if command.side is Side.SELL and order.executed_value < limit_value:
        return f"sold for {order.executed_value}, the limit asks {limit_value}"
    return ""


def _cancel_fault(command: CancelOrder | CancelAll, orders: list[OrderState]) -> str:
    """Return what is wrong with the answer to a cancel, or ""."""
    for order in orders:
        if order.account_id != command.account_id:
            return f"cancelled order {order.order_id} of {order.account_id}"
        if order.status is not OrderStatus.DONE:
            return f"cancelled order {order.order_id} is {order.status.name}"
        if command.product_id and order.product_id != command.product_id:
            return f"cancelled order {order.order_id} of {order.product_id}"
    if isinstance(command, CancelOrder) and len(orders) != 1:
        return f"one order to cancel, {len(orders)} cancelled"
    return ""

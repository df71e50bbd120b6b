"""Converts a report of an account's stream to an ExecutionReport (8). The result depends on the report alone, so every
node sends the same message.
"""

from __future__ import annotations

from node.fix import tags
from node.fix.tags import SIDE_CODES, TIME_CODES
from node.fix.wire import Fields, timestamp
from node.gateway.catalogue import Product
from node.gateway.values import order_text
from statemachine.decimals import to_text
from statemachine.events import OrderReported, OrderState
from statemachine.types import DoneReason, OrderStatus, OrderType, ReportKind, StopType, TimeInForce

NEW, TRADE, CANCELED, REPLACED, REJECTED, EXPIRED, RESTATED, STATUS, TRIGGERED = "0", "F", "4", "5", "8", "C", "D", "I", "L"
TRADE_CORRECTED, TRADE_CANCELED = "G", "H"
"""Values of ExecType."""
PARTIALLY, FILLED = "1", "2"
"""Values of OrdStatus, beside those that ExecType has too."""

FIX_REQUEST = "f:"
"""The prefix of command ids that a FIX session makes: `f:`, the MsgType, a colon, the ClOrdID."""

_CORRECTIONS = {ReportKind.BUSTED: TRADE_CANCELED, ReportKind.CORRECTED: TRADE_CORRECTED}
_RESTATEMENTS = {
    ReportKind.RESTATED: "self-trade prevention took something off the order",
    ReportKind.TRAILED: "the stop price followed the market",
    ReportKind.REPRICED: "the order rests at the price collar: its price was outside",
}
_REASONS = {
    DoneReason.CANCELLED: "canceled",
    DoneReason.EXPIRED: "its time is over",
    DoneReason.TIMER: "the client was gone, or did not set its timer again in time",
    DoneReason.KILLED: "the kill switch cancelled it, or trading was switched off",
    DoneReason.COLLARED: "the next trade would have been outside the price collar",
    DoneReason.MAKERS_MAX: "it met as many resting orders as one order may meet",
}


def execution_report(report: OrderReported, product: Product) -> Fields:
    """Return the message for a report."""
    if report.kind in _CORRECTIONS:
        return _correction(report, product)
    exec_type, status = _types(report)
    fields: Fields = [
        (tags.MSG_TYPE, "8"),
        (tags.ORDER_ID, order_text(report.order_id)),
        *_names(report),
        (tags.EXEC_ID, _trade_id(report) if report.kind is ReportKind.TRADE else _event_id(report)),
        (tags.EXEC_TYPE, exec_type),
        (tags.ORD_STATUS, status),
        (tags.SYMBOL, report.symbol),
        (tags.SIDE, SIDE_CODES[report.side]),
        *_terms(report, product),
    ]
    if report.kind is ReportKind.TRADE:
        fields += _trade(report, product)
    left = 0 if report.done_reason else report.remaining
    fields += _amounts(product, left, report.filled_size, report.executed_value)
    if report.kind in _RESTATEMENTS:
        fields += [(tags.EXEC_RESTATEMENT_REASON, "99"), (tags.TEXT, _RESTATEMENTS[report.kind])]
    if report.done_reason not in (DoneReason.NONE, DoneReason.FILLED):
        fields.append((tags.TEXT, _REASONS.get(report.done_reason, report.done_reason.name.lower().replace("_", " "))))
    return [*fields, (tags.TRANSACT_TIME, timestamp(report.time))]


def _names(report: OrderReported) -> Fields:
    """Return ClOrdID and, if the report answers a FIX request, OrigClOrdID: the request's id and the order's earlier id."""
    own = report.client_oid or order_text(report.order_id)
    # Clients of other protocols choose the ids of their commands, so the id may have any form.
    _, _, name = report.request.removeprefix(FIX_REQUEST).partition(":") if report.request.startswith(FIX_REQUEST) else ("",) * 3
    if not name:
        return [(tags.CL_ORD_ID, own)]
    return [(tags.CL_ORD_ID, name), (tags.ORIG_CL_ORD_ID, report.orig_client_oid or order_text(report.order_id))]


def _trade_id(report: OrderReported) -> str:
    """Return the ExecID of a trade. It uses only fields that a correction has, too, which refers to it by ExecRefID."""
    return f"{report.symbol}-T{report.trade_id}-{SIDE_CODES[report.side]}"


def _event_id(report: OrderReported) -> str:
    return f"{report.symbol}-{report.source}-{report.order_id or SIDE_CODES[report.side]}"


def _correction(report: OrderReported, product: Product) -> Fields:
    """Return the report of a trade that the operator busted, or whose price the operator corrected. The order's amounts
    still include the original trade, as in REST. An order that the exchange no longer keeps is reported as filled.
    """
    known = bool(report.size or report.funds)
    order_id = order_text(report.order_id) if report.order_id else "NONE"
    done = not known or report.done_reason is not DoneReason.NONE or (report.size > 0 and report.remaining == 0)
    reason = report.done_reason or DoneReason.FILLED
    bust = report.kind is ReportKind.BUSTED
    return [
        (tags.MSG_TYPE, "8"),
        (tags.ORDER_ID, order_id),
        (tags.CL_ORD_ID, report.client_oid or order_id),
        (tags.EXEC_ID, _event_id(report)),
        (tags.EXEC_REF_ID, _trade_id(report)),
        (tags.EXEC_TYPE, _CORRECTIONS[report.kind]),
        (tags.ORD_STATUS, _status(done, reason, report.filled_size)),
        (tags.SYMBOL, report.symbol),
        (tags.SIDE, SIDE_CODES[report.side]),
        *(_terms(report, product) if known else []),
        (tags.LAST_QTY, product.size(report.last_size)),
        (tags.LAST_PX, product.price(report.last_price)),
        (tags.TRD_MATCH_ID, str(report.trade_id)),
        *_fee(report.last_fee, product),
        *_amounts(product, 0 if done else report.remaining, report.filled_size, report.executed_value),
        (tags.TEXT, "the exchange cancelled the trade" if bust else "the exchange corrected the price of the trade"),
        (tags.TRANSACT_TIME, timestamp(report.time)),
    ]


def status_report(order: OrderState, product: Product, request_id: str, time_ns: int) -> Fields:
    """Return the answer to an OrderStatusRequest. `time_ns` is in nanoseconds since the epoch."""
    fields: Fields = [
        (tags.MSG_TYPE, "8"),
        (tags.ORDER_ID, order_text(order.order_id)),
        (tags.CL_ORD_ID, order.client_oid or order_text(order.order_id)),
        (tags.EXEC_ID, f"{order.product_id}-status-{order.order_id}-{time_ns}"),
        (tags.EXEC_TYPE, STATUS),
        (tags.ORD_STATUS, order_status(order)),
        (tags.SYMBOL, order.product_id),
        (tags.SIDE, SIDE_CODES[order.side]),
        *_terms(order, product),
        *_amounts(product, 0 if order.status is OrderStatus.DONE else order.remaining, order.filled_size, order.executed_value),
    ]
    if request_id:
        fields.append((tags.ORD_STATUS_REQ_ID, request_id))
    return [*fields, (tags.TRANSACT_TIME, timestamp(time_ns))]


def order_status(order: OrderState) -> str:
    """Return the OrdStatus of an order."""
    return _status(order.status is OrderStatus.DONE, order.done_reason, order.filled_size)


def _types(report: OrderReported) -> tuple[str, str]:
    """Return ExecType and OrdStatus."""
    whole = report.size > 0 and report.remaining == 0
    done = whole or report.kind is ReportKind.DONE
    reason = DoneReason.FILLED if whole else report.done_reason
    status = _status(done, reason, report.filled_size)
    match report.kind:
        case ReportKind.NEW:
            return NEW, NEW
        case ReportKind.TRADE:
            return TRADE, status
        case ReportKind.TRIGGERED:
            return TRIGGERED, status
        case ReportKind.AMENDED:
            return REPLACED, status
        case ReportKind.DONE if report.done_reason is DoneReason.EXPIRED:
            return EXPIRED, EXPIRED
        case ReportKind.DONE if report.done_reason is not DoneReason.FILLED:
            return CANCELED, CANCELED
        case _:
            return RESTATED, status


def _status(done: bool, reason: DoneReason, filled: int) -> str:
    if done:
        return {DoneReason.FILLED: FILLED, DoneReason.EXPIRED: EXPIRED}.get(reason, CANCELED)
    return PARTIALLY if filled else NEW


def _terms(order: OrderReported | OrderState, product: Product) -> Fields:
    """Return the fields of the order's terms."""
    stop = order.stop is not StopType.NONE
    limited = order.order_type is OrderType.LIMIT
    kind = (tags.STOP_LIMIT if limited else tags.STOP) if stop else (tags.LIMIT if limited else tags.MARKET)
    fields: Fields = [(tags.ORD_TYPE, kind)]
    if order.time_in_force in TIME_CODES:
        fields.append((tags.TIME_IN_FORCE, TIME_CODES[order.time_in_force]))
    if order.size:
        fields.append((tags.ORDER_QTY, product.size(order.size)))
    if order.funds:
        fields.append((tags.CASH_ORDER_QTY, product.price(order.funds)))
    if order.price:
        fields.append((tags.PRICE, product.price(order.price)))
    if stop:
        fields.append((tags.STOP_PX, product.price(order.stop_price)))
    if order.time_in_force is TimeInForce.GTT:
        fields.append((tags.EXPIRE_TIME, timestamp(order.expires_at)))
    return fields


def _trade(report: OrderReported, product: Product) -> Fields:
    """Return the fields of a fill and its fee."""
    return [
        (tags.LAST_QTY, product.size(report.last_size)),
        (tags.LAST_PX, product.price(report.last_price)),
        (tags.TRD_MATCH_ID, str(report.trade_id)),
        (tags.AGGRESSOR, "Y" if report.liquidity_taker else "N"),
        *_fee(report.last_fee, product),
    ]


def _fee(fee: int, product: Product) -> Fields:
    """Return the fields of a fee."""
    return [
        (tags.NO_MISC_FEES, "1"),
        (tags.MISC_FEE_AMT, product.price(fee)),
        (tags.MISC_FEE_CURR, product.row.quote),
        (tags.MISC_FEE_TYPE, "4"),
    ]


def _amounts(product: Product, left: int, filled: int, value: int) -> Fields:
    """Return LeavesQty, CumQty and AvgPx. The average is rounded down to a unit of the quote currency."""
    average = value * 10**product.base_scale // filled if filled else 0
    return [
        (tags.LEAVES_QTY, product.size(left)),
        (tags.CUM_QTY, product.size(filled)),
        (tags.AVG_PX, to_text(average, product.quote_scale)),
    ]

"""From an order's request to the command for the engine, and from a refusal of it to the answer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from node.errors import RequestFailed
from node.gateway.catalogue import Product
from node.gateway.decimals import to_units
from node.gateway.errors import ApiError, BadRequestError
from node.gateway.ids import check_name, order_text, product_text
from node.gateway.reasons import SIZES, rejection
from node.gateway.requests import OrderRequest, choice, given, raw_text
from node.gateway.responses import order_json
from node.gateway.shapes import OrderJson
from node.gateway.terms import STOPS, lifetime, stop_type
from node.gateway.web import Call
from node.native.protocol import FailCode, OrderQuery
from statemachine.commands import PlaceOrder
from statemachine.events import AnyOutcome, OrderState, Placed, Rejected
from statemachine.types import OrderType, Reason, SelfTradePrevention, Side, StopType, TimeInForce

SIDES = {"buy": Side.BUY, "sell": Side.SELL}
TYPES = {"limit": OrderType.LIMIT, "market": OrderType.MARKET, "stop": OrderType.MARKET}
TIMES_IN_FORCE = {time.name: time for time in TimeInForce} | {"PO": TimeInForce.GTC}
STPS = {stp.name.lower(): stp for stp in SelfTradePrevention}


async def placing(call: Call, request: OrderRequest) -> tuple[Product, PlaceOrder]:
    """The product and the command of a request. Raises ApiError."""
    # Before anything is refused: when the request comes again, each of its orders must have the place that it had.
    place = call.next_place()
    _refuse_unsupported(request)
    call.check_profile(request.profile_id)
    product = await call.gateway.catalogue.product(product_text(request.product_id))
    command_id = "" if request.client_oid else call.id_of_place(place)
    return product, place_command(request, call.account_id, product, command_id)


async def present(call: Call, outcome: AnyOutcome) -> AnyOutcome:
    """The outcome of an order that was placed before, with the order's present state where this node has it still; else with its first one."""
    if not isinstance(outcome, Placed):
        return outcome
    try:
        order: OrderState = await call.read(OrderQuery(call.account_id, outcome.order.order_id))
    except RequestFailed as error:
        if error.code is not FailCode.NOT_FOUND:
            raise
        return outcome
    return msgspec.structs.replace(outcome, order=order)


def placed(outcome: AnyOutcome, product: Product, command: PlaceOrder) -> OrderJson:
    """The order that entered. Raises ApiError for one that was refused."""
    if isinstance(outcome, Placed):
        return order_json(outcome.order, product)
    raise _refused(outcome, product, command.side)


def place_command(request: OrderRequest, account_id: str, product: Product, command_id: str) -> PlaceOrder:
    """The command for a request, numbers in smallest units; `command_id` is for one without a client_oid. Raises BadRequestError naming the field."""
    order_type = choice(request.type, TYPES, "type")
    price, stop_price = request.price, request.stop_price
    if order_type is OrderType.LIMIT:
        raw_text(price, "price")
        raw_text(request.size, "size")
    elif not (given(request.size) or given(request.funds)):
        raise BadRequestError("size or funds is required", "size")
    if request.type == "stop" and not given(stop_price):
        price, stop_price = msgspec.Raw(b""), price
        raw_text(stop_price, "stop_price")
    side = choice(request.side, SIDES, "side")
    time_in_force = request.time_in_force or "GTC"
    client_oid = check_name(request.client_oid, "client_oid") if request.client_oid is not None else ""
    return PlaceOrder(
        account_id,
        f"c:{client_oid}" if client_oid else command_id,
        product.row.product_id,
        side,
        order_type,
        _quote_units(price, product, "price"),
        _size(request, product),
        _quote_units(request.funds, product, "funds"),
        choice(time_in_force, TIMES_IN_FORCE, "time_in_force"),
        bool(request.post_only) or time_in_force == "PO",
        choice(request.stp or "dc", STPS, "stp"),
        client_oid,
        _stop(request, side, given(stop_price)),
        _quote_units(stop_price, product, "stop_price"),
        _cancel_after(request),
    )


def _quote_units(raw: msgspec.Raw, product: Product, field: str) -> int:
    """A price or funds; 0 where it was not given."""
    return to_units(raw_text(raw, field), product.quote_scale, field) if given(raw) else 0


def _stop(request: OrderRequest, side: Side, priced: bool) -> StopType:
    if request.stop is not None:
        choice(request.stop, STOPS, "stop")
        if not priced:
            raise BadRequestError("stop_price is required with stop", "stop_price")
    return stop_type(request.stop, side) if priced else StopType.NONE


def _cancel_after(request: OrderRequest) -> int:
    """Nanoseconds that a good-till-time order lives; 0 for another."""
    if request.time_in_force == "GTT" and request.cancel_after is None:
        raise BadRequestError("cancel_after is required with time_in_force GTT", "cancel_after")
    if request.cancel_after is None:
        return 0
    if request.time_in_force != "GTT":
        raise BadRequestError("cancel_after requires time_in_force GTT", "cancel_after")
    try:
        return lifetime(str(request.cancel_after))
    except ValueError as error:
        raise BadRequestError(f"cancel_after {error}", "cancel_after") from None


def _size(request: OrderRequest, product: Product) -> int:
    if not given(request.size):
        return 0
    try:
        size = to_units(raw_text(request.size, "size"), product.base_scale, "size")
    except BadRequestError as error:
        raise _too_small(product) if error.message == "size too small" else error from None
    if size == 0:
        raise _too_small(product)
    return size


def _too_small(product: Product) -> BadRequestError:
    return BadRequestError(
        f"size is too small. Minimum size is {product.size(product.row.min_size)}", "size", reason="size_too_small"
    )


def _refuse_unsupported(request: OrderRequest) -> None:
    """Refuse what the exchange does not do, rather than trade without it."""
    for name, raw in (("stop_limit_price", request.stop_limit_price), ("max_floor", request.max_floor)):
        if given(raw):
            raise BadRequestError(f"{name} is not supported", name)


def _refused(outcome: AnyOutcome, product: Product, side: Side) -> ApiError:
    assert isinstance(outcome, Rejected), outcome
    number: Callable[[int], str] = product.price
    if outcome.reason is Reason.COMMAND_ID_REUSED:
        number = order_text
    elif outcome.reason in SIZES or (outcome.reason is Reason.INSUFFICIENT_FUNDS and side is Side.SELL):
        number = product.size
    return rejection(outcome, _message(outcome, product), number=number)


def _message(outcome: Rejected, product: Product) -> str:
    """What replaces the reason's text where more can be said."""
    match outcome.reason:
        case Reason.SIZE_TOO_SMALL | Reason.INVALID_SIZE:
            return _too_small(product).message
        case Reason.SIZE_TOO_LARGE:
            return f"size is too large. Maximum size is {product.size(product.row.max_size)}"
        case Reason.INVALID_PRICE:
            return "price too small"
        case Reason.PRICE_OFF_TICK:
            return f"{outcome.field} too precise"
        case Reason.INVALID_STOP:
            return f"Invalid stop order: {outcome.detail}"
        case _:
            return ""

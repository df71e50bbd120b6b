"""Calls that amend and replace orders, place pairs of orders, and cancel orders by a timer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import msgspec
from msgspec import UNSET, UnsetType

from node.errors import RequestFailed
from node.gateway.calls import Answer, Call
from node.gateway.catalogue import Product
from node.gateway.errors import ApiError, BadRequestError, ErrorJson, UnknownHereError, rejection
from node.gateway.orders import OrderJson, OrderRequest, check_count, named, place_command, refusal, tried
from node.gateway.requests import DecimalText, absent, amount_above_zero, choice, parse
from node.gateway.values import SIDES, STPS, SideWord, StpWord, iso, optional_name, order_number, product_text
from node.native.protocol import OrderQuery
from statemachine.commands import AmendOrder, CancelAllAfter, NewOrder, PlacePair, ReplaceOrder
from statemachine.events import Amended, AnyOutcome, Armed, OrderState, Paired, Rejected, Replaced
from statemachine.limits import SECOND_NS
from statemachine.types import Reason, Side

TIMEOUT_MAX = 86_400
"""The longest timer, in seconds: a day."""


class AmendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PUT and PATCH /orders/{id}: the fields to change. `size` includes the filled part."""

    size: DecimalText = msgspec.field(default_factory=absent)
    price: DecimalText = msgspec.field(default_factory=absent)
    stop_price: DecimalText = msgspec.field(default_factory=absent)
    product_id: str | None = None
    profile_id: str | None = None


class AmendItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order of a batch and the fields to change. `order_id` or `client_oid` names the order."""

    order_id: str | None = None
    client_oid: str | None = None
    size: DecimalText = msgspec.field(default_factory=absent)
    price: DecimalText = msgspec.field(default_factory=absent)
    stop_price: DecimalText = msgspec.field(default_factory=absent)
    product_id: str | None = None


class BatchAmendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /orders/batch_amend."""

    orders: list[AmendItem]


class AmendResultJson(msgspec.Struct, kw_only=True):
    """The result of one amendment of a batch: `order`, or `error`."""

    success: bool
    order: OrderJson | UnsetType = UNSET
    error: ErrorJson | UnsetType = UNSET
    order_id: str | UnsetType = UNSET
    client_oid: str | UnsetType = UNSET

    @classmethod
    def of(cls, item: AmendItem, found: OrderJson | ApiError) -> Self:
        """Return the result of an item."""
        return cls(
            success=isinstance(found, OrderJson),
            order=found if isinstance(found, OrderJson) else UNSET,
            error=found.body() if isinstance(found, ApiError) else UNSET,
            order_id=item.order_id or UNSET,
            client_oid=item.client_oid or UNSET,
        )


class BatchAmendJson(msgspec.Struct, kw_only=True):
    """Results in the order of the request."""

    results: list[AmendResultJson]


class ReplaceJson(msgspec.Struct, kw_only=True):
    """The cancelled order and its replacement."""

    cancelled: OrderJson
    placed: OrderJson


class PairRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /orders/pair: a limit order at `price` and a stop order at `stop_price`. When one executes, the other is
    cancelled. With `stop_limit_price` the stop order is a stop-limit order.
    """

    product_id: str
    side: SideWord
    size: DecimalText
    price: DecimalText
    stop_price: DecimalText
    stop_limit_price: DecimalText = msgspec.field(default_factory=absent)
    stp: StpWord | None = None
    client_oid: str | None = None
    stop_client_oid: str | None = None
    session: str | None = None
    profile_id: str | None = None


class PairJson(msgspec.Struct, kw_only=True):
    """Two orders of which one cancels the other."""

    limit: OrderJson
    stop: OrderJson


class TimerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /orders/cancel-all-after: the seconds until the timer fires; 0 removes it. `session`: only orders with this
    tag.
    """

    timeout: int
    session: str | None = None
    profile_id: str | None = None


class TimerJson(msgspec.Struct, kw_only=True):
    """The time when the timer fires; null if it was removed."""

    trigger_time: str | None
    session: str


async def pair(call: Call) -> Answer[PairJson]:
    """POST /orders/pair: place a limit order and a stop order of the same side and size, of which one cancels the
    other.
    """
    request = parse(call.body, PairRequest)
    call.check_profile(request.profile_id)
    product = await call.gateway.catalogue.product(product_text(request.product_id))
    names = [
        optional_name(text, field)
        for field, text in (
            ("client_oid", request.client_oid),
            ("stop_client_oid", request.stop_client_oid),
            ("session", request.session),
        )
    ]
    side = choice(request.side, SIDES, "side")
    command = PlacePair(
        call.account_id,
        f"c:{names[0]}" if names[0] else call.command_id(),
        product.row.product_id,
        side,
        amount_above_zero(request.size, product.base_scale, "size"),
        amount_above_zero(request.price, product.quote_scale, "price"),
        amount_above_zero(request.stop_price, product.quote_scale, "stop_price"),
        amount_above_zero(request.stop_limit_price, product.quote_scale, "stop_limit_price"),
        choice(request.stp or "dc", STPS, "stp"),
        *names,
    )
    outcome = await call.command(command)
    if not isinstance(outcome, Paired):
        raise refusal(outcome, product, side)
    return Answer(PairJson(limit=OrderJson.of(outcome.limit, product), stop=OrderJson.of(outcome.stop, product)))


async def cancel_all_after(call: Call) -> Answer[TimerJson]:
    """POST /orders/cancel-all-after: cancel the account's orders after so many seconds, unless the call is repeated
    before then. 0 removes the timer.
    """
    request = parse(call.body, TimerRequest)
    call.check_profile(request.profile_id)
    if not 0 <= request.timeout <= TIMEOUT_MAX:
        raise BadRequestError(f"timeout must be a whole number of seconds from 0 to {TIMEOUT_MAX}", "timeout")
    session = optional_name(request.session, "session")
    outcome = await call.command(CancelAllAfter(call.account_id, call.command_id(), request.timeout * SECOND_NS, session))
    if not isinstance(outcome, Armed):
        assert isinstance(outcome, Rejected), outcome
        raise rejection(outcome)
    return Answer(TimerJson(trigger_time=iso(outcome.fires_at) if outcome.fires_at else None, session=session))


async def amend(call: Call) -> Answer[OrderJson]:
    """PUT /orders/{id}: change size, price or stop price; the order keeps its id. Only a reduced size keeps its time
    priority.
    """
    request = parse(call.body, AmendRequest)
    call.check_profile(request.profile_id)
    order_id, client_oid = named(call)
    product, command = await amendment(call, request, order_id, client_oid, call.command_id())
    outcome = await call.command(command)
    return Answer(amended(outcome, product, await side_of(outcome, command, call.read)))


async def amendment(
    call: Call, request: AmendRequest | AmendItem, order_id: int, client_oid: str, command_id: str
) -> tuple[Product, AmendOrder]:
    """Return the order's product and the command. Raises ApiError."""
    product = await _product(call, request.product_id, order_id, client_oid)
    size, price, stop_price = units_above_zero(request, product)
    named_product = product.row.product_id if request.product_id is not None else ""
    return product, AmendOrder(call.account_id, command_id, order_id, client_oid, named_product, size, price, stop_price)


def units_above_zero(request: AmendRequest | AmendItem, product: Product) -> tuple[int, int, int]:
    """Return size, price and stop price, with 0 for unchanged ones. Raises BadRequestError, also if nothing would
    change.
    """
    size, price, stop_price = (
        amount_above_zero(raw, scale, field)
        for field, raw, scale in (
            ("size", request.size, product.base_scale),
            ("price", request.price, product.quote_scale),
            ("stop_price", request.stop_price, product.quote_scale),
        )
    )
    if not (size or price or stop_price):
        raise BadRequestError("size, price or stop_price is required: what is to change", "size")
    return size, price, stop_price


async def _product(call: Call, product_id: str | None, order_id: int, client_oid: str) -> Product:
    """Return the product that the request names, or else the product of the order. Raises ApiError 404."""
    if product_id is None and not order_id and not client_oid:
        raise ApiError(404, "order not found", "id")
    query, unknown = OrderQuery(call.account_id, order_id, client_oid), UnknownHereError(404, "order not found", "id")
    return await call.gateway.catalogue.product_of(product_id, query, call.read, unknown)


def amended(outcome: AnyOutcome, product: Product, side: Side) -> OrderJson:
    """Return the amended order. Raises ApiError if the amendment was rejected."""
    if isinstance(outcome, Amended):
        return OrderJson.of(outcome.order, product)
    raise refusal(outcome, product, side)


async def side_of(outcome: AnyOutcome, command: AmendOrder, ask: Callable[[OrderQuery], Awaitable[Any]]) -> Side:
    """Return the side of the order if its amendment was rejected for lack of funds: the missing amount is in the
    currency with which this side pays. For any other outcome the side does not matter.
    """
    if isinstance(outcome, Rejected) and outcome.reason is Reason.INSUFFICIENT_FUNDS:
        with suppress(RequestFailed):  # it may be done by now
            order: OrderState = await ask(OrderQuery(command.account_id, command.order_id, command.client_oid))
            return order.side
    return Side.BUY


async def amend_batch(call: Call) -> Answer[BatchAmendJson]:
    """POST /orders/batch_amend: amend several orders. The results have the order of the request. A rejected amendment
    does not affect the others.
    """
    request = parse(call.body, BatchAmendRequest)
    check_count(len(request.orders), "orders")
    found = [await tried(call, _item(call, item)) for item in request.orders]
    outcomes = iter(await call.commands([each[1] for each in found if not isinstance(each, ApiError)]))
    results: Sequence[OrderJson | ApiError] = [
        each if isinstance(each, ApiError) else await _result(call, next(outcomes), *each) for each in found
    ]
    return Answer(
        BatchAmendJson(results=[AmendResultJson.of(item, each) for item, each in zip(request.orders, results, strict=True)])
    )


async def _item(call: Call, item: AmendItem) -> tuple[Product, AmendOrder]:
    """Return the product and the command of one item of a batch."""
    command_id = call.command_id()  # before any error: in a replay each item must have the same id
    if (item.order_id is None) == (item.client_oid is None):
        raise BadRequestError("order_id or client_oid is required, and not both", "order_id")
    order_id = order_number(item.order_id, "order_id") if item.order_id is not None else 0
    client_oid = optional_name(item.client_oid, "client_oid")
    return await amendment(call, item, order_id, client_oid, command_id)


async def _result(call: Call, outcome: AnyOutcome, product: Product, command: AmendOrder) -> OrderJson | ApiError:
    try:
        return amended(outcome, product, await side_of(outcome, command, call.read))
    except ApiError as error:
        return error


async def replace(call: Call) -> Answer[ReplaceJson]:
    """POST /orders/{id}/replace: cancel the order and place another in one step. If the new order is rejected, the old
    one stays.
    """
    request = parse(call.body, OrderRequest)
    call.check_profile(request.profile_id)
    order_id, client_oid = named(call)
    product = await call.gateway.catalogue.product(product_text(request.product_id))
    order = place_command(request, call.account_id, product, "")
    fields = {name: getattr(order, name) for name in NewOrder.__struct_fields__}
    if not order_id and not client_oid:
        raise ApiError(404, "order not found", "id")
    command = ReplaceOrder(call.account_id, call.command_id(), order_id, client_oid, "", NewOrder(**fields))
    outcome = await call.command(command)
    if not isinstance(outcome, Replaced):
        raise refusal(outcome, product, order.side)
    old = await call.gateway.catalogue.product(outcome.cancelled.product_id)
    return Answer(ReplaceJson(cancelled=OrderJson.of(outcome.cancelled, old), placed=OrderJson.of(outcome.placed, product)))

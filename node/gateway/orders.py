"""Orders: placing and cancelling, one or many in a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from fractions import Fraction
from typing import Self, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from node.budget import Cost
from node.errors import RequestFailed
from node.gateway.backend import Outcomes
from node.gateway.calls import Answer, Call
from node.gateway.catalogue import Product
from node.gateway.errors import SIZES, ApiError, BadRequestError, ErrorJson, UnknownHereError, rejection
from node.gateway.requests import (
    PAGE_MAX,
    DecimalText,
    absent,
    amount_above_zero,
    choice,
    cursors,
    decimal_units,
    given,
    moment,
    page_limit,
    parse,
    period,
    raw_text,
)
from node.gateway.values import (
    DONE_WORDS,
    GOOD_FOR,
    GOOD_FOR_WORDS,
    ORDER_STATUS_WORDS,
    ORDER_TYPE_WORDS,
    REQUESTED_TIMES,
    REQUESTED_TYPES,
    SIDE_WORDS,
    SIDES,
    STOP_WORDS,
    STOPS,
    STP_WORDS,
    STPS,
    TIME_IN_FORCE_WORDS,
    DoneReasonWord,
    GoodForWord,
    OrderStatusWord,
    OrderTypeWord,
    RequestedTimeWord,
    RequestedTypeWord,
    SideWord,
    StopWord,
    StpWord,
    TimeInForceWord,
    check_name,
    iso,
    lifetime,
    optional_name,
    order_number,
    order_span,
    order_text,
    plain,
    product_text,
    stop_type,
    to_units,
)
from node.history.pages import PageRequest
from node.native.protocol import FailCode, OrderQuery, OrdersQuery
from statemachine.commands import CancelAll, CancelOrder, OrderOptions, PlaceOrder
from statemachine.events import AnyOutcome, Cancelled, OrderState, OrderTerms, Placed, Rejected
from statemachine.types import GoodFor, OrderStatus, OrderType, Reason, Side, StopType

Item = TypeVar("Item")


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /orders. `stop_limit_price` and `max_floor` are listed so that the error can name them."""

    product_id: str
    side: SideWord
    type: RequestedTypeWord = "limit"
    price: DecimalText = msgspec.field(default_factory=absent)
    size: DecimalText = msgspec.field(default_factory=absent)
    funds: DecimalText = msgspec.field(default_factory=absent)
    client_oid: str | None = None
    time_in_force: RequestedTimeWord | None = None
    post_only: bool | None = None
    stp: StpWord | None = None
    profile_id: str | None = None
    cancel_after: str | int | None = None
    stop: StopWord | None = None
    stop_price: DecimalText = msgspec.field(default_factory=absent)
    stop_limit_price: DecimalText = msgspec.field(default_factory=absent)
    max_floor: DecimalText = msgspec.field(default_factory=absent)
    display_size: DecimalText = msgspec.field(default_factory=absent)
    trail: DecimalText = msgspec.field(default_factory=absent)
    take_profit_price: DecimalText = msgspec.field(default_factory=absent)
    stop_loss_price: DecimalText = msgspec.field(default_factory=absent)
    stop_loss_limit_price: DecimalText = msgspec.field(default_factory=absent)
    good_for: GoodForWord | None = None
    expire_time: str | None = None
    session: str | None = None


class BatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /orders/batch."""

    orders: list[OrderRequest]


class BatchCancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /orders/batch_cancel: orders named by order ids, client ids, or both."""

    order_ids: list[str] = []
    client_oids: list[str] = []


class CancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """DELETE /orders and /orders/{id}: the optional body, or the query parameters of the same names."""

    product_id: str | None = None
    profile_id: str | None = None


class OrderJson(msgspec.Struct, kw_only=True):
    """An order. `queued` means that it is accepted, and enters the book after the current opening of an auction."""

    id: str
    product_id: str
    side: SideWord
    type: OrderTypeWord
    stp: StpWord
    time_in_force: TimeInForceWord
    post_only: bool
    created_at: str
    fill_fees: str
    filled_size: str
    executed_value: str
    status: OrderStatusWord
    settled: bool
    profile_id: str
    price: str | UnsetType = UNSET
    size: str | UnsetType = UNSET
    funds: str | UnsetType = UNSET
    specified_funds: str | UnsetType = UNSET
    client_oid: str | UnsetType = UNSET
    stop: StopWord | UnsetType = UNSET
    stop_price: str | UnsetType = UNSET
    expire_time: str | UnsetType = UNSET
    done_reason: DoneReasonWord | UnsetType = UNSET
    done_at: str | UnsetType = UNSET
    queued: bool | UnsetType = UNSET
    session: str | UnsetType = UNSET
    display_size: str | UnsetType = UNSET
    visible_size: str | UnsetType = UNSET
    trail: str | UnsetType = UNSET
    good_for: GoodForWord | UnsetType = UNSET
    take_profit_price: str | UnsetType = UNSET
    stop_loss_price: str | UnsetType = UNSET
    stop_loss_limit_price: str | UnsetType = UNSET
    linked_order_id: str | UnsetType = UNSET

    @classmethod
    def of(cls, order: OrderState, product: Product) -> Self:
        """Return the JSON object of an order."""
        done = order.status is OrderStatus.DONE
        funds = product.price(order.funds) if order.funds else UNSET
        found = cls(
            id=order_text(order.order_id),
            product_id=order.product_id,
            side=SIDE_WORDS[order.side],
            type=ORDER_TYPE_WORDS[order.order_type],
            stp=STP_WORDS[order.stp],
            time_in_force=TIME_IN_FORCE_WORDS[order.time_in_force],
            post_only=order.post_only,
            created_at=iso(order.created_at),
            fill_fees=product.price(order.fill_fees),
            filled_size=product.size(order.filled_size),
            executed_value=product.price(order.executed_value),
            status=ORDER_STATUS_WORDS[order.status],
            settled=done,
            profile_id=order.account_id,
            price=product.price(order.price) if order.order_type is OrderType.LIMIT else UNSET,
            size=product.size(order.size) if order.size else UNSET,
            funds=funds,
            specified_funds=funds,
            client_oid=order.client_oid or UNSET,
            stop=STOP_WORDS[order.stop] if order.stop else UNSET,
            stop_price=product.price(order.stop_price) if order.stop else UNSET,
            expire_time=iso(order.expires_at) if order.expires_at else UNSET,
            done_reason=DONE_WORDS[order.done_reason] if done else UNSET,
            done_at=iso(order.done_at) if done else UNSET,
            queued=True if order.queued else UNSET,
        )
        if order.terms is not None:
            found._add(order.terms, product)
        return found

    def _add(self, terms: OrderTerms, product: Product) -> None:
        """Set the optional fields of an order that is not plain."""

        def price(units: int) -> str | UnsetType:
            return product.price(units) if units else UNSET

        self.session = terms.session or UNSET
        self.display_size = product.size(terms.display_size) if terms.display_size else UNSET
        self.visible_size = product.size(terms.visible) if terms.visible else UNSET
        self.trail = price(terms.trail)
        self.good_for = GOOD_FOR_WORDS.get(terms.good_for, UNSET)
        self.take_profit_price = price(terms.take_profit)
        self.stop_loss_price = price(terms.stop_loss)
        self.stop_loss_limit_price = price(terms.stop_loss_limit)
        self.linked_order_id = order_text(terms.link) if terms.link else UNSET


class PlaceResultJson(msgspec.Struct, kw_only=True):
    """The result of one order of a batch: `order`, or `error`."""

    success: bool
    order: OrderJson | UnsetType = UNSET
    error: ErrorJson | UnsetType = UNSET
    client_oid: str | UnsetType = UNSET

    @classmethod
    def refused(cls, error: ApiError, client_oid: str | None) -> Self:
        """Return the result of a rejected order."""
        return cls(success=False, error=error.body(), client_oid=UNSET if client_oid is None else client_oid)


class BatchJson(msgspec.Struct, kw_only=True):
    """Results in the order of the request."""

    results: list[PlaceResultJson]


class CancelResultJson(msgspec.Struct, kw_only=True):
    """The result of one cancel of a batch."""

    success: bool
    order_id: str | UnsetType = UNSET
    client_oid: str | UnsetType = UNSET
    error: ErrorJson | UnsetType = UNSET


class BatchCancelJson(msgspec.Struct, kw_only=True):
    """Results in the order of the request."""

    results: list[CancelResultJson]


async def placing(call: Call, request: OrderRequest) -> tuple[Product, PlaceOrder]:
    """Return the product and the command of a request. Raises ApiError."""
    # This comes before any rejection: in a replay of the request each order must have the same place.
    place = call.next_place()
    call.check_profile(request.profile_id)
    product = await call.gateway.catalogue.product(product_text(request.product_id))
    command_id = "" if request.client_oid else call.id_of_place(place)
    return product, place_command(request, call.account_id, product, command_id)


async def present(call: Call, outcome: AnyOutcome) -> AnyOutcome:
    """Return the outcome of an order that was placed before. It has the order's present state if this node still holds
    it, else its first state.
    """
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
    """Return the accepted order. Raises ApiError for a rejected one."""
    if isinstance(outcome, Placed):
        return OrderJson.of(outcome.order, product)
    raise refusal(outcome, product, command.side)


def place_command(request: OrderRequest, account_id: str, product: Product, command_id: str) -> PlaceOrder:
    """Return the command for a request, with numbers in smallest units. `command_id` is used if the request has no
    client_oid. Raises BadRequestError naming the field.
    """
    _refuse_unsupported(request)
    order_type = choice(request.type, REQUESTED_TYPES, "type")
    price, stop_price = request.price, request.stop_price
    if order_type is OrderType.LIMIT:
        raw_text(price, "price")
        raw_text(request.size, "size")
    elif not (given(request.size) or given(request.funds)):
        raise BadRequestError("size or funds is required", "size")
    if request.type == "stop" and not given(stop_price) and (given(price) or not given(request.trail)):
        price, stop_price = msgspec.Raw(b""), price
        raw_text(stop_price, "stop_price")
    side = choice(request.side, SIDES, "side")
    time_in_force = request.time_in_force or ("GTT" if request.good_for == "day" else "GTC")
    client_oid = optional_name(request.client_oid, "client_oid")
    return PlaceOrder(
        account_id,
        f"c:{client_oid}" if client_oid else command_id,
        product.row.product_id,
        side,
        order_type,
        _quote_units(price, product, "price"),
        _size(request, product),
        amount_above_zero(request.funds, product.quote_scale, "funds"),
        choice(time_in_force, REQUESTED_TIMES, "time_in_force"),
        bool(request.post_only) or time_in_force == "PO",
        choice(request.stp or "dc", STPS, "stp"),
        client_oid,
        _stop(request, side, given(stop_price)),
        _quote_units(stop_price, product, "stop_price"),
        _cancel_after(request),
        _options(request, product),
    )


def _options(request: OrderRequest, product: Product) -> OrderOptions | None:
    """Return the optional terms of an order, or None for a plain order. Raises BadRequestError naming the field."""
    options = OrderOptions(
        optional_name(request.session, "session"),
        amount_above_zero(request.display_size, product.base_scale, "display_size"),
        amount_above_zero(request.trail, product.quote_scale, "trail"),
        choice(request.good_for, GOOD_FOR, "good_for") if request.good_for is not None else GoodFor.ANY,
        moment(request.expire_time, "expire_time") if request.expire_time is not None else 0,
        amount_above_zero(request.take_profit_price, product.quote_scale, "take_profit_price"),
        amount_above_zero(request.stop_loss_price, product.quote_scale, "stop_loss_price"),
        amount_above_zero(request.stop_loss_limit_price, product.quote_scale, "stop_loss_limit_price"),
    )
    if not 0 <= options.expires_at < 2**63:
        raise BadRequestError("expire_time is too far away", "expire_time")
    return options if options != _PLAIN else None


def _quote_units(raw: msgspec.Raw, product: Product, field: str) -> int:
    """Return a price, or 0 if the field was not given."""
    return decimal_units(raw, product.quote_scale, field, 0)


def _stop(request: OrderRequest, side: Side, priced: bool) -> StopType:
    """Return the kind of stop of an order."""
    if request.stop is not None:
        choice(request.stop, STOPS, "stop")
        if not priced and not given(request.trail):
            raise BadRequestError("stop_price is required with stop", "stop_price")
    trails = given(request.trail) and (request.stop is not None or request.type == "stop")
    return stop_type(request.stop, side) if priced or trails else StopType.NONE


def _cancel_after(request: OrderRequest) -> int:
    """Return the lifetime of a good-till-time order in nanoseconds, or 0 for other orders."""
    ends = request.cancel_after is not None or request.expire_time is not None or request.good_for == "day"
    if request.time_in_force == "GTT" and not ends:
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
    """Return the size of an order in units. Raises BadRequestError."""
    if not given(request.size):
        return 0
    try:
        size = decimal_units(request.size, product.base_scale, "size")
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
    """Refuse options that the exchange does not support, instead of trading without them."""
    for name, raw in (("stop_limit_price", request.stop_limit_price), ("max_floor", request.max_floor)):
        if given(raw):
            raise BadRequestError(f"{name} is not supported", name)


def refusal(outcome: AnyOutcome, product: Product, side: Side) -> ApiError:
    """Return the error of a rejected order. Amounts in its text are prices, sizes or order ids, whichever the reason is
    about.
    """
    assert isinstance(outcome, Rejected), outcome
    number: Callable[[int], str] = product.price
    if outcome.reason is Reason.COMMAND_ID_REUSED:
        number = order_text
    elif outcome.reason in SIZES or (outcome.reason is Reason.INSUFFICIENT_FUNDS and side is Side.SELL):
        number = product.size
    return rejection(outcome, _message(outcome, product), number=number)


def _message(outcome: Rejected, product: Product) -> str:
    """Return a more specific text for a reject reason, if there is one."""
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


LIVE = frozenset({OrderStatus.OPEN, OrderStatus.ACTIVE})
DONE = frozenset({OrderStatus.DONE})
STATUSES: dict[str, frozenset[OrderStatus]] = {
    "open": frozenset({OrderStatus.OPEN}),
    "active": frozenset({OrderStatus.ACTIVE}),
    "done": DONE,
    "settled": DONE,
    "all": LIVE | DONE,
    "pending": frozenset(),
    "received": frozenset(),
    "rejected": frozenset(),
}
"""The order states behind the statuses of a list. No order has the status pending, received or rejected, because an
order is answered with its outcome.
"""
SORTED_BY: dict[str, Callable[[OrderState, Product], Fraction | int | str]] = {
    "created_at": lambda order, _product: order.order_id,
    "price": lambda order, product: Fraction(order.price, 10**product.quote_scale),
    "size": lambda order, product: Fraction(order.size, 10**product.base_scale),
    "order_id": lambda order, _product: order.order_id,
    "side": lambda order, _product: SIDE_WORDS[order.side],
    "type": lambda order, _product: ORDER_TYPE_WORDS[order.order_type],
}
"""The sort keys of lists, in the parameters of Coinbase Exchange. Equal orders are newest first."""
_PLAIN = OrderOptions()
CLIENT_PREFIX = "client:"
PENDING_HEADER = "x-quorumbook-pending"


async def place(call: Call) -> Answer[OrderJson]:
    """POST /orders: place an order. The answer comes when the order is durable and applied, and shows its state at that
    time. A repeated client_oid is answered with the order's present state.
    """
    return await ordered(call, *await placing(call, parse(call.body, OrderRequest)))


async def ordered(call: Call, product: Product, command: PlaceOrder, begun: Outcomes | None = None) -> Answer[OrderJson]:
    """Return the answer to an order. `begun`: see `Call.commands`."""
    outcome = await call.command(command, begun)
    if outcome.duplicate:
        outcome = await present(call, outcome)
    return Answer(placed(outcome, product, command), {"x-quorumbook-duplicate": "true"} if outcome.duplicate else {})


async def order_list(call: Call) -> Answer[list[OrderJson]]:
    """GET /orders: newest first. Without `status` only open orders are listed. `after` selects older ones."""
    parameters = call.parameters()
    limit = page_limit(parameters)
    before_id, newer_than = order_span(parameters)
    start, end = period(parameters)
    statuses = _statuses(call.request.query.get("status", []))
    product_id = ""
    if "product_id" in parameters:
        product_id = (await call.gateway.catalogue.product(product_text(parameters["product_id"]))).row.product_id
    if (parameters.get("sortedBy", "created_at"), parameters.get("sorting", "desc")) != ("created_at", "desc"):
        return await _sorted_list(call, product_id, statuses, parameters)
    page: list[OrderState] = []
    if statuses:
        span = (before_id, newer_than)
        page = await _found(call, product_id, statuses, span, PageRequest(limit, start=start, end=end))
    return Answer([await _order_body(call, order) for order in page], cursors(page, lambda order: order_text(order.order_id)))


async def _sorted_list(
    call: Call, product_id: str, statuses: frozenset[OrderStatus], parameters: Mapping[str, str]
) -> Answer[list[OrderJson]]:
    """Sort in an order other than newest first. This is possible for live orders only: their number is bounded, and all
    of them are read. The key is charged for the rows.
    """
    by = choice(parameters.get("sortedBy", "created_at"), SORTED_BY, "sortedBy")
    backwards = choice(parameters.get("sorting", "desc"), {"desc": True, "asc": False}, "sorting")
    if not statuses <= LIVE or {"after", "before"} & set(parameters):
        text = "sortedBy and sorting go with live orders (status open or active) and without after and before; other lists are newest first"
        raise BadRequestError(text, "sortedBy" if "sortedBy" in parameters else "sorting")
    start, end = period(parameters)
    orders: list[OrderState] = []
    below = 0
    while statuses:
        page = await _found(call, product_id, statuses, (below, 0), PageRequest(PAGE_MAX, start=start, end=end))
        orders += page
        if len(page) < PAGE_MAX:
            break
        below = page[-1].order_id
    call.gateway.limits.keys.spend(call.caller.key_id, Cost.rows(len(orders)))
    products = {order.product_id: await call.gateway.catalogue.product(order.product_id) for order in orders}
    orders.sort(key=lambda order: by(order, products[order.product_id]), reverse=backwards)
    return Answer([await _order_body(call, order) for order in orders[: page_limit(parameters)]])


async def _found(
    call: Call, product_id: str, statuses: frozenset[OrderStatus], span: tuple[int, int], page: PageRequest
) -> list[OrderState]:
    """Return orders by descending id, up to the page's limit, within its times and with the wanted statuses. They come
    from the engine, and done orders also from the history. `span`: only ids below the first number (unless that is 0)
    and above the second.
    """
    account_id, done = call.account_id, statuses >= DONE
    before_id, newer_than = span
    current: list[OrderState] = await call.read(
        OrdersQuery(
            account_id,
            product_id,
            bool(statuses & LIVE),
            done,
            page.limit,
            before_id,
            above_id=newer_than,
            statuses=sum(1 << status for status in statuses),
            created_from=max(0, page.start or 0),
            created_to=0 if page.end is None else max(1, page.end),
        )
    )
    past = await call.past() if done else None
    if past is None:
        return current
    older = await past.ask(lambda history: history.done_orders(account_id, product_id, before_id, page))
    by_id = {order.order_id: order for order in (*older, *current) if order.order_id > newer_than}
    return [by_id[order_id] for order_id in sorted(by_id, reverse=True)[: page.limit]]


def _statuses(filters: list[str]) -> frozenset[OrderStatus]:
    """Return the order statuses that the filters of a list select."""
    names = [name for text in filters for name in text.split(",")]
    if not set(names) <= set(STATUSES):
        raise BadRequestError(f"status must be one of {', '.join(STATUSES)}", "status")
    return frozenset[OrderStatus]().union(*(STATUSES[name] for name in names)) if names else LIVE


async def order(call: Call) -> Answer[OrderJson]:
    """GET /orders/{id} and /orders/client:{client_oid}: one order of the key's account."""
    order_id, client_oid = named(call)
    if not order_id and not client_oid:
        raise ApiError(404, "NotFound", "id")
    try:
        found: OrderState = await call.read(OrderQuery(call.account_id, order_id, client_oid))
    except RequestFailed as error:
        if error.code is not FailCode.NOT_FOUND:
            raise
        retired = await _retired(call, order_id, client_oid)
        if retired is None:
            raise ApiError(404, "NotFound", "id") from None
        found = retired
    return Answer(await _order_body(call, found))


async def _retired(call: Call, order_id: int, client_oid: str) -> OrderState | None:
    """Return an order that only the history holds."""
    past, account_id = await call.past(), call.account_id
    if past is None:
        return None
    if order_id:
        return await past.ask(lambda history: history.order(account_id, order_id))
    return await past.ask(lambda history: history.order_by_client_oid(account_id, client_oid))


async def cancel(call: Call) -> Answer[str]:
    """DELETE /orders/{id} and /orders/client:{client_oid}: cancel an order. The answer is its id as a JSON string."""
    product_id = await _cancelled_product(call)
    order_id, client_oid = named(call)
    if not order_id and not client_oid:
        raise ApiError(404, "order not found", "id")
    return await cancelled(call, CancelOrder(call.account_id, call.command_id(), order_id, client_oid, product_id))


async def cancelled(call: Call, command: CancelOrder, begun: Outcomes | None = None) -> Answer[str]:
    """Return the answer to a cancel. `begun`: see `Call.commands`."""
    outcome = await call.command(command, begun)
    if isinstance(outcome, Cancelled):
        return Answer(order_text(outcome.orders[0].order_id))
    assert isinstance(outcome, Rejected), outcome
    raise rejection(outcome)


async def cancel_all(call: Call) -> Answer[list[str]]:
    """DELETE /orders: cancel all orders, or those of one product, side or range of prices. The answer lists the ids of
    the cancelled orders.

    `x-quorumbook-pending: true` means that the cancellation takes more than one log entry: the next entries cancel the
    remaining orders.
    """
    product_id = await _cancelled_product(call)
    query = call.parameters()
    side = choice(query["side"], SIDES, "side") if "side" in query else 0
    session = optional_name(query.get("session"), "session")
    product = await call.gateway.catalogue.product(product_id) if product_id else None
    low, high = price_range(query, product)
    outcome = await call.command(CancelAll(call.account_id, call.command_id(), product_id, side, low, high, session))
    if isinstance(outcome, Cancelled):
        headers = {PENDING_HEADER: "true"} if outcome.pending else {}
        return Answer([order_text(order.order_id) for order in outcome.orders], headers)
    assert isinstance(outcome, Rejected), outcome
    raise rejection(outcome)


def price_range(query: Mapping[str, str], product: Product | None) -> tuple[int, int]:
    """Return `price_min` and `price_max` in units, with 0 for an open end. Raises BadRequestError."""
    names = [name for name in ("price_min", "price_max") if name in query]
    if names and product is None:
        raise BadRequestError(f"{names[0]} needs a product_id", "product_id")
    if not names or product is None:
        return 0, 0
    scale = product.quote_scale
    low, high = (to_units(plain(query[name]), scale, name) if name in query else 0 for name in ("price_min", "price_max"))
    if "price_max" in query and not high:  # 0 would be an open end: the call would cancel everything
        raise BadRequestError("price_max too small", "price_max", detail="expected more than 0, or no such parameter")
    if high and low > high:
        raise BadRequestError("price_max must not be below price_min", "price_max")
    return low, high


async def _cancelled_product(call: Call) -> str:
    """Return the product to which a cancel is limited, from the query or the body, in either spelling, or ""."""
    request = parse(call.body, CancelRequest) if call.body.strip() else CancelRequest()
    query = call.parameters()
    call.check_profile(request.profile_id)
    names = {product_text(name) for name in (query.get("product_id"), request.product_id) if name is not None}
    if len(names) > 1:
        raise BadRequestError("product_id in the query and in the body differ", "product_id")
    return (await call.gateway.catalogue.product(names.pop())).row.product_id if names else ""


def named(call: Call) -> tuple[int, str]:
    """Return the order id or the client's id in the path. Both are empty for an id that no order can have."""
    text = call.path("id")
    if text.startswith(CLIENT_PREFIX):
        return 0, check_name(text.removeprefix(CLIENT_PREFIX), "client_oid")
    return order_number(text), ""


async def _order_body(call: Call, order: OrderState) -> OrderJson:
    return OrderJson.of(order, await call.gateway.catalogue.product(order.product_id))


ITEMS_MAX = 100
"""Orders of one request, well below the limit of a log entry."""


async def tried(call: Call, item: Awaitable[Item]) -> Item | ApiError:
    """Return an item of a batch, or the error that its client gets. Raises UnknownHereError at a node that does not
    lead, because the leader may know what is unknown here.
    """
    try:
        return await item
    except UnknownHereError as error:
        if call.status is None or call.status.role != "leader":
            raise
        return error
    except ApiError as error:
        return error


async def place_batch(call: Call) -> Answer[BatchJson]:
    """POST /orders/batch: place several orders. The results have the order of the request. A rejected order does not
    affect the others.
    """
    request = parse(call.body, BatchRequest)
    check_count(len(request.orders), "orders")
    items = [await tried(call, placing(call, order)) for order in request.orders]
    found = await call.commands([item[1] for item in items if not isinstance(item, ApiError)])
    outcomes = iter([await present(call, outcome) if outcome.duplicate else outcome for outcome in found])
    results = [
        PlaceResultJson.refused(item, order.client_oid)
        if isinstance(item, ApiError)
        else _placed(*item, next(outcomes), order.client_oid)
        for item, order in zip(items, request.orders, strict=True)
    ]
    return Answer(BatchJson(results=results))


def _placed(product: Product, command: PlaceOrder, outcome: AnyOutcome, client_oid: str | None) -> PlaceResultJson:
    """Return the result of one order of a batch."""
    try:
        order = placed(outcome, product, command)
    except ApiError as error:
        return PlaceResultJson.refused(error, client_oid)
    return PlaceResultJson(success=True, order=order, client_oid=UNSET if client_oid is None else client_oid)


async def cancel_batch(call: Call) -> Answer[BatchCancelJson]:
    """POST /orders/batch_cancel: cancel several orders. The answer has the results of `order_ids`, then of
    `client_oids`. An order that cannot be cancelled does not affect the others.
    """
    request = parse(call.body, BatchCancelRequest)
    check_count(len(request.order_ids) + len(request.client_oids), "order_ids")
    commands = [_cancel(call, order_number(text, "order_ids"), "") for text in request.order_ids]
    commands += [_cancel(call, 0, check_name(name, "client_oids")) for name in request.client_oids]
    outcomes = iter(await call.commands([command for command in commands if command.order_id or command.client_oid]))
    results = []
    for text, command in zip((*request.order_ids, *request.client_oids), commands, strict=True):
        sent = command.order_id or command.client_oid  # an id that no order can have was not sent
        result = _cancel_result(next(outcomes)) if sent else _not_cancelled(ApiError(404, "order not found", "id"))
        if command.client_oid:
            result.client_oid = text
        else:
            result.order_id = text
        results.append(result)
    return Answer(BatchCancelJson(results=results))


def _cancel(call: Call, order_id: int, client_oid: str) -> CancelOrder:
    return CancelOrder(call.account_id, call.command_id(), order_id, client_oid)


def _cancel_result(outcome: AnyOutcome) -> CancelResultJson:
    if isinstance(outcome, Cancelled):
        return CancelResultJson(success=True, order_id=order_text(outcome.orders[0].order_id))
    assert isinstance(outcome, Rejected), outcome
    return _not_cancelled(rejection(outcome))


def _not_cancelled(error: ApiError) -> CancelResultJson:
    return CancelResultJson(success=False, error=error.body())


def check_count(count: int, field: str) -> None:
    """Raise BadRequestError unless a request has 1 to `ITEMS_MAX` items."""
    if not 1 <= count <= ITEMS_MAX:
        raise BadRequestError(f"{field} must be 1 to {ITEMS_MAX}", field)

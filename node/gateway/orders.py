"""Orders: placing, cancelling and looking them up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from multidict import MultiDict

from node.errors import RequestFailed
from node.gateway.catalogue import Product
from node.gateway.decimals import to_units
from node.gateway.errors import ApiError, BadRequestError
from node.gateway.ids import check_name, order_number, order_text, product_text
from node.gateway.reasons import rejection
from node.gateway.requests import PAGE_MAX, CancelRequest, OrderRequest, given, moment, parameters, parse, raw_text, whole_number
from node.gateway.responses import order_json
from node.gateway.shapes import OrderJson
from node.gateway.web import Answer, Call
from node.native.protocol import FailCode, NodeStatus, OrderQuery, OrdersQuery, StatusQuery
from statemachine.commands import CancelAll, CancelOrder, PlaceOrder
from statemachine.events import AnyOutcome, Cancelled, OrderState, Placed, Rejected
from statemachine.types import OrderType, Reason, SelfTradePrevention, Side, TimeInForce

Value = TypeVar("Value")

SIDES = {"buy": Side.BUY, "sell": Side.SELL}
TYPES = {"limit": OrderType.LIMIT, "market": OrderType.MARKET}
TIMES_IN_FORCE = {"GTC": TimeInForce.GTC, "IOC": TimeInForce.IOC, "FOK": TimeInForce.FOK, "PO": TimeInForce.GTC}
STPS = {stp.name.lower(): stp for stp in SelfTradePrevention}
OPEN_STATUSES = frozenset({"open", "pending", "active", "received"})
DONE_STATUSES = frozenset({"done", "settled"})
CLIENT_PREFIX = "client:"
PAGES_SCANNED = 20
"""Pages read for one request that filters by date: bounds what one call costs the engine."""


async def place(call: Call) -> Answer[OrderJson]:
    """POST /orders. Answers when the order is durable and applied, with its state then; the same client_oid again, with that first state."""
    product, command = await placing(call, parse(call.body, OrderRequest))
    outcome = await call.command(command)
    return Answer(placed(outcome, product), {"x-quorumbook-duplicate": "true"} if outcome.duplicate else {})


async def placing(call: Call, request: OrderRequest) -> tuple[Product, PlaceOrder]:
    """The product and the command of a request. Raises ApiError."""
    _refuse_unsupported(request, call.account_id)
    product = await call.gateway.catalogue.product(product_text(request.product_id))
    return product, place_command(request, call.account_id, product, call.command_id())


def placed(outcome: AnyOutcome, product: Product) -> OrderJson:
    """The order that entered. Raises ApiError for one that was refused."""
    if isinstance(outcome, Placed):
        return order_json(outcome.order, product)
    raise _refused_order(outcome, product)


def place_command(request: OrderRequest, account_id: str, product: Product, command_id: str) -> PlaceOrder:
    """The command for a request, numbers in smallest units; `command_id` is for one without a client_oid. Raises BadRequestError naming the field."""
    order_type = _choice(request.type, TYPES, "type")
    if order_type is OrderType.LIMIT:
        raw_text(request.price, "price")
        raw_text(request.size, "size")
    elif not (given(request.size) or given(request.funds)):
        raise BadRequestError("size or funds is required", "size")
    time_in_force = request.time_in_force or "GTC"
    client_oid = check_name(request.client_oid, "client_oid") if request.client_oid is not None else ""
    return PlaceOrder(
        account_id,
        f"c:{client_oid}" if client_oid else command_id,
        product.row.product_id,
        _choice(request.side, SIDES, "side"),
        order_type,
        to_units(raw_text(request.price, "price"), product.quote_scale, "price") if given(request.price) else 0,
        _size(request, product),
        to_units(raw_text(request.funds, "funds"), product.quote_scale, "funds") if given(request.funds) else 0,
        _choice(time_in_force, TIMES_IN_FORCE, "time_in_force"),
        bool(request.post_only) or time_in_force == "PO",
        _choice(request.stp or "dc", STPS, "stp"),
        client_oid,
    )


def _choice(text: str, choices: Mapping[str, Value], field: str) -> Value:
    if text not in choices:
        raise BadRequestError(f"{field} must be one of {', '.join(choices)}", field)
    return choices[text]


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


def _refuse_unsupported(request: OrderRequest, account_id: str) -> None:
    """Refuse what the exchange does not do, rather than trade without it."""
    for name, present in (
        ("cancel_after", request.cancel_after is not None),
        ("stop", request.stop is not None),
        ("stop_price", given(request.stop_price)),
        ("stop_limit_price", given(request.stop_limit_price)),
        ("max_floor", given(request.max_floor)),
    ):
        if present:
            raise BadRequestError(f"{name} is not supported", name)
    if request.profile_id not in (None, account_id):
        raise BadRequestError("profile_id must be the account of the API key", "profile_id")


def _refused_order(outcome: AnyOutcome, product: Product) -> ApiError:
    assert isinstance(outcome, Rejected), outcome
    match outcome.reason:
        case Reason.SIZE_TOO_SMALL | Reason.INVALID_SIZE if outcome.field in ("size", ""):
            return _too_small(product)
        case Reason.SIZE_TOO_LARGE:
            return rejection(outcome, f"size is too large. Maximum size is {product.size(product.row.max_size)}")
        case Reason.INVALID_PRICE:
            return rejection(outcome, "price too small")
        case _:
            return rejection(outcome)


async def order_list(call: Call) -> Answer[list[OrderJson]]:
    """GET /orders: newest first; open ones unless `status` says otherwise. `after` leads to older ones."""
    query = call.request.query
    parameters(MultiDict((name, text) for name, text in query.items() if name != "status"), *call.route.query)
    limit = whole_number(query.get("limit"), "limit", 100, 1, PAGE_MAX)
    before_id = order_number(query["after"]) if "after" in query else 0
    newer_than = order_number(query["before"]) if "before" in query else 0
    start, end = moment(query.get("start_date"), "start_date"), moment(query.get("end_date"), "end_date")
    is_open, done = _statuses(query.getall("status", []))
    product_id = ""
    if "product_id" in query:
        product_id = (await call.gateway.catalogue.product(product_text(query["product_id"]))).row.product_id
    page: list[OrderState] = []
    for _ in range(PAGES_SCANNED if is_open or done else 0):
        found = await _found(call, product_id, is_open, done, limit, before_id)
        page += [order for order in found if order.order_id > newer_than and _within(order, start, end)]
        if len(found) < limit or len(page) >= limit or found[-1].order_id <= newer_than:
            break
        before_id = found[-1].order_id
    page = page[:limit]
    headers = {"cb-before": order_text(page[0].order_id), "cb-after": order_text(page[-1].order_id)} if page else {}
    return Answer([await _order_body(call, order) for order in page], headers)


async def _found(call: Call, product_id: str, is_open: bool, done: bool, limit: int, before_id: int) -> list[OrderState]:
    """Orders by falling id: those that the engine knows, and done ones that only the history has."""
    account_id = call.account_id
    known: list[OrderState] = await call.read(OrdersQuery(account_id, product_id, is_open, done, limit, before_id))
    past = call.gateway.history
    if past is None or not done:
        return known
    older = await past.ask(lambda history: history.done_orders(account_id, product_id, limit, before_id))
    both = {order.order_id: order for order in (*older, *known)}
    return [both[order_id] for order_id in sorted(both, reverse=True)[:limit]]


def _within(order: OrderState, start: int | None, end: int | None) -> bool:
    """Whether it was created then; `end` is a microsecond, as clients see times, and includes all of it."""
    return (start is None or order.created_at >= start) and (end is None or order.created_at < end + 1_000)


def _statuses(given_statuses: list[str]) -> tuple[bool, bool]:
    """Whether open orders are asked for, and whether done ones."""
    wanted = {status for text in given_statuses or ["open"] for status in text.split(",")}
    unknown = wanted - OPEN_STATUSES - DONE_STATUSES - {"all", "rejected"}
    if unknown:
        raise BadRequestError("status must be open, pending, active, done or all", "status")
    return bool(wanted & OPEN_STATUSES) or "all" in wanted, bool(wanted & DONE_STATUSES) or "all" in wanted


async def order(call: Call) -> Answer[OrderJson]:
    """GET /orders/{id} and /orders/client:{client_oid}: one order of the key's account."""
    call.parameters()
    order_id, client_oid = _named(call)
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
    """An order that only the history knows."""
    past, account_id = call.gateway.history, call.account_id
    if past is None:
        return None
    status: NodeStatus = await call.read(StatusQuery())
    await past.reach(status.sequence)
    if order_id:
        return await past.ask(lambda history: history.order(account_id, order_id))
    return await past.ask(lambda history: history.order_by_client_oid(account_id, client_oid))


async def cancel(call: Call) -> Answer[str]:
    """DELETE /orders/{id} and /orders/client:{client_oid}: the order's id, as a bare JSON string."""
    product_id = await _cancelled_product(call)
    order_id, client_oid = _named(call)
    if not order_id and not client_oid:
        raise ApiError(404, "order not found", "id")
    outcome = await call.command(CancelOrder(call.account_id, call.command_id(), order_id, client_oid, product_id))
    if isinstance(outcome, Cancelled):
        return Answer(order_text(outcome.orders[0].order_id))
    assert isinstance(outcome, Rejected), outcome
    raise rejection(outcome)


async def cancel_all(call: Call) -> Answer[list[str]]:
    """DELETE /orders: the ids of what was cancelled, of one product where one is named in query or body."""
    product_id = await _cancelled_product(call)
    outcome = await call.command(CancelAll(call.account_id, call.command_id(), product_id))
    if isinstance(outcome, Cancelled):
        return Answer([order_text(order.order_id) for order in outcome.orders])
    assert isinstance(outcome, Rejected), outcome
    raise rejection(outcome)


async def _cancelled_product(call: Call) -> str:
    """The product that a cancel is limited to, from the query or the body, in either spelling; "" for none."""
    request = parse(call.body, CancelRequest) if call.body.strip() else CancelRequest()
    query = call.parameters()
    if (query.get("profile_id") or request.profile_id or call.account_id) != call.account_id:
        raise BadRequestError("profile_id must be the account of the API key", "profile_id")
    names = {product_text(name) for name in (query.get("product_id"), request.product_id) if name is not None}
    if len(names) > 1:
        raise BadRequestError("product_id in the query and in the body differ", "product_id")
    return (await call.gateway.catalogue.product(names.pop())).row.product_id if names else ""


def _named(call: Call) -> tuple[int, str]:
    """The order of the path: our id, or the client's. Both empty for an id that can be nobody's."""
    text = call.path("id")
    if text.startswith(CLIENT_PREFIX):
        return 0, check_name(text.removeprefix(CLIENT_PREFIX), "client_oid")
    return order_number(text), ""


async def _order_body(call: Call, order: OrderState) -> OrderJson:
    return order_json(order, await call.gateway.catalogue.product(order.product_id))

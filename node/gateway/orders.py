"""Orders: placing, cancelling and looking them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from node.budget import Cost
from node.errors import RequestFailed
from node.gateway.catalogue import Product
from node.gateway.errors import ApiError, BadRequestError
from node.gateway.ids import check_name, order_number, order_span, order_text, product_text
from node.gateway.placing import placed, placing, present
from node.gateway.reasons import rejection
from node.gateway.requests import PAGE_MAX, CancelRequest, OrderRequest, choice, page_limit, parse, period
from node.gateway.responses import ORDER_TYPES, SIDES, order_json
from node.gateway.shapes import OrderJson
from node.gateway.web import Answer, Call
from node.history.pages import Page
from node.native.protocol import FailCode, OrderQuery, OrdersQuery
from statemachine.commands import CancelAll, CancelOrder
from statemachine.events import Cancelled, OrderState, Rejected
from statemachine.types import OrderStatus

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
"""What the statuses of a list stand for. No order here is pending, received or rejected: it is answered with what came of it."""
SORTED_BY: dict[str, Callable[[OrderState, Product], Fraction | int | str]] = {
    "created_at": lambda order, _product: order.order_id,
    "price": lambda order, product: Fraction(order.price, 10**product.quote_scale),
    "size": lambda order, product: Fraction(order.size, 10**product.base_scale),
    "order_id": lambda order, _product: order.order_id,
    "side": lambda order, _product: SIDES[order.side],
    "type": lambda order, _product: ORDER_TYPES[order.order_type],
}
"""What lists may be sorted by, in the parameters of Coinbase Exchange. Equal orders are newest first."""
CLIENT_PREFIX = "client:"


async def place(call: Call) -> Answer[OrderJson]:
    """POST /orders. Answers when the order is durable and applied, with its state then; the same client_oid again, with its present state."""
    product, command = await placing(call, parse(call.body, OrderRequest))
    outcome = await call.command(command)
    if outcome.duplicate:
        outcome = await present(call, outcome)
    return Answer(placed(outcome, product, command), {"x-quorumbook-duplicate": "true"} if outcome.duplicate else {})


async def order_list(call: Call) -> Answer[list[OrderJson]]:
    """GET /orders: newest first; open ones unless `status` says otherwise. `after` leads to older ones."""
    given = call.parameters()
    limit = page_limit(given)
    before_id, newer_than = order_span(given)
    start, end = period(given)
    wanted = _statuses(call.request.query.get("status", []))
    product_id = ""
    if "product_id" in given:
        product_id = (await call.gateway.catalogue.product(product_text(given["product_id"]))).row.product_id
    if (given.get("sortedBy", "created_at"), given.get("sorting", "desc")) != ("created_at", "desc"):
        return await _sorted_list(call, product_id, wanted, given)
    page: list[OrderState] = []
    if wanted:
        span = (before_id, newer_than)
        page = await _found(call, product_id, wanted, span, Page(limit, start=start, end=end))
    headers = {"cb-before": order_text(page[0].order_id), "cb-after": order_text(page[-1].order_id)} if page else {}
    return Answer([await _order_body(call, order) for order in page], headers)


async def _sorted_list(
    call: Call, product_id: str, wanted: frozenset[OrderStatus], given: Mapping[str, str]
) -> Answer[list[OrderJson]]:
    """Another order than newest first: of live orders, which are bounded, and all of which are read. The key pays for the rows."""
    by = choice(given.get("sortedBy", "created_at"), SORTED_BY, "sortedBy")
    backwards = choice(given.get("sorting", "desc"), {"desc": True, "asc": False}, "sorting")
    if not wanted <= LIVE or {"after", "before"} & set(given):
        text = "sortedBy and sorting go with live orders (status open or active) and without after and before; other lists are newest first"
        raise BadRequestError(text, "sortedBy" if "sortedBy" in given else "sorting")
    start, end = period(given)
    orders: list[OrderState] = []
    below = 0
    while wanted:
        found = await _found(call, product_id, wanted, (below, 0), Page(PAGE_MAX, start=start, end=end))
        orders += found
        if len(found) < PAGE_MAX:
            break
        below = found[-1].order_id
    assert call.identity is not None, "the route asks for a permission"
    call.gateway.limits.keys.spend(call.identity.key_id, Cost.rows(len(orders)))
    products = {order.product_id: await call.gateway.catalogue.product(order.product_id) for order in orders}
    orders.sort(key=lambda order: by(order, products[order.product_id]), reverse=backwards)
    return Answer([await _order_body(call, order) for order in orders[: page_limit(given)]])


async def _found(
    call: Call, product_id: str, wanted: frozenset[OrderStatus], span: tuple[int, int], page: Page
) -> list[OrderState]:
    """Orders by falling id, at most the page's limit, of its times and of the wanted statuses: those that the engine knows, and of the done ones also
    those that only the history has. `span`: only ids below the first, unless that is 0, and above the second."""
    account_id, done = call.account_id, wanted >= DONE
    before_id, newer_than = span
    known: list[OrderState] = await call.read(
        OrdersQuery(
            account_id,
            product_id,
            bool(wanted & LIVE),
            done,
            page.limit,
            before_id,
            above_id=newer_than,
            statuses=sum(1 << status for status in wanted),
            created_from=max(0, page.start or 0),
            created_to=0 if page.end is None else max(1, page.end),
        )
    )
    past = await call.past() if done else None
    if past is None:
        return known
    older = await past.ask(lambda history: history.done_orders(account_id, product_id, before_id, page))
    both = {order.order_id: order for order in (*older, *known) if order.order_id > newer_than}
    return [both[order_id] for order_id in sorted(both, reverse=True)[: page.limit]]


def _statuses(given: list[str]) -> frozenset[OrderStatus]:
    """Which orders are asked for."""
    names = [name for text in given for name in text.split(",")]
    if not set(names) <= set(STATUSES):
        raise BadRequestError(f"status must be one of {', '.join(STATUSES)}", "status")
    return frozenset[OrderStatus]().union(*(STATUSES[name] for name in names)) if names else LIVE


async def order(call: Call) -> Answer[OrderJson]:
    """GET /orders/{id} and /orders/client:{client_oid}: one order of the key's account."""
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
    past, account_id = await call.past(), call.account_id
    if past is None:
        return None
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
    call.check_profile(request.profile_id)
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

"""Many orders in one request: placed or cancelled in one entry of the log, each with a result of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from node.gateway.catalogue import Product
from node.gateway.errors import ApiError, BadRequestError, UnknownHereError
from node.gateway.ids import check_name, order_number, order_text
from node.gateway.placing import placed, placing, present
from node.gateway.reasons import rejection
from node.gateway.requests import BatchCancelRequest, BatchRequest, OrderRequest, parse
from node.gateway.shapes import BatchCancelJson, BatchJson, CancelResultJson, ErrorJson, PlaceResultJson
from node.gateway.web import Answer, Call
from statemachine.commands import CancelOrder, PlaceOrder
from statemachine.events import AnyOutcome, Cancelled, Rejected

ITEMS_MAX = 100
"""Orders of one request: well below what a log entry takes."""


@dataclass(frozen=True)
class _Order:
    """An item that can be sent."""

    product: Product
    command: PlaceOrder


async def place(call: Call) -> Answer[BatchJson]:
    """POST /orders/batch: results in the order of the orders. A refused one hinders no other."""
    request = parse(call.body, BatchRequest)
    _check_count(len(request.orders), "orders")
    items = [await _order(call, order) for order in request.orders]
    commands = [item.command for item in items if isinstance(item, _Order)]
    found = await call.commands(commands)
    outcomes = iter([await present(call, outcome) if outcome.duplicate else outcome for outcome in found])
    results = [_placed(item, next(outcomes)) if isinstance(item, _Order) else _refused(item) for item in items]
    return Answer({"results": [_named(result, order) for result, order in zip(results, request.orders, strict=True)]})


async def _order(call: Call, request: OrderRequest) -> _Order | ApiError:
    try:
        return _Order(*await placing(call, request))
    except UnknownHereError as error:
        if call.status is None or call.status.role != "leader":
            raise
        return error
    except ApiError as error:
        return error


def _placed(item: _Order, outcome: AnyOutcome) -> PlaceResultJson:
    try:
        return {"success": True, "order": placed(outcome, item.product, item.command)}
    except ApiError as error:
        return _refused(error)


def _refused(error: ApiError) -> PlaceResultJson:
    return {"success": False, "error": error.body()}


def _named(result: PlaceResultJson, order: OrderRequest) -> PlaceResultJson:
    if order.client_oid is not None:
        result["client_oid"] = order.client_oid
    return result


async def cancel(call: Call) -> Answer[BatchCancelJson]:
    """POST /orders/batch_cancel: results of `order_ids`, then of `client_oids`. An order that cannot be cancelled hinders no other."""
    request = parse(call.body, BatchCancelRequest)
    _check_count(len(request.order_ids) + len(request.client_oids), "order_ids")
    commands = [_cancel(call, order_number(text, "order_ids"), "") for text in request.order_ids]
    commands += [_cancel(call, 0, check_name(name, "client_oids")) for name in request.client_oids]
    outcomes = await call.commands([command for command in commands if command.order_id or command.client_oid])
    return Answer({"results": _cancelled(request, commands, outcomes)})


def _cancel(call: Call, order_id: int, client_oid: str) -> CancelOrder:
    return CancelOrder(call.account_id, call.command_id(), order_id, client_oid)


def _cancelled(
    request: BatchCancelRequest, commands: Sequence[CancelOrder], outcomes: Sequence[AnyOutcome]
) -> list[CancelResultJson]:
    """A result an item. An id that can be nobody's was not sent."""
    left = iter(outcomes)
    results: list[CancelResultJson] = []
    for text, command in zip((*request.order_ids, *request.client_oids), commands, strict=True):
        if command.order_id or command.client_oid:
            result = _cancel_result(next(left))
        else:
            result = {"success": False, "error": _unknown()}
        if command.client_oid:
            result["client_oid"] = text
        else:
            result["order_id"] = text
        results.append(result)
    return results


def _cancel_result(outcome: AnyOutcome) -> CancelResultJson:
    if isinstance(outcome, Cancelled):
        return {"success": True, "order_id": order_text(outcome.orders[0].order_id)}
    assert isinstance(outcome, Rejected), outcome
    return {"success": False, "error": rejection(outcome).body()}


def _unknown() -> ErrorJson:
    return ApiError(404, "order not found", "id").body()


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= ITEMS_MAX:
        raise BadRequestError(f"{field} must be 1 to {ITEMS_MAX}", field)

"""Commands of a flow as HTTP requests, and checks of the answers. No I/O."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

import msgspec

from loadtest.answers import may_rest
from loadtest.flow import FlowCommand
from loadtest.market import CURRENCIES
from node.keys.credentials import sign
from statemachine.commands import CancelAll, CancelOrder, PlaceOrder
from statemachine.decimals import to_text
from statemachine.types import OrderType, SelfTradePrevention, Side, TimeInForce

EXPECTED_REFUSALS: dict[str, frozenset[str]] = {
    "POST": frozenset({"post_only_would_take", "insufficient_funds", "too_many_open_orders", "own_orders_cross"}),
    "DELETE": frozenset({"unknown_order", "order_already_done", "auction_opening"}),
}
"""By method: the reasons for which the exchange may reject a well-formed request of a flow."""


class RestRequest(msgspec.Struct, frozen=True):
    """An HTTP request before it is signed. `target` is path and query as they are sent. `name` groups it in
    statistics.
    """

    method: str
    target: str
    body: bytes
    name: str


def signed_headers(key_id: str, secret: str, passphrase: str, request: RestRequest) -> dict[str, str]:
    """Return the headers that sign `request` with an API key at the present time."""
    timestamp = f"{time.time():.6f}"
    return {
        "CB-ACCESS-KEY": key_id,
        "CB-ACCESS-SIGN": sign(secret, timestamp, request.method, request.target, request.body),
        "CB-ACCESS-TIMESTAMP": timestamp,
        "CB-ACCESS-PASSPHRASE": passphrase,
        "Content-Type": "application/json",
    }


def _request(method: str, target: str, body: Mapping[str, object] | None, name: str) -> RestRequest:
    return RestRequest(method, target, b"" if body is None else json.dumps(body).encode(), name)


def order_body(command: PlaceOrder) -> dict[str, object]:
    """Return the JSON of POST /orders, without fields that have the default of the API."""
    base, _, quote = command.product_id.rpartition("-")
    body: dict[str, object] = {
        "product_id": command.product_id,
        "side": "buy" if command.side is Side.BUY else "sell",
        "type": "limit" if command.order_type is OrderType.LIMIT else "market",
        "client_oid": command.client_oid,
    }
    if command.price:
        body["price"] = to_text(command.price, CURRENCIES[quote])
    if command.size:
        body["size"] = to_text(command.size, CURRENCIES[base])
    if command.funds:
        body["funds"] = to_text(command.funds, CURRENCIES[quote])
    if command.order_type is OrderType.LIMIT:
        body["time_in_force"] = command.time_in_force.name
    if command.post_only:
        body["post_only"] = True
    if command.stop:
        body["stop"], body["stop_price"] = command.stop.name.lower(), to_text(command.stop_price, CURRENCIES[quote])
    if command.cancel_after:
        body["cancel_after"] = command.cancel_after // 10**9
    if command.stp is not SelfTradePrevention.DC:
        body["stp"] = command.stp.name.lower()
    return body


def flow_request(command: FlowCommand) -> RestRequest:
    """Return the request for a command of a flow."""
    if isinstance(command, PlaceOrder):
        return _request("POST", "/orders", order_body(command), "POST /orders")
    if isinstance(command, CancelOrder):
        return _request(
            "DELETE", f"/orders/client:{command.client_oid}?product_id={command.product_id}", None, "DELETE /orders/{id}"
        )
    return _request("DELETE", f"/orders?product_id={command.product_id}", None, "DELETE /orders")


def answer_fault(command: FlowCommand, status: int, answer: object) -> str:
    """Return what is wrong with the decoded answer to `flow_request(command)`, or "". Redirects are not expected here."""
    method = "POST" if isinstance(command, PlaceOrder) else "DELETE"
    if 400 <= status < 500:
        if not isinstance(answer, dict) or not isinstance(answer.get("message"), str):
            return f"status {status} without a message: {str(answer)[:80]}"
        return "" if answer.get("reason") in EXPECTED_REFUSALS[method] else f"status {status}: {answer}"
    if status != 200:
        return f"status {status}: {str(answer)[:200]}"
    if isinstance(command, PlaceOrder):
        return _order_fault(command, answer)
    if isinstance(command, CancelAll):
        return (
            ""
            if isinstance(answer, list) and all(isinstance(item, str) for item in answer)
            else f"a list of ids expected: {str(answer)[:80]}"
        )
    return "" if isinstance(answer, str) else f"an order id expected: {str(answer)[:80]}"


def _order_fault(command: PlaceOrder, answer: object) -> str:
    """Return what is wrong with the answer to an order, or ""."""
    if not isinstance(answer, dict):
        return f"an order expected, not {answer!r}"
    sent = order_body(command)
    for name in ("product_id", "side", "type", "client_oid"):
        if answer.get(name) != sent[name]:
            return f"{name} {answer.get(name)!r}, sent {sent[name]!r}"
    try:
        for name in ("price", "size", "stop_price"):
            if name in sent and Decimal(str(answer.get(name))) != Decimal(str(sent[name])):
                return f"{name} {answer.get(name)!r}, sent {sent[name]!r}"
        filled, size = Decimal(answer["filled_size"]), Decimal(str(sent.get("size", "Infinity")))
    except (InvalidOperation, KeyError, TypeError):
        return f"an order without its numbers: {answer}"
    if filled > size:
        return f"filled {filled} of {size}"
    # An order that is sent again is answered with its present state. A stop order may be triggered or cancelled by then.
    statuses = ["active", "open", "done"] if command.stop else ["open", "done"]
    if not isinstance(answer.get("id"), str) or answer.get("status") not in statuses:
        return f"no id or status: {answer}"
    if command.time_in_force is TimeInForce.FOK and filled not in (0, size):
        return f"fill or kill filled {filled} of {size}"
    if answer["status"] == "open" and not may_rest(command):
        return f"a {sent['type']} {command.time_in_force.name} order rests"
    return ""

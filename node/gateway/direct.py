"""The fast path of an order, from the request's bytes to the engine and back, without a task, a coroutine or any
avoidable object.

Two calls take it, because they are most of a trader's requests: `POST /orders` with a limit or market order, and
`DELETE /orders/{id}`. Any other request (with an unknown key, a rare option or a fault, or at a node that does not
lead) goes to `calls.answer`, which handles it from the beginning and defines the answers. `begin` decides this before
it changes anything. If the special case appears after the command was sent (a rejection, a duplicate, a lost
connection), `calls.answer` continues with the outcome.

A test sends each request on both paths and compares the answers (`tests/unit/node/gateway/test_direct.py`). The gain is
about a third of a gateway's CPU time for an order (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any

import msgspec

from node.gateway.auth import Claim, Identity
from node.gateway.calls import FORWARDED, ROLE_HEADER, SEQUENCE_HEADER, SIGNED_HEADERS, Answer, Call, Route, client_address
from node.gateway.catalogue import Product
from node.gateway.errors import ApiError
from node.gateway.gateway import Gateway
from node.gateway.http.messages import Request, Response
from node.gateway.orders import OrderJson, cancelled, ordered
from node.gateway.values import (
    DONE_WORDS,
    NAME,
    ORDER_STATUS_WORDS,
    ORDER_TYPE_WORDS,
    ORDER_TYPES,
    SIDE_WORDS,
    SIDES,
    STP_WORDS,
    STPS,
    TIME_IN_FORCE_WORDS,
    TIMES_IN_FORCE,
    amount_text,
    iso,
    order_number,
    order_text,
    product_text,
    units,
)
from node.native.protocol import NodeStatus
from statemachine.commands import CancelOrder, PlaceOrder
from statemachine.decimals import DecimalError
from statemachine.events import AnyOutcome, Cancelled, OrderState, Placed
from statemachine.limits import OPERATOR
from statemachine.types import OrderStatus, OrderType, Permission, SelfTradePrevention, TimeInForce

log = logging.getLogger(__name__)

ORDERS = "/orders"
ONE_ORDER = "/orders/"
_DAMAGED = Response(500, b'{"message":"Internal error"}')

_FIELDS = frozenset({"product_id", "side", "type", "price", "size", "client_oid", "time_in_force", "post_only", "stp"})
"""Fields of a plain order."""

_SELDOM = frozenset({"content-encoding", "origin"})
"""Headers with which a request takes the normal path. Browsers send the second one."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Respond = Callable[[Response], None]
Work = Coroutine[Any, Any, Answer[Any]]
Finish = Callable[[Call, Work, float, Respond], None]
"""Answers a request on the normal path. The coroutine does the remaining work; the time is that of arrival
(`perf_counter`).
"""


@lru_cache(maxsize=4_096)
def _quoted(text: str) -> str:
    """Return a name as a JSON text. Orders have few different names, besides client order ids."""
    return _encode(text).decode()


def plain_json(order: OrderState, product: Product) -> bytes | None:
    """Return the bytes of `OrderJson.of` for an order that has only the fields of a plain one, else None.

    Filling in a text takes a third of the time of an `OrderJson` and its encoding (docs/performance.md).
    """
    limited, done = order.order_type is OrderType.LIMIT, order.status is OrderStatus.DONE
    special = order.terms is not None or order.funds or order.stop or order.expires_at or order.queued
    if special or not order.size:
        return None
    base, quote = product.base_scale, product.quote_scale
    price = f'"price":"{amount_text(order.price, quote)}",' if limited else ""
    client_oid = f',"client_oid":{_encode(order.client_oid).decode()}' if order.client_oid else ""
    ended = f',"done_reason":"{DONE_WORDS[order.done_reason]}","done_at":"{iso(order.done_at)}"' if done else ""
    return (
        f'{{"id":"{order_text(order.order_id)}","product_id":{_quoted(order.product_id)},"side":"{SIDE_WORDS[order.side]}",'
        f'"type":"{ORDER_TYPE_WORDS[order.order_type]}","stp":"{STP_WORDS[order.stp]}",'
        f'"time_in_force":"{TIME_IN_FORCE_WORDS[order.time_in_force]}","post_only":{"true" if order.post_only else "false"},'
        f'"created_at":"{iso(order.created_at)}","fill_fees":"{amount_text(order.fill_fees, quote)}",'
        f'"filled_size":"{amount_text(order.filled_size, base)}","executed_value":"{amount_text(order.executed_value, quote)}",'
        f'"status":"{ORDER_STATUS_WORDS[order.status]}","settled":{"true" if done else "false"},'
        f'"profile_id":{_quoted(order.account_id)},{price}"size":"{amount_text(order.size, base)}"{client_oid}{ended}}}'
    ).encode()


class Outcomes:
    """Receives the outcome of one request's command. It has the methods of a future that `NativeConnection.enqueue`
    needs, but does not cost a turn of the loop.
    """

    __slots__ = ("_after", "_begun", "_call", "_done", "_finish", "_product", "_respond", "command")

    def __init__(
        self,
        call: Call,
        command: PlaceOrder | CancelOrder,
        product: Product | None,
        begun: float,
        respond: Respond,
        finish: Finish,
    ) -> None:
        self.command = command
        self._call = call
        self._product = product
        self._begun = begun
        self._respond = respond
        self._finish = finish
        self._done = False

    def done(self) -> bool:
        """Return whether the outcome has arrived or will never arrive."""
        return self._done

    def set_result(self, outcomes: list[AnyOutcome]) -> None:
        """Called when the command is durable and applied."""
        self._done = True
        outcome = outcomes[0]
        try:
            body = self._body(outcome)
            if body is None:
                self._go_on(outcomes, None)
                return
            status = self._call.status
            assert status is not None, "begin has read the status"
            response = Response(200, body, {ROLE_HEADER: status.role, SEQUENCE_HEADER: str(outcome.sequence)})
        except Exception:
            log.exception("fault while answering an order")
            response = _DAMAGED
        call = self._call
        call.gateway.metrics.request(call.route.method, call.route.path, response.status, time.perf_counter() - self._begun)
        self._respond(response)

    def set_exception(self, error: Exception) -> None:
        """Called when the outcome is unknown, or nothing was done."""
        self._done = True
        self._go_on([], error)

    def _body(self, outcome: AnyOutcome) -> bytes | None:
        """Return the answer's body, or None if the normal path must make it."""
        if outcome.duplicate:
            return None
        if isinstance(outcome, Placed) and self._product is not None:
            self._call.carried_out([outcome])
            return plain_json(outcome.order, self._product) or _encode(OrderJson.of(outcome.order, self._product))
        if isinstance(outcome, Cancelled) and outcome.orders:
            self._call.carried_out([outcome])
            return b'"%b"' % order_text(outcome.orders[0].order_id).encode()
        return None

    def _go_on(self, outcomes: list[AnyOutcome], error: Exception | None) -> None:
        """Pass the outcome to the general path, which makes the answer."""
        begun: asyncio.Future[list[AnyOutcome]] = asyncio.get_running_loop().create_future()
        if error is not None:
            begun.set_exception(error)
        else:
            begun.set_result(outcomes)
        call, command, product = self._call, self.command, self._product
        if isinstance(command, PlaceOrder):
            assert product is not None, "an order has a product"
            work: Work = ordered(call, product, command, begun)
        else:
            work = cancelled(call, command, begun)
        self._finish(call, work, self._begun, self._respond)


class DirectOrders:
    """Serves requests on the fast path.

    Args:
        place, cancel: the routes that define the two calls.
        finish: answers the requests that need the normal path.
    """

    def __init__(self, gateway: Gateway, place: Route, cancel: Route, finish: Finish) -> None:
        self._gateway = gateway
        self._place = place
        self._cancel = cancel
        self._finish = finish

    def begin(self, request: Request, respond: Respond) -> bool:
        """Send the request's command and answer it later. Returns False if nothing was done and the request must take
        the normal path.
        """
        placing = request.method == "POST"
        if placing:
            if request.target != ORDERS:
                return False
        elif request.method != "DELETE" or not request.target.startswith(ONE_ORDER) or request.body:
            return False
        begun = time.perf_counter()
        gateway = self._gateway
        status = gateway.monitor.status
        if status is None or not status.quorum or status.role != "leader" or request.has_any(_SELDOM):
            return False
        claim = self._claim(request)
        if claim is None:
            return False
        address = client_address(gateway, request.peer, request.headers(FORWARDED))
        identity = gateway.auth.identify_known(claim, address, request.method, request.target, request.body)
        if identity is None or not identity.permissions & Permission.TRADE or identity.account_id == OPERATOR:
            return False
        call = Call(gateway, self._place if placing else self._cancel, request, {}, status)
        call.identity, call.signed = identity, claim
        outcomes = self._order(call, begun, respond) if placing else self._order_id(call, begun, respond)
        return outcomes is not None and self._send(call, outcomes, identity, status)

    def _send(self, call: Call, outcomes: Outcomes, identity: Identity, status: NodeStatus) -> bool:
        """Queue a command for the engine. Returns False if the request must take the general path."""
        gateway, command = self._gateway, outcomes.command
        signs = call.signs(command)
        if not gateway.backend.ready or (signs and gateway.replays.knows(call.signed_id)):
            return False
        if not gateway.limits.keys.charge(identity.key_id):
            return False
        if signs:
            gateway.replays.begin(call.signed_id)
            call.known = status.sequence
        call.request.origin.note(call.request, identity.key_id)
        gateway.backend.enqueue([command], outcomes)
        return True

    @staticmethod
    def _claim(request: Request) -> Claim | None:
        """Return the headers that sign a request, or None if one is missing."""
        key_id, signature, timestamp, passphrase = map(request.header, SIGNED_HEADERS)
        return Claim(key_id, signature, timestamp, passphrase) if key_id and signature and timestamp and passphrase else None

    def _order(self, call: Call, begun: float, respond: Respond) -> Outcomes | None:
        """Return the order in the body, or None if it is not plain."""
        body = call.request.body
        if b"\\" in body:
            return None
        try:
            found: Any = _decode(body)
            # Each key of a flat object is followed by a colon, and a text without escapes contains no quote. This
            # counts the written keys.
            if type(found) is not dict or not _FIELDS.issuperset(found) or body.count(b'":') != len(found):
                return None
            product = self._gateway.catalogue.known(product_text(found["product_id"]))
            if product is None:
                return None
            command = self._command(call, found, product)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DecimalError, KeyError, TypeError, AttributeError):
            return None
        return Outcomes(call, command, product, begun, respond, self._finish) if command is not None else None

    @staticmethod
    def _command(call: Call, found: dict[str, Any], product: Product) -> PlaceOrder | None:
        """Return the command. Raises KeyError, TypeError, AttributeError or DecimalError for a request that is not
        plain.
        """
        assert call.identity is not None, "begin has identified the caller"
        order_type = ORDER_TYPES[found.get("type", "limit")]
        price, size, post_only = found.get("price"), found["size"], found.get("post_only", False)
        if (price is None) is (order_type is OrderType.LIMIT) or type(post_only) is not bool:
            return None
        size_units = units(size, product.base_scale)
        client_oid = found.get("client_oid")
        # Any other value, "" and 0 among them, is for the normal path to refuse: the engine could not read the command.
        if not size_units or (client_oid is not None and NAME.fullmatch(client_oid) is None):
            return None
        call.next_place()
        return PlaceOrder(
            call.identity.account_id,
            f"c:{client_oid}" if client_oid else call.signed_id,
            product.row.product_id,
            SIDES[found["side"]],
            order_type,
            units(price, product.quote_scale) if price is not None else 0,
            size_units,
            0,
            TIMES_IN_FORCE[found["time_in_force"]] if "time_in_force" in found else TimeInForce.GTC,
            post_only,
            STPS[found["stp"]] if "stp" in found else SelfTradePrevention.DC,
            client_oid if client_oid is not None else "",
        )

    def _order_id(self, call: Call, begun: float, respond: Respond) -> Outcomes | None:
        """Return the cancel that the target names, or None unless it names only an order by its order id."""
        assert call.identity is not None, "begin has identified the caller"
        try:
            number = order_number(call.request.target[len(ONE_ORDER) :])
        except ApiError:
            return None
        if not number:
            return None
        call.next_place()
        command = CancelOrder(call.identity.account_id, call.signed_id, number, "", "")
        return Outcomes(call, command, None, begun, respond, self._finish)

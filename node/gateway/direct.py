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
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

import msgspec

from node.gateway.auth import Claim, Identity
from node.gateway.calls import (
    FORWARDED,
    ROLE_HEADER,
    SEQUENCE_HEADER,
    SIGNED_HEADERS,
    Answer,
    Call,
    Route,
    carried_out,
    client_address,
    peer_address,
)
from node.gateway.catalogue import Product
from node.gateway.errors import ApiError
from node.gateway.gateway import Gateway
from node.gateway.http.messages import Request, Response
from node.gateway.metrics import AnswerCounts
from node.gateway.orders import OrderJson, cancelled, ordered
from node.gateway.plain_order import plain_json, units
from node.gateway.replays import signed_id
from node.gateway.values import (
    NAME,
    ORDER_TYPES,
    SIDES,
    STPS,
    TIMES_IN_FORCE,
    order_number,
    order_text,
    product_text,
)
from node.native.protocol import NodeStatus
from statemachine.commands import CancelOrder, PlaceOrder
from statemachine.decimals import DecimalError
from statemachine.events import AnyOutcome, Cancelled, Placed
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Permission, SelfTradePrevention, TimeInForce

log = logging.getLogger(__name__)

ORDERS = "/orders"
ONE_ORDER = "/orders/"
_DAMAGED = Response(500, b'{"message":"Internal error"}')

_FIELDS = frozenset({"product_id", "side", "type", "price", "size", "client_oid", "time_in_force", "post_only", "stp"})
"""Fields of a plain order."""

_SELDOM = ("content-encoding", "origin")
"""Headers with which a request takes the normal path. Browsers send the second one."""

KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER, PASSPHRASE_HEADER = SIGNED_HEADERS
_LIMIT, _GTC, _DC, _TRADE = OrderType.LIMIT, TimeInForce.GTC, SelfTradePrevention.DC, Permission.TRADE
"""Members of enumerations. A look-up in the class of an enumeration costs more than one in this module."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Respond = Callable[[Response], None]
Work = Coroutine[Any, Any, Answer[Any]]
Finish = Callable[[Call, Work, float, Respond], None]
"""Answers a request on the normal path. The coroutine does the remaining work; the time is that of arrival
(`perf_counter`).
"""


class Outcomes:
    """Receives the outcome of one request's command. It has the methods of a future that `NativeConnection.enqueue`
    needs, but does not cost a turn of the loop.

    A `Call` is made only if the general path continues.
    """

    __slots__ = (
        "_begun",
        "_done",
        "_orders",
        "_respond",
        "_status",
        "claim",
        "command",
        "identity",
        "product",
        "request",
        "signed_id",
    )

    def __init__(
        self,
        orders: DirectOrders,
        request: Request,
        respond: Respond,
        begun: float,
        status: NodeStatus,
        claim: Claim,
        identity: Identity,
    ) -> None:
        self._begun = begun
        self.claim = claim
        self._done = False
        self.identity = identity
        self._orders = orders
        self.product: Product | None = None
        self.request = request
        self._respond = respond
        self.signed_id = ""
        self._status = status
        self.command: PlaceOrder | CancelOrder | None = None

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
            response = Response(200, body, {ROLE_HEADER: self._status.role, SEQUENCE_HEADER: str(outcome.sequence)})
        except Exception:
            log.exception("fault while answering an order")
            response = _DAMAGED
        self._orders.answered(self.product is not None, response.status, perf_counter() - self._begun)
        self._respond(response)

    def set_exception(self, error: Exception) -> None:
        """Called when the outcome is unknown, or nothing was done."""
        self._done = True
        self._go_on([], error)

    def _body(self, outcome: AnyOutcome) -> bytes | None:
        """Return the answer's body, or None if the normal path must make it."""
        if outcome.duplicate:
            return None
        if type(outcome) is Placed and self.product is not None:
            body = plain_json(outcome.order, self.product) or _encode(OrderJson.of(outcome.order, self.product))
        elif type(outcome) is Cancelled and outcome.orders:
            body = b'"%b"' % order_text(outcome.orders[0].order_id).encode()
        else:
            return None
        if self.signed_id:
            carried_out(self._orders.gateway, self.request, self.signed_id, [outcome])
        return body

    def _go_on(self, outcomes: list[AnyOutcome], error: Exception | None) -> None:
        """Pass the outcome to the general path, which makes the answer."""
        begun: asyncio.Future[list[AnyOutcome]] = asyncio.get_running_loop().create_future()
        if error is not None:
            begun.set_exception(error)
        else:
            begun.set_result(outcomes)
        call, command, product = self._call(), self.command, self.product
        if isinstance(command, PlaceOrder):
            assert product is not None, "an order has a product"
            work: Work = ordered(call, product, command, begun)
        else:
            assert command is not None, "it was sent"
            work = cancelled(call, command, begun)
        self._orders.finish(call, work, self._begun, self._respond)

    def _call(self) -> Call:
        """Return the call, as the general path has it after it sent the command."""
        call = Call(self._orders.gateway, self._orders.route(self.product is not None), self.request, {}, self._status)
        call.identity, call.signed = self.identity, self.claim
        call.next_place()
        if self.signed_id:
            call.known = self._status.sequence
        return call


class DirectOrders:
    """Serves requests on the fast path.

    Args:
        place, cancel: the routes that define the two calls.
        finish: answers the requests that need the normal path.
    """

    def __init__(self, gateway: Gateway, place: Route, cancel: Route, finish: Finish) -> None:
        self.gateway = gateway
        self.finish = finish
        self._place = place
        self._cancel = cancel
        self._placed: AnswerCounts | None = None
        self._cancelled: AnswerCounts | None = None

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
        begun = perf_counter()
        gateway = self.gateway
        status = gateway.monitor.status
        if status is None or not status.quorum or status.role != "leader" or request.has_any(_SELDOM):
            return False
        claim = self._claim(request)
        if claim is None:
            return False
        if gateway.proxies:
            address = client_address(gateway, request.peer, request.headers(FORWARDED))
        else:
            address = peer_address(request.peer)
        identity = gateway.auth.identify_known(claim, address, request.method, request.target, request.body)
        if identity is None or not identity.permissions & _TRADE or identity.account_id == OPERATOR:
            return False
        outcomes = Outcomes(self, request, respond, begun, status, claim, identity)
        ready = self._read_order(outcomes) if placing else self._read_order_id(outcomes)
        return ready and self._send(outcomes)

    def _send(self, outcomes: Outcomes) -> bool:
        """Queue a command for the engine. Returns False if the request must take the general path."""
        gateway, signed_id, key_id = self.gateway, outcomes.signed_id, outcomes.identity.key_id
        if not gateway.backend.ready or (signed_id and gateway.replays.knows(signed_id)):
            return False
        if not gateway.limits.keys.charge(key_id):
            return False
        if signed_id:
            gateway.replays.begin(signed_id)
        outcomes.request.origin.note(outcomes.request, key_id)
        command = outcomes.command
        assert command is not None, "the request has been read"
        gateway.backend.enqueue([command], outcomes)
        return True

    def answered(self, placing: bool, status: int, seconds: float) -> None:
        """Count an answer of the fast path."""
        counts = self._placed if placing else self._cancelled
        if counts is None:
            route = self.route(placing)
            counts = self.gateway.metrics.answers(route.method, route.path)
            if placing:
                self._placed = counts
            else:
                self._cancelled = counts
        counts.add(status, seconds)

    def route(self, placing: bool) -> Route:
        """Return the route of an order or of a cancel."""
        return self._place if placing else self._cancel

    def _claim(self, request: Request) -> Claim | None:
        """Return the headers that sign a request, or None if one is missing."""
        key_id, signature = request.header(KEY_HEADER), request.header(SIGNATURE_HEADER)
        timestamp, passphrase = request.header(TIME_HEADER), request.header(PASSPHRASE_HEADER)
        return Claim(key_id, signature, timestamp, passphrase) if key_id and signature and timestamp and passphrase else None

    def _read_order(self, outcomes: Outcomes) -> bool:
        """Make the command of the order in the body. Returns False if the order is not plain."""
        body = outcomes.request.body
        if b"\\" in body:
            return False
        try:
            found: Any = _decode(body)
            # Each key of a flat object is followed by a colon, and a text without escapes contains no quote. This
            # counts the written keys.
            if type(found) is not dict or not _FIELDS.issuperset(found) or body.count(b'":') != len(found):
                return False
            product = self.gateway.catalogue.known(product_text(found["product_id"]))
            if product is None:
                return False
            outcomes.product = product
            return self._make_order(outcomes, found, product)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DecimalError, KeyError, TypeError, AttributeError):
            return False

    def _make_order(self, outcomes: Outcomes, found: dict[str, Any], product: Product) -> bool:
        """Make the command. Returns False, or raises KeyError, TypeError, AttributeError or DecimalError, for a request
        that is not plain.
        """
        order_type = ORDER_TYPES[found["type"]] if "type" in found else _LIMIT
        price, size, post_only = found.get("price"), found["size"], found.get("post_only", False)
        if (price is None) is (order_type is _LIMIT) or type(post_only) is not bool:
            return False
        size_units = units(size, product.base_scale)
        client_oid = found.get("client_oid")
        # Any other value, "" and 0 among them, is for the normal path to refuse: the engine could not read the command.
        if not size_units or (client_oid is not None and NAME.fullmatch(client_oid) is None):
            return False
        if client_oid is None:
            outcomes.signed_id = signed_id(outcomes.claim.key_id, outcomes.claim.signature)
        outcomes.command = PlaceOrder(
            outcomes.identity.account_id,
            f"c:{client_oid}" if client_oid is not None else outcomes.signed_id,
            product.row.product_id,
            SIDES[found["side"]],
            order_type,
            units(price, product.quote_scale) if price is not None else 0,
            size_units,
            0,
            TIMES_IN_FORCE[found["time_in_force"]] if "time_in_force" in found else _GTC,
            post_only,
            STPS[found["stp"]] if "stp" in found else _DC,
            client_oid if client_oid is not None else "",
        )
        return True

    def _read_order_id(self, outcomes: Outcomes) -> bool:
        """Make the cancel that the target names. Returns False unless it names only an order by its order id."""
        try:
            number = order_number(outcomes.request.target[len(ONE_ORDER) :])
        except ApiError:
            return False
        if not number:
            return False
        claim = outcomes.claim
        outcomes.signed_id = signed_id(claim.key_id, claim.signature)
        outcomes.command = CancelOrder(outcomes.identity.account_id, outcomes.signed_id, number, "", "")
        return True

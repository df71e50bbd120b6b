"""Orders over the WebSocket: placing, amending and cancelling, with the ids and answers of REST.

A message has a `request_id`, which its answer repeats. An order with a `client_oid` has the same command id as over REST,
so it is carried out once even if it is repeated over the other protocol. Any other command takes its id from
`request_id`, so a repetition gets the first outcome.

The commands of one connection are sent in the order in which they arrive, and answered as their outcomes arrive. At most
`UNDER_WAY_MAX` commands wait for an outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from node.errors import QuorumbookError, RequestFailed
from node.gateway.amending import AmendItem, amended, units_above_zero
from node.gateway.auth import Identity
from node.gateway.catalogue import Product
from node.gateway.channels import encode
from node.gateway.disconnects import TIMEOUT_DEFAULT, OnDisconnect, check_timeout
from node.gateway.errors import ApiError, BadRequestError, ErrorJson, NotLeaderError, UnavailableError, rejection
from node.gateway.gateway import Gateway
from node.gateway.orders import OrderJson, OrderRequest, place_command, placed, price_range
from node.gateway.requests import ABSENT, DecimalText, absent, choice, given, parse, raw_text
from node.gateway.values import SIDES, check_name, iso, order_number, order_text, product_text
from node.native.protocol import FailCode, OrderQuery
from statemachine.commands import AmendOrder, CancelAll, CancelAllAfter, CancelOrder, PlaceOrder
from statemachine.events import AnyOutcome, Armed, Cancelled, Rejected
from statemachine.limits import OPERATOR
from statemachine.types import Permission

UNDER_WAY_MAX = 64
"""Commands of one connection that wait for their outcomes. Further commands are refused."""
UNDER_WAY_SECONDS = 5.0
"""Seconds for which an ended connection waits for the outcomes of its commands, to cancel the orders that they place."""

TYPES = frozenset({"place", "amend", "cancel", "cancel_all", "cancel_on_disconnect"})

Command = PlaceOrder | AmendOrder | CancelOrder | CancelAll | CancelAllAfter


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The signature that every message may have, like a subscription. A connection needs it once."""

    type: str
    request_id: str
    signature: str | None = None
    key: str | None = None
    passphrase: str | None = None
    timestamp: msgspec.Raw = ABSENT


class PlaceMessage(Signed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Place an order; `order` is the body of POST /orders."""

    order: OrderRequest


class AmendMessage(Signed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Amend an order; `order` is an item of POST /orders/batch_amend."""

    order: AmendItem


class CancelMessage(Signed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cancel an order, named by `order_id` or `client_oid`."""

    order_id: str | None = None
    client_oid: str | None = None


class CancelAllMessage(Signed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cancel all orders, or those of a product, a side, a range of prices (of a product) or a session."""

    product_id: str | None = None
    side: str | None = None
    price_min: DecimalText = msgspec.field(default_factory=absent)
    price_max: DecimalText = msgspec.field(default_factory=absent)
    session: str | None = None


class DisconnectMessage(Signed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cancel all orders, or those of a session, when the connection ends, or `timeout` seconds after the node fails. A
    `timeout` of 0 ends this.
    """

    timeout: int = TIMEOUT_DEFAULT
    session: str | None = None


_SHAPES: dict[str, type[Signed]] = {
    "place": PlaceMessage,
    "amend": AmendMessage,
    "cancel": CancelMessage,
    "cancel_all": CancelAllMessage,
    "cancel_on_disconnect": DisconnectMessage,
}


class ResultJson(msgspec.Struct, kw_only=True):
    """The answer to a message. `status` is the HTTP status of the same REST call."""

    type: str = "result"
    request_id: str
    success: bool
    status: int
    sequence: int | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET
    order: OrderJson | UnsetType = UNSET
    order_ids: list[str] | UnsetType = UNSET
    pending: bool | UnsetType = UNSET
    trigger_time: str | UnsetType | None = UNSET
    error: ErrorJson | UnsetType = UNSET


def read(text: bytes, kind: str) -> Signed:
    """Decode a message of type `kind`. Raises BadRequestError that names the invalid field."""
    return parse(text, _SHAPES[kind], "the message")


class Trader:
    """Carries out the orders of one connection. `send` queues an answer. `spend` charges the connection's address for costs
    beyond the message.
    """

    def __init__(self, gateway: Gateway, send: Callable[[bytes], None]) -> None:
        self._gateway = gateway
        self._send = send
        self._under_way: set[asyncio.Task[None]] = set()
        self._on_disconnect = OnDisconnect(gateway.backend, gateway.holders)

    async def end(self, *, stopping: bool) -> None:
        """Finish after the connection has ended. `stopping` says that the node stops."""
        self._on_disconnect.stopping = stopping
        if self._under_way and not stopping:
            await asyncio.wait(self._under_way, timeout=UNDER_WAY_SECONDS)
        await self._on_disconnect.end()

    async def take(self, message: Signed, identity: Identity | None) -> None:
        """Send the command of a message. The answer follows later. A refused message is answered, too."""
        request_id = message.request_id[:64]
        try:
            check_name(message.request_id, "request_id")
            owner = await self._owner(identity)
            if len(self._under_way) >= UNDER_WAY_MAX:
                raise ApiError(429, f"{UNDER_WAY_MAX} commands of this connection are under way", reason="rate_limit")
            self._gateway.limits.keys.take(owner.key_id)
            command, product = await self._command(message, owner.account_id)
        except (QuorumbookError, RequestFailed) as error:
            self._send(encode(_failed(request_id, error)))
            return
        task = asyncio.get_running_loop().create_task(self._carry_out(request_id, command, product))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _owner(self, identity: Identity | None) -> Identity:
        """Return the identity with the current state of its key. Raises ApiError."""
        if identity is None:
            raise ApiError(401, "orders need a signature", "signature")
        gateway = self._gateway
        status = gateway.monitor.status
        cut_off = status is not None and not status.quorum
        if cut_off or not gateway.auth.is_current(identity):
            found = await gateway.auth.again(identity, at_leader=cut_off)
            if found is None:
                raise ApiError(401, "the API key is not valid any more", "key")
            identity = found
        identity.require(Permission.TRADE)
        if identity.account_id == OPERATOR:
            raise ApiError(403, "The operator's key has no account: use the key of an account", reason="forbidden")
        return identity

    async def _command(self, message: Signed, account_id: str) -> tuple[Command, Product | None]:
        """Return the command of a message and its product. Raises ApiError, UnavailableError."""
        catalogue, command_id = self._gateway.catalogue, f"w:{message.request_id}"
        match message:
            case PlaceMessage(order=order):
                if order.profile_id not in (None, account_id):
                    raise BadRequestError("profile_id must be the account of the API key", "profile_id")
                product = await catalogue.product(product_text(order.product_id))
                return place_command(order, account_id, product, command_id), product
            case AmendMessage(order=item):
                order_id, client_oid = _named(item.order_id, item.client_oid)
                product = await self._product(account_id, item.product_id, order_id, client_oid)
                size, price, stop_price = units_above_zero(item, product)
                return AmendOrder(account_id, command_id, order_id, client_oid, "", size, price, stop_price), product
            case CancelMessage():
                order_id, client_oid = _named(message.order_id, message.client_oid)
                return CancelOrder(account_id, command_id, order_id, client_oid), None
            case CancelAllMessage():
                found = await catalogue.product(product_text(message.product_id)) if message.product_id is not None else None
                side = choice(message.side, SIDES, "side") if message.side is not None else 0
                texts = {"price_min": message.price_min, "price_max": message.price_max}
                low, high = price_range({name: raw_text(raw, name) for name, raw in texts.items() if given(raw)}, found)
                session = check_name(message.session, "session") if message.session is not None else ""
                name = found.row.product_id if found is not None else ""
                return CancelAll(account_id, command_id, name, side, low, high, session), None
            case DisconnectMessage():
                session = check_name(message.session, "session") if message.session is not None else ""
                self._on_disconnect.check(session)
                timeout = check_timeout(message.timeout)
                if not timeout:
                    self._on_disconnect.pause()
                return CancelAllAfter(account_id, command_id, timeout, session), None
        raise AssertionError(f"no command for {type(message).__name__}")

    async def _product(self, account_id: str, product_id: str | None, order_id: int, client_oid: str) -> Product:
        """Return the named product, or else the product of the order. Raises ApiError 404."""
        query, unknown = OrderQuery(account_id, order_id, client_oid), ApiError(404, "order not found", "order_id")
        return await self._gateway.catalogue.product_of(product_id, query, self._gateway.backend.query, unknown)

    async def _carry_out(self, request_id: str, command: Command, product: Product | None) -> None:
        try:
            (outcome,) = await self._gateway.backend.submit([command])
            result = _result(request_id, command, product, outcome)
            if isinstance(command, CancelAllAfter):
                self._on_disconnect.accepted(command)
        except (QuorumbookError, RequestFailed) as error:
            result = _failed(request_id, error)
            self._on_disconnect.go_on()
        self._send(encode(result))


def _named(order_id: str | None, client_oid: str | None) -> tuple[int, str]:
    """Return the order id or the client id that names an order. Raises ApiError."""
    if (order_id is None) == (client_oid is None):
        raise BadRequestError("order_id or client_oid is required, and not both", "order_id")
    number = order_number(order_id, "order_id") if order_id is not None else 0
    if order_id is not None and not number:
        raise ApiError(404, "order not found", "order_id")
    return number, check_name(client_oid, "client_oid") if client_oid is not None else ""


def _result(request_id: str, command: Command, product: Product | None, outcome: AnyOutcome) -> ResultJson:
    """Return the answer for a command's outcome. Raises ApiError for a rejection."""
    result = ResultJson(request_id=request_id, success=True, status=200, sequence=outcome.sequence)
    if outcome.duplicate:
        result.duplicate = True
    if isinstance(command, PlaceOrder):
        assert product is not None, "an order has a product"
        result.order = placed(outcome, product, command)
    elif isinstance(command, AmendOrder):
        assert product is not None, "an order has a product"
        result.order = amended(outcome, product)
    elif isinstance(outcome, Cancelled):
        result.order_ids = [order_text(order.order_id) for order in outcome.orders]
        result.pending = True if outcome.pending else UNSET
    elif isinstance(outcome, Armed):
        result.trigger_time = iso(outcome.fires_at) if outcome.fires_at else None
    else:
        assert isinstance(outcome, Rejected), outcome
        raise rejection(outcome, command_id="request_id")
    return result


def _failed(request_id: str, error: Exception) -> ResultJson:
    """Return the answer for a failure, with the status and the body of REST."""
    match error:
        case ApiError():
            status, body = error.status, error.body()
        case NotLeaderError():
            status, body = 307, ErrorJson(message=f"{error}", leader=error.leader.http, leader_id=error.leader.node_id)
        case UnavailableError(outcome_unknown=True):
            text = f"No answer in time ({error}). The outcome is unknown: send the same message again"
            status, body = 504, ErrorJson(message=text, reason="outcome_unknown")
        case RequestFailed(code=FailCode.CONFLICT | FailCode.BAD_REQUEST | FailCode.FORBIDDEN):
            status, body = 400, ErrorJson(message=error.message)
        case _:
            status, body = 503, ErrorJson(message=f"Nothing was done: {error}", reason="no_leader")
    return ResultJson(request_id=request_id, success=False, status=status, error=body)


def kind_of(text: bytes) -> str:
    """Return the type of a message about orders, or "" for any other message."""
    try:
        found: Any = msgspec.json.decode(text, type=_Typed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return found.type if found.type in TYPES else ""


class _Typed(msgspec.Struct, frozen=True):
    """The type of a message."""

    type: str = ""

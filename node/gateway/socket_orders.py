"""Orders over the WebSocket: placing, amending and cancelling, with the ids and answers of REST.

A message has a `request_id`, which its answer repeats. An order with a `client_oid` has the same command id as over
REST, so it is carried out once even if it is repeated over the other protocol. Any other command takes its id from
`request_id`, so a repetition gets the first outcome.

The commands of one connection are sent in the order in which they arrive, and answered as their outcomes arrive. At
most `UNDER_WAY_MAX` commands wait for an outcome.

Cancel on disconnect: the end of a connection cancels the orders of an account, or of one session. While the connection
lasts, its gateway sets the exchange's timer (`CancelAllAfter`) again and again. When the connection ends, the gateway
cancels the orders and clears the timer. If the gateway, the node or the leader fails, the timer is not set again, and
expires. A node that is stopped cancels nothing, so its clients have the time of the timer to connect to another node,
as after a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from node.errors import QuorumbookError, RequestFailed
from node.gateway.amending import AmendItem, amended, side_of, units_above_zero
from node.gateway.auth import Identity
from node.gateway.backend import Backend
from node.gateway.catalogue import Product
from node.gateway.channels import encode
from node.gateway.errors import ApiError, BadRequestError, ErrorJson, NotLeaderError, UnavailableError, rejection
from node.gateway.gateway import Gateway, Holders
from node.gateway.orders import OrderJson, OrderRequest, place_command, placed, price_range
from node.gateway.requests import ABSENT, DecimalText, absent, choice, given, parse, raw_text
from node.gateway.values import SIDES, check_name, iso, optional_name, order_number, order_text, product_text
from node.native.protocol import FailCode, OrderQuery
from node.system import tasks as background
from statemachine.commands import AmendOrder, CancelAll, CancelAllAfter, CancelOrder, PlaceOrder
from statemachine.events import AnyOutcome, Armed, Cancelled, OrderState, Rejected
from statemachine.limits import OPERATOR, SECOND_NS
from statemachine.types import Permission, Side

log = logging.getLogger(__name__)

UNDER_WAY_MAX = 64
"""Commands of one connection that wait for their outcomes. Further commands are refused."""
UNDER_WAY_SECONDS = 5.0
"""Seconds for which an ended connection waits for the outcomes of its commands, to cancel the orders that they place."""

TIMEOUT_MIN, TIMEOUT_DEFAULT, TIMEOUT_MAX = 10, 10, 300
"""Minimum and maximum seconds of the timer. A change of the leader and a new connection must fit in the minimum. A
client that is absent for longer than the maximum does not need its orders.
"""
SETS_PER_TIMEOUT = 3
"""How often the timer is set again within its time."""
CANCEL_SECONDS = 5.0
"""Seconds in which the orders of an ended connection are cancelled. Otherwise the timer cancels them."""

TYPES = frozenset({"place", "amend", "cancel", "cancel_all", "cancel_on_disconnect"})

Command = PlaceOrder | AmendOrder | CancelOrder | CancelAll | CancelAllAfter


class SignedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The signature that every message may have, like a subscription. A connection needs it once."""

    type: str
    request_id: str
    signature: str | None = None
    key: str | None = None
    passphrase: str | None = None
    timestamp: msgspec.Raw = ABSENT


class PlaceMessage(SignedMessage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Place an order; `order` is the body of POST /orders."""

    order: OrderRequest


class AmendMessage(SignedMessage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Amend an order; `order` is an item of POST /orders/batch_amend."""

    order: AmendItem


class CancelMessage(SignedMessage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cancel an order, named by `order_id` or `client_oid`."""

    order_id: str | None = None
    client_oid: str | None = None


class CancelAllMessage(SignedMessage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cancel all orders, or those of a product, a side, a range of prices (of a product) or a session."""

    product_id: str | None = None
    side: str | None = None
    price_min: DecimalText = msgspec.field(default_factory=absent)
    price_max: DecimalText = msgspec.field(default_factory=absent)
    session: str | None = None


class DisconnectMessage(SignedMessage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cancel all orders, or those of a session, when the connection ends, or `timeout` seconds after the node fails. A
    `timeout` of 0 ends this.
    """

    timeout: int = TIMEOUT_DEFAULT
    session: str | None = None


_SHAPES: dict[str, type[SignedMessage]] = {
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


def read(text: bytes, kind: str) -> SignedMessage:
    """Decode a message of type `kind`. Raises BadRequestError that names the invalid field."""
    return parse(text, _SHAPES[kind], "the message")


class SocketOrders:
    """Carries out the orders of one connection. `send` queues an answer. `spend` charges the connection's address for
    costs beyond the message.
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

    async def take(self, message: SignedMessage, identity: Identity | None) -> None:
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
        background.keep(self._under_way, self._carry_out(request_id, command, product))

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

    async def _command(self, message: SignedMessage, account_id: str) -> tuple[Command, Product | None]:
        """Return the command of a message and its product. Raises ApiError, UnavailableError."""
        command_id = f"w:{message.request_id}"
        match message:
            case PlaceMessage(order=order):
                if order.profile_id not in (None, account_id):
                    raise BadRequestError("profile_id must be the account of the API key", "profile_id")
                product = await self._listed(product_text(order.product_id))
                return place_command(order, account_id, product, command_id), product
            case AmendMessage(order=item):
                order_id, client_oid = _named(item.order_id, item.client_oid)
                product = await self._product(account_id, item.product_id, order_id, client_oid)
                size, price, stop_price = units_above_zero(item, product)
                name = product.row.product_id if item.product_id is not None else ""
                return AmendOrder(account_id, command_id, order_id, client_oid, name, size, price, stop_price), product
            case CancelMessage():
                order_id, client_oid = _named(message.order_id, message.client_oid)
                return CancelOrder(account_id, command_id, order_id, client_oid), None
            case CancelAllMessage():
                found = await self._listed(product_text(message.product_id)) if message.product_id is not None else None
                side = choice(message.side, SIDES, "side") if message.side is not None else 0
                texts = {"price_min": message.price_min, "price_max": message.price_max}
                low, high = price_range({name: raw_text(raw, name) for name, raw in texts.items() if given(raw)}, found)
                session = optional_name(message.session, "session")
                name = found.row.product_id if found is not None else ""
                return CancelAll(account_id, command_id, name, side, low, high, session), None
            case DisconnectMessage():
                session = optional_name(message.session, "session")
                self._on_disconnect.check(session)
                timeout = check_timeout(message.timeout)
                if not timeout:
                    self._on_disconnect.pause()
                return CancelAllAfter(account_id, command_id, timeout, session), None
        raise AssertionError(f"no command for {type(message).__name__}")

    async def _listed(self, product_id: str) -> Product:
        """Return the product for its scales. Raises ApiError 404, UnavailableError."""
        catalogue = self._gateway.catalogue
        return catalogue.known(product_id) or await catalogue.listed(product_id)

    async def _product(self, account_id: str, product_id: str | None, order_id: int, client_oid: str) -> Product:
        """Return the named product, or else the product of the order. Raises ApiError 404."""
        query, unknown = OrderQuery(account_id, order_id, client_oid), ApiError(404, "order not found", "order_id")
        return await self._gateway.catalogue.product_of(product_id, query, self._find, unknown)

    async def _find(self, query: OrderQuery) -> OrderState:
        """Return an order. A follower may not know the order yet, so it asks the leader for an order that it does not know."""
        backend, status = self._gateway.backend, self._gateway.monitor.status
        try:
            found: OrderState = await backend.query(query)
        except RequestFailed as error:
            if error.code is not FailCode.NOT_FOUND or (status is not None and status.role == "leader"):
                raise
            found = await backend.query_leader(query)
        return found

    async def _carry_out(self, request_id: str, command: Command, product: Product | None) -> None:
        """Submit a command, and send its result."""
        try:
            (outcome,) = await self._gateway.backend.submit([command])
            side = await side_of(outcome, command, self._find) if isinstance(command, AmendOrder) else Side.BUY
            result = _result(request_id, command, product, outcome, side)
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
    return number, optional_name(client_oid, "client_oid")


def _result(request_id: str, command: Command, product: Product | None, outcome: AnyOutcome, side: Side) -> ResultJson:
    """Return the answer for a command's outcome. `side` is that of an amended order. Raises ApiError for a rejection."""
    result = ResultJson(request_id=request_id, success=True, status=200, sequence=outcome.sequence)
    if outcome.duplicate:
        result.duplicate = True
    if isinstance(command, PlaceOrder):
        assert product is not None, "an order has a product"
        result.order = placed(outcome, product, command)
    elif isinstance(command, AmendOrder):
        assert product is not None, "an order has a product"
        result.order = amended(outcome, product, side)
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


def check_timeout(timeout: int) -> int:
    """Return the timer's seconds as nanoseconds. Raises BadRequestError."""
    if timeout and not TIMEOUT_MIN <= timeout <= TIMEOUT_MAX:
        raise BadRequestError(f"timeout must be 0, or a whole number of seconds from {TIMEOUT_MIN} to {TIMEOUT_MAX}", "timeout")
    return timeout * SECOND_NS


class OnDisconnect:
    """The orders that the end of one connection cancels: none, or those of an account with a session tag.

    Attributes:
        stopping: whether the connection ends because the node stops.
    """

    def __init__(self, backend: Backend, holders: Holders) -> None:
        self.stopping = False
        self._backend = backend
        self._holders = holders
        self._timer: CancelAllAfter | None = None
        self._setting: asyncio.Task[None] | None = None
        self._ended = False
        self._token = secrets.token_hex(8)
        self._commands = 0

    def check(self, session: str) -> None:
        """Raise BadRequestError if the connection already has a timer of another session."""
        if self._timer is not None and self._timer.session != session:
            raise BadRequestError("the connection has asked for another session: take that off first, with timeout 0", "session")

    def accepted(self, timer: CancelAllAfter) -> None:
        """The exchange has set this timer, or cleared it (timeout 0). Keep it set from now on."""
        self._leave_off()
        if timer.timeout and not self._ended:
            self._timer = timer
            self._holders[timer.account_id, timer.session] = self
            self.go_on()

    def pause(self) -> None:
        """Stop setting the timer while a command that clears it is under way. It could be set again after that command."""
        if self._setting is not None:
            self._setting.cancel()
            self._setting = None

    def go_on(self) -> None:
        """Continue to set the timer after that command failed."""
        if self._timer is not None and self._setting is None:
            self._setting = asyncio.get_running_loop().create_task(self._keep_set(self._timer))

    async def end(self) -> None:
        """Cancel the orders of the ended connection, unless it requested nothing, was replaced, or the node stops."""
        timer, holds = self._timer, self._holds
        self._ended = True
        self._leave_off()
        if timer is None or not holds or self.stopping:
            return
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                cancel = CancelAll(timer.account_id, self._command_id(), session=timer.session, disconnected=True)
                (outcome,) = await self._backend.submit([cancel])
                if isinstance(outcome, Cancelled):
                    await self._backend.submit([CancelAllAfter(timer.account_id, self._command_id(), 0, timer.session)])
        except (TimeoutError, QuorumbookError, RequestFailed) as error:
            log.info("orders of a connection that ended are left to their timer: %s", error)

    @property
    def _holds(self) -> bool:
        timer = self._timer
        return timer is not None and self._holders.get((timer.account_id, timer.session)) is self

    def _leave_off(self) -> None:
        """Stop setting the timer."""
        self.pause()
        if self._timer is not None and self._holds:
            del self._holders[self._timer.account_id, self._timer.session]
        self._timer = None

    async def _keep_set(self, timer: CancelAllAfter) -> None:
        """Set the timer again well before it expires, while this connection is the one whose end cancels."""
        while self._holds:
            again = CancelAllAfter(timer.account_id, self._command_id(), timer.timeout, timer.session)
            with contextlib.suppress(QuorumbookError, RequestFailed):
                await self._backend.submit([again])
            await asyncio.sleep(timer.timeout / SECOND_NS / SETS_PER_TIMEOUT)

    def _command_id(self) -> str:
        self._commands += 1
        return f"wd:{self._token}:{self._commands}"

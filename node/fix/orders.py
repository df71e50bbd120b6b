"""Order entry: a client's requests, their commands, and the answers to refused requests.

An accepted request gets no answer here, because the reports of the account's stream answer it. The command id of an
order is derived from its ClOrdID, as in the other protocols. That of any other request is derived from its ClOrdID and
type. A repeated message is therefore carried out once, whichever node receives it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from node.errors import QuorumbookError, RequestFailed
from node.fix import reports, tags
from node.fix.fields import INCORRECT, FieldError, FixMessage
from node.fix.logon import CancelOnDisconnect, Terms
from node.fix.sending import Answers, Done, Item, StreamSender, no_answer
from node.fix.wire import Fields, timestamp
from node.gateway.backend import Backend
from node.gateway.catalogue import Catalogue, Product
from node.gateway.errors import REASONS, BadRequestError, UnknownHereError
from node.gateway.values import NAME, order_number, order_text, to_units
from node.native.protocol import FailCode, OrderQuery
from statemachine.commands import AmendOrder, CancelAll, CancelAllAfter, CancelOrder, OrderOptions, PlaceOrder
from statemachine.events import AnyOutcome, Cancelled, OrderState, Placed, Rejected
from statemachine.limits import CANCEL_AFTER_MAX
from statemachine.types import OrderType, Reason, SelfTradePrevention, Side, StopType, TimeInForce

OTHER_REASON, UNSUPPORTED_TYPE, NOT_AUTHORIZED, UNAVAILABLE = "0", "3", "6", "4"
"""Values of BusinessRejectReason."""

REQUEST_ID_MAX = 64
"""Characters of an OrdStatusReqID."""

TO_CANCEL, TO_REPLACE = "1", "2"
"""Values of CxlRejResponseTo."""

_ORD_REJECTS = {
    Reason.UNKNOWN_PRODUCT: "1",
    Reason.PRODUCT_NOT_TRADING: "2",
    Reason.PRODUCT_CANCEL_ONLY: "2",
    Reason.INSUFFICIENT_FUNDS: "3",
    Reason.COMMAND_ID_REUSED: "6",
    Reason.UNKNOWN_ACCOUNT: "15",
    Reason.SIZE_TOO_SMALL: "13",
    Reason.SIZE_TOO_LARGE: "13",
    Reason.SIZE_OFF_LOT: "13",
    Reason.INVALID_SIZE: "13",
    Reason.PRICE_OFF_TICK: "18",
}
"""Values of OrdRejReason; 99 is any other."""
_CXL_REJECTS = {
    Reason.UNKNOWN_ORDER: "1",
    Reason.ORDER_ALREADY_DONE: "0",
    Reason.AUCTION_OPENING: "2",
    Reason.COMMAND_ID_REUSED: "6",
}
"""Values of CxlRejReason; 99 is any other."""

_MASS_REJECTS = {Reason.UNKNOWN_PRODUCT: "1"}
"""Values of MassCancelRejectReason; 99 is any other."""
_USED_BEFORE = "a request with this ClOrdID was carried out before"

_ORDER_TYPES = {
    tags.MARKET: (OrderType.MARKET, False),
    tags.LIMIT: (OrderType.LIMIT, False),
    tags.STOP: (OrderType.MARKET, True),
    tags.STOP_LIMIT: (OrderType.LIMIT, True),
}
DEAD_MAN_MIN = 10
"""Minimum seconds after the failure of a node before the client's orders are cancelled. The client can log on at
another node in this time. The timer is three heartbeat intervals if these are longer.
"""

_Handler = Callable[[FixMessage, int], Awaitable[None]]


class OrderEntry:
    """Handles the requests of one session."""

    def __init__(self, backend: Backend, catalogue: Catalogue, sender: StreamSender, terms: Terms) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._sender = sender
        self._terms = terms
        self._account_id = terms.account_id
        self._tag = f"fix:{terms.identity.key_id}"
        """The tag of the session's orders. It does not depend on the session's options, so that a repeated order is
        identical in a later session.
        """
        self._handlers: dict[str, _Handler] = {
            "D": self._new_order,
            "F": self._cancel,
            "G": self._replace,
            "H": self._status,
            "q": self._mass_cancel,
        }

    async def handle(self, message: FixMessage, number: int) -> None:
        """Carry out a request; `number` is its MsgSeqNum. Raises FieldError."""
        handler = self._handlers.get(message.type)
        if handler is None:
            self._sender.send(business_reject(message, number, UNSUPPORTED_TYPE, "order entry does not take this type"), number)
            return
        await self._sender.submissions.room()
        await handler(message, number)

    # NewOrderSingle

    async def _new_order(self, message: FixMessage, number: int) -> None:
        """Handle a NewOrderSingle."""
        client_oid = _name(message, tags.CL_ORD_ID)
        try:
            command = await self._place_command(message, client_oid)
        except _Refusal as refusal:
            self._sender.send(_rejected(message, refusal), number)
            return
        self._sender.submissions.put(Item(command, self._after_placing(message, number, again=_again(message))))

    def _after_placing(self, message: FixMessage, number: int, *, again: bool) -> Done:
        """Return how to answer the outcome. If another message placed an order with this ClOrdID before, the new one is
        rejected. A repeated message is not.
        """

        async def done(outcome: AnyOutcome, resent: bool) -> Answers:
            if isinstance(outcome, Rejected):
                text, _ = _words(outcome)
                return [(_rejected(message, _Refusal(_ORD_REJECTS.get(outcome.reason, "99"), text)), number)]
            assert isinstance(outcome, Placed), outcome
            if outcome.duplicate and not again and not resent:
                return [(_rejected(message, _Refusal("6", "an order with this ClOrdID was placed before")), number)]
            self._sender.settled(number)
            return []

        return done

    async def _place_command(self, message: FixMessage, client_oid: str) -> PlaceOrder:
        """Return the command of a NewOrderSingle. It has every field of the message, also those that do not go with its
        type: the exchange rejects them, and an order never trades without a term that its client gave. Raises FieldError,
        _Refusal.
        """
        product = await self._product(message)
        side = message.choice(tags.SIDE, tags.SIDES)
        order_type, stops = message.choice(tags.ORD_TYPE, _ORDER_TYPES)
        limited = order_type is OrderType.LIMIT
        time_in_force = message.choice(tags.TIME_IN_FORCE, tags.TIMES, default=TimeInForce.GTC)
        post_only = message.choice(tags.EXEC_INST, {tags.POST_ONLY: True}, default=False)
        stp = message.choice(tags.SELF_TRADE_TYPE, tags.SELF_TRADE_TYPES, default=SelfTradePrevention.DC)
        if limited:
            message.text(tags.PRICE)
            message.text(tags.ORDER_QTY)
        return PlaceOrder(
            self._account_id,
            f"c:{client_oid}",
            product.row.product_id,
            side,
            order_type,
            _units(message, tags.PRICE, product.quote_scale, "Price"),
            _units(message, tags.ORDER_QTY, product.base_scale, "OrderQty"),
            _above_zero(message, tags.CASH_ORDER_QTY, product.quote_scale, "CashOrderQty"),
            time_in_force,
            post_only,
            stp,
            client_oid,
            (StopType.ENTRY if side is Side.BUY else StopType.LOSS) if stops else StopType.NONE,
            _units(message, tags.STOP_PX, product.quote_scale, "StopPx"),
            _lifetime(message) if time_in_force is TimeInForce.GTT or message.has(tags.EXPIRE_TIME) else 0,
            OrderOptions(session=self._tag),
        )

    async def _product(self, message: FixMessage) -> Product:
        """Return the product of a message. Raises `_Refusal` if there is none."""
        try:
            symbol = message.text(tags.SYMBOL)
            return self._catalogue.known(symbol) or await self._catalogue.listed(symbol)
        except UnknownHereError:
            raise _Refusal("1", f"there is no product {message.text(tags.SYMBOL)[:64]}") from None

    # OrderCancelRequest, OrderCancelReplaceRequest, OrderMassCancelRequest

    async def _cancel(self, message: FixMessage, number: int) -> None:
        name = _name(message, tags.CL_ORD_ID)
        order_id, client_oid = _named(message, tags.ORIG_CL_ORD_ID)
        command = CancelOrder(self._account_id, f"f:F:{name}", order_id, client_oid, message.optional(tags.SYMBOL) or "")
        self._submit_change(command, message, number, TO_CANCEL)

    async def _replace(self, message: FixMessage, number: int) -> None:
        """Amend an order. It keeps its OrderID and takes the ClOrdID of this request."""
        name = _name(message, tags.CL_ORD_ID)
        order_id, client_oid = _named(message, tags.ORIG_CL_ORD_ID)
        try:
            product = await self._product(message)
            command = AmendOrder(
                self._account_id,
                f"f:G:{name}",
                order_id,
                client_oid,
                product.row.product_id,
                _above_zero(message, tags.ORDER_QTY, product.base_scale, "OrderQty"),
                _above_zero(message, tags.PRICE, product.quote_scale, "Price"),
                _above_zero(message, tags.STOP_PX, product.quote_scale, "StopPx"),
                name,
            )
        except _Refusal as refusal:
            self._sender.send(_cancel_reject(message, TO_REPLACE, "99", refusal.text), number)
            return
        self._submit_change(command, message, number, TO_REPLACE)

    def _submit_change(self, command: CancelOrder | AmendOrder, message: FixMessage, number: int, response_to: str) -> None:
        """Submit a change of an order. The client gets a reject, or the reports of its report stream. A second request
        with the same ClOrdID changes nothing and has no reports, so it is rejected, unless it is a repeated message.
        """
        again = _again(message)

        async def done(outcome: AnyOutcome, resent: bool) -> Answers:
            if isinstance(outcome, Rejected):
                reason, text = _CXL_REJECTS.get(outcome.reason, "99"), _words(outcome)[0]
            elif outcome.duplicate and not again and not resent:
                reason, text = "6", _USED_BEFORE
            else:
                self._sender.settled(number)
                return []
            order = await self._order_of(command)
            return [(_cancel_reject(message, response_to, reason, text, order), number)]

        self._sender.submissions.put(Item(command, done))

    async def _order_of(self, command: CancelOrder | AmendOrder) -> OrderState | None:
        """Return the order that a rejected request names, or None if there is none or no leader answers."""
        try:
            query = OrderQuery(self._account_id, command.order_id, command.client_oid)
            order: OrderState = await self._backend.query_leader(query)
        except QuorumbookError:
            return None
        return order

    async def _mass_cancel(self, message: FixMessage, number: int) -> None:
        """Handle an OrderMassCancelRequest."""
        name = _name(message, tags.CL_ORD_ID)
        kind = message.choice(tags.MASS_CANCEL_TYPE, {"1": "1", "7": "7"})
        symbol = message.text(tags.SYMBOL) if kind == "1" else ""
        side = message.choice(tags.SIDE, tags.SIDES) if message.has(tags.SIDE) else 0

        again = _again(message)

        async def done(outcome: AnyOutcome, resent: bool) -> Answers:
            used = outcome.duplicate and not again and not resent
            return [(_mass_report(message, kind, symbol, outcome, used=used), number)]

        self._sender.submissions.put(Item(CancelAll(self._account_id, f"f:q:{name}", symbol, side), done))

    # Cancel on disconnect

    async def keep_armed(self) -> None:
        """Set the exchange's timer again and again while the connection lasts, until cancelled. If the node fails, the
        timer expires and the exchange cancels the orders.
        """
        timeout = max(DEAD_MAN_MIN, 3 * self._terms.heartbeat)
        while True:
            self._arm(timeout * 10**9)
            await asyncio.sleep(timeout / 3)

    def disarm(self) -> None:
        """Clear the timers of earlier connections that this session does not set itself: it owns the orders now,
        whatever 8013 said before. The account's timer without a tag belongs to REST and stays.
        """
        for cancel in (CancelOnDisconnect.ACCOUNT, CancelOnDisconnect.SESSION):
            if self._terms.cancel is not cancel:
                self._arm(0, cancel)

    async def cancel_on_disconnect(self) -> None:
        """Cancel the orders that the session's terms name, and wait for the outcome."""
        self._sender.submissions.put(
            Item(CancelAll(self._account_id, self._mark("cod"), session=self._cancelled_tag, disconnected=True), no_answer)
        )
        self._arm(0)
        await self._sender.submissions.idle()

    @property
    def _cancelled_tag(self) -> str:
        """Return the tag of the orders to cancel, or "" for all orders of the account."""
        return "" if self._terms.cancel is CancelOnDisconnect.ACCOUNT else self._tag

    def _arm(self, timeout: int, cancel: CancelOnDisconnect | None = None) -> None:
        """Set the timer of the session's terms, or of `cancel`; or clear it (0)."""
        whole = (cancel or self._terms.cancel) is CancelOnDisconnect.ACCOUNT
        mark = self._mark("arm-all" if whole else "arm")
        self._sender.submissions.put(Item(CancelAllAfter(self._account_id, mark, timeout, self._tag, whole), no_answer))

    def _mark(self, what: str) -> str:
        """Return a command id that no other command has."""
        return f"f:{what}:{self._terms.identity.key_id[:32]}:{time.time_ns()}"

    # OrderStatusRequest

    async def _status(self, message: FixMessage, number: int) -> None:
        """Handle an OrderStatusRequest."""
        order_id, client_oid = _named(message, tags.CL_ORD_ID)
        request_id = message.optional(tags.ORD_STATUS_REQ_ID) or ""
        if len(request_id) > REQUEST_ID_MAX:
            raise FieldError(tags.ORD_STATUS_REQ_ID, INCORRECT, f"OrdStatusReqID has at most {REQUEST_ID_MAX} characters")
        await self._sender.submissions.idle()  # the answer includes the effect of earlier requests
        try:
            order: OrderState = await self._backend.query(OrderQuery(self._account_id, order_id, client_oid))
        except RequestFailed as failure:
            if failure.code is not FailCode.NOT_FOUND:
                raise
            refusal = _Refusal("5", "there is no such order")
            self._sender.send([*_rejected(message, refusal, status=True), *_asked(request_id)], number)
            return
        product = await self._catalogue.product(order.product_id)
        self._sender.send(reports.status_report(order, product, request_id, time.time_ns()), number)


def _again(message: FixMessage) -> bool:
    """Return whether the client says that it may have sent the message before. Raises FieldError."""
    return message.flag(tags.POSS_DUP) or message.flag(tags.POSS_RESEND)


class _Refusal(Exception):  # noqa: N818 - of an order, before it is sent
    """An order is refused before it is submitted: OrdRejReason, and the text for the client."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


def business_reject(message: FixMessage, number: int, reason: str, text: str) -> Fields:
    """Return a BusinessMessageReject (j)."""
    return [
        (tags.MSG_TYPE, "j"),
        (tags.REF_SEQ_NUM, str(number)),
        (tags.REF_MSG_TYPE, message.type),
        (tags.BUSINESS_REASON, reason),
        (tags.TEXT, text),
    ]


def _rejected(message: FixMessage, refusal: _Refusal, *, status: bool = False) -> Fields:
    """Return an ExecutionReport that rejects an order or, with `status`, says that the order is unknown."""
    name = message.optional(tags.CL_ORD_ID) or "NONE"
    fields: Fields = [
        (tags.MSG_TYPE, "8"),
        (tags.ORDER_ID, "NONE"),
        (tags.CL_ORD_ID, name),
        (tags.EXEC_ID, f"{'status' if status else 'rejected'}-{name}-{time.time_ns()}"),
        (tags.EXEC_TYPE, reports.STATUS if status else reports.REJECTED),
        (tags.ORD_STATUS, reports.REJECTED),
    ]
    for tag in (tags.SYMBOL, tags.SIDE, tags.ORD_TYPE, tags.ORDER_QTY, tags.PRICE):
        if message.has(tag):
            fields.append((tag, message.text(tag)[:64]))
    fields += [(tags.LEAVES_QTY, "0"), (tags.CUM_QTY, "0"), (tags.AVG_PX, "0"), (tags.ORD_REJ_REASON, refusal.reason)]
    return [*fields, (tags.TEXT, refusal.text), (tags.TRANSACT_TIME, timestamp(time.time_ns()))]


def _cancel_reject(message: FixMessage, response_to: str, reason: str, text: str, order: OrderState | None = None) -> Fields:
    """Return the fields of an OrderCancelReject. OrderID and OrdStatus are those of the order. If it is not known, the
    standard wants NONE and 8.
    """
    return [
        (tags.MSG_TYPE, "9"),
        (tags.ORDER_ID, order_text(order.order_id) if order is not None else "NONE"),
        (tags.CL_ORD_ID, message.text(tags.CL_ORD_ID)),
        (tags.ORIG_CL_ORD_ID, message.optional(tags.ORIG_CL_ORD_ID) or "NONE"),
        (tags.ORD_STATUS, reports.order_status(order) if order is not None else reports.REJECTED),
        (tags.CXL_REJ_RESPONSE_TO, response_to),
        (tags.CXL_REJ_REASON, reason),
        (tags.TEXT, text),
        (tags.TRANSACT_TIME, timestamp(time.time_ns())),
    ]


def _mass_report(message: FixMessage, kind: str, symbol: str, outcome: AnyOutcome, *, used: bool) -> Fields:
    """Return the fields of an OrderMassCancelReport. With `used` the request has the ClOrdID of an earlier one, and
    cancelled nothing.
    """
    refused = outcome if isinstance(outcome, Rejected) else None
    fields: Fields = [
        (tags.MSG_TYPE, "r"),
        (tags.CL_ORD_ID, message.text(tags.CL_ORD_ID)),
        (tags.MASS_REPORT_ID, f"{message.text(tags.CL_ORD_ID)}-{outcome.sequence}"),
        (tags.MASS_CANCEL_TYPE, kind),
        (tags.MASS_CANCEL_RESPONSE, "0" if refused or used else kind),
    ]
    if symbol:
        fields.append((tags.SYMBOL, symbol))
    if refused is not None:
        fields += [(tags.MASS_CANCEL_REJ_REASON, _MASS_REJECTS.get(refused.reason, "99")), (tags.TEXT, _words(refused)[0])]
    elif used:
        fields += [(tags.MASS_CANCEL_REJ_REASON, "99"), (tags.TEXT, _USED_BEFORE)]
    elif isinstance(outcome, Cancelled):
        fields.append((tags.TOTAL_AFFECTED, str(len(outcome.orders))))
        if outcome.pending:
            fields.append((tags.TEXT, "more orders leave with the next entries of the log"))
    return [*fields, (tags.TRANSACT_TIME, timestamp(time.time_ns()))]


def _words(outcome: Rejected) -> tuple[str, str]:
    """Return the text of a rejection and the field at fault."""
    _, text = REASONS.get(outcome.reason, (400, "Rejected"))
    printable = "".join(char if char.isascii() and char.isprintable() else "?" for char in outcome.detail[:200])
    return f"{text} ({outcome.field}: {printable})" if outcome.field else text, outcome.field


def _name(message: FixMessage, tag: int) -> str:
    """Return an id that the client chose. Raises FieldError."""
    text = message.text(tag)
    if NAME.fullmatch(text) is None:
        raise FieldError(tag, 5, f"field {tag} must be 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    return text


def _named(message: FixMessage, tag: int) -> tuple[int, str]:
    """Return the order id or the client's id that field `tag` holds. Raises FieldError, also for a client's id beside an
    order id that no order can have.
    """
    given = message.optional(tags.ORDER_ID)
    if given is not None and message.has(tag):
        _name(message, tag)
    if given is not None:
        try:
            return order_number(given), ""
        except BadRequestError:
            raise FieldError(tags.ORDER_ID, 5, "OrderID must be an id of ours") from None
    return 0, _name(message, tag)


def _asked(request_id: str) -> Fields:
    """Return the field that repeats the id of a status request, if there is one."""
    return [(tags.ORD_STATUS_REQ_ID, request_id)] if request_id else []


def _units(message: FixMessage, tag: int, scale: int, name: str) -> int:
    """Return a decimal in smallest units, or 0 if the field is absent. Raises _Refusal."""
    text = message.optional(tag)
    if text is None:
        return 0
    try:
        return to_units(text, scale, name)
    except BadRequestError as error:
        reason = "18" if tag == tags.PRICE else "13" if tag == tags.ORDER_QTY else "99"
        raise _Refusal(reason, error.message) from None


def _above_zero(message: FixMessage, tag: int, scale: int, name: str) -> int:
    """Return a decimal in smallest units, or 0 if the field is absent: in a command 0 means no ceiling, or unchanged.
    Raises _Refusal, also for zero.
    """
    units = _units(message, tag, scale, name)
    if not units and message.has(tag):
        raise _Refusal("18" if tag == tags.PRICE else "13", f"{name} too small")
    return units


def _lifetime(message: FixMessage) -> int:
    """Return the nanoseconds from the first sending to ExpireTime, which a repeated message keeps: at least one, because
    0 means that there is no ExpireTime. Raises FieldError.
    """
    first = tags.ORIG_SENDING_TIME if message.has(tags.ORIG_SENDING_TIME) else tags.SENDING_TIME
    return max(1, min(message.time(tags.EXPIRE_TIME) - message.time(first), CANCEL_AFTER_MAX + 1))

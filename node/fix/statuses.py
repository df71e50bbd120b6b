"""Product statuses over FIX: SecurityStatusRequest (e) and SecurityStatus (f), once or at every change."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from node.budget import Cost, Shares
from node.errors import QuorumbookError
from node.fix import tags
from node.fix.fields import INCORRECT, FieldError, FixMessage
from node.fix.orders import UNAVAILABLE, business_reject
from node.fix.sending import LocalSender
from node.fix.wire import Fields, timestamp
from node.gateway.catalogue import Catalogue
from node.gateway.channels import Frame
from node.gateway.errors import ApiError
from node.gateway.feeds import Feeds, ProductFeed, Reader
from node.system import tasks as background
from statemachine.events import StatusChanged
from statemachine.types import ProductStatus, StatusCause

REQUESTS_MAX = 100
"""Subscriptions of one session. It suffices for one subscription of each product."""

AGAIN_S = 0.2
"""Seconds before a status that could not be read is read again."""

UNKNOWN_SECURITY = "2"
"""A value of BusinessRejectReason."""

_HALTED, _READY, _NOT_AVAILABLE, _PRE_OPEN = "2", "17", "18", "21"
_STATUSES = {
    ProductStatus.ONLINE: _READY,
    ProductStatus.POST_ONLY: _READY,
    ProductStatus.LIMIT_ONLY: _READY,
    ProductStatus.CANCEL_ONLY: _HALTED,
    ProductStatus.OFFLINE: _NOT_AVAILABLE,
    ProductStatus.AUCTION: _PRE_OPEN,
}
"""Values of SecurityTradingStatus."""
_CAUSES = {
    StatusCause.CALENDAR: ", by the trading calendar",
    StatusCause.COLLAR: ", by the price collar",
    StatusCause.LIMIT_STATE: ", in a limit state: orders rest at the price collar",
}


@dataclass
class _Request:
    """A subscription to the status of a product."""

    feed: ProductFeed
    changed: bool = False
    """Whether a change was already sent."""


class Statuses:
    """The status requests of one session. `reader` is the session's reader of feeds."""

    def __init__(
        self, feeds: Feeds, catalogue: Catalogue, sender: LocalSender, shares: Shares[str], key_id: str, reader: Reader
    ) -> None:
        self._feeds = feeds
        self._catalogue = catalogue
        self._sender = sender
        self._shares = shares
        self._key_id = key_id
        self._reader = reader
        self._requests: dict[str, _Request] = {}
        self._reading: set[asyncio.Task[None]] = set()

    def follows(self, product_id: str) -> bool:
        """Return whether the session has subscribed to the status of the product."""
        return any(request.feed.product_id == product_id for request in self._requests.values())

    async def handle(self, message: FixMessage, number: int) -> list[ProductFeed]:
        """Handle a SecurityStatusRequest. Returns the feeds that may have no subscriber left. Raises FieldError."""
        request_id = message.text(tags.SECURITY_STATUS_REQ_ID)
        if len(request_id) > 64:
            raise FieldError(tags.SECURITY_STATUS_REQ_ID, INCORRECT, "SecurityStatusReqID has at most 64 characters")
        kind = message.choice(tags.SUBSCRIPTION_TYPE, {"0": "0", "1": "1", "2": "2"})
        symbol = message.text(tags.SYMBOL)
        if kind == "2":
            ended = self._requests.pop(request_id, None)
            if ended is None:
                self._refuse(message, number, UNAVAILABLE, "there is no such request")
            return [ended.feed] if ended is not None else []
        if request_id in self._requests:
            self._refuse(message, number, UNAVAILABLE, "this SecurityStatusReqID is in use")
        elif len(self._requests) >= REQUESTS_MAX:
            self._refuse(message, number, UNAVAILABLE, f"at most {REQUESTS_MAX} requests may be open")
        elif self._shares.take(self._key_id, Cost.SUBSCRIBE):
            self._refuse(message, number, UNAVAILABLE, "the API key has used up its share")
        else:
            try:
                await self._begin(request_id, symbol, keep=kind == "1")
            except ApiError as error:
                self._refuse(message, number, UNKNOWN_SECURITY, error.message)
            except QuorumbookError as error:
                self._refuse(message, number, UNAVAILABLE, str(error)[:200])
        return []

    def deliver(self, feed: ProductFeed, frame: Frame) -> None:
        """See `feeds.Reader`."""
        for request_id, request in self._requests.items():
            if request.feed is not feed:
                continue
            for event in frame.events:
                if isinstance(event, StatusChanged):
                    request.changed = True
                    text = f"{event.status.name.lower()}{_CAUSES.get(event.cause, '')}"
                    self._send(request_id, feed.product_id, event.status, text, event.time)

    def gap(self, feed: ProductFeed) -> None:
        """See `feeds.Reader`. The lost events may include a change, so the status is sent again."""
        for request_id, request in self._requests.items():
            if request.feed is feed:
                request.changed = False
                background.keep(self._reading, self._send_again(request_id, request))

    def close(self) -> list[ProductFeed]:
        """End all subscriptions. Returns the feeds that were followed."""
        for task in self._reading:
            task.cancel()
        feeds = [request.feed for request in self._requests.values()]
        self._requests.clear()
        return feeds

    async def _begin(self, request_id: str, symbol: str, *, keep: bool) -> None:
        """Subscribe and send the current status. The subscription comes first, so that no change is missed."""
        product = await self._catalogue.recent(symbol)
        request = _Request(await self._feeds.feed(product))
        if keep:
            self._requests[request_id] = request
            request.feed.readers[self._reader] = None
        await self._send_current(request_id, request)

    async def _send_again(self, request_id: str, request: _Request) -> None:
        """Send the current status as soon as it can be read, unless the subscription has ended."""
        while self._requests.get(request_id) is request:
            try:
                await self._send_current(request_id, request)
            except QuorumbookError:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _send_current(self, request_id: str, request: _Request) -> None:
        """Send the current status, unless a later change was already sent. Raises QuorumbookError."""
        product = await self._catalogue.recent(request.feed.product_id)
        if not request.changed:
            status = ProductStatus(product.row.status)
            self._send(request_id, request.feed.product_id, status, status.name.lower(), time.time_ns())

    def _send(self, request_id: str, symbol: str, status: ProductStatus, text: str, time_ns: int) -> None:
        fields: Fields = [
            (tags.MSG_TYPE, "f"),
            (tags.SECURITY_STATUS_REQ_ID, request_id),
            (tags.SYMBOL, symbol),
            (tags.SECURITY_TRADING_STATUS, _STATUSES[status]),
            (tags.TEXT, text),
            (tags.TRANSACT_TIME, timestamp(time_ns)),
        ]
        self._sender.send(fields)

    def _refuse(self, message: FixMessage, number: int, reason: str, text: str) -> None:
        request_id = message.text(tags.SECURITY_STATUS_REQ_ID)
        self._sender.send([*business_reject(message, number, reason, text), (tags.BUSINESS_REF_ID, request_id)], number)

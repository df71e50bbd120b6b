"""Market data: price levels or the best level of a book, and trades, as snapshots (W) and incremental refreshes (X);
and product statuses: SecurityStatusRequest (e) and SecurityStatus (f), once or at every change.

RptSeq is the product sequence, like `sequence` in REST and on the WebSocket. A snapshot is the book after that event,
and the refreshes continue from there. If the node loses events of a product, the client gets a new snapshot.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from node.budget import Cost, Shares
from node.errors import QuorumbookError
from node.fix import tags
from node.fix.fields import GROUP_COUNT, INCORRECT, FieldError, FixMessage
from node.fix.orders import UNAVAILABLE, UNSUPPORTED_TYPE, business_reject
from node.fix.sending import LocalSender
from node.fix.wire import Fields, timestamp
from node.gateway.catalogue import Catalogue, Product
from node.gateway.channels import Frame
from node.gateway.errors import ApiError
from node.gateway.feeds import Feeds, ProductFeed, Reader
from node.system import tasks as background
from statemachine.events import OrderMatched, StatusChanged, TradeCorrected
from statemachine.types import CorrectionKind, ProductStatus, Side, StatusCause

STATUS_REQUESTS_MAX = 100
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
class _StatusRequest:
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
        self._requests: dict[str, _StatusRequest] = {}
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
        elif len(self._requests) >= STATUS_REQUESTS_MAX:
            self._refuse(message, number, UNAVAILABLE, f"at most {STATUS_REQUESTS_MAX} requests may be open")
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
        product = await self._catalogue.listed(symbol)
        request = _StatusRequest(await self._feeds.feed(product))
        if keep:
            self._requests[request_id] = request
            request.feed.readers[self._reader] = None
        await self._send_current(request_id, request)

    async def _send_again(self, request_id: str, request: _StatusRequest) -> None:
        """Send the current status as soon as it can be read, unless the subscription has ended."""
        while self._requests.get(request_id) is request:
            try:
                await self._send_current(request_id, request)
            except QuorumbookError:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _send_current(self, request_id: str, request: _StatusRequest) -> None:
        """Send the current status, unless a later change was already sent. Raises QuorumbookError."""
        product = await self._catalogue.recent(request.feed.product_id)
        if not request.changed:
            status = ProductStatus(product.row.status)
            self._send(request_id, request.feed.product_id, status, status.name.lower(), time.time_ns())

    def _send(self, request_id: str, symbol: str, status: ProductStatus, text: str, time_ns: int) -> None:
        """Send a SecurityStatus."""
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


SYMBOLS_MAX = 100
"""Products of one request."""
MARKET_REQUESTS_MAX = 50
"""Requests that one session may have open."""
MARKET_REQUESTS_OF_PRODUCT_MAX = 4
"""Open requests of one session that may name the same product. Each of them gets its own message at every change of the
product, and no budget pays for these.
"""
REQUESTS_OF_PRODUCT_MAX = 4
"""Open requests of one session that may name the same product. Each of them gets its own message at every change of the
product, and no budget pays for these.
"""

BIDS, OFFERS, TRADES = "0", "1", "2"
"""Values of MDEntryType."""
NEW, CHANGE, DELETE = "0", "1", "2"
"""Values of MDUpdateAction."""
UNKNOWN_SYMBOL, DUPLICATE, TOO_MUCH = "0", "1", "2"
"""Values of MDReqRejReason: 2 is insufficient bandwidth."""

_ENTRY_TYPES = {Side.BUY: BIDS, Side.SELL: OFFERS}


@dataclass
class _MarketRequest:
    """A client's request under an MDReqID. `top`: only the best level of each side. `best` is the best level that the
    client knows, by product.
    """

    request_id: str
    types: frozenset[str]
    top: bool
    feeds: dict[str, ProductFeed] = field(default_factory=dict)
    best: dict[tuple[str, Side], tuple[int, int]] = field(default_factory=dict)


class MarketData:
    """The market data of one session: a `feeds.Reader`."""

    def __init__(self, feeds: Feeds, catalogue: Catalogue, sender: LocalSender, shares: Shares[str], key_id: str) -> None:
        self._feeds = feeds
        self._catalogue = catalogue
        self._sender = sender
        self._shares = shares
        self._key_id = key_id
        self._requests: dict[str, _MarketRequest] = {}
        self._statuses = Statuses(feeds, catalogue, sender, shares, key_id, self)

    async def handle(self, message: FixMessage, number: int) -> None:
        """Handle a MarketDataRequest or SecurityStatusRequest. Raises FieldError."""
        if message.type == "e":
            for feed in await self._statuses.handle(message, number):
                self._leave(feed)
            return
        if message.type != "V":
            text = "a session of market data takes MarketDataRequests and SecurityStatusRequests only"
            self._sender.send(business_reject(message, number, UNSUPPORTED_TYPE, text), number)
            return
        request_id = message.text(tags.MD_REQ_ID)
        if len(request_id) > 64:
            raise FieldError(tags.MD_REQ_ID, INCORRECT, "MDReqID has at most 64 characters")
        kind = message.choice(tags.SUBSCRIPTION_TYPE, {"0": "0", "1": "1", "2": "2"})
        if kind == "2":
            self._drop(request_id)
            return
        top = message.choice(tags.MARKET_DEPTH, {"0": False, "1": True})
        request = _MarketRequest(request_id, self._types(message), top)
        symbols = self._symbols(message)
        if request_id in self._requests:
            self._refuse(request_id, DUPLICATE, "this MDReqID is in use")
        elif len(self._requests) >= MARKET_REQUESTS_MAX:
            self._refuse(request_id, TOO_MUCH, f"at most {MARKET_REQUESTS_MAX} requests may be open")
        elif max(map(self._requests_of, symbols)) >= MARKET_REQUESTS_OF_PRODUCT_MAX:
            text = f"at most {MARKET_REQUESTS_OF_PRODUCT_MAX} open requests may name a product"
            self._refuse(request_id, TOO_MUCH, text)
        else:
            await self._begin(request, symbols, keep=kind == "1")

    def _requests_of(self, symbol: str) -> int:
        """Return the number of open requests that name a product."""
        return sum(symbol in request.feeds for request in self._requests.values())

    def deliver(self, feed: ProductFeed, frame: Frame) -> None:
        """See `feeds.Reader`."""
        self._statuses.deliver(feed, frame)
        for request in self._requests.values():
            if feed.product_id in request.feeds:
                entries = self._levels(request, feed, frame) + self._trades(request, feed.product, frame)
                if entries:
                    head: Fields = [(tags.MSG_TYPE, "X"), (tags.MD_REQ_ID, request.request_id)]
                    self._sender.send([*head, (tags.NO_MD_ENTRIES, str(len(entries))), *[each for e in entries for each in e]])

    def gap(self, feed: ProductFeed) -> None:
        """See `feeds.Reader`. The next message is a new snapshot."""
        self._statuses.gap(feed)
        for request in self._requests.values():
            if feed.product_id in request.feeds:
                self._snapshot(request, feed)

    def close(self) -> None:
        """Stop following all feeds."""
        for request_id in list(self._requests):
            self._drop(request_id)
        for feed in self._statuses.close():
            self._leave(feed)

    def _types(self, message: FixMessage) -> frozenset[str]:
        """Return the requested types of entries."""
        found = message.texts(tags.MD_ENTRY_TYPE)
        if message.number(tags.NO_MD_ENTRY_TYPES, 100) != len(found):
            raise FieldError(tags.NO_MD_ENTRY_TYPES, GROUP_COUNT, "NoMDEntryTypes is not the number of entry types")
        if not found or not set(found) <= {BIDS, OFFERS, TRADES}:
            raise FieldError(tags.MD_ENTRY_TYPE, INCORRECT, "MDEntryType must be 0 (bids), 1 (offers) or 2 (trades)")
        return frozenset(found)

    def _symbols(self, message: FixMessage) -> list[str]:
        """Return the requested symbols. Raises FieldError."""
        found = message.texts(tags.SYMBOL)
        if message.number(tags.NO_RELATED_SYM, 10_000) != len(found):
            raise FieldError(tags.NO_RELATED_SYM, GROUP_COUNT, "NoRelatedSym is not the number of symbols")
        if not 1 <= len(found) <= SYMBOLS_MAX:
            raise FieldError(tags.NO_RELATED_SYM, INCORRECT, f"1 to {SYMBOLS_MAX} symbols")
        return list(dict.fromkeys(found))

    async def _begin(self, request: _MarketRequest, symbols: list[str], *, keep: bool) -> None:
        """Send a snapshot of each product and, with `keep`, follow its feed. A request that fails for one product fails
        as a whole.
        """
        feeds: list[ProductFeed] = []
        try:
            for symbol in symbols:
                feeds.append(await self._feeds.feed(await self._catalogue.listed(symbol)))  # noqa: PERF401 - some may be there
        except ApiError as error:
            self._refuse(request.request_id, UNKNOWN_SYMBOL, error.message)
            return
        except QuorumbookError as error:
            self._refuse(request.request_id, TOO_MUCH, str(error)[:200])
            return
        cost = sum(Cost.SUBSCRIBE + feed.snapshot_cost for feed in feeds)
        if self._shares.take(self._key_id, cost):
            self._refuse(request.request_id, TOO_MUCH, "the API key has used up its share")
            return
        for feed in feeds:
            self._snapshot(request, feed)
            if keep:
                request.feeds[feed.product_id] = feed
                feed.readers[self] = None
        if keep:
            self._requests[request.request_id] = request

    def _drop(self, request_id: str) -> None:
        """End a subscription."""
        request = self._requests.pop(request_id, None)
        if request is None:
            self._refuse(request_id, UNKNOWN_SYMBOL, "there is no such request")
            return
        for feed in request.feeds.values():
            self._leave(feed)

    def _leave(self, feed: ProductFeed) -> None:
        """Leave the feed unless another request needs it."""
        wanted = any(feed.product_id in request.feeds for request in self._requests.values())
        if not wanted and not self._statuses.follows(feed.product_id):
            feed.readers.pop(self, None)

    def _refuse(self, request_id: str, reason: str, text: str) -> None:
        """Send a MarketDataRequestReject."""
        fields = [(tags.MSG_TYPE, "Y"), (tags.MD_REQ_ID, request_id), (tags.MD_REJ_REASON, reason), (tags.TEXT, text)]
        self._sender.send(fields)

    def _snapshot(self, request: _MarketRequest, feed: ProductFeed) -> None:
        """Send a MarketDataSnapshotFullRefresh, and note the best levels that the client knows by it."""
        product, book = feed.product, feed.book
        entries: list[Fields] = []
        for side, kind in _ENTRY_TYPES.items():
            if kind in request.types:
                for price, size, _ in book.levels(side, 1 if request.top else None):
                    entries.append(_entry(kind, product, price, size))
                request.best[feed.product_id, side] = book.best(side)
        if TRADES in request.types:
            entries += _last_trade(feed)
        head: Fields = [(tags.MSG_TYPE, "W"), (tags.MD_REQ_ID, request.request_id), (tags.SYMBOL, feed.product_id)]
        head += [(tags.RPT_SEQ, str(feed.sequence)), (tags.NO_MD_ENTRIES, str(len(entries)))]
        self._sender.send([*head, *[each for entry in entries for each in entry]])

    def _levels(self, request: _MarketRequest, feed: ProductFeed, frame: Frame) -> list[Fields]:
        """Return the changes of the book that the request covers."""
        if request.top:
            return self._best(request, feed, frame)
        entries: list[Fields] = []
        for (side, price), before in frame.touched.items():
            size = feed.book.size_at(side, price)
            if size != before and _ENTRY_TYPES[side] in request.types:
                action = NEW if not before else CHANGE if size else DELETE
                entries.append(_change(action, _ENTRY_TYPES[side], feed.product, (price, size), frame))
        return entries

    def _best(self, request: _MarketRequest, feed: ProductFeed, frame: Frame) -> list[Fields]:
        """Return the changes of the best levels that the request covers."""
        entries: list[Fields] = []
        for side, kind in _ENTRY_TYPES.items():
            now, known = feed.book.best(side), request.best.get((feed.product_id, side), (0, 0))
            if kind not in request.types or now == known:
                continue
            request.best[feed.product_id, side] = now
            if known[0] and now[0] != known[0]:
                entries.append(_change(DELETE, kind, feed.product, (known[0], 0), frame))
            if now[0]:
                entries.append(_change(CHANGE if now[0] == known[0] else NEW, kind, feed.product, now, frame))
        return entries

    def _trades(self, request: _MarketRequest, product: Product, frame: Frame) -> list[Fields]:
        """Return the trades and the corrections of trades, if the request covers them."""
        if TRADES not in request.types:
            return []
        entries: list[Fields] = []
        for event in frame.events:
            if isinstance(event, OrderMatched):
                entry = _change(NEW, TRADES, product, (event.price, event.size), frame, event.product_sequence)
                taker = Side.SELL if event.side is Side.BUY else Side.BUY
                more = [(tags.MD_ENTRY_ID, str(event.trade_id)), (tags.AGGRESSOR_SIDE, tags.SIDE_CODES[taker])]
                entries.append(entry + more)
            elif isinstance(event, TradeCorrected):
                action, price = (DELETE, event.old_price) if event.kind is CorrectionKind.BUST else (CHANGE, event.new_price)
                entry = _change(action, TRADES, product, (price, event.size), frame, event.product_sequence)
                entries.append([*entry, (tags.MD_ENTRY_ID, str(event.trade_id))])
        return entries


def _last_trade(feed: ProductFeed) -> list[Fields]:
    """Return the last trade that was not busted, at its corrected price; nothing if there is none."""
    for trade in reversed(feed.trades):
        price = feed.corrections.get(trade.trade_id, trade.price)
        if price:
            return [[*_entry(TRADES, feed.product, price, trade.size), (tags.MD_ENTRY_ID, str(trade.trade_id))]]
    return []


def _entry(kind: str, product: Product, price: int, size: int) -> Fields:
    """Return the fields of an entry of a book."""
    return [
        (tags.MD_ENTRY_TYPE, kind),
        (tags.MD_ENTRY_PX, product.price(price)),
        (tags.MD_ENTRY_SIZE, product.size(size)),
    ]


def _change(action: str, kind: str, product: Product, level: tuple[int, int], frame: Frame, sequence: int = 0) -> Fields:
    """Return an entry of an incremental refresh. `level` is a price and the size that rests or traded there."""
    fields: Fields = [(tags.MD_UPDATE_ACTION, action), (tags.MD_ENTRY_TYPE, kind), (tags.SYMBOL, product.row.product_id)]
    fields.append((tags.MD_ENTRY_PX, product.price(level[0])))
    if action != DELETE:
        fields.append((tags.MD_ENTRY_SIZE, product.size(level[1])))
    sequence = sequence or frame.events[-1].product_sequence
    return [*fields, (tags.RPT_SEQ, str(sequence)), (tags.TRANSACT_TIME, timestamp(frame.time))]

"""One source of events a product, for all readers of this process.

`ProductFeed` begins with the book at level 3 and the kept trades, and follows the engine's events from that sequence on. When the engine
restarts it goes on where it was; when the node has jumped ahead (a snapshot from the leader) there is a gap that nobody can fill here:
readers are sent away with a reason, to resume elsewhere or to begin with a new book.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from node.errors import QuorumbookError, RequestFailed
from node.gateway.backend import Backend
from node.gateway.book import MINUTE, MONTH_MINUTES, LevelBook, Span, Statistics
from node.gateway.catalogue import Catalogue, Product
from node.gateway.channels import Frame, auction, encode, heartbeat, opened
from node.gateway.errors import ApiError
from node.gateway.metrics import Metrics
from node.gateway.responses import currency_json, product_json
from node.gateway.revocation import Signed
from node.history.candles import MINUTE as MINUTE_SECONDS
from node.native.protocol import AuctionQuery, AuctionView, BookQuery, BookView, Events, FailCode, StatusQuery, TradesQuery
from statemachine.auctions import TRADING
from statemachine.events import AnyEvent, OrderMatched, StatusChanged
from statemachine.types import ProductStatus

if TYPE_CHECKING:
    from node.gateway.history_source import HistorySource

log = logging.getLogger(__name__)

TRADES_READ = 10_000
"""Trades asked for at the beginning, for the rolling figures: the node gives what it keeps."""
RETRY_MIN, RETRY_MAX = 0.05, 1.0
STATUS_LOOK = 1.0
STATUS_EVERY = 5
"""Seconds between looks at what no feed tells of, and between `status` messages where nothing changes."""


class Reader(Protocol):
    """Who follows a feed."""

    def deliver(self, feed: ProductFeed, frame: Frame) -> None:
        """Events have arrived and the feed's book and sequence are those after them."""

    def gap(self, feed: ProductFeed) -> None:
        """Events are lost here: the feed begins anew behind them."""


class ProductFeed:
    """A product as of event `sequence`: book, statistics, readers."""

    def __init__(self, product: Product, backend: Backend, history: HistorySource | None, on_status: Callable[[], None]) -> None:
        self.product = product
        self.sequence = 0
        self.book: LevelBook
        self.stats: Statistics
        self.readers: dict[Reader, None] = {}
        self.in_auction = False
        self.indicative = b""
        """The message of the channel `auction` while one collects orders; empty before the first."""
        self._indicated = 0
        self._status_sequence = 0
        self._on_status = on_status
        self._backend = backend
        self._history = history
        self._generation = 0
        self._repairing: asyncio.Task[None] | None = None

    @property
    def product_id(self) -> str:
        """The product's id."""
        return self.product.row.product_id

    async def begin(self) -> None:
        """Take the book and follow it; readers of what was before are sent away. Raises UnavailableError, RequestFailed."""
        # Before the book is asked for: the history is never ahead of the engine, so what it has is in the book.
        stats = Statistics() if self._history is None else await self._recalled(self._history)
        view: BookView = await self._backend.query(BookQuery(self.product_id, 3))
        trades: list[OrderMatched] = await self._backend.query(TradesQuery(self.product_id, TRADES_READ))
        known = stats.last.product_sequence if stats.last is not None else 0
        for reader in list(self.readers):  # now and not before: some may have come meanwhile
            reader.gap(self)
        self.book, self.stats, self.sequence = LevelBook(view), stats, view.product_sequence
        self.in_auction, self.indicative, self._indicated = view.in_auction, b"", 0
        for trade in reversed(trades):
            if known < trade.product_sequence <= self.sequence:
                self.stats.add(trade)
        await self._follow()

    async def _recalled(self, history: HistorySource) -> Statistics:
        """What the history knows of the last 30 days."""
        stats = Statistics()
        since = time.time_ns() // MINUTE - MONTH_MINUTES
        try:
            await history.reach(0, (await self._backend.query(StatusQuery())).engine_start)
            candles, last = await history.ask(lambda past: past.minutes(self.product_id, since * MINUTE_SECONDS))
        except ApiError as error:
            log.warning("statistics of %s begin without the history: %s", self.product_id, error)
            return stats
        if last is not None:
            spans = [Span(each.start // MINUTE_SECONDS, each.open, each.high, each.low, each.volume) for each in candles]
            stats.begin(spans, last)
        return stats

    async def _follow(self) -> bool:
        """Have events from the next one on. False where the engine is gone again already."""
        self._generation += 1
        generation = self._generation

        def on_events(events: Events) -> None:
            if generation == self._generation:
                self._arrived(events.events)

        def on_lost(reason: str) -> None:
            if generation == self._generation:
                self._repair(reason)

        await self._backend.subscribe(self.product_id, self.sequence + 1, on_events, on_lost)
        return generation == self._generation

    def _arrived(self, events: list[AnyEvent]) -> None:
        fresh = [event for event in events if event.product_sequence > self.sequence]
        if not fresh:
            return
        assert fresh[0].product_sequence == self.sequence + 1, "the engine's feed has no gap"
        frame = Frame(fresh, self.product, self.book, self.stats)
        for event in fresh:
            touched = self.book.apply(event)
            if touched is not None:
                frame.touched[touched] = None
            if isinstance(event, OrderMatched):
                self.stats.add(event)
            if isinstance(event, StatusChanged):
                self._status_changed(event, frame)
        self.sequence = fresh[-1].product_sequence
        for reader in list(self.readers):
            reader.deliver(self, frame)

    def _status_changed(self, event: StatusChanged, frame: Frame) -> None:
        """The product goes on in another status; `book` is the one after it."""
        if (
            self.in_auction and event.status in TRADING
        ) or event.open_size:  # what an auction collected may also open from cancel-only
            frame.auction += opened(self.product, event, self.book)
        self.in_auction = event.status is ProductStatus.AUCTION
        self.indicative, self._status_sequence = b"", event.product_sequence
        self._on_status()

    async def refresh_indicative(self) -> None:
        """While an auction collects: say what it would do now, if that can have changed and the engine answers."""
        if self.in_auction and self._indicated != self.sequence:
            with contextlib.suppress(QuorumbookError):
                self._indicate(await self._backend.query(AuctionQuery(self.product_id)))

    def _indicate(self, view: AuctionView | None) -> None:
        """Take an answer, unless the product has gone on to another status meanwhile."""
        if self.in_auction and view is not None and view.product_sequence >= self._status_sequence:
            self.indicative = auction(self.product, view, "collection")
            self._indicated = view.product_sequence

    def _repair(self, reason: str) -> None:
        self._generation += 1
        if self._repairing is None:
            log.warning("feed of %s interrupted at %d: %s", self.product_id, self.sequence, reason)
            self._repairing = asyncio.create_task(self._restore())

    async def _restore(self) -> None:
        """Follow again, from where the feed was if the engine still has it."""
        pause = RETRY_MIN
        try:
            while True:
                await asyncio.sleep(pause)
                pause = min(RETRY_MAX, pause * 2)
                try:
                    if await self._follow():
                        return
                except RequestFailed as failure:
                    if failure.code is FailCode.TOO_OLD and await self._begin_anew():
                        return
                except QuorumbookError as error:
                    log.debug("feed of %s: %s", self.product_id, error)
        finally:
            self._repairing = None

    async def _begin_anew(self) -> bool:
        """Take a new book. False where the engine is gone again."""
        try:
            await self.begin()
        except QuorumbookError as error:
            log.debug("feed of %s: %s", self.product_id, error)
            return False
        return True

    async def close(self) -> None:
        """Stop following."""
        self._generation += 1
        if self._repairing is not None:
            self._repairing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._repairing


class Session(Signed, Protocol):
    """A connection, as the timers see it, and whoever looks after identities."""

    def tick(self) -> None:
        """A second has passed."""

    def tell_status(self, message: bytes) -> None:
        """The message of the channel `status` is due."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection."""


class Feeds:
    """All feeds of the process, made when first wanted, and the sessions that the clock serves."""

    def __init__(self, backend: Backend, catalogue: Catalogue, metrics: Metrics, history: HistorySource | None = None) -> None:
        self.sessions: dict[Session, None] = {}
        self._backend = backend
        self._catalogue = catalogue
        self._metrics = metrics
        self._history = history
        self._feeds: dict[str, asyncio.Task[ProductFeed]] = {}
        self._status_changed = asyncio.Event()

    async def feed(self, product: Product) -> ProductFeed:
        """The product's feed, begun. Raises UnavailableError, RequestFailed."""
        product_id = product.row.product_id
        task = self._feeds.get(product_id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            fresh = ProductFeed(product, self._backend, self._history, self._status_changed.set)
            task = self._feeds[product_id] = asyncio.create_task(self._begun(fresh))
        feed = await asyncio.shield(task)
        if feed.product is not product:
            feed.product = product
        return feed

    async def _begun(self, feed: ProductFeed) -> ProductFeed:
        await feed.begin()
        return feed

    def replay(self, product_id: str, from_sequence: int) -> AbstractAsyncContextManager[AsyncIterator[list[AnyEvent]]]:
        """See `Backend.replay`."""
        return self._backend.replay(product_id, from_sequence)

    async def status(self) -> bytes:
        """The `status` message."""
        products = [product_json(product) for product in await self._catalogue.all_products()]
        currencies = [currency_json(row) for row in await self._catalogue.all_currencies()]
        return encode({"type": "status", "products": products, "currencies": currencies})

    async def run_timers(self) -> None:
        """Heartbeats and indicative prices every second, for ever."""
        while True:
            await asyncio.sleep(1.0)
            if self.sessions:
                await asyncio.gather(*(feed.refresh_indicative() for feed in self._running()))
            for session in list(self.sessions):
                session.tick()

    async def run_status(self) -> None:
        """`status` at once where a feed of this process tells of a change, else within a second, and every few seconds, for ever."""
        loop = asyncio.get_running_loop()
        last, told_at = b"", 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATUS_LOOK):
                    await self._status_changed.wait()
            self._status_changed.clear()
            if not self.sessions:
                continue
            with contextlib.suppress(QuorumbookError):
                status = await self.status()
                if status != last or loop.time() - told_at >= STATUS_EVERY:
                    last, told_at = status, loop.time()
                    for session in list(self.sessions):
                        session.tell_status(status)

    def _running(self) -> list[ProductFeed]:
        """The feeds that have begun."""
        done = [task for task in self._feeds.values() if task.done() and not task.cancelled() and task.exception() is None]
        return [task.result() for task in done]

    def heartbeat(self, feed: ProductFeed) -> bytes:
        """The product's heartbeat now."""
        return heartbeat(feed.product, feed.sequence, feed.stats, time.time_ns())

    async def close(self) -> None:
        """End every session and feed."""
        for session in list(self.sessions):
            session.end(1001, "the node is stopping")
        for feed in self._running():
            await feed.close()
        for task in self._feeds.values():
            task.cancel()

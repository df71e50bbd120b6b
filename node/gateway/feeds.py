"""The products that this gateway follows: their books and trades, their readers, and the timers of the readers.

`ProductFeed` copies the book from the engine page by page, and follows the engine's events from there on. When the
engine restarts, the feed continues at its position. When the node installs a snapshot of the leader and no longer keeps
the events in between, there is a gap that this node cannot fill. Its readers are then disconnected with a reason, and
resume elsewhere or start with a new book.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from node.budget import Cost
from node.errors import QuorumbookError, RequestFailed
from node.gateway.auth import Signed
from node.gateway.backend import Backend
from node.gateway.balances import Listener
from node.gateway.book import Book, BookLoader, LongText, level2, level3, prepare_level2, prepare_level3
from node.gateway.catalogue import Catalogue, CurrencyJson, Product, ProductJson
from node.gateway.channels import Frame, auction, candle, encode, finished, heartbeat, opened
from node.gateway.errors import UnavailableError
from node.gateway.metrics import Metrics
from node.native.protocol import (
    AuctionQuery,
    AuctionView,
    BookPage,
    BookPageQuery,
    ControlsQuery,
    ControlsView,
    Events,
    FailCode,
    MarketQuery,
    MarketView,
)
from node.statistics import Statistics
from node.system.tasks import Backoff
from statemachine.auctions import TRADING
from statemachine.events import AnyEvent, OrderMatched, StatusChanged, TradeCorrected, TradingSwitched
from statemachine.types import ProductStatus, Side

log = logging.getLogger(__name__)

TRADES_KEPT = 1_000
"""Latest trades that `GET /products/{id}/trades` serves without the history. The engine's feed keeps as many."""
CORRECTIONS_PAGE = 1_000
"""Corrections of trades that one query reads: as many as it answers."""
EVENTS_KEPT = 10_000
"""Events kept in this process for readers that are a little behind, about 10 MB for a busy product. Older events come
from the engine.
"""
RETRY_MIN, RETRY_MAX = 0.05, 1.0
"""Seconds between attempts to follow the engine again (`Backoff`)."""
LIVE_DEADLINE = 2.0
"""Seconds for which a request for the book waits for an engine that restarts."""
REACH_POLL = 0.005
COPY_STALL = 5.0
"""Seconds without a new event after which an incomplete copy of the book is abandoned."""
LEVEL3_SHARE = 0.1
"""The share of the gateway's time that level 3 answers of one book may take. An answer is reused until this is met."""


class Reader(Protocol):
    """A reader of a feed."""

    def deliver(self, feed: ProductFeed, frame: Frame) -> None:
        """Called when events have arrived. The feed's book and sequence include them."""

    def gap(self, feed: ProductFeed) -> None:
        """Called when events are lost on this node. The feed restarts after them."""


class _Copy:
    """The events that arrive while a book is copied."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.lost = ""
        self.arrived = asyncio.Event()

    def take(self, events: list[AnyEvent]) -> None:
        self.events += events
        self.arrived.set()

    def fail(self, reason: str) -> None:
        self.lost = reason
        self.arrived.set()

    async def reach(self, sequence: int, begun: int) -> None:
        """Wait until all events after `begun` up to `sequence` have arrived. Raises UnavailableError."""
        try:
            while not self.lost and begun + len(self.events) < sequence:
                self.arrived.clear()
                async with asyncio.timeout(COPY_STALL):
                    await self.arrived.wait()
        except TimeoutError:
            self.lost = "its events do not come"
        if self.lost:
            raise UnavailableError(f"the book could not be copied: {self.lost}")


@dataclass(frozen=True)
class _Level3:
    """An answer at level 3 that may be reused: the book at product sequence `sequence`, which includes all commands up
    to `command`. It may be reused until `until` (loop time).
    """

    sequence: int
    command: int
    until: float
    text: LongText


class ProductFeed:
    """A product as of event `sequence`: book, trades, readers.

    Attributes:
        trades: the latest trades, oldest first. `last_trade_id` and `last_price` are known even if it is empty.
        corrections: the new price of each trade that an operator corrected, 0 if the trade was busted. The exchange
            keeps them for ever.
        live: set while the engine's events arrive.
        indicative: the latest message of the channel `auction` while an auction collects orders, or b"".
    """

    def __init__(self, product: Product, backend: Backend, on_status: Callable[[], None]) -> None:
        self.product = product
        self.sequence = 0
        self.book = Book()
        self.stats = Statistics()
        self.trades: deque[OrderMatched] = deque(maxlen=TRADES_KEPT)
        self.corrections: dict[int, int] = {}
        self.last_trade_id = 0
        self.last_price = 0
        self.readers: dict[Reader, None] = {}
        self._kept: deque[Frame] = deque()
        self._kept_events = 0
        self.live = asyncio.Event()
        self.in_auction = False
        self.indicative = b""
        self._indicated = 0
        self._status_sequence = 0
        self._on_status = on_status
        self._backend = backend
        self._generation = 0
        self._copy: _Copy | None = None
        self._repairing: asyncio.Task[None] | None = None
        self._level2: tuple[int, bytes] = (-1, b"")
        self._candles: dict[int, tuple[int, bytes]] = {}
        self._level3: _Level3 | None = None
        self._rendering: asyncio.Task[_Level3] | None = None
        self._preparing = asyncio.Lock()

    @property
    def product_id(self) -> str:
        """The product's id."""
        return self.product.row.product_id

    @property
    def last(self) -> OrderMatched | None:
        """The last trade, if it is known."""
        return self.trades[-1] if self.trades else None

    def candle(self, granularity: int) -> bytes:
        """Return the message with the candle of the last trade, which all readers share. The product must have a trade."""
        last = self.trades[-1]
        kept = self._candles.get(granularity)
        if kept is None or kept[0] != last.trade_id:
            kept = self._candles[granularity] = last.trade_id, candle(self.product, self.stats, last, granularity)
        return kept[1]

    # Beginning

    async def begin(self) -> None:
        """Copy the book and follow it. Readers of the previous copy are disconnected. Raises UnavailableError,
        RequestFailed.
        """
        market: MarketView = await self._backend.query(MarketQuery(self.product_id))
        self._copy = copy = _Copy()
        try:
            await self._follow(market.product_sequence + 1)
            loader = BookLoader(market.product_sequence)
            for side in Side:
                await self._read(side, loader)
            corrections = await self._read_corrections()
            await copy.reach(loader.sequence, market.product_sequence)
        except BaseException:
            self._generation += 1
            raise
        finally:
            self._copy = None
        for reader in list(self.readers):  # only now: readers may have joined during the copy
            reader.gap(self)
        self.book, self.stats = loader.finish(copy.events), Statistics(market.figures)
        self._level2, self._level3 = (-1, b""), None
        self._kept.clear()
        self._kept_events = 0
        self.trades.clear()
        self.trades.extend(trade for trade in reversed(market.trades) if isinstance(trade, OrderMatched))
        self.last_trade_id, self.last_price = market.last_trade_id, market.last_price
        self.in_auction, self.indicative, self._indicated = market.in_auction, b"", 0
        self.corrections = corrections
        self.sequence = market.product_sequence + len(copy.events)
        for event in copy.events:
            self._count(event)
            if isinstance(event, StatusChanged):
                self.in_auction, self._status_sequence = event.status is ProductStatus.AUCTION, event.product_sequence
        self.live.set()

    async def _read(self, side: Side, loader: BookLoader) -> None:
        """Read all pages of a side."""
        after = (0, 0, 0)
        while True:
            page: BookPage = await self._backend.query(BookPageQuery(self.product_id, side, *after))
            loader.page(side, page)
            if not page.orders:
                return
            last = page.orders[-1]
            after = last.price, last.opened_sequence, last.order_id

    async def _read_corrections(self) -> dict[int, int]:
        """Read the corrections of all trades of the product."""
        found: dict[int, int] = {}
        read = 0
        while True:
            page: ControlsView = await self._backend.query(ControlsQuery("correction", read, CORRECTIONS_PAGE))
            found |= {row.trade_id: row.new_price for row in page.correction if row.product_id == self.product_id}
            read += len(page.correction)
            if len(page.correction) < CORRECTIONS_PAGE:
                return found

    async def _follow(self, sequence: int) -> bool:
        """Subscribe to events from `sequence` on. Returns False if the engine is disconnected again."""
        self._generation += 1
        generation = self._generation

        def on_events(events: Events) -> None:
            if generation == self._generation:
                if self._copy is not None:
                    self._copy.take(events.events)
                else:
                    self._arrived(events.events)

        def on_lost(reason: str) -> None:
            if generation == self._generation:
                if self._copy is not None:
                    self._copy.fail(reason)
                else:
                    self._repair(reason)

        await self._backend.subscribe(self.product_id, sequence, on_events, on_lost)
        return generation == self._generation

    # Following

    def _arrived(self, events: list[AnyEvent]) -> None:
        """Apply new events to the book, and pass them on to the readers."""
        fresh = [event for event in events if event.product_sequence > self.sequence]
        if not fresh:
            return
        assert fresh[0].product_sequence == self.sequence + 1, "the engine's feed has no gap"
        frame = Frame(fresh, self.product, self)
        for event in fresh:
            change = self.book.apply(event)
            if change is not None:
                side, price, before = change
                frame.touched.setdefault((side, price), before)
            if isinstance(event, OrderMatched):
                frame.candles += finished(self.product, self.stats, self.last, event).items()
            self._count(event)
            if isinstance(event, StatusChanged):
                self._status_changed(event, frame)
            elif isinstance(event, TradingSwitched):
                self._on_status()
        self.sequence = fresh[-1].product_sequence
        self._keep(frame)
        for reader in list(self.readers):
            reader.deliver(self, frame)

    def _keep(self, frame: Frame) -> None:
        """Keep a frame and its rendered messages for readers that are a little behind."""
        self._kept.append(frame)
        self._kept_events += len(frame.events)
        while self._kept_events - len(self._kept[0].events) >= EVENTS_KEPT:
            self._kept_events -= len(self._kept.popleft().events)

    def kept_behind(self, sequence: int) -> list[Frame] | None:
        """Return the frames with all events after `sequence`, oldest first, or None if some are no longer kept here."""
        found: list[Frame] = []
        if sequence >= self.sequence:
            return found
        for frame in reversed(self._kept):
            found.append(frame)
            if frame.events[0].product_sequence <= sequence + 1:
                return found[::-1]
        return None

    def _count(self, event: AnyEvent) -> None:
        """Include an event in the figures of the market."""
        if isinstance(event, OrderMatched):
            self.stats.add(event)
            self.trades.append(event)
            self.last_trade_id, self.last_price = event.trade_id, event.price
        elif isinstance(event, TradeCorrected):
            self.corrections[event.trade_id] = event.new_price

    def _status_changed(self, event: StatusChanged, frame: Frame) -> None:
        """Apply a change of the product's status. `book` is the book after the change."""
        if (
            self.in_auction and event.status in TRADING
        ) or event.open_size:  # what an auction collected may also open from cancel-only
            frame.auction += opened(self.product, event, self.book)
        self.in_auction = event.status is ProductStatus.AUCTION
        self.indicative, self._status_sequence = b"", event.product_sequence
        self._on_status()

    async def refresh_indicative(self) -> None:
        """During an auction, publish the indicative price if it may have changed and the engine answers."""
        if self.in_auction and self._indicated != self.sequence:
            with contextlib.suppress(QuorumbookError):
                self._indicate(await self._backend.query(AuctionQuery(self.product_id)))

    def _indicate(self, view: AuctionView | None) -> None:
        """Publish the engine's answer, unless the product has changed its status in the meantime."""
        if self.in_auction and view is not None and view.product_sequence >= self._status_sequence:
            self.indicative = auction(self.product, view, "collection")
            self._indicated = view.product_sequence

    def _repair(self, reason: str) -> None:
        """Begin to restore the feed after an interruption."""
        self._generation += 1
        self.live.clear()
        if self._repairing is None:
            log.warning("feed of %s interrupted at %d: %s", self.product_id, self.sequence, reason)
            self._repairing = asyncio.create_task(self._restore())

    async def _restore(self) -> None:
        """Follow again, from the feed's last position if the engine still keeps those events."""
        backoff = Backoff(RETRY_MIN, RETRY_MAX)
        try:
            while True:
                await backoff.wait()
                try:
                    if await self._follow(self.sequence + 1):
                        self.live.set()
                        return
                except RequestFailed as failure:
                    if failure.code is FailCode.TOO_OLD and await self._begin_anew():
                        return
                except QuorumbookError as error:
                    log.debug("feed of %s: %s", self.product_id, error)
        finally:
            self._repairing = None

    async def _begin_anew(self) -> bool:
        """Take a new book. Returns False if the engine is disconnected again."""
        try:
            await self.begin()
        except QuorumbookError as error:
            log.debug("feed of %s: %s", self.product_id, error)
            return False
        return True

    # Showing

    async def fresh(self) -> None:
        """Wait until the engine's events arrive again, if they are interrupted. Raises UnavailableError."""
        if not self.live.is_set():
            try:
                async with asyncio.timeout(LIVE_DEADLINE):
                    await self.live.wait()
            except TimeoutError:
                raise UnavailableError("the engine of this node does not answer") from None

    async def reach(self, sequence: int) -> None:
        """Wait until this event has arrived. Raises UnavailableError if it does not arrive."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LIVE_DEADLINE
        while self.sequence < sequence:
            if loop.time() >= until:
                raise UnavailableError("the engine of this node does not send its events")
            await asyncio.sleep(REACH_POLL)

    @property
    def snapshot_cost(self) -> float:
        """Return the cost of a `snapshot` of the channel `level2`, in units of the budget."""
        return Cost.rows(self.book.count_levels())

    async def prepare_snapshot(self) -> None:
        """Do most of the work of `snapshot` in short turns."""
        if self._level2[0] != self.sequence:
            async with self._preparing:
                await prepare_level2(self.product, self.book)

    def snapshot(self) -> bytes:
        """Return the `snapshot` of the channel `level2`. Readers at the same sequence share it."""
        if self._level2[0] != self.sequence:
            self._level2 = self.sequence, level2(self.product, self.book)
        return self._level2[1]

    @property
    def level3_cost(self) -> float:
        """Return the cost of an answer at level 3, in units of the budget."""
        return Cost.rows(len(self.book))

    async def level3(self, command: int | None) -> tuple[LongText, int | None]:
        """Return the book at level 3 without the answer's last fields, and the number of commands that it includes. One
        answer is made at a time, and concurrent callers share it.

        Args:
            command: the number of commands that the engine is known to have applied. The answer may then be an earlier
                one, at most `1 / LEVEL3_SHARE` times as old as it took to make. With None the answer is made after the
                call.
        """
        kept, now = self._level3, asyncio.get_running_loop().time()
        if kept is not None and command is not None and (kept.sequence == self.sequence or now < kept.until):
            return kept.text, command if kept.sequence == self.sequence else kept.command
        if self._rendering is None or self._rendering.done():
            self._rendering = asyncio.create_task(self._make_level3(command or 0))
        made = await asyncio.shield(self._rendering)
        return made.text, command

    async def _make_level3(self, command: int) -> _Level3:
        """Make the text of the book at level 3, and remember how long it may be used."""
        loop, begun = asyncio.get_running_loop(), time.process_time()
        await prepare_level3(self.product, self.book)
        text = level3(self.product, self.book, self.sequence)
        took = time.process_time() - begun
        self._level3 = _Level3(self.sequence, command, loop.time() + took / LEVEL3_SHARE, text)
        return self._level3

    async def close(self) -> None:
        """Stop following the product."""
        self._generation += 1
        for task in (self._repairing, self._rendering):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


STATUS_LOOK = 1.0
STATUS_EVERY = 5
"""Seconds between checks for changes that no feed reports, and between `status` messages without a change."""


class SocketSession(Signed, Listener, Protocol):
    """A connection as the timers and `auth.Revocation` use it."""

    def tick(self) -> None:
        """Called every second."""

    def send_status(self, message: bytes) -> None:
        """Called with a message of the channel `status`."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection."""


class Feeds:
    """All feeds of the process, which are created on first use, and the sessions that get timed messages.

    Attributes:
        sessions: the sessions, as an ordered set.
        occupied: set while there are sessions. Work that is done at intervals for sessions waits for it, so a process
            without sessions does not wake up for them.
    """

    def __init__(self, backend: Backend, catalogue: Catalogue, metrics: Metrics) -> None:
        self.sessions: dict[SocketSession, None] = {}
        self.occupied = asyncio.Event()
        self._backend = backend
        self._catalogue = catalogue
        self._metrics = metrics
        self._feeds: dict[str, asyncio.Task[ProductFeed]] = {}
        self._status_changed = asyncio.Event()

    def join(self, session: SocketSession) -> None:
        """Add a session."""
        self.sessions[session] = None
        self.occupied.set()

    def leave(self, session: SocketSession) -> None:
        """Remove a session, if the feed has it."""
        self.sessions.pop(session, None)
        if not self.sessions:
            self.occupied.clear()

    async def feed(self, product: Product) -> ProductFeed:
        """Return the product's feed after it has begun. Raises UnavailableError, RequestFailed."""
        product_id = product.row.product_id
        task = self._feeds.get(product_id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            fresh = ProductFeed(product, self._backend, self._status_changed.set)
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
        """Return the `status` message."""
        products = [ProductJson.of(product) for product in await self._catalogue.all_products()]
        currencies = [CurrencyJson.of(row) for row in await self._catalogue.all_currencies()]
        return encode({"type": "status", "products": products, "currencies": currencies})

    async def run_timers(self) -> None:
        """Send heartbeats and indicative prices every second until cancelled."""
        while True:
            await self.occupied.wait()
            await asyncio.sleep(1.0)
            if self.sessions:
                await asyncio.gather(*(feed.refresh_indicative() for feed in self._running()))
            for session in list(self.sessions):
                session.tick()

    async def run_status(self) -> None:
        """Send `status` messages until cancelled: at once after a change that a feed of this process reports, within a
        second after any other change, and every few seconds without one.
        """
        loop = asyncio.get_running_loop()
        last, told_at = b"", 0.0
        while True:
            await self.occupied.wait()
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
                        session.send_status(status)

    def _running(self) -> list[ProductFeed]:
        """Return the feeds that have begun."""
        done = [task for task in self._feeds.values() if task.done() and not task.cancelled() and task.exception() is None]
        return [task.result() for task in done]

    def heartbeat(self, feed: ProductFeed) -> bytes:
        """Return the product's current heartbeat message."""
        return heartbeat(feed.product, feed.sequence, feed.last_trade_id, time.time_ns())

    async def close(self) -> None:
        """Close every session and feed."""
        for session in list(self.sessions):
            session.end(1001, "the node is stopping")
        for feed in self._running():
            await feed.close()
        for task in self._feeds.values():
            task.cancel()

"""All product feeds of a gateway process, made when first wanted, and the sessions that the clock serves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from node.errors import QuorumbookError
from node.gateway.backend import Backend
from node.gateway.balances import Listener
from node.gateway.catalogue import Catalogue, Product
from node.gateway.channels import encode, heartbeat
from node.gateway.metrics import Metrics
from node.gateway.product_feed import ProductFeed
from node.gateway.responses import currency_json, product_json
from node.gateway.revocation import Signed
from statemachine.events import AnyEvent

STATUS_LOOK = 1.0
STATUS_EVERY = 5
"""Seconds between looks at what no feed tells of, and between `status` messages where nothing changes."""


class Session(Signed, Listener, Protocol):
    """A connection, as the timers see it, and whoever looks after identities."""

    def tick(self) -> None:
        """A second has passed."""

    def tell_status(self, message: bytes) -> None:
        """The message of the channel `status` is due."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection."""


class Feeds:
    """All feeds of the process, made when first wanted, and the sessions that the clock serves."""

    def __init__(self, backend: Backend, catalogue: Catalogue, metrics: Metrics) -> None:
        self.sessions: dict[Session, None] = {}
        self._backend = backend
        self._catalogue = catalogue
        self._metrics = metrics
        self._feeds: dict[str, asyncio.Task[ProductFeed]] = {}
        self._status_changed = asyncio.Event()

    async def feed(self, product: Product) -> ProductFeed:
        """The product's feed, begun. Raises UnavailableError, RequestFailed."""
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
        return heartbeat(feed.product, feed.sequence, feed.last_trade_id, time.time_ns())

    async def close(self) -> None:
        """End every session and feed."""
        for session in list(self.sessions):
            session.end(1001, "the node is stopping")
        for feed in self._running():
            await feed.close()
        for task in self._feeds.values():
            task.cancel()

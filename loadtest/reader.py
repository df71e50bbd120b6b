"""A reader of the feed that counts missing and repeated events. It moves to another node when its node fails, as a
market data client does.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable, Mapping

from loadtest.books import OrderBook
from node.errors import ConnectionLost, RequestFailed
from node.keys.credentials import Credentials
from node.native.connection import NativeConnection
from node.native.protocol import Events, encode
from statemachine.events import AnyEvent, OrderMatched

RETRY_SECONDS = 0.05


class FeedTally:
    """Counts the events of one product: the last sequence, missing and repeated events, a digest over all events in
    order, and the book that follows from them.

    Two tallies over the same events have the same digest, whichever nodes they came from.
    """

    def __init__(self) -> None:
        self.last_sequence = 0
        self.events = 0
        self.trades = 0
        self.missing = 0
        self.repeated = 0
        self.book = OrderBook()
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, event: AnyEvent) -> None:
        """Add the next event."""
        step = event.product_sequence - self.last_sequence
        if step < 1:
            self.repeated += 1
            return
        self.missing += step - 1
        self.last_sequence = event.product_sequence
        self.events += 1
        self.trades += isinstance(event, OrderMatched)
        self._digest.update(encode(event))
        if not self.missing:
            self.book.apply(event)

    @property
    def digest(self) -> str:
        """Hex digest of the events so far."""
        return self._digest.hexdigest()


class FeedChecker:
    """Follows one product from its first event over any of `addresses` (node id to native address), beginning at
    `first`.
    """

    def __init__(
        self,
        product_id: str,
        addresses: Mapping[str, str],
        first: str,
        *,
        tls: ssl.SSLContext,
        credentials: Credentials,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self.product_id = product_id
        self.tally = FeedTally()
        self.visited: list[str] = []
        self._addresses = dict(addresses)
        self._target = first
        self._tls = tls
        self._credentials = credentials
        self._on_change = on_change
        self._move = asyncio.Event()
        self._stopping = False

    def move(self, node_id: str) -> None:
        """Continue at another node."""
        self._target = node_id
        self._move.set()

    def stop(self) -> None:
        """End `run`."""
        self._stopping = True
        self._move.set()

    async def run(self) -> None:
        """Read until `stop`."""
        while not self._stopping:
            self._move.clear()
            node_id = self._target
            try:
                await self._stay(node_id)
            except (ConnectionLost, RequestFailed, OSError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)
            if self._target == node_id and not self._stopping:
                self._target = self._after(node_id)

    def _after(self, node_id: str) -> str:
        names = sorted(self._addresses)
        return names[(names.index(node_id) + 1) % len(names)]

    async def _stay(self, node_id: str) -> None:
        """Read the feed at one node until it ends or the reader moves on."""
        async with asyncio.timeout(5):
            connection = await NativeConnection.open(
                self._addresses[node_id], tls=self._tls, credentials=self._credentials, client="feed reader"
            )
        open_here = True

        def take(message: Events) -> None:
            if open_here:
                for event in message.events:
                    self.tally.add(event)

        try:
            await connection.subscribe(self.product_id, self.tally.last_sequence + 1, take)
            self.visited.append(node_id)
            if self._on_change is not None:
                self._on_change(node_id)
            moved = asyncio.ensure_future(self._move.wait())
            closed = asyncio.ensure_future(connection.closed.wait())
            await asyncio.wait({moved, closed}, return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
            closed.cancel()
        finally:
            open_here = False
            await connection.close()

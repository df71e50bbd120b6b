"""Checks of the feed: books rebuilt from events must equal the books that the nodes answer.

`BookFollower` reads the WebSocket's channels `full` and `level2` at one node. When its node is lost, it continues at
another from the next sequence. No sequence may be missing or come twice. `OrderBook` is the book at level 3 that the
follower and readers of the native feed rebuild.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp

from loadtest.errors import WrongAnswerError
from loadtest.watch import reached
from node.gateway.values import order_text
from node.native.protocol import BookView
from statemachine.events import AnyEvent, OrderChanged, OrderDone, OrderMatched, OrderOpened
from statemachine.types import Side

Message = dict[str, Any]
Number = Decimal | int
Rows = list[tuple[Number, Number, str]]
Levels = dict[str, dict[Number, Number]]
SIDES = {"buy": "bids", "sell": "asks"}
PAUSE = 0.05
PING_SECONDS = 5.0
"""Seconds between two pings. The follower leaves a node that does not answer one within half of that."""


class OrderBook:
    """All resting orders. Within a price the order of the dict is time priority. Prices and sizes are decimals or
    smallest units, as the caller gives them.
    """

    def __init__(self) -> None:
        self.orders: dict[str, tuple[str, Number, Number]] = {}

    def opened(self, order_id: str, side: str, price: Number, size: Number) -> None:
        """Add an order, or the next slice of one that shows a slice at a time, behind all others."""
        self.orders.pop(order_id, None)
        self.orders[order_id] = side, price, size

    def resized(self, order_id: str, by: Number) -> None:
        """Change the size of a resting order by `by`. Raises `WrongAnswerError` if the order does not rest, or its size
        falls below zero.
        """
        if order_id not in self.orders:
            raise WrongAnswerError(f"{order_id} is not on the book")
        side, price, size = self.orders[order_id]
        if size + by < 0:
            raise WrongAnswerError(f"{order_id} fell below zero")
        self.orders[order_id] = side, price, size + by

    def left(self, order_id: str) -> None:
        """Remove an order that is done. It need not have rested."""
        self.orders.pop(order_id, None)

    def apply(self, event: AnyEvent) -> None:
        """Apply an event of the native feed."""
        match event:
            case OrderOpened():
                side = "bids" if event.side is Side.BUY else "asks"
                self.opened(order_text(event.order_id), side, event.price, event.remaining)
            case OrderMatched() if not event.auction:
                self.resized(order_text(event.maker_order_id), -event.size)
            case OrderChanged() if event.resting and event.requeued:
                self.left(order_text(event.order_id))
            case OrderChanged() if event.resting:
                self.resized(order_text(event.order_id), -event.off_the_book)
            case OrderDone():
                self.left(order_text(event.order_id))

    def rows(self) -> dict[str, Rows]:
        """Return both sides, best price first, and within a price oldest first."""
        sides: dict[str, Rows] = {side: [] for side in SIDES.values()}
        for order, (side, price, size) in self.orders.items():
            sides[side].append((price, size, order))
        sides["bids"].sort(key=lambda row: -row[0])
        sides["asks"].sort(key=lambda row: row[0])
        return sides

    def levels(self) -> Levels:
        """Return the total size by price."""
        sides: Levels = {side: defaultdict(int) for side in SIDES.values()}
        for side, price, size in self.orders.values():
            sides[side][price] += size
        return {side: dict(levels) for side, levels in sides.items()}


def rows_of(view: BookView) -> dict[str, Rows]:
    """Convert a level 3 book of the native protocol to the form of `OrderBook.rows`."""
    sides = {"bids": view.bid_orders, "asks": view.ask_orders}
    return {side: [(order.price, order.size, order_text(order.order_id)) for order in orders] for side, orders in sides.items()}


class Level3(OrderBook):
    """The level 3 book: the REST API's answer, and the later messages of the channel `full`."""

    def __init__(self, answer: Message) -> None:
        super().__init__()
        self.sequence = int(answer["sequence"])
        self._last = 0
        for side in SIDES.values():
            for price, size, order_id in answer[side]:
                self.opened(order_id, side, Decimal(price), Decimal(size))

    def take(self, message: Message) -> None:
        """Apply a message. Messages that the answer already contains are skipped. Raises `WrongAnswerError` at a gap or
        a repetition.
        """
        sequence, last = message["sequence"], self._last
        if sequence <= last:
            raise WrongAnswerError(f"{sequence} came after {last}")
        self._last = sequence
        if sequence <= self.sequence:
            return
        if sequence != self.sequence + 1:
            raise WrongAnswerError(f"{sequence} came after {self.sequence}")
        self.sequence = sequence
        match message["type"]:
            case "open":
                price, size = Decimal(message["price"]), Decimal(message["remaining_size"])
                self.opened(message["order_id"], SIDES[message["side"]], price, size)
            case "match":
                self.resized(message["maker_order_id"], -Decimal(message["size"]))
            case "change" if message["order_id"] in self.orders:
                self.resized(message["order_id"], Decimal(message["new_size"]) - Decimal(message["old_size"]))
            case "done":
                self.left(message["order_id"])


@dataclass
class Level2:
    """Total size by price, from `snapshot` and `l2update`."""

    levels: Levels = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """Apply a message of the channel."""
        if message["type"] == "snapshot":
            self.levels = {side: {Decimal(price): Decimal(size) for price, size in message[side]} for side in SIDES.values()}
            return
        for side, price, size in message["changes"]:
            levels = self.levels[SIDES[side]]
            levels[Decimal(price)] = Decimal(size)
            if not levels[Decimal(price)]:
                del levels[Decimal(price)]


class BookFollower:
    """Follows a product's books over the WebSockets of nodes, one at a time, beginning with the first of `urls`."""

    def __init__(self, urls: Sequence[str], product_id: str) -> None:
        self.product_id = product_id
        self.level3: Level3 | None = None
        self.level2 = Level2()
        self.visited: list[str] = []
        self.events = 0
        self.refusals: list[str] = []
        self._urls = list(urls)

    async def run(self) -> None:
        """Follow until cancelled. The follower also leaves a node that rejects the subscription. Raises
        `WrongAnswerError` at a gap or a repetition.
        """
        async with aiohttp.ClientSession() as session:
            turn = 0
            while True:
                url = self._urls[turn % len(self._urls)]
                try:
                    await self._visit(session, url)
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(PAUSE)
                turn += 1

    async def _visit(self, session: aiohttp.ClientSession, url: str) -> None:
        """Follow the feed at one node until it ends."""
        async with session.ws_connect(url.replace("http", "ws", 1) + "/", max_msg_size=0, heartbeat=PING_SECONDS) as socket:
            request: Message = {"type": "subscribe", "product_ids": [self.product_id], "channels": ["full", "level2"]}
            if self.level3 is not None:
                request["from_sequence"] = self.level3.sequence + 1
            await socket.send_json(request)
            async for received in socket:
                message = (
                    received.json() if received.type is aiohttp.WSMsgType.TEXT else {"type": "error", "message": received.type}
                )
                if message["type"] == "error":
                    self.refusals.append(f"{url}: {message['message']}")
                    await asyncio.sleep(PAUSE)
                    return
                await self._take(session, url, message)

    async def _take(self, session: aiohttp.ClientSession, url: str, message: Message) -> None:
        """Apply a message to the books."""
        if message["type"] == "subscriptions":
            self.visited.append(url)
            self.level3 = self.level3 or Level3(await book(session, url, self.product_id))
        elif message["type"] in ("snapshot", "l2update"):
            self.level2.take(message)
        elif "sequence" in message:
            assert self.level3 is not None
            self.level3.take(message)
            self.events += 1

    def _is_at(self, sequence: int) -> bool:
        """Return whether both books include that event. The channel `level2` has no sequences, but arrives on the same
        connection.
        """
        rebuilt = self.level3
        return rebuilt is not None and rebuilt.sequence >= sequence and self.level2.levels == rebuilt.levels()

    async def difference(self, url: str, seconds: float) -> str:
        """Return how the rebuilt books differ from the book that the node at `url` answers, or "". Nobody may trade.

        Waits up to `seconds` until the node answers and all books have the same sequence. Asks again if an order
        expires in that time.
        """
        end = time.monotonic() + seconds
        while True:
            answered = await _book_of(url, self.product_id, end)
            if answered is None:
                return f"{url} does not answer with a book of {self.product_id}"
            sequence = answered.sequence
            await reached(functools.partial(self._is_at, sequence), end - time.monotonic())
            if self.level3 is None or self.level3.sequence <= sequence or time.monotonic() > end:
                return self._difference(answered)

    def _difference(self, answered: Level3) -> str:
        """Return how the rebuilt books differ from those of an answer, or ""."""
        if self.level3 is None:
            return f"no book of {self.product_id} was ever taken: {self.refusals[-1:]}"
        if self.level3.sequence != answered.sequence:
            return f"{self.product_id} was followed to {self.level3.sequence} of {answered.sequence}: {self.refusals[-1:]}"
        if self.level3.rows() != answered.rows():
            return f"{self.product_id} differs at level 3"
        return "" if self.level2.levels == answered.levels() else f"{self.product_id} differs at level 2"


async def _book_of(url: str, product_id: str, end: float) -> Level3 | None:
    """Return a node's book, or None if it does not answer before `end`, in monotonic seconds."""
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < end:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                return Level3(await book(session, url, product_id))
            await asyncio.sleep(PAUSE)
    return None


async def book(session: aiohttp.ClientSession, url: str, product_id: str) -> Message:
    """Return the level 3 book. Raises ClientError if the node does not answer with one."""
    async with session.get(f"{url}/products/{product_id}/book", params={"level": "3"}, raise_for_status=True) as response:
        answer: Message = await response.json()
        return answer

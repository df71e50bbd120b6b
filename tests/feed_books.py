"""A judge of the feed: books rebuilt from the WebSocket's channels `full` and `level2` must equal what the nodes answer over HTTP.

A follower reads one node, and goes on at the next, from the next sequence, when its node is lost: no sequence may be missing or come twice.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp

from loadtest.watch import reached

Message = dict[str, Any]
Rows = list[tuple[Decimal, Decimal, str]]
Levels = dict[str, dict[Decimal, Decimal]]
SIDES = {"buy": "bids", "sell": "asks"}
PAUSE = 0.05


@dataclass
class Level3:
    """Every order, from a book at level 3 and the events behind it. The dict's order is time priority within a price."""

    sequence: int
    orders: dict[str, tuple[str, Decimal, Decimal]] = field(default_factory=dict)

    @classmethod
    def of(cls, book: Message) -> Level3:
        """The book as it was answered."""
        made = cls(int(book["sequence"]))
        for side in SIDES.values():
            made.orders |= {order: (side, Decimal(price), Decimal(size)) for price, size, order in book[side]}
        return made

    def apply(self, message: Message) -> None:
        """Follow an event; those that the book has already are passed over."""
        if message["sequence"] <= self.sequence:
            return
        assert message["sequence"] == self.sequence + 1, f"{message['sequence']} came after {self.sequence}"
        self.sequence = message["sequence"]
        match message["type"]:
            case "open":
                place = SIDES[message["side"]], Decimal(message["price"]), Decimal(message["remaining_size"])
                self.orders[message["order_id"]] = place
            case "match":
                self._resize(message["maker_order_id"], -Decimal(message["size"]))
            case "change" if message["order_id"] in self.orders:
                self._resize(message["order_id"], Decimal(message["new_size"]) - Decimal(message["old_size"]))
            case "done":
                self.orders.pop(message["order_id"], None)

    def rows(self) -> dict[str, Rows]:
        """Both sides, best price first, first come first."""
        sides: dict[str, Rows] = {side: [] for side in SIDES.values()}
        for order, (side, price, size) in self.orders.items():
            sides[side].append((price, size, order))
        sides["bids"].sort(key=lambda row: -row[0])
        sides["asks"].sort(key=lambda row: row[0])
        return sides

    def levels(self) -> Levels:
        """Total size by price."""
        sides: Levels = {side: defaultdict(Decimal) for side in SIDES.values()}
        for side, price, size in self.orders.values():
            sides[side][price] += size
        return {side: dict(levels) for side, levels in sides.items()}

    def _resize(self, order: str, by: Decimal) -> None:
        side, price, size = self.orders[order]
        assert size + by >= 0, f"{order} fell below zero"
        self.orders[order] = side, price, size + by


@dataclass
class Level2:
    """Total size by price, from `snapshot` and `l2update`."""

    levels: Levels = field(default_factory=dict)

    def apply(self, message: Message) -> None:
        """Follow a message of the channel."""
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
        self.level3: Level3 | None = None
        self.level2 = Level2()
        self.visited: list[str] = []
        self.events = 0
        self._urls = list(urls)
        self._product_id = product_id

    async def run(self) -> None:
        """Follow until cancelled. Raises AssertionError at a gap, a repetition or an error of the feed."""
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
        async with session.ws_connect(url.replace("http", "ws", 1) + "/", max_msg_size=0) as socket:
            request: Message = {"type": "subscribe", "product_ids": [self._product_id], "channels": ["full", "level2"]}
            if self.level3 is not None:
                request["from_sequence"] = self.level3.sequence + 1
            await socket.send_json(request)
            self.visited.append(url)
            async for received in socket:
                if received.type is aiohttp.WSMsgType.TEXT:
                    await self._take(session, url, received.json())

    async def _take(self, session: aiohttp.ClientSession, url: str, message: Message) -> None:
        assert message["type"] != "error", message
        if message["type"] == "subscriptions" and self.level3 is None:
            self.level3 = Level3.of(await book(session, url, self._product_id))
        elif message["type"] in ("snapshot", "l2update"):
            self.level2.apply(message)
        elif "sequence" in message:
            assert self.level3 is not None
            self.level3.apply(message)
            self.events += 1

    async def judge(self, url: str, seconds: float = 20.0) -> None:
        """Once nobody trades: what was rebuilt equals the book that the node at `url` answers."""
        async with aiohttp.ClientSession() as session:
            answered = Level3.of(await book(session, url, self._product_id))
        await reached(lambda: self._is_at(answered.sequence), seconds)
        assert self.level3 is not None
        assert self.level3.sequence == answered.sequence
        assert self.level3.rows() == answered.rows()
        assert self.level2.levels == answered.levels()

    def _is_at(self, sequence: int) -> bool:
        """Whether both books are those after that event; the channel `level2` has no sequences, but follows on the same connection."""
        rebuilt = self.level3
        return rebuilt is not None and rebuilt.sequence >= sequence and self.level2.levels == rebuilt.levels()


async def book(session: aiohttp.ClientSession, url: str, product_id: str) -> Message:
    """The book at level 3."""
    async with session.get(f"{url}/products/{product_id}/book", params={"level": "3"}) as response:
        answer: Message = await response.json()
        assert response.status == 200, answer
        return answer

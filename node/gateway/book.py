"""The gateway's copy of a product's book, and the JSON texts of answers about it.

`Book` has every order by price level and time priority, and follows the events of the product, so a request for the
book costs the engine nothing. The JSON text of each level's row and of each block of orders is cached, and rendered
again only after a change. An answer about a million orders therefore consists mostly of cached text. A block has at
most `BLOCK_MAX` orders, so a change of one order renders little text again, however many orders its level has.

`level2` and `level3` render the book of one moment, and all readers share the text. `prepare_level2` and
`prepare_level3` do most of the work in short turns, between which other work runs. On a busy book a few rows are stale
again when they end; the final call renders these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from sortedcontainers import SortedDict

from node.gateway.catalogue import Product
from node.gateway.values import order_text
from node.native.protocol import BookPage
from statemachine.events import AnyEvent, OrderChanged, OrderDone, OrderMatched, OrderOpened
from statemachine.types import Side

BLOCK_MAX = 256
"""Orders of a block. Rendering a full block takes about 0.3 ms."""

Change = tuple[Side, int, int]
"""A price level that changed: side, price, and its total size before the change."""


class Block:
    """Consecutive orders of a level: remaining sizes by order id, in time priority. `text` caches their rows; None
    means stale.
    """

    __slots__ = ("orders", "text")

    def __init__(self) -> None:
        self.orders: dict[int, int] = {}
        self.text: bytes | None = None


class Level:
    """The orders at one price. A level in a book is never empty. `text` caches its row in a level 2 snapshot; None
    means stale.
    """

    __slots__ = ("blocks", "count", "price", "text", "total")

    def __init__(self, price: int) -> None:
        self.price = price
        self.total = 0
        self.count = 0
        self.blocks: list[Block] = []
        self.text: bytes | None = None


class Book:
    """Both sides of a book. `stale_levels` and `stale_blocks` (with their price) are those without a cached text."""

    def __init__(self) -> None:
        self._sides: dict[Side, SortedDict] = {Side.BUY: SortedDict(), Side.SELL: SortedDict()}
        self._orders: dict[int, tuple[Side, Level, Block]] = {}
        self.stale_levels: dict[Level, None] = {}
        self.stale_blocks: dict[Block, int] = {}

    def __len__(self) -> int:
        """Return the number of resting orders."""
        return len(self._orders)

    def __contains__(self, order_id: int) -> bool:
        return order_id in self._orders

    def apply(self, event: AnyEvent) -> Change | None:
        """Apply an event, and return the level that it changed, if any. O(1); O(log levels) if a level appears or goes."""
        match event:
            case OrderOpened():
                return self.add(event.side, event.price, event.order_id, event.remaining)
            case OrderMatched() if not event.auction:
                return self._reduce(event.maker_order_id, event.size)
            case OrderChanged() if event.resting:
                return self._reduce(event.order_id, event.off_the_book)
            case OrderDone() if event.resting and event.remaining:
                return self._reduce(event.order_id, event.remaining)
            case _:
                return None

    def add(self, side: Side, price: int, order_id: int, remaining: int) -> Change:
        """Add an order behind all others at its price."""
        levels = self._sides[side]
        level = levels.get(price)
        if level is None:
            level = levels[price] = Level(price)
        before = level.total
        if not level.blocks or len(level.blocks[-1].orders) >= BLOCK_MAX:
            level.blocks.append(Block())
        block = level.blocks[-1]
        block.orders[order_id] = remaining
        self._orders[order_id] = side, level, block
        level.total += remaining
        level.count += 1
        self._touch(level, block)
        return side, price, before

    def _reduce(self, order_id: int, by: int) -> Change:
        """Reduce a resting order by `by`. An order without a remaining size leaves the book."""
        side, level, block = self._orders[order_id]
        before, left = level.total, block.orders[order_id] - by
        assert left >= 0, f"order {order_id} fell below zero: the feed and the book differ"
        level.total -= by
        if left:
            block.orders[order_id] = left
            self._touch(level, block)
            return side, level.price, before
        del block.orders[order_id], self._orders[order_id]
        level.count -= 1
        self._touch(level, block)
        if not block.orders:
            level.blocks.remove(block)
            self.stale_blocks.pop(block, None)
        if not level.blocks:
            del self._sides[side][level.price]
            self.stale_levels.pop(level, None)
        return side, level.price, before

    def _touch(self, level: Level, block: Block) -> None:
        level.text = block.text = None
        self.stale_levels[level] = None
        self.stale_blocks[block] = level.price

    def in_order(self, side: Side) -> Iterator[Level]:
        """Return the levels of a side, best first."""
        levels = self._sides[side]
        prices = reversed(levels) if side is Side.BUY else iter(levels)
        return (levels[price] for price in prices)

    def best(self, side: Side) -> tuple[int, int]:
        """Return the best price and the size at it, or zeros if the side is empty."""
        level = next(self.in_order(side), None)
        return (level.price, level.total) if level is not None else (0, 0)

    def levels(self, side: Side, depth: int | None = None) -> list[tuple[int, int, int]]:
        """Return price, size and number of orders of the best `depth` levels, or of all levels."""
        return [(level.price, level.total, level.count) for level in islice(self.in_order(side), depth)]

    def orders(self, side: Side) -> Iterator[tuple[int, int, int]]:
        """Return price, remaining size and id of every order, in the order in which they trade."""
        for level in self.in_order(side):
            for block in level.blocks:
                for order_id, remaining in block.orders.items():
                    yield level.price, remaining, order_id

    def size_at(self, side: Side, price: int) -> int:
        """Return the total size at a price, or 0 if no order rests there."""
        level: Level | None = self._sides[side].get(price)
        return level.total if level is not None else 0

    def count_levels(self) -> int:
        """Return the number of levels of both sides."""
        return sum(len(levels) for levels in self._sides.values())


class BookLoader:
    """Builds a book from pages that the engine reads one after the other while it applies commands.

    Each page shows the state after one event, so its orders reflect all events up to that one and no later one.
    `finish` applies the events of the whole time, each to the orders whose page is older. An order that left the book
    before its page was read is on no page.

    Args:
        sequence: the product sequence after which the first page is read, or an earlier one. `finish` needs the events
            after it.
    """

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        """The sequence of the newest page so far. `finish` needs the events up to it."""
        self._book = Book()
        self._read_at: dict[int, int] = {}

    def page(self, side: Side, page: BookPage) -> None:
        """Add the next page. Pages of a side must come in order."""
        self.sequence = max(self.sequence, page.product_sequence)
        for order in page.orders:
            self._book.add(side, order.price, order.order_id, order.remaining)
            self._read_at[order.order_id] = page.product_sequence

    def finish(self, events: Iterable[AnyEvent]) -> Book:
        """Return the book after `events`: all after the initial sequence, at least up to the newest page's sequence."""
        book = self._book
        for event in events:
            if isinstance(event, OrderOpened | OrderMatched | OrderChanged | OrderDone):
                order_id = event.maker_order_id if isinstance(event, OrderMatched) else event.order_id
                read_at = self._read_at.get(order_id)
                if read_at is not None and event.product_sequence <= read_at:
                    continue
                if order_id not in book and event.product_sequence <= self.sequence and not isinstance(event, OrderOpened):
                    continue
                book.apply(event)
        return book


TURN = 400
"""Levels or orders that are rendered before other work gets a turn: about 0.5 ms."""

TURNS_LEFT = 4
"""Turns of work that `prepare_level2` and `prepare_level3` may leave to the final call."""

ROUNDS_MAX = 8
"""Rounds over the stale rows. A book that changes faster than they are rendered is left as it is after these."""

CHUNK = 64 * 1024
"""Bytes written to a client at a time."""


@dataclass(frozen=True)
class LongText:
    """A long JSON text as a list of parts, which all clients share. It is never joined as a whole."""

    parts: list[bytes]
    size: int

    def ended(self, tail: bytes) -> LongText:
        """Return this text with `tail` added."""
        return LongText([*self.parts, tail], self.size + len(tail))

    def chunks(self) -> Iterator[bytes]:
        """Return the text in chunks of `CHUNK` bytes or a little more."""
        waiting: list[bytes] = []
        size = 0
        for part in self.parts:
            waiting.append(part)
            size += len(part)
            if size >= CHUNK:
                yield b"".join(waiting)
                waiting, size = [], 0
        if waiting:
            yield b"".join(waiting)


async def prepare_level2(product: Product, book: Book) -> None:
    """Render the rows of all but a few levels, in short turns."""
    for _ in range(ROUNDS_MAX):
        stale = list(book.stale_levels)
        if len(stale) <= TURNS_LEFT * TURN:
            return
        for at in range(0, len(stale), TURN):
            for level in stale[at : at + TURN]:
                _row(product, book, level)
            await asyncio.sleep(0)


async def prepare_level3(product: Product, book: Book) -> None:
    """Render the rows of all but a few orders, in short turns."""
    for _ in range(ROUNDS_MAX):
        stale = list(book.stale_blocks)
        if sum(len(block.orders) for block in stale) <= TURNS_LEFT * TURN:
            return
        work = 0
        for block in stale:
            work += len(block.orders)
            _rows(product, book, block)
            if work >= TURN:
                work = 0
                await asyncio.sleep(0)


def level2(product: Product, book: Book) -> bytes:
    """Return the `snapshot` message of the current book."""
    bids, asks = (b",".join(_row(product, book, level) for level in book.in_order(side)) for side in (Side.BUY, Side.SELL))
    head = f'{{"type":"snapshot","product_id":"{product.row.product_id}","bids":['.encode()
    return b"".join((head, bids, b'],"asks":[', asks, b"]}"))


def level3(product: Product, book: Book, sequence: int) -> LongText:
    """Return the answer at level 3 for the current book, which is the one after event `sequence`. The text ends after
    `asks`; `LongText.ended` adds the other fields.
    """
    parts = [f'{{"sequence":{sequence},"bids":['.encode()]
    for side, between in ((Side.BUY, b'],"asks":['), (Side.SELL, b"]")):
        first = True
        for level in book.in_order(side):
            for block in level.blocks:
                if not first:
                    parts.append(b",")
                first = False
                parts.append(_rows(product, book, block))
        parts.append(between)
    return LongText(parts, sum(map(len, parts)))


def _row(product: Product, book: Book, level: Level) -> bytes:
    """Return a level's row `[price, size]`."""
    text = level.text
    if text is None:
        text = level.text = f'["{product.price(level.price)}","{product.size(level.total)}"]'.encode()
        book.stale_levels.pop(level, None)
    return text


def _rows(product: Product, book: Book, block: Block) -> bytes:
    """Return a block's rows `[price, size, order id]`."""
    text = block.text
    if text is None:
        price = book.stale_blocks.pop(block, None)
        if price is None:
            return b""  # the block has left the book in the meantime
        shown = product.price(price)
        rows = [f'["{shown}","{product.size(size)}","{order_text(number)}"]' for number, size in block.orders.items()]
        text = block.text = ",".join(rows).encode()
    return text

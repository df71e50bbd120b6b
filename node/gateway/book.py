"""The gateway's own copy of a product's book, and the texts that answers are made of.

`Book` has every order, by price level and in time priority, and follows the events of the product. So a client's
question about the book costs the engine nothing. Texts are kept, a row for each level and the rows of each block of
orders, and made anew only where something changed: a book of a million orders is answered from the texts of before. A
level's orders lie in blocks of at most `BLOCK_MAX`, so one order's change makes little text anew, however many orders
the level has.

`level2` and `level3` make the text of one moment for all who want it. `prepare_...` does most of the work in short
turns, between which everything else goes on, and so may lag behind a busy book a little. What is left then is done at
once.
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
"""Orders of a block: some 0.3 ms to write as text."""

Change = tuple[Side, int, int]
"""A level that changed: side, price, and its total size before."""


class Block:
    """Consecutive orders of a level: remaining sizes by order id, in time priority. `text` is theirs, None when it has
    to be made anew.
    """

    __slots__ = ("orders", "text")

    def __init__(self) -> None:
        self.orders: dict[int, int] = {}
        self.text: bytes | None = None


class Level:
    """The orders at one price. A level of a book is never empty. `text` is its row in a level 2 snapshot, None when it
    has to be made anew.
    """

    __slots__ = ("blocks", "count", "price", "text", "total")

    def __init__(self, price: int) -> None:
        self.price = price
        self.total = 0
        self.count = 0
        self.blocks: list[Block] = []
        self.text: bytes | None = None


class Book:
    """Both sides. `stale_levels` and `stale_blocks` (with their price) are those whose texts have to be made anew."""

    def __init__(self) -> None:
        self._sides: dict[Side, SortedDict] = {Side.BUY: SortedDict(), Side.SELL: SortedDict()}
        self._orders: dict[int, tuple[Side, Level, Block]] = {}
        self.stale_levels: dict[Level, None] = {}
        self.stale_blocks: dict[Block, int] = {}

    def __len__(self) -> int:
        """How many orders rest."""
        return len(self._orders)

    def __contains__(self, order_id: int) -> bool:
        return order_id in self._orders

    def apply(self, event: AnyEvent) -> Change | None:
        """Follow an event; what it changed, if anything. O(1), O(log levels) where a level comes or goes."""
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
        """An order rests, behind all others of its price."""
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
        """An order that rests loses `by` of its size, and leaves where that is all of it."""
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
        """The levels of a side, best first."""
        levels = self._sides[side]
        prices = reversed(levels) if side is Side.BUY else iter(levels)
        return (levels[price] for price in prices)

    def best(self, side: Side) -> tuple[int, int]:
        """Best price and its size; zeros where the side is empty."""
        level = next(self.in_order(side), None)
        return (level.price, level.total) if level is not None else (0, 0)

    def levels(self, side: Side, depth: int | None = None) -> list[tuple[int, int, int]]:
        """Price, size and number of orders of the best `depth` levels, or of all."""
        return [(level.price, level.total, level.count) for level in islice(self.in_order(side), depth)]

    def orders(self, side: Side) -> Iterator[tuple[int, int, int]]:
        """Price, remaining size and id of every order, in the order in which they trade."""
        for level in self.in_order(side):
            for block in level.blocks:
                for order_id, remaining in block.orders.items():
                    yield level.price, remaining, order_id

    def size_at(self, side: Side, price: int) -> int:
        """The total size at a price; 0 where nobody is."""
        level: Level | None = self._sides[side].get(price)
        return level.total if level is not None else 0

    def count_levels(self) -> int:
        """How many levels both sides have."""
        return sum(len(levels) for levels in self._sides.values())


class BookLoader:
    """A book put together from pages that the engine read one after the other, while it went on.

    Each page is of the state after an event of its own, so an order on it has met all events up to that one, and no
    other. The events of the whole time are applied on top, each to the orders whose page is older. An order that left
    before its page was read is on none.

    Args:
        sequence: of the event after which the first page is read, or of an earlier one: the events behind it are given
            to `finish`.
    """

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        """Of the newest page so far: events up to it are needed."""
        self._book = Book()
        self._read_at: dict[int, int] = {}

    def page(self, side: Side, page: BookPage) -> None:
        """The next page. Pages of a side come in order."""
        self.sequence = max(self.sequence, page.product_sequence)
        for order in page.orders:
            self._book.add(side, order.price, order.order_id, order.remaining)
            self._read_at[order.order_id] = page.product_sequence

    def finish(self, events: Iterable[AnyEvent]) -> Book:
        """The book after these events: all behind the sequence that it began with, at least up to the newest page's."""
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
"""Levels, or orders, whose texts are made before everything else has its turn: about half of a millisecond."""

TURNS_LEFT = 4
"""So many turns' work may be left for the end."""

ROUNDS_MAX = 8
"""So often the rest is gone through: a book that changes faster than that is taken as it is."""

CHUNK = 64 * 1024
"""Bytes of a piece that is written to a client at a time."""


@dataclass(frozen=True)
class Pieces:
    """A long JSON text in pieces that all clients share; nobody joins it whole."""

    parts: list[bytes]
    size: int

    def ended(self, tail: bytes) -> Pieces:
        """The same with a last piece."""
        return Pieces([*self.parts, tail], self.size + len(tail))

    def chunks(self) -> Iterator[bytes]:
        """The text, in pieces of `CHUNK` bytes or a little more."""
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
    """Make the rows of all levels but for a few, in turns."""
    for _ in range(ROUNDS_MAX):
        stale = list(book.stale_levels)
        if len(stale) <= TURNS_LEFT * TURN:
            return
        for at in range(0, len(stale), TURN):
            for level in stale[at : at + TURN]:
                _row(product, book, level)
            await asyncio.sleep(0)


async def prepare_level3(product: Product, book: Book) -> None:
    """Make the rows of all orders but for a few, in turns."""
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
    """The `snapshot` message of the book as it is."""
    bids, asks = (b",".join(_row(product, book, level) for level in book.in_order(side)) for side in (Side.BUY, Side.SELL))
    head = f'{{"type":"snapshot","product_id":"{product.row.product_id}","bids":['.encode()
    return b"".join((head, bids, b'],"asks":[', asks, b"]}"))


def level3(product: Product, book: Book, sequence: int) -> Pieces:
    """The answer at level 3 of the book as it is, after event `sequence`, up to the end of `asks`: `Pieces.ended` adds
    the rest.
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
    return Pieces(parts, sum(map(len, parts)))


def _row(product: Product, book: Book, level: Level) -> bytes:
    """A level's `[price, size]`."""
    text = level.text
    if text is None:
        text = level.text = f'["{product.price(level.price)}","{product.size(level.total)}"]'.encode()
        book.stale_levels.pop(level, None)
    return text


def _rows(product: Product, book: Book, block: Block) -> bytes:
    """A block's rows `[price, size, order id]`."""
    text = block.text
    if text is None:
        price = book.stale_blocks.pop(block, None)
        if price is None:
            return b""  # it has left the book meanwhile
        shown = product.price(price)
        rows = [f'["{shown}","{product.size(size)}","{order_text(number)}"]' for number, size in block.orders.items()]
        text = block.text = ",".join(rows).encode()
    return text

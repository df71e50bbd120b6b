"""The texts of a book: the `snapshot` of the channel `level2` and the answer at level 3, each made once for all who want it at the same moment.

Making them reads what changed since the last time. `prepare_...` does most of it in short turns, between which everything else goes on, and so may
lag behind a busy book a little; what is left then is done at once, and the text is of one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from node.gateway.book import Block, Book, Level
from node.gateway.catalogue import Product
from node.gateway.ids import order_text
from statemachine.types import Side

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
    """The answer at level 3 of the book as it is, after event `sequence`, up to the end of `asks`: `Pieces.ended` adds the rest."""
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

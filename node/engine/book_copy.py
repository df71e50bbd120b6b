"""Copies a book at level 3 while the exchange runs. Each turn of the loop copies one page of orders, so a query for a
large book does not delay Raft.

The copy is consistent: it shows the book at the moment when it ends. Each page shows the state when it was read. A
later event changes the orders that are already copied. It does not affect orders that are still to be read: an order
that opens behind the current position is read later, and one in front of it is added to the copy. After the last page
the copy has seen every event. It is then encoded as msgpack, one chunk in each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
from sortedcontainers import SortedDict

from node.engine.feed import Feed, TooOldError
from node.errors import RequestFailed
from node.native.framing import array_head
from node.native.protocol import LENGTH_BYTES, BookOrder, FailCode
from statemachine.engine import Engine
from statemachine.events import AnyEvent, OrderChanged, OrderDone, OrderMatched, OrderOpened
from statemachine.types import ProductStatus, Side

PAGE = 400
"""Orders read, events followed, or orders written in one turn: each takes at most about half a millisecond."""

PAUSE = 0.002
"""Seconds between turns. A copy takes a fifth of the loop's time, and other work goes first."""

ORDERS_MAX = 250_000
"""The most orders of a book that is copied. The copy takes about 60 MB. Larger ones are read by pages and events
(`BookPageQuery`).
"""

Later = Callable[[float, Callable[[], None]], object]
Chunks = list[bytes]
"""The msgpack of a `BookView`, in chunks."""

Done = Callable[[Chunks | RequestFailed, int], None]
"""Receives the copy and its number of orders."""

_encode = msgspec.msgpack.Encoder().encode
_events = msgspec.msgpack.Decoder(AnyEvent)
_SIDES = (Side.BUY, Side.SELL)


class LongAnswer(msgspec.Struct, frozen=True):
    """An `Answer` whose body is a list of chunks."""

    request_id: int
    chunks: Chunks

    def frame(self) -> list[bytes]:
        """Return the bytes of its frame, in chunks. The first one has the length and the fields before the body."""
        size = sum(map(len, self.chunks))
        head = b"\x93\x04" + _encode(self.request_id)
        return [(len(head) + size).to_bytes(LENGTH_BYTES, "big") + head, *self.chunks]


def is_large(engine: Engine, product_id: str) -> bool:
    """Return whether one side of a book fills a page. Such a book is copied one page at a time."""
    return any(len(engine.book_page(product_id, side, (0, 0, 0), PAGE)) == PAGE for side in _SIDES)


class _Side:
    """The copy of one side: remaining sizes by order id, in time priority, by price."""

    def __init__(self, side: Side) -> None:
        self._best_first = -1 if side is Side.BUY else 1
        self.levels: SortedDict = SortedDict()
        self.reached = (0, 0, 0)
        """Price, opened sequence and id of the last order read; zeros before the first."""
        self.whole = False

    def add(self, price: int, order_id: int, remaining: int) -> None:
        """Add an order behind all others of its price."""
        key = price * self._best_first
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = {}
        level[order_id] = remaining

    def will_be_read(self, price: int) -> bool:
        """Return whether an order that opens at this price now will be read on a later page. It comes after all
        others of its price.
        """
        if self.whole:
            return False
        return not self.reached[0] or price * self._best_first >= self.reached[0] * self._best_first

    def reduce(self, price: int, order_id: int, by: int) -> bool:
        """Reduce an order's size by an amount, and remove it when nothing remains. Returns whether it was removed. An
        order that has not been read yet is ignored.
        """
        key = price * self._best_first
        level = self.levels.get(key)
        if level is None or order_id not in level:
            return False
        level[order_id] -= by
        if level[order_id]:
            return False
        del level[order_id]
        if not level:
            del self.levels[key]
        return True

    def rows(self) -> Iterator[BookOrder]:
        """Yield every order, in the order in which they trade."""
        for key, level in self.levels.items():
            price = key * self._best_first
            for order_id, remaining in level.items():
                yield BookOrder(price, remaining, order_id)


class BookCopy:
    """One copy. The caller calls `step` until it returns False; `chunks` then holds the result."""

    def __init__(self, engine: Engine, feed: Feed, product_id: str) -> None:
        self.engine = engine
        self.product_id = product_id
        self.chunks: Chunks = []
        self.orders = 0
        """Orders copied."""
        self._feed = feed
        self._next = feed.next_sequence(product_id)
        self._sides = {side: _Side(side) for side in _SIDES}
        self._work = self._steps()

    def step(self) -> bool:
        """Do a bounded amount of work. Returns whether work remains.

        Raises:
            TooOldError: the feed no longer holds the events that this copy needs; begin a new copy.
            RequestFailed: the book is too large.
        """
        return next(self._work, False)

    def _steps(self) -> Iterator[bool]:
        """Yield between bounded parts of the work: read each side page by page, then write."""
        for side in _SIDES:
            more = True
            while more:
                yield from self._catch_up()
                more = self._read_page(side)
                yield True
        yield from self._catch_up()
        yield from self._write()

    def _catch_up(self) -> Iterator[bool]:
        """Apply all pending events. The rest of the step then sees the state after these events. Fewer events than a
        page leave time for the rest of the step; otherwise a market with an event in every turn would stop the copy for
        ever.
        """
        while self._follow() == PAGE:
            yield True

    def _read_page(self, side: Side) -> bool:
        """Read one page of a side. Returns whether there are more."""
        copy = self._sides[side]
        page = self.engine.book_page(self.product_id, side, copy.reached, PAGE)
        self.orders += len(page)
        if self.orders > ORDERS_MAX:
            text = f"the book of {self.product_id} has more than {ORDERS_MAX} orders: read it with BookPageQuery, and follow its events"
            raise RequestFailed(FailCode.BAD_REQUEST, text)
        for price, remaining, order_id, opened_sequence in page:
            copy.add(price, order_id, remaining)
            copy.reached = (price, opened_sequence, order_id)
        copy.whole = len(page) < PAGE
        return not copy.whole

    def _follow(self) -> int:
        """Apply at most a page of pending events. Returns their number."""
        events = self._feed.kept(self.product_id, self._next, PAGE)
        self._next += len(events)
        for event in events:
            self._apply(_events.decode(event))
        return len(events)

    def _apply(self, event: AnyEvent) -> None:
        """Apply an event to the part of the book that was read."""
        match event:
            case OrderOpened():
                copy = self._sides[event.side]
                if not copy.will_be_read(event.price):
                    copy.add(event.price, event.order_id, event.remaining)
                    self.orders += 1
            case OrderMatched() if not event.auction:
                self._reduce(event.side, event.price, event.maker_order_id, event.size)
            case OrderChanged() if event.resting:
                self._reduce(event.side, event.price, event.order_id, event.off_the_book)
            case OrderDone() if event.resting and event.remaining:
                self._reduce(event.side, event.price, event.order_id, event.remaining)

    def _reduce(self, side: Side, price: int, order_id: int, by: int) -> None:
        self.orders -= self._sides[side].reduce(price, order_id, by)

    def _write(self) -> Iterator[bool]:
        """Encode the book as it is now. Nothing changes the copy after this."""
        row = self.engine.product(self.product_id)
        assert row is not None, "products stay"
        head = _encode([self.product_id, row.product_sequence, [], []])
        chunks = [b"\x97" + head[1:]]  # an array of seven, of which these are the first four
        for side in _SIDES:
            rows = self._sides[side].rows()
            place, count = len(chunks), 0
            while part := list(islice(rows, PAGE)):
                chunks.append(_encode(part)[len(array_head(len(part))) :])
                count += len(part)
                yield True
            chunks.insert(place, array_head(count))
        chunks.append(_encode(row.status is ProductStatus.AUCTION))
        self.chunks = chunks


class BookCopies:
    """Makes copies on request, one at a time. Concurrent requests for the same book share one copy, and a finished copy
    is reused until the book changes.

    Args:
        engine: the engine as it is now; a snapshot replaces it.
        after: `loop.call_later`.
    """

    def __init__(self, engine: Callable[[], Engine], feed: Feed, after: Later) -> None:
        self._engine = engine
        self._feed = feed
        self._after = after
        self._waiting: dict[str, list[Done]] = {}
        self._copy: BookCopy | None = None
        self._kept: tuple[str, int, Chunks, int] | None = None

    def ask(self, product_id: str, done: Done) -> None:
        """Call `done` with the book of an existing product or with the error. The call may happen at once."""
        kept = self._kept
        if kept is not None and kept[:2] == (product_id, self._engine().product_sequence(product_id)):
            done(kept[2], kept[3])
            return
        self._waiting.setdefault(product_id, []).append(done)
        if self._copy is None:
            self._begin()

    def _begin(self) -> None:
        """Copy the book of the oldest request."""
        product_id = next(iter(self._waiting), None)
        self._copy = None
        if product_id is not None:
            self._copy = BookCopy(self._engine(), self._feed, product_id)
            self._go_on()

    def _go_on(self) -> None:
        """Continue the current copy. It begins again if it fell too far behind."""
        copy = self._copy
        assert copy is not None, "a copy has begun"
        if copy.engine is not self._engine():
            self._begin()  # a snapshot has replaced the state
            return
        try:
            more = copy.step()
        except TooOldError:
            self._begin()
            return
        except RequestFailed as error:
            self._end(copy.product_id, error, 0)
            return
        if more:
            self._after(PAUSE, self._go_on)
            return
        self._end(copy.product_id, copy.chunks, copy.orders)

    def _end(self, product_id: str, result: Chunks | RequestFailed, orders: int) -> None:
        """Give the result to all that wait for it, and begin the next copy."""
        if not isinstance(result, RequestFailed):
            self._kept = (product_id, _sequence(result), result, orders)
        waiting = self._waiting.pop(product_id)
        for done in waiting:
            done(result, orders)
        self._begin()


def _sequence(chunks: Chunks) -> int:
    """Return the product sequence in a `BookView`."""
    head = msgspec.msgpack.decode(b"\x94" + chunks[0][1:], type=tuple[str, int, list[int], list[int]])
    return head[1]

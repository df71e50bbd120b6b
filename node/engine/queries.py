"""Answers to reads: converts rows of the engine to the protocol's answers.

`LogChunks` reads chunks of the log on disk for the histories of other nodes. A thread opens the segment, reads 256 KiB
and closes it; the event loop only passes the request on and sends the result. It reads one chunk at a time for all
clients together, so any number of clients costs the node one read and one frame at a time. It does not parse, check or
keep the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster.tail import TRIES, first_index, segment_with
from node.budget import Cost
from node.config.settings import NodeConfig
from node.engine.feed import Audience, Feed
from node.errors import RequestFailed
from node.migration import cutover
from node.migration.contents import LOG
from node.native.protocol import (
    AnyQuery,
    ApiKeyQuery,
    ApiKeysQuery,
    AuctionQuery,
    AuctionView,
    BalancesQuery,
    BookLevel,
    BookOrder,
    BookPage,
    BookPageQuery,
    BookQuery,
    BookView,
    ControlsQuery,
    ControlsView,
    CurrenciesQuery,
    FailCode,
    FeesQuery,
    FeesView,
    LogChunk,
    LogQuery,
    MarketQuery,
    OrderQuery,
    OrdersQuery,
    PagedOrder,
    ProductsQuery,
    RightsQuery,
    StreamQuery,
    TradesQuery,
)
from node.statistics import Figures
from statemachine.commands import PutApiKey, command_decoder
from statemachine.engine import Engine
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.order_lists import Wanted
from statemachine.tables import ProposalRow
from statemachine.types import ProductStatus, Side

LEVELS_AT_2 = 50
"""Price levels a side at level 2."""

PAGE_MAX = 500
"""Orders of a page of a book: less than a millisecond of the engine's thread."""

ORDERS_MAX = 1_000
TRADES_MAX = 1_000
KEYS_MAX = 1_000
"""Rows of one answer. Clients read more rows in pages."""

AUCTION_SHARE = 0.01
"""The share of the engine's time that the indicative prices of auctions may take, for all clients together. One
calculation takes about a millisecond for 100 prices at which both sides would trade.
"""

_encode = msgspec.msgpack.Encoder().encode


class _EncodedMarket(msgspec.Struct, frozen=True, array_like=True):
    """`MarketView` whose trades are encoded already: the same bytes."""

    product_sequence: int
    in_auction: bool
    last_trade_id: int
    last_price: int
    trades: msgspec.Raw
    figures: Figures


class NotFoundError(Exception):
    """The requested object does not exist; the text names it."""


class BadQueryError(Exception):
    """A field of the query is invalid; the text names the field."""


class Views:
    """Makes encoded answers to queries. An encoded book is cached until its product changes, since all clients request
    the same book.
    """

    def __init__(self, feed: Feed, clock: Callable[[], float] = time.perf_counter) -> None:
        self._feed = feed
        self._clock = clock
        self._auctions: dict[str, tuple[AuctionView, float]] = {}
        self._books: dict[tuple[str, int], tuple[int, bytes]] = {}

    def answer(self, engine: Engine, query: AnyQuery, audience: Audience) -> bytes:
        """Return the body of an `Answer` to any query except `StatusQuery`. Trades have the form that the audience may
        see.

        Raises:
            NotFoundError: the product, account, order or key does not exist.
            BadQueryError: a field is out of range.
        """
        if isinstance(query, BookQuery):
            return self._book(engine, query)
        if isinstance(query, TradesQuery):
            return self._trades(engine, query, audience)
        if isinstance(query, MarketQuery):
            return _encode(self._market(engine, query, audience))
        return _encode(self._rows(engine, query))

    def _rows(self, engine: Engine, query: AnyQuery) -> object:
        """Return the rows that answer a query."""
        match query:
            case ProductsQuery():
                return engine.products()
            case CurrenciesQuery():
                return engine.currencies()
            case BalancesQuery():
                _require(engine.account_exists(query.account_id), f"account {query.account_id!r}")
                return engine.balances(query.account_id)
            case OrderQuery():
                return _order(engine, query)
            case OrdersQuery():
                return self._orders(engine, query)
            case AuctionQuery():
                return self._auction(engine, query.product_id)
            case BookPageQuery():
                return _book_page(engine, query)
            case ApiKeyQuery():
                return _found(engine.usable_key(query.key_id), f"API key {query.key_id!r}")
            case ApiKeysQuery():
                return _api_keys(engine, query)
            case ControlsQuery():
                return _controls(engine, query)
            case FeesQuery():
                return _fees(engine, query)
            case RightsQuery():
                return engine.held_by(query.sender, query.scope, query.name)
            case StreamQuery():
                return _found(engine.stream(query.stream_id), f"report stream {query.stream_id!r}")
        raise AssertionError(f"no view for {type(query).__name__}")

    def _orders(self, engine: Engine, query: OrdersQuery) -> object:
        _require(engine.account_exists(query.account_id), f"account {query.account_id!r}")
        return msgspec.Raw(engine.encoded_orders(query.account_id, _wanted(query), _limit(query.limit, ORDERS_MAX)))

    def _trades(self, engine: Engine, query: TradesQuery, audience: Audience) -> bytes:
        _require(engine.product(query.product_id) is not None, f"product {query.product_id!r}")
        return bytes(self._feed.encoded_trades(query.product_id, _limit(query.limit, TRADES_MAX), audience))

    def _market(self, engine: Engine, query: MarketQuery, audience: Audience) -> _EncodedMarket:
        """Return the figures and the latest trades of a product."""
        row = engine.product(query.product_id)
        if row is None:
            raise NotFoundError(f"product {query.product_id!r} does not exist")
        trades = self._feed.encoded_trades(query.product_id, TRADES_MAX, audience)
        in_auction = row.status is ProductStatus.AUCTION
        figures = self._feed.figures(query.product_id)
        return _EncodedMarket(row.product_sequence, in_auction, row.last_trade_id, row.last_price, trades, figures)

    def _book(self, engine: Engine, query: BookQuery) -> bytes:
        """Return a book, encoded. The last answer of each product and level is kept."""
        if query.level not in (1, 2, 3):
            raise BadQueryError(f"level: expected 1, 2 or 3, got {query.level}")
        _require(engine.product(query.product_id) is not None, f"product {query.product_id!r}")
        key = (query.product_id, query.level)
        sequence = engine.product_sequence(query.product_id)
        kept = self._books.get(key)
        if kept is not None and kept[0] == sequence:
            return kept[1]
        body = _encode(book_view(engine, query.product_id, query.level))
        self._books[key] = (sequence, body)
        return body

    def _auction(self, engine: Engine, product_id: str) -> AuctionView | None:
        """Return the indicative price and size of the product's auction. The result is a recent one if a new
        calculation would exceed `AUCTION_SHARE`.
        """
        row = engine.product(product_id)
        if row is None:
            raise NotFoundError(f"product {product_id!r} does not exist")
        kept, until = self._auctions.get(product_id, (None, 0.0))
        begun = self._clock()
        if kept is not None and (kept.product_sequence == row.product_sequence or begun < until):
            return kept if row.status is ProductStatus.AUCTION else None
        found = engine.auction(product_id)
        if found is None:
            return None
        best = (found.best_bid, found.best_bid_size, found.best_ask, found.best_ask_size)
        view = AuctionView(row.product_sequence, found.price, found.size, *best, engine.time, found.surplus)
        self._auctions[product_id] = view, begun + (self._clock() - begun) / AUCTION_SHARE
        return view


def rows_of(engine: Engine, query: AnyQuery) -> int:
    """Return the most rows that the engine reads to answer a query. The cost of a book at level 3 is known only
    afterwards.
    """
    match query:
        case OrdersQuery():
            kept = engine.orders_kept(query.account_id)
            return kept + Cost.SHOWN * min(max(query.limit, 0), ORDERS_MAX, kept)
        case TradesQuery():
            return min(max(query.limit, 0), TRADES_MAX)
        case BookPageQuery():
            after = query.after_price, query.after_opened, query.after_order_id
            return PAGE_MAX + engine.book_page_skips(query.product_id, query.side, after)
        case MarketQuery():
            return TRADES_MAX
        case ApiKeysQuery() | ControlsQuery() | FeesQuery():
            return KEYS_MAX
        case BookQuery():
            return 2 * LEVELS_AT_2
    return 0


def book_view(engine: Engine, product_id: str, level: int) -> BookView:
    """Return the book of an existing product. The cost is the number of price levels, or of orders at level 3."""
    row = engine.product(product_id)
    assert row is not None, "the product exists"
    view = BookView(product_id, row.product_sequence, [], [], [], [], row.status is ProductStatus.AUCTION)
    if level == 3:
        view.bid_orders.extend(BookOrder(*row) for row in engine.book_orders(product_id, Side.BUY))
        view.ask_orders.extend(BookOrder(*row) for row in engine.book_orders(product_id, Side.SELL))
        return view
    depth = 1 if level == 1 else LEVELS_AT_2
    view.bids.extend(BookLevel(*row) for row in engine.levels(product_id, Side.BUY, depth))
    view.asks.extend(BookLevel(*row) for row in engine.levels(product_id, Side.SELL, depth))
    return view


def _book_page(engine: Engine, query: BookPageQuery) -> BookPage:
    """Return a page of resting orders."""
    _require(engine.product(query.product_id) is not None, f"product {query.product_id!r}")
    after = query.after_price, query.after_opened, query.after_order_id
    if min(after) < 0 or max(after) > AMOUNT_MAX:
        raise BadQueryError("after_price, after_opened, after_order_id: expected those of an order, or 0")
    sequence = engine.product_sequence(query.product_id)
    rows = engine.book_page(query.product_id, query.side, after, _limit(query.limit, PAGE_MAX))
    return BookPage(sequence, [PagedOrder(*row) for row in rows])


def _order(engine: Engine, query: OrderQuery) -> object:
    """Return an order of an account."""
    if query.order_id:
        order = engine.order(query.order_id)
        if order is not None and order.account_id != query.account_id:
            order = None
    else:
        order = engine.order_by_client_oid(query.account_id, query.client_oid)
    return _found(order, f"order {query.order_id or query.client_oid!r} of account {query.account_id!r}")


def _wanted(query: OrdersQuery) -> Wanted:
    """Check the filters of a list of orders."""
    for name in ("before_id", "above_id"):
        if (value := getattr(query, name)) < 0:
            raise BadQueryError(f"{name}: expected 0 or an order id, got {value}")
    for name in ("statuses", "created_from", "created_to"):
        if (value := getattr(query, name)) < 0:
            raise BadQueryError(f"{name}: expected at least 0, got {value}")
    return Wanted(
        query.product_id,
        query.open,
        query.done,
        query.before_id,
        query.above_id,
        query.statuses,
        query.created_from,
        query.created_to,
        query.holds,
    )


def _api_keys(engine: Engine, query: ApiKeysQuery) -> object:
    rows = engine.visible_keys(query.sender or OPERATOR, query.after, _limit(query.limit, KEYS_MAX))
    return [msgspec.structs.replace(row, secret="", passphrase="") for row in rows]


def _controls(engine: Engine, query: ControlsQuery) -> object:
    """Return a page of a table of controls that the sender may see."""
    _require(query.table in ControlsView.__struct_fields__, f"table of controls {query.table!r}")
    rows = engine.visible(query.sender or OPERATOR, query.table, max(query.after, 0), _limit(query.limit, KEYS_MAX))
    if query.table == "proposal":
        rows = [_without_secrets(row) for row in rows]
    return ControlsView(**{query.table: rows})


def _without_secrets(row: ProposalRow) -> ProposalRow:
    """Return a proposal for display, without the secret and passphrase of a proposed API key."""
    command = command_decoder.decode(row.command)
    if isinstance(command, PutApiKey):
        command = msgspec.structs.replace(command, secret="", passphrase="")
    return msgspec.structs.replace(row, command=_encode(command))


def _fees(engine: Engine, query: FeesQuery) -> object:
    found = engine.fees_of(query.account_id, query.product_id)
    if found is None:
        raise NotFoundError(f"account {query.account_id!r} or product {query.product_id!r} does not exist")
    return FeesView(*found)


def _limit(limit: int, most: int) -> int:
    if limit < 1:
        raise BadQueryError(f"limit: expected at least 1, got {limit}")
    return min(limit, most)


def _found(row: object, what: str) -> object:
    _require(row is not None, what)
    return row


def _require(there: bool, what: str) -> None:
    if not there:
        raise NotFoundError(f"{what} does not exist")


CHUNK_BYTES = 256 * 1024

Found = Callable[[LogChunk | RequestFailed], None]


class LogChunks:
    """Reads one chunk at a time."""

    def __init__(self, config: NodeConfig) -> None:
        self._directories = (config.data_path / LOG, config.data_path / cutover.ARCHIVE)
        self._reading = False

    def read(self, query: LogQuery, applied_index: int, found: Found) -> None:
        """Read a chunk. `found` gets the chunk or the error, exactly once, in the event loop."""
        if query.index < 1 or query.offset < 0:
            found(RequestFailed(FailCode.BAD_REQUEST, "query: index must be 1 or more, and offset 0 or more"))
        elif query.index > applied_index:
            found(LogChunk(applied_index))
        elif self._reading:
            found(RequestFailed(FailCode.OVERLOADED, "another chunk of the log is being read"))
        else:
            self._reading = True
            reading = asyncio.get_running_loop().run_in_executor(None, self._chunk, query, applied_index)
            reading.add_done_callback(lambda done: self._done(done, found))

    def _done(self, reading: asyncio.Future[LogChunk | None], found: Found) -> None:
        """Answer with the part of the log that a thread has read."""
        self._reading = False
        if reading.cancelled():
            return
        error = reading.exception()
        chunk = reading.result() if error is None else None
        text = "this node no longer has that log entry" if error is None else f"the log cannot be read: {error}"
        found(RequestFailed(FailCode.NOT_FOUND, text) if chunk is None else chunk)

    def _chunk(self, query: LogQuery, applied_index: int) -> LogChunk | None:
        """Read a part of a log file; None if it is gone. Runs in a thread."""
        opened = self._open(query.index)
        if opened is None:
            return None
        path, file = opened
        try:
            data = os.pread(file, CHUNK_BYTES, query.offset)
            status = os.fstat(file)
        finally:
            os.close(file)
        # A segment that was removed before the read may end with entries that another leader has replaced.
        return LogChunk(applied_index, first_index(path), status.st_size, data) if status.st_nlink else None

    def _open(self, index: int) -> tuple[Path, int] | None:
        """Return the segment that must hold an entry. The search is repeated in case the segment moves to the archive
        in between.
        """
        for _ in range(TRIES):
            path = segment_with(self._directories, index)
            if path is None:
                return None
            with contextlib.suppress(FileNotFoundError):
                return path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return None

"""Calls for market data: time, products, currencies, books, tickers, statistics and trades."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Self

import msgspec
from msgspec import UNSET, UnsetType

from node.budget import Cost
from node.gateway.book import LongText
from node.gateway.calls import Answer, Call
from node.gateway.catalogue import CurrencyJson, Product, ProductJson
from node.gateway.channels import AuctionJson
from node.gateway.feeds import ProductFeed
from node.gateway.requests import cursors, page_limit, whole_number
from node.gateway.values import SIDE_WORDS, CorrectionWord, SideWord, iso, product_text
from node.native.protocol import AuctionQuery, AuctionView, BookQuery, BookView
from statemachine.events import OrderMatched
from statemachine.types import Side

LEVELS_AT_2 = 50
"""Price levels of each side at level 2."""

ROWS_OF_PRODUCT = 10
"""Rows that one product of a list costs: an object of ten to twenty fields."""

Levels = Sequence[tuple[int, int, int]]
"""Price, size, and number of orders or order id."""


class TimeJson(msgspec.Struct, kw_only=True):
    """The node's clock."""

    iso: str
    epoch: float


class BookJson(msgspec.Struct, kw_only=True):
    """The book after event `sequence`: rows of price, size, and the number of orders or, at level 3, the order id."""

    sequence: int
    bids: list[list[str | int]]
    asks: list[list[str | int]]
    auction_mode: bool
    auction: AuctionJson | None

    @classmethod
    def of(cls, sequence: int, bids: Levels, asks: Levels, product: Product, auction: AuctionView | None) -> Self:
        """Return the object of a book at level 1 or 2 after event `sequence`."""
        return cls(
            sequence=sequence,
            bids=[[product.price(price), product.size(size), orders] for price, size, orders in bids],
            asks=[[product.price(price), product.size(size), orders] for price, size, orders in asks],
            auction_mode=auction is not None,
            auction=AuctionJson.of(auction, product, "collection") if auction is not None else None,
        )


class TickerJson(msgspec.Struct, kw_only=True):
    """The last trade, the best prices, and the volume of 24 hours."""

    trade_id: int
    price: str
    size: str
    time: str
    bid: str
    ask: str
    volume: str


class StatsJson(msgspec.Struct, kw_only=True):
    """Prices and volume of the last 24 hours, and the volume of 30 days."""

    open: str
    high: str
    low: str
    last: str
    volume: str
    volume_30day: str


class VolumeSummaryJson(msgspec.Struct, kw_only=True):
    """A product's volumes of 24 hours and of 30 days. The volumes of other kinds of market that clients expect are zero."""

    id: str
    base_currency: str
    quote_currency: str
    display_name: str
    market_types: list[str]
    spot_volume_24hour: str
    spot_volume_30day: str
    rfq_volume_24hour: str
    rfq_volume_30day: str
    conversion_volume_24hour: str
    conversion_volume_30day: str


class TradeJson(msgspec.Struct, kw_only=True):
    """A trade. `side` is the maker's side. A trade that an operator busted or corrected has a `correction`, and the
    second also the `corrected_price`.
    """

    trade_id: int
    side: SideWord
    size: str
    price: str
    time: str
    correction: CorrectionWord | UnsetType = UNSET
    corrected_price: str | UnsetType = UNSET

    @classmethod
    def of(cls, trade: OrderMatched, product: Product, corrections: Mapping[int, int]) -> Self:
        """Return the object of a trade. `corrections` are those of the product."""
        correction, corrected_price = product.correction(trade.trade_id, corrections)
        return cls(
            trade_id=trade.trade_id,
            side=SIDE_WORDS[trade.side],
            size=product.size(trade.size),
            price=product.price(trade.price),
            time=iso(trade.time),
            correction=correction,
            corrected_price=corrected_price,
        )


async def server_time(_call: Call) -> Answer[TimeJson]:
    """GET /time: the node's clock."""
    now = time.time_ns()
    return Answer(TimeJson(iso=iso(now), epoch=round(now / 1e9, 3)))


async def products(call: Call) -> Answer[list[ProductJson]]:
    """GET /products: all products."""
    return Answer([ProductJson.of(product) for product in await _all_products(call)])


async def product(call: Call) -> Answer[ProductJson]:
    """GET /products/{id}: one product."""
    wanted = await _product(call, refresh=True)
    return Answer(ProductJson.of(wanted))


async def currencies(call: Call) -> Answer[list[CurrencyJson]]:
    """GET /currencies: all currencies."""
    return Answer([CurrencyJson.of(row) for row in await call.gateway.catalogue.all_currencies()])


async def currency(call: Call) -> Answer[CurrencyJson]:
    """GET /currencies/{id}: one currency."""
    return Answer(CurrencyJson.of(await call.gateway.catalogue.currency(call.path("id"))))


async def book(call: Call) -> Answer[BookJson]:
    """GET /products/{id}/book: best prices, price levels, or every order in time priority."""
    level = whole_number(call.parameters().get("level"), "level", 1, 1, 3)
    wanted = await _product(call)
    feed = await _feed(call, wanted)
    auction = await call.read(AuctionQuery(feed.product_id)) if feed.in_auction else None
    if level == 3:
        text = await _every_order(call, feed, auction)
        return Answer(BookJson.of(feed.sequence, [], [], wanted, auction), text=text)
    bids, asks = (feed.book.levels(side, 1 if level == 1 else LEVELS_AT_2) for side in (Side.BUY, Side.SELL))
    return Answer(BookJson.of(feed.sequence, bids, asks, wanted, auction))


async def _every_order(call: Call, feed: ProductFeed, auction: AuctionView | None) -> LongText:
    """Return the book at level 3, which concurrent callers share. It costs as much as one request for every 100 orders."""
    call.spend(feed.level3_cost)
    known = call.status.sequence if call.status is not None and not call.linearizable else None
    made, command = await feed.level3(known)
    if command is not None:
        call.sequence = command
    state = AuctionJson.of(auction, feed.product, "collection") if auction is not None else None
    rest = msgspec.json.encode({"auction_mode": auction is not None, "auction": state})
    return made.ended(b"," + rest[1:])


async def ticker(call: Call) -> Answer[TickerJson]:
    """GET /products/{id}/ticker: the last trade, the best prices, and the volume of 24 hours."""
    wanted = await _product(call)
    feed = await _feed(call, wanted)
    now = time.time_ns()
    last, bid, ask = feed.last, feed.book.best(Side.BUY)[0], feed.book.best(Side.SELL)[0]
    return Answer(
        TickerJson(
            trade_id=feed.last_trade_id,
            price=wanted.price(feed.last_price),
            size=wanted.size(last.size) if last is not None else "0",
            time=iso(last.time if last is not None else now),
            bid=wanted.price(bid),
            ask=wanted.price(ask),
            volume=wanted.size(feed.stats.day(now).volume),
        )
    )


async def stats(call: Call) -> Answer[StatsJson]:
    """GET /products/{id}/stats: the last 24 hours and the volume of 30 days."""
    wanted = await _product(call)
    feed = await _feed(call, wanted)
    now = time.time_ns()
    day = feed.stats.day(now)
    return Answer(
        StatsJson(
            open=wanted.price(day.open),
            high=wanted.price(day.high),
            low=wanted.price(day.low),
            last=wanted.price(feed.last_price),
            volume=wanted.size(day.volume),
            volume_30day=wanted.size(feed.stats.month_volume(now)),
        )
    )


async def volume_summary(call: Call) -> Answer[list[VolumeSummaryJson]]:
    """GET /products/volume-summary: each product's volume of 24 hours and of 30 days."""
    call.parameters()
    return Answer([await _volumes(call, product) for product in await _all_products(call)])


async def _all_products(call: Call) -> list[Product]:
    """Return all products, and charge the client for an answer about each of them."""
    found = await call.gateway.catalogue.all_products()
    call.spend(Cost.rows(ROWS_OF_PRODUCT * len(found)))
    return found


async def _volumes(call: Call, product: Product) -> VolumeSummaryJson:
    """Return the traded volumes of a product in a day and in 30 days."""
    stats, now = (await _feed(call, product)).stats, time.time_ns()
    row = product.row
    return VolumeSummaryJson(
        id=row.product_id,
        base_currency=row.base,
        quote_currency=row.quote,
        display_name=f"{row.base}-{row.quote}",
        market_types=["spot"],
        spot_volume_24hour=product.size(stats.day(now).volume),
        spot_volume_30day=product.size(stats.month_volume(now)),
        rfq_volume_24hour="0",
        rfq_volume_30day="0",
        conversion_volume_24hour="0",
        conversion_volume_30day="0",
    )


async def trades(call: Call) -> Answer[list[TradeJson]]:
    """GET /products/{id}/trades: newest first. `after` selects older trades, `before` newer ones."""
    parameters = call.parameters()
    limit = page_limit(parameters)
    after = max(1, whole_number(parameters["after"], "after", 0, 0, 2**62)) if "after" in parameters else 0
    before = whole_number(parameters.get("before"), "before", 0, 0, 2**62)
    wanted = await _product(call)
    page = [
        trade
        for trade in await _latest(call, wanted, limit, after)
        if trade.trade_id > before and (not after or trade.trade_id < after)
    ]
    page = page[:limit]
    corrections = (await call.gateway.feeds.feed(wanted)).corrections if page else {}
    return Answer([TradeJson.of(trade, wanted, corrections) for trade in page], cursors(page, lambda trade: str(trade.trade_id)))


async def _latest(call: Call, wanted: Product, limit: int, after: int) -> list[OrderMatched]:
    """Return the newest trades, as many as the page below trade `after` needs. The feed keeps the latest 1,000; older
    ones come from the history.
    """
    feed = await _feed(call, wanted)
    found = [trade for trade in reversed(feed.trades) if not after or trade.trade_id < after][:limit]
    below = found[-1].trade_id if found else min(after or feed.last_trade_id + 1, feed.last_trade_id + 1)
    past = None if len(found) >= limit or below <= 1 else await call.past()
    if past is None:
        return found
    return found + await past.ask(lambda history: history.trades(feed.product_id, limit - len(found), below))


async def _feed(call: Call, wanted: Product) -> ProductFeed:
    """Return the product's feed, no older than this call. For a linearizable read it includes everything before the
    barrier. Raises UnavailableError.
    """
    feed = await call.gateway.feeds.feed(wanted)
    await feed.fresh()
    if call.linearizable:
        best: BookView = await call.read(BookQuery(feed.product_id, 1))
        await feed.reach(best.product_sequence)
    else:
        # The engine sends the answer on the connection of the events, after the events of the commands that it counts.
        await call.look()
    return feed


async def _product(call: Call, *, refresh: bool = False) -> Product:
    """Return the product that the path names. Raises ApiError 404."""
    if refresh:
        await call.gateway.catalogue.all_products()
    return await call.gateway.catalogue.product(product_text(call.path("id")))

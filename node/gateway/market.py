"""Public calls: time, products, currencies, books, tickers, trades."""

from __future__ import annotations

import time

import msgspec

from node.gateway.catalogue import Product
from node.gateway.ids import product_text
from node.gateway.product_feed import ProductFeed
from node.gateway.rendering import Pieces
from node.gateway.requests import page_limit, whole_number
from node.gateway.responses import auction_json, book_json, currency_json, iso, product_json, trade_json
from node.gateway.shapes import (
    BookJson,
    CurrencyJson,
    ProductJson,
    StatsJson,
    TickerJson,
    TimeJson,
    TradeJson,
    VolumeSummaryJson,
)
from node.gateway.web import Answer, Call
from node.native.protocol import AuctionQuery, AuctionView, BookQuery, BookView
from statemachine.events import OrderMatched
from statemachine.types import Side

LEVELS_AT_2 = 50
"""Price levels a side at level 2."""


async def server_time(_call: Call) -> Answer[TimeJson]:
    """GET /time: the node's clock."""
    now = time.time_ns()
    return Answer({"iso": iso(now), "epoch": round(now / 1e9, 3)})


async def products(call: Call) -> Answer[list[ProductJson]]:
    """GET /products: everything that is traded."""
    return Answer([product_json(product) for product in await call.gateway.catalogue.all_products()])


async def product(call: Call) -> Answer[ProductJson]:
    """GET /products/{id}: one of them."""
    wanted = await _product(call, refresh=True)
    return Answer(product_json(wanted))


async def currencies(call: Call) -> Answer[list[CurrencyJson]]:
    """GET /currencies: all of them."""
    return Answer([currency_json(row) for row in await call.gateway.catalogue.all_currencies()])


async def currency(call: Call) -> Answer[CurrencyJson]:
    """GET /currencies/{id}: one of them."""
    return Answer(currency_json(await call.gateway.catalogue.currency(call.path("id"))))


async def book(call: Call) -> Answer[BookJson]:
    """GET /products/{id}/book: best prices, price levels, or every order in time priority."""
    level = whole_number(call.parameters().get("level"), "level", 1, 1, 3)
    wanted = await _product(call)
    feed = await _feed(call, wanted)
    auction = await call.read(AuctionQuery(feed.product_id)) if feed.in_auction else None
    if level == 3:
        pieces = await _every_order(call, feed, auction)
        return Answer(book_json(feed.sequence, [], [], wanted, auction), pieces=pieces)
    bids, asks = (feed.book.levels(side, 1 if level == 1 else LEVELS_AT_2) for side in (Side.BUY, Side.SELL))
    return Answer(book_json(feed.sequence, bids, asks, wanted, auction))


async def _every_order(call: Call, feed: ProductFeed, auction: AuctionView | None) -> Pieces:
    """The book at level 3, which all who ask at the same time share. Its cost is that of a request for every 100 orders."""
    call.spend(feed.level3_cost)
    known = call.status.sequence if call.status is not None and not call.linearizable else None
    made, command = await feed.level3(known)
    if command is not None:
        call.sequence = command
    told = auction_json(auction, feed.product, "collection") if auction is not None else None
    rest = msgspec.json.encode({"auction_mode": auction is not None, "auction": told})
    return made.ended(b"," + rest[1:])


async def ticker(call: Call) -> Answer[TickerJson]:
    """GET /products/{id}/ticker: the last trade, the best prices, and the volume of 24 hours."""
    wanted = await _product(call)
    feed = await _feed(call, wanted)
    now = time.time_ns()
    last, bid, ask = feed.last, feed.book.best(Side.BUY)[0], feed.book.best(Side.SELL)[0]
    return Answer(
        {
            "trade_id": feed.last_trade_id,
            "price": wanted.price(feed.last_price),
            "size": wanted.size(last.size) if last is not None else "0",
            "time": iso(last.time if last is not None else now),
            "bid": wanted.price(bid),
            "ask": wanted.price(ask),
            "volume": wanted.size(feed.stats.day(now).volume),
        }
    )


async def stats(call: Call) -> Answer[StatsJson]:
    """GET /products/{id}/stats: the last 24 hours and the volume of 30 days."""
    wanted = await _product(call)
    feed = await _feed(call, wanted)
    now = time.time_ns()
    day = feed.stats.day(now)
    return Answer(
        {
            "open": wanted.price(day.open),
            "high": wanted.price(day.high),
            "low": wanted.price(day.low),
            "last": wanted.price(feed.last_price),
            "volume": wanted.size(day.volume),
            "volume_30day": wanted.size(feed.stats.month_volume(now)),
        }
    )


async def volume_summary(call: Call) -> Answer[list[VolumeSummaryJson]]:
    """GET /products/volume-summary: each product's volume of 24 hours and of 30 days."""
    call.parameters()
    return Answer([await _volumes(call, product) for product in await call.gateway.catalogue.all_products()])


async def _volumes(call: Call, product: Product) -> VolumeSummaryJson:
    stats, now = (await _feed(call, product)).stats, time.time_ns()
    named = product_json(product)
    return {
        "id": named["id"],
        "base_currency": named["base_currency"],
        "quote_currency": named["quote_currency"],
        "display_name": named["display_name"],
        "market_types": ["spot"],
        "spot_volume_24hour": product.size(stats.day(now).volume),
        "spot_volume_30day": product.size(stats.month_volume(now)),
        "rfq_volume_24hour": "0",
        "rfq_volume_30day": "0",
        "conversion_volume_24hour": "0",
        "conversion_volume_30day": "0",
    }


async def trades(call: Call) -> Answer[list[TradeJson]]:
    """GET /products/{id}/trades: newest first; `after` leads to older ones, `before` gives only newer ones."""
    given = call.parameters()
    limit = page_limit(given)
    after = max(1, whole_number(given["after"], "after", 0, 0, 2**62)) if "after" in given else 0
    before = whole_number(given.get("before"), "before", 0, 0, 2**62)
    wanted = await _product(call)
    page = [
        trade
        for trade in await _latest(call, wanted, limit, after)
        if trade.trade_id > before and (not after or trade.trade_id < after)
    ]
    page = page[:limit]
    headers = {"cb-before": str(page[0].trade_id), "cb-after": str(page[-1].trade_id)} if page else {}
    return Answer([trade_json(trade, wanted) for trade in page], headers)


async def _latest(call: Call, wanted: Product, limit: int, after: int) -> list[OrderMatched]:
    """The newest trades, as many as the page below trade `after` needs: the latest 1,000, and older ones from the history."""
    feed = await _feed(call, wanted)
    found = [trade for trade in reversed(feed.trades) if not after or trade.trade_id < after][:limit]
    below = found[-1].trade_id if found else min(after or feed.last_trade_id + 1, feed.last_trade_id + 1)
    past = None if len(found) >= limit or below <= 1 else await call.past()
    if past is None:
        return found
    return found + await past.ask(lambda history: history.trades(feed.product_id, limit - len(found), below))


async def _feed(call: Call, wanted: Product) -> ProductFeed:
    """The product's feed, of this moment or a later one; a linearizable read's, of what its barrier saw. Raises UnavailableError."""
    feed = await call.gateway.feeds.feed(wanted)
    await feed.fresh()
    if call.linearizable:
        best: BookView = await call.read(BookQuery(feed.product_id, 1))
        await feed.reach(best.product_sequence)
    else:
        # The answer comes over the connection on which the events come, behind those of the commands that it counts.
        await call.look()
    return feed


async def _product(call: Call, *, refresh: bool = False) -> Product:
    """The product of the path. Raises ApiError 404."""
    if refresh:
        await call.gateway.catalogue.all_products()
    return await call.gateway.catalogue.product(product_text(call.path("id")))

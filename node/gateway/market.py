"""Public calls: time, products, currencies, books, tickers, trades."""

from __future__ import annotations

import time

from node.gateway.catalogue import Product
from node.gateway.ids import product_text
from node.gateway.requests import PAGE_MAX, whole_number
from node.gateway.responses import book_json, currency_json, iso, product_json, trade_json
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
from node.native.protocol import AuctionQuery, BookQuery, TradesQuery
from statemachine.events import OrderMatched

TRADES_PAGE = 100
TRADES_REACH = 10_000
"""How far back `after` may lead, in trades."""


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
    view = await call.read(BookQuery(wanted.row.product_id, level))
    auction = await call.read(AuctionQuery(wanted.row.product_id)) if view.in_auction else None
    return Answer(book_json(view, wanted, auction))


async def ticker(call: Call) -> Answer[TickerJson]:
    """GET /products/{id}/ticker: the last trade, the best prices, and the volume of 24 hours."""
    wanted = await _product(call)
    product_id = wanted.row.product_id
    feed = await call.gateway.feeds.feed(wanted)
    best = await call.read(BookQuery(product_id, 1))
    last = await _latest(call, wanted, 1, 0)
    now = time.time_ns()
    trade: TradeJson = {"trade_id": 0, "side": "", "price": "0", "size": "0", "time": iso(now)}
    if last:
        trade = trade_json(last[0], wanted)
    return Answer(
        {
            "trade_id": trade["trade_id"],
            "price": trade["price"],
            "size": trade["size"],
            "time": trade["time"],
            "bid": wanted.price(best.bids[0].price) if best.bids else "0",
            "ask": wanted.price(best.asks[0].price) if best.asks else "0",
            "volume": wanted.size(feed.stats.day(now).volume),
        }
    )


async def stats(call: Call) -> Answer[StatsJson]:
    """GET /products/{id}/stats: the last 24 hours and the volume of 30 days, of the trades that this node keeps."""
    wanted = await _product(call)
    feed = await call.gateway.feeds.feed(wanted)
    now = time.time_ns()
    day = feed.stats.day(now)
    return Answer(
        {
            "open": wanted.price(day.open),
            "high": wanted.price(day.high),
            "low": wanted.price(day.low),
            "last": wanted.price(feed.stats.last_price),
            "volume": wanted.size(day.volume),
            "volume_30day": wanted.size(feed.stats.month_volume(now)),
        }
    )


async def volume_summary(call: Call) -> Answer[list[VolumeSummaryJson]]:
    """GET /products/volume-summary: each product's volume of 24 hours and of 30 days, of the trades that this node keeps."""
    call.parameters()
    return Answer([await _volumes(call, product) for product in await call.gateway.catalogue.all_products()])


async def _volumes(call: Call, product: Product) -> VolumeSummaryJson:
    stats, now = (await call.gateway.feeds.feed(product)).stats, time.time_ns()
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
    limit = whole_number(given.get("limit"), "limit", TRADES_PAGE, 1, PAGE_MAX)
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
    """The newest trades, as many as the page below trade `after` needs: those that the engine keeps, and older ones from the history."""
    product_id, reach = wanted.row.product_id, limit
    if after:
        newest: list[OrderMatched] = await call.read(TradesQuery(product_id, 1))
        reach += newest[0].trade_id - after + 1 if newest and newest[0].trade_id >= after else 0
    found: list[OrderMatched] = await call.read(TradesQuery(product_id, min(reach, TRADES_REACH)))
    below = found[-1].trade_id if found else after
    past = None if len(found) >= reach or below == 1 else await call.past()
    if past is None:
        return found
    older = min(below, after) if after else below
    return found + await past.ask(lambda history: history.trades(product_id, limit, older))


async def _product(call: Call, *, refresh: bool = False) -> Product:
    """The product of the path. Raises ApiError 404."""
    if refresh:
        await call.gateway.catalogue.all_products()
    return await call.gateway.catalogue.product(product_text(call.path("id")))

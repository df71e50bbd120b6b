"""The WebSocket channels of candles: one a granularity of the REST API, made of the trades that this gateway follows.

A candle is that of the minutes that `Statistics` keeps, so it is exact also where the gateway began to follow the
product in the middle of the bucket. The figures go back 24 hours: as long as the longest bucket.
"""

from __future__ import annotations

import msgspec

from node.gateway.catalogue import Product
from node.gateway.values import iso
from node.history.candles import GRANULARITIES, MINUTE, bucket
from node.statistics import Statistics
from statemachine.events import OrderMatched
from statemachine.limits import SECOND_NS

CANDLES = {f"candles_{granularity}": granularity for granularity in GRANULARITIES}
"""Channels and the seconds of their buckets."""


def candle(product: Product, stats: Statistics, last: OrderMatched, granularity: int) -> bytes:
    """The message with the candle of `granularity` seconds of the latest trade, `last`. `stats` counts it as its
    latest.
    """
    start = bucket(last.time // SECOND_NS, granularity)
    span = stats.since(start // MINUTE)
    prices = (span.low, span.high, span.open, last.price)
    row = [start, *(product.price(price) for price in prices), product.size(span.volume)]
    return msgspec.json.encode(
        {
            "type": "candles",
            "product_id": last.product_id,
            "granularity": granularity,
            "sequence": last.product_sequence,
            "time": iso(last.time),
            "candles": [row],
        }
    )


def finished(product: Product, stats: Statistics, last: OrderMatched | None, trade: OrderMatched) -> dict[str, bytes]:
    """By channel, the candles that `trade` ends, in their final form; `last` is the trade before it, and `stats` counts
    up to that one.
    """
    if last is None or last.time // (MINUTE * SECOND_NS) == trade.time // (MINUTE * SECOND_NS):
        return {}
    before, now = last.time // SECOND_NS, trade.time // SECOND_NS
    return {
        channel: candle(product, stats, last, granularity)
        for channel, granularity in CANDLES.items()
        if bucket(before, granularity) != bucket(now, granularity)
    }

"""The WebSocket channels of candles: one for each granularity of the REST API. A candle is made from the minutes that
`Statistics` keeps, so it is exact even if the gateway began to follow the product in the middle of the bucket. The
minutes go back 24 hours, which is the longest bucket.
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
    """Return the message with the candle of `granularity` seconds of the latest trade, `last`, which is also the latest
    in `stats`.
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
    """Return the candles that `trade` ends, by channel, in their final form. `last` is the trade before it and the
    latest in `stats`.
    """
    if last is None or last.time // (MINUTE * SECOND_NS) == trade.time // (MINUTE * SECOND_NS):
        return {}
    before, now = last.time // SECOND_NS, trade.time // SECOND_NS
    return {
        channel: candle(product, stats, last, granularity)
        for channel, granularity in CANDLES.items()
        if bucket(before, granularity) != bucket(now, granularity)
    }

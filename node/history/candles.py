"""Candles: the first, highest, lowest and last price and the volume of a product in one bucket of time.

Candles of a minute and of an hour are stored; longer ones are made of them. A bucket begins at a multiple of its length
since the epoch, so days begin at midnight UTC. A bucket without trades has no candle. Volumes are sums of whole
numbers, so a candle made of smaller ones equals the candle made of the trades.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from statemachine.limits import SECOND_NS

MINUTE = 60
HOUR = 3600
STORED = (MINUTE, HOUR)
GRANULARITIES = (60, 300, 900, 3600, 21_600, 86_400)
"""Bucket lengths that the API offers, in seconds. Each is a multiple of a stored length."""


class Candle(msgspec.Struct):
    """One bucket. `start` is seconds since the epoch, `volume` is in base units and `value` (the sum of notionals) in
    quote units.
    """

    start: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    value: int
    trades: int

    def add(self, later: Candle) -> None:
        """Add a later candle of the same bucket."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.value += later.value
        self.trades += later.trades


def bucket(seconds: int, granularity: int) -> int:
    """Return the start of the bucket that contains a moment."""
    return seconds - seconds % granularity


def of_trade(time: int, price: int, size: int, notional: int) -> Candle:
    """Return the candle of one trade; its start is the trade's second. `time` is in nanoseconds."""
    return Candle(time // SECOND_NS, price, price, price, price, size, notional, 1)


def aggregate(candles: Iterable[Candle], granularity: int) -> list[Candle]:
    """Return candles of longer buckets. Input and output are in the order of time. The given candles do not change."""
    made: list[Candle] = []
    for candle in candles:
        start = bucket(candle.start, granularity)
        if made and made[-1].start == start:
            made[-1].add(candle)
        else:
            made.append(msgspec.structs.replace(candle, start=start))
    return made

"""Candles: what trades did to a price in a stretch of time. Those of a minute and of an hour are stored, longer ones
made of them.

A bucket begins at a multiple of its length since the epoch, so days begin at midnight UTC. A bucket without trades has
no candle. Volumes are sums of whole numbers, so a candle made of smaller ones is exactly that of the trades.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

MINUTE = 60
HOUR = 3600
STORED = (MINUTE, HOUR)
GRANULARITIES = (60, 300, 900, 3600, 21_600, 86_400)
"""What the API offers, in seconds; each is a whole number of stored ones."""

NANOSECONDS = 1_000_000_000


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
        """Take in a later candle of the same bucket."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.value += later.value
        self.trades += later.trades


def bucket(seconds: int, granularity: int) -> int:
    """Where the bucket begins that a moment is in."""
    return seconds - seconds % granularity


def of_trade(time: int, price: int, size: int, notional: int) -> Candle:
    """The candle of one trade, at its second; `time` in nanoseconds."""
    return Candle(time // NANOSECONDS, price, price, price, price, size, notional, 1)


def aggregate(candles: Iterable[Candle], granularity: int) -> list[Candle]:
    """Candles of longer buckets. They come, and are returned, in the order of time; none of those given is changed."""
    made: list[Candle] = []
    for candle in candles:
        start = bucket(candle.start, granularity)
        if made and made[-1].start == start:
            made[-1].add(candle)
        else:
            made.append(msgspec.structs.replace(candle, start=start))
    return made

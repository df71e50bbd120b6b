"""Candles equal those computed from the trades, whatever pieces they were stored in."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, select

from node.history import tables
from node.history.candles import GRANULARITIES, MINUTE, STORED, Candle, aggregate
from node.history.projection import HistoryRows, Row
from node.history.store import candle_of, put_candles
from statemachine.limits import SECOND_NS

DAY = 86_400 * SECOND_NS
BEGIN = 20_454 * DAY

trade = st.tuples(st.integers(0, 400) | st.integers(0, 2 * 86_400), st.integers(1, 50), st.integers(1, 2**62))


def trade_rows(trades: list[tuple[int, int, int]]) -> list[Row]:
    """Draw trades in order, each some seconds after the one before."""
    time, rows = BEGIN, []
    for pause, price, size in trades:
        time += pause * SECOND_NS
        rows.append({"product_id": "P", "time": time, "price": price, "size": size, "notional": price * size})
    return rows


def expected(rows: list[Row], granularity: int) -> list[Candle]:
    """Compute the candles directly from the definition."""
    made = []
    for start, group in groupby(rows, lambda row: row["time"] // SECOND_NS // granularity * granularity):
        found = list(group)
        prices = [row["price"] for row in found]
        volume, value = sum(row["size"] for row in found), sum(row["notional"] for row in found)
        made.append(Candle(start, prices[0], max(prices), min(prices), prices[-1], volume, value, len(found)))
    return made


@given(st.lists(trade, min_size=1, max_size=40), st.integers(1, 7))
def test_candles_are_those_of_the_trades(trades: list[tuple[int, int, int]], chunk: int) -> None:
    """They are stored in pieces of a few trades, as transactions arrive, and aggregated from what is stored. Sums
    beyond 64 bits are exact.
    """
    rows = trade_rows(trades)
    database = create_engine("sqlite://")
    tables.candles.create(database)
    with database.begin() as connection:
        for start in range(0, len(rows), chunk):
            some = HistoryRows()
            some.trades = rows[start : start + chunk]
            for (product_id, granularity), candles in some.candles().items():
                put_candles(connection, product_id, granularity, candles)
        own = tables.candles.c
        stored = {
            granularity: [
                candle_of(row)
                for row in connection.execute(
                    select(tables.candles).where(own.granularity == granularity).order_by(own.start)
                ).mappings()
            ]
            for granularity in STORED
        }
    database.dispose()
    for granularity in GRANULARITIES:
        source = stored[3600 if granularity % 3600 == 0 else MINUTE]
        assert aggregate(source, granularity) == expected(rows, granularity)

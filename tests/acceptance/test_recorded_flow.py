"""A recorded hour of NASDAQ runs through the engine. Every recorded execution happens again in the same order, with the
same maker, price and size, and the book that is rebuilt from the events equals the engine's.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from loadtest.books import OrderBook, rows_of
from node.engine.queries import book_view
from node.records.recording import Executions, compare, read_ops, read_trades, to_commands
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.events import Rejected
from statemachine.limits import OPERATOR

DATA = Path(os.environ.get("QUORUMBOOK_DATA") or Path(__file__).parents[2] / "../shared/data")
PRODUCT = "AAPL-USD"
QUOTE_SCALE, BASE_SCALE = 2, 0


def exchange() -> Engine:
    """Make an exchange with one product, whose tick is a cent and whose lot is one share, a buyer and a seller."""
    engine = Engine()
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "1", "USD", QUOTE_SCALE),
        PutCurrency(OPERATOR, "2", "AAPL", BASE_SCALE),
        PutProduct(OPERATOR, "3", PRODUCT, "AAPL", "USD", 1, 1, 1, 1_000_000, 0, 0),
        OpenAccount(OPERATOR, "4", "A"),
        OpenAccount(OPERATOR, "5", "B"),
        Deposit("A", "6", "USD", 1_000_000_000 * 10**QUOTE_SCALE),
        Deposit("B", "7", "AAPL", 1_000_000),
    ]
    outcomes = engine.apply(Batch(1, commands)).outcomes
    assert not [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    return engine


@pytest.mark.parametrize("recording", ["aapl_2012-06-21", "aapl_2012-06-21_sweeps"])
def test_every_recorded_execution_happens_again(recording: str) -> None:
    ops, trades = DATA / f"{recording}_ops.csv.gz", DATA / f"{recording}_trades.csv"
    if not ops.exists() or not trades.exists():
        pytest.skip(f"the recording is not part of the project and not at {DATA}; QUORUMBOOK_DATA may say where it is")
    engine, executions, rebuilt = exchange(), Executions(), OrderBook()
    commands = to_commands(
        read_ops(ops), product_id=PRODUCT, buyer="A", seller="B", quote_scale=QUOTE_SCALE, base_scale=BASE_SCALE
    )
    time = 1
    while batch := list(islice(commands, 250)):
        time += 1
        events = engine.apply(Batch(time, list(batch))).events
        executions.feed(events)
        for event in events:
            rebuilt.apply(event)
    comparison = compare(read_trades(trades, QUOTE_SCALE, BASE_SCALE), executions.trades)
    assert comparison.expected == 4_002
    assert comparison.perfect, comparison
    assert comparison.matched == 4_002
    engine.check()
    assert rebuilt.rows() == rows_of(book_view(engine, PRODUCT, 3))
    assert rebuilt.orders

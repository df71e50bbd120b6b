"""Recorded order flow: how it is read, converted to commands, and compared."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from node.records.recording import (
    Executions,
    RecordedOp,
    RecordedTrade,
    RecordingError,
    compare,
    read_ops,
    read_trades,
    to_command,
    to_commands,
)
from statemachine.commands import AnyCommand, Batch, CancelOrder, PlaceOrder
from statemachine.types import OrderType, Side, TimeInForce
from tests.unit.statemachine.market import PRODUCT, market

OPS = """op,id,side,price,size,flag
seed,1,sell,585.5,10,
new,2,buy,585.50,4,ioc
new,3,buy,580,5,
cancel,1,,,,
"""


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def commands(ops: list[RecordedOp]) -> list[PlaceOrder | CancelOrder]:
    return list(to_commands(ops, product_id="AAPL-USD", buyer="A", seller="B", quote_scale=2, base_scale=1))


@pytest.mark.parametrize("name", ["ops.csv", "ops.csv.gz"])
def test_rows_become_commands(tmp_path: Path, name: str) -> None:
    placed = [
        PlaceOrder("B", "c:1", "AAPL-USD", Side.SELL, OrderType.LIMIT, 58_550, 100, client_oid="1"),
        PlaceOrder("A", "c:2", "AAPL-USD", Side.BUY, OrderType.LIMIT, 58_550, 40, 0, TimeInForce.IOC, client_oid="2"),
        PlaceOrder("A", "c:3", "AAPL-USD", Side.BUY, OrderType.LIMIT, 58_000, 50, client_oid="3"),
    ]
    ops = list(read_ops(write(tmp_path / name, OPS)))
    assert commands(ops) == [*placed, CancelOrder("B", "x:1", 0, "1", "AAPL-USD")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns"),
        ("id,op\n", "expected the columns"),
        (OPS + "new,4,buy\n", "line 6: expected 6 columns, not 3"),
        (OPS + "new,4,bid,1,1,\n", "line 6: expected seed, new or cancel"),
        (OPS + "new,4,buy,1,1,gtd\n", "line 6"),
        (OPS + "amend,4,buy,1,1,\n", "line 6"),
        (OPS + "cancel,,,,,\n", "line 6"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        list(read_ops(write(tmp_path / "ops.csv", text)))


def test_a_file_that_is_not_a_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ops.csv.gz"
    path.write_bytes(OPS.encode())
    with pytest.raises(RecordingError, match="not a readable csv file"):
        list(read_ops(path))
    packed = gzip.compress(OPS.encode())
    for damaged in (packed[:-20], packed[:20] + bytes([255] * 20) + packed[40:]):
        path.write_bytes(damaged)
        with pytest.raises(RecordingError, match="not a readable csv file"):
            list(read_ops(path))


@pytest.mark.parametrize("price", ["1.001", "abc", "NaN", "Infinity", "", "1e30", "1e999999"])
def test_a_number_that_does_not_fit_the_scale_is_refused(price: str) -> None:
    with pytest.raises(RecordingError, match="expected a decimal"):
        commands([RecordedOp("new", "1", "buy", price, "1", "")])


def test_a_cancel_needs_an_owner() -> None:
    with pytest.raises(RecordingError, match="without the account"):
        commands([RecordedOp("cancel", "7", "", "", "", "")])
    given = {"product_id": "AAPL-USD", "buyer": "A", "seller": "B"}
    command = to_command(RecordedOp("cancel", "7", "", "", "", ""), **given, quote_scale=2, base_scale=0, owner="A")
    assert command == CancelOrder("A", "x:7", 0, "7", "AAPL-USD")


def test_trades_are_read_in_units(tmp_path: Path) -> None:
    path = write(tmp_path / "trades.csv", "taker_id,maker_id,price,size\nx1,16249592,585.44,16\nx2,13419503,585.4,50\n")
    assert read_trades(path, 2, 0) == [RecordedTrade("x1", "16249592", 58_544, 16), RecordedTrade("x2", "13419503", 58_540, 50)]
    with pytest.raises(RecordingError, match="line 2"):
        read_trades(path, 1, 0)


def test_comparison_counts_position_by_position() -> None:
    one, two, three = (RecordedTrade("t", f"m{n}", 10, n) for n in (1, 2, 3))
    assert compare([one, two], [one, two]).perfect
    swapped = compare([one, two, three], [one, three, two])
    assert (swapped.matched, swapped.first_difference, swapped.perfect) == (1, 1, False)
    short = compare([one, two], [one])
    assert (short.expected, short.executed, short.matched, short.first_difference) == (2, 1, 1, 1)
    assert compare([], [one]).first_difference == 0


def test_executions_carry_the_recorded_ids() -> None:
    engine, executions = market(names=("A", "B")), Executions()
    ops = [RecordedOp("seed", "s1", "sell", "10", "5", ""), RecordedOp("new", "b1", "buy", "12", "3", "ioc")]
    flow: list[AnyCommand] = list(to_commands(ops, product_id=PRODUCT, buyer="A", seller="B", quote_scale=0, base_scale=0))
    executions.feed(engine.apply(Batch(2, flow)).events)
    assert executions.trades == [RecordedTrade("b1", "s1", 10, 3)]

"""The examples in docstrings say what the code does.

They are read from the source, because a compiled class does not show its methods to `doctest`.
"""

from __future__ import annotations

import ast
import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, ProductStatus, Side

ROOT = Path(__file__).parents[2]
BTC, USD = 10**8, 10**4


def example_engine() -> Engine:
    """The exchange of the examples in `Engine`."""
    engine = Engine()
    product = ("BTC-USD", "BTC", "USD", 100, BTC // 100, BTC // 100, 100 * BTC, 0, 0, ProductStatus.ONLINE)
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "1", "USD", 4),
        PutCurrency(OPERATOR, "2", "BTC", 8),
        PutProduct(OPERATOR, "3", *product),
        OpenAccount(OPERATOR, "4", "alice"),
        OpenAccount(OPERATOR, "5", "bob"),
        Deposit("alice", "6", "USD", 1_000 * USD),
        Deposit("bob", "7", "BTC", 2 * BTC),
        PlaceOrder("alice", "8", "BTC-USD", Side.BUY, OrderType.LIMIT, 100 * USD, BTC // 2),
        PlaceOrder("bob", "9", "BTC-USD", Side.SELL, OrderType.LIMIT, 110 * USD, BTC, client_oid="offer-1"),
        PlaceOrder("bob", "10", "BTC-USD", Side.SELL, OrderType.LIMIT, 120 * USD, BTC, client_oid="offer-2"),
    ]
    outcomes = engine.apply(Batch(1, commands)).outcomes
    assert "Rejected" not in str(outcomes)
    return engine


def examples(path: Path) -> Iterator[doctest.DocTest]:
    """The docstrings of a module that have examples."""
    parser = doctest.DocTestParser()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            test = parser.get_doctest(text, {}, node.name, str(path.relative_to(ROOT)), node.lineno)
            if test.examples:
                yield test


def run(tests: list[doctest.DocTest], names: dict[str, Any]) -> None:
    """Run examples, each with these names; what differs is the failure's text."""
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    for test in tests:
        test.globs = dict(names)
        runner.run(test, out=said.append)
    if runner.summarize(verbose=False).failed:
        pytest.fail("".join(said))


def test_the_reads_of_the_engine() -> None:
    found = list(examples(ROOT / "statemachine" / "engine.py"))
    assert len(found) >= 10
    run(found, {"engine": example_engine(), "Side": Side})

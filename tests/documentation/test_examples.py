"""The code does what the examples in docstrings say. The examples are read from the source, because a compiled class
does not show its methods to `doctest`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from node.client import Client
from node.client.shapes import scaled, units_of
from node.cluster_directory import KeyFile
from node.records.recording import Executions
from node.system.sockets import host_and_port
from node.system.tasks import Backoff
from node.tls import pki
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, ProductStatus, Side
from tests.unit.node.cli.fakes import FakeClient

ROOT = Path(__file__).parents[2]
BTC, USD = 10**8, 10**4


def example_commands() -> list[AnyCommand]:
    """Return the commands that make the examples' exchange."""
    product = ("BTC-USD", "BTC", "USD", 100, BTC // 100, BTC // 100, 100 * BTC, 0, 0, ProductStatus.ONLINE)
    return [
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


def example_engine() -> Engine:
    """Make the exchange of the examples in `Engine`."""
    engine = Engine()
    outcomes = engine.apply(Batch(1, example_commands())).outcomes
    assert "Rejected" not in str(outcomes)
    return engine


@contextlib.contextmanager
def example_client() -> Iterator[Client]:
    """Make the client of the examples in `node.client`. It acts as alice on the same exchange, which runs without a
    node.
    """
    authority = pki.make_authority("examples", datetime.now(UTC)).certificate.decode()
    with Client(KeyFile("k", "c2VjcmV0", "p", "alice", {"n1": "127.0.0.1:1"}, authority)) as client:
        cluster = client._client.cluster = FakeClient()
        asyncio.run(cluster.submit(example_commands()))
        yield client


def examples(path: Path) -> Iterator[doctest.DocTest]:
    """Return the docstrings of a module that have examples."""
    parser = doctest.DocTestParser()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            test = parser.get_doctest(text, {}, node.name, str(path.relative_to(ROOT)), node.lineno)
            if test.examples:
                yield test


def run(tests: list[doctest.DocTest], names: dict[str, Any]) -> None:
    """Run examples, each with these names. A difference is the text of the failure."""
    runner = doctest.DocTestRunner(verbose=False)
    output: list[str] = []
    for test in tests:
        test.globs = dict(names)
        runner.run(test, out=output.append)
    if runner.summarize(verbose=False).failed:
        pytest.fail("".join(output))


def test_the_examples_of_the_engines_reads_run() -> None:
    found = list(examples(ROOT / "statemachine" / "engine.py"))
    assert len(found) >= 10
    run(found, {"engine": example_engine(), "Side": Side})


def test_the_examples_of_the_client_library_run() -> None:
    """Each example begins with the same exchange."""
    found = [*examples(ROOT / "node" / "client" / "blocking.py"), *examples(ROOT / "node" / "client" / "shapes.py")]
    assert len(found) >= 15
    for test in found:
        with example_client() as client:
            names = {"client": client, "product": client.product("BTC-USD"), "scaled": scaled, "units_of": units_of}
            run([test], names)


def test_the_other_examples_run() -> None:
    run(list(examples(ROOT / "node" / "system" / "sockets.py")), {"host_and_port": host_and_port})
    run(list(examples(ROOT / "node" / "system" / "tasks.py")), {"Backoff": Backoff})
    run(list(examples(ROOT / "node" / "records" / "recording.py")), {"Executions": Executions})

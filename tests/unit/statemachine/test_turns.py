"""Work over a whole state calls `turn` between its parts, so that other threads can run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from statemachine import book, loading, state, turns
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.turns import PART, parts, taken
from statemachine.types import OrderType, Side

ACCOUNTS, ORDERS, LEVELS = 4, 2_000, 50


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Return an engine with resting orders of a few accounts."""
    made, names = Engine(), [f"a{number}" for number in range(ACCOUNTS)]
    foundations: list[AnyCommand] = [
        PutCurrency(OPERATOR, "usd", "USD", 2),
        PutCurrency(OPERATOR, "btc", "BTC", 2),
        PutProduct(OPERATOR, "product", "BTC-USD", "BTC", "USD", 100, 100, 100, 10**9, 0, 0),
        *(OpenAccount(OPERATOR, f"open-{name}", name) for name in names),
        *(Deposit(name, "deposit", "USD", 10**15) for name in names),
    ]
    made.apply(Batch(1, foundations))
    for start in range(0, ORDERS, 100):
        orders: list[AnyCommand] = [
            PlaceOrder(names[n % ACCOUNTS], f"c{n}", "BTC-USD", Side.BUY, OrderType.LIMIT, 100 + 100 * (n % LEVELS), 100)
            for n in range(start, start + 100)
        ]
        made.apply(Batch(2 + start, orders))
    return made


def test_the_parts_together_are_the_whole() -> None:
    items = list(range(2 * PART + 1))
    assert [item for part in parts(items) for item in part] == items
    assert [item for part in taken(iter(items)) for item in part] == items
    for found in (parts(items), taken(iter(items))):
        assert [len(part) for part in found] == [PART, PART, 1]
    assert list(parts([])) == list(taken(iter([]))) == []


def test_every_loop_over_the_rows_of_a_snapshot_is_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loops over a list, for the order of its keys and for its rows; one over an iterator."""
    passed: list[str] = []

    def parts_counted(items: Sequence[object]) -> Iterator[Sequence[object]]:
        passed.extend(["parts"] if len(items) >= ORDERS else [])
        return turns.parts(items)

    def taken_counted(items: Iterator[object]) -> Iterator[Sequence[object]]:
        for part in turns.taken(items):
            passed.extend(["taken"] if len(part) == PART else [])
            yield part

    monkeypatch.setattr(loading, "parts", parts_counted)
    monkeypatch.setattr(loading, "taken", taken_counted)
    tables = dict(engine.tables())
    large = [rows for rows in tables.values() if len(rows) >= ORDERS]
    Engine.restore(tables, verified=True)
    assert passed == ["parts"] * 2 * len(large) == ["parts"] * 4, "orders and outcomes"
    passed.clear()
    Engine.restore({name: iter(rows) for name, rows in tables.items()}, verified=True)
    assert passed == ["taken"] * sum(len(rows) // PART for rows in large)


def test_a_state_is_emptied_with_a_turn_at_each_level_and_account(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    restored = Engine.restore(dict(engine.tables()), verified=True)
    taken = 0

    def counted() -> None:
        nonlocal taken
        taken += 1

    for module in (book, state):
        monkeypatch.setattr(module, "turn", counted)
    restored.release()
    assert taken == LEVELS + ACCOUNTS

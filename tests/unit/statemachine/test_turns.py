"""Work over a whole state calls `turn` between its parts, so that other threads can run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from statemachine import book, invariants, loading, state, turns
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.turns import PART, parts
from statemachine.types import OrderType, Side

ACCOUNTS, ORDERS, LEVELS = 4, 2_000, 50

PASSES = 8
"""Loops over all orders of a snapshot: its keys, their order, its rows, ids, expected keys, indexes, levels, and the check
of each order.
"""


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
    assert [len(part) for part in parts(items)] == [PART, PART, 1]
    assert list(parts([])) == []


def test_every_loop_over_the_orders_of_a_snapshot_is_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0

    def counted(items: Sequence[object]) -> Iterator[Sequence[object]]:
        nonlocal passed
        passed += len(items) if len(items) >= ORDERS else 0
        return turns.parts(items)

    for module in (loading, invariants, book):
        monkeypatch.setattr(module, "parts", counted)
    Engine.restore(dict(engine.tables()), verified=True)
    remembered = passed - PASSES * ORDERS
    assert remembered >= 3 * ORDERS, "the rest are outcomes: their keys, their order, their rows"


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

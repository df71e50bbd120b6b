"""An engine that releases its state leaves nothing behind, and frees no large container in one step."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections import deque
from random import Random
from types import ModuleType

import pytest

import statemachine
from statemachine.commands import Batch
from statemachine.core import PLAIN
from statemachine.engine import Engine
from statemachine.teardown import STEP, clear
from tests.property.worlds import busy_command, foundations

LARGE = 20
"""A container that grows with the number of orders or commands has more entries than this. Other containers have fewer.
"""


@pytest.mark.parametrize(
    "container", [list(range(3 * STEP + 1)), deque(range(9)), dict.fromkeys(range(9))], ids=["list", "deque", "dict"]
)
def test_a_cleared_container_is_empty(container: list[int] | deque[int] | dict[int, None]) -> None:
    clear(container)
    assert not container


def busy_engine() -> Engine:
    """Return an engine with open, waiting, expiring and done orders, and with cached outcomes."""
    engine, random = Engine(), Random(1)
    engine.apply(Batch(1, foundations((1_000, 3_000), 5_000)))
    for time in range(2, 40):
        engine.apply(Batch(time, [busy_command(random, time * 20 + n) for n in range(20)]))
    return engine


def large_containers(root: object) -> list[list[object] | deque[object] | dict[object, object]]:
    """Return all containers with many entries that can be reached from an object. Classes and modules are not searched."""
    found, seen, ahead = [], {0}, [root]
    while ahead:
        here = ahead.pop()
        if id(here) in seen or isinstance(here, type | ModuleType):
            continue
        seen.add(id(here))
        ahead += [each for each in gc.get_referents(here) if not callable(each)]
        if isinstance(here, list | deque | dict) and len(here) > LARGE and here is not getattr(root, "__dict__", None):
            found.append(here)
    return found


def test_no_large_container_is_freed_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statemachine.reply_cache._CHUNK", LARGE // 2, raising=False)  # only the plain core has it
    engine = busy_engine()
    for _ in engine.freeze():
        pass
    engine.apply(Batch(200, [busy_command(Random(2), n) for n in range(20)]))
    found = large_containers(engine._state)
    if statemachine.CORE == PLAIN:
        assert len(found) > 10
    else:
        assert found == [], "the compiled core keeps orders and outcomes in its own memory, see the next test"
    engine.release()
    assert [container for container in found if len(container) > LARGE] == []


def test_every_table_of_an_account_is_emptied() -> None:
    """The compiled core has its own tables, which are not Python containers."""
    engine = busy_engine()
    state = engine._state
    accounts = list(state.accounts.values())
    tables = [(each.done, each.by_client_oid, each.replies) for each in accounts]
    assert len(state.orders) > LARGE
    assert max(len(done) for done, _, _ in tables) > LARGE
    engine.release()
    assert len(state.orders) == 0
    assert [account.oldest for account in accounts if account.oldest is not None] == []
    assert {len(table) for each in tables for table in each} == {0}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_state_is_freed_without_the_garbage_collector(frozen: bool) -> None:
    """A node freezes the garbage collector when it begins to serve, so objects of that moment are never collected."""
    engine = busy_engine()
    if frozen:
        for _ in engine.freeze():
            pass
    gc.disable()
    try:
        state = weakref.ref(engine._state)
        engine.release()
        assert state() is None
    finally:
        gc.enable()
    assert (engine.sequence, engine.products()) == (0, [])


@pytest.mark.skipif(statemachine.CORE == PLAIN, reason="orders of the plain core are Python objects, which the collector visits")
def test_the_garbage_collector_does_not_visit_orders() -> None:
    """A collection of ten thousand young orders takes up to 20 ms, and each order leads to its whole account."""
    engine = busy_engine()
    order = next(order for order in engine._state.orders.values() if order.level is not None)
    assert not any(map(gc.is_tracked, (order, order.account, order.level, order.account.done)))


def test_a_state_that_is_dropped_is_freed() -> None:
    """Orders refer to each other, and the collector does not visit them."""
    tracemalloc.start()
    try:
        engines = [busy_engine()]
        size = tracemalloc.get_traced_memory()[0]
        for _ in range(4):
            engines.append(busy_engine())
            del engines[0]
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < size * 1.5
    finally:
        tracemalloc.stop()

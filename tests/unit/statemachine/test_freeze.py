"""A frozen view has the changes up to its moment, whatever commands are applied later and while it is read."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import CORE, amending, pending, validation
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    Batch,
    CancelOrder,
    Deposit,
    NewOrder,
    PlaceOrder,
    PutApiKey,
    ReplaceOrder,
)
from statemachine.engine import Engine
from statemachine.entities import Account, Order, Placing, Product
from statemachine.events import Rejected
from statemachine.freezing import Frozen, RowChunk
from statemachine.limits import DONE_ORDERS_PER_ACCOUNT, OPERATOR, OUTCOMES_PER_ACCOUNT
from statemachine.persistence import Row
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import TABLES
from statemachine.types import OrderType, Side
from tests.property.test_metamorphic import bounded, everything
from tests.property.worlds import SECOND, busy_command, commands, foundations, rates
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

Tables = dict[str, dict[bytes, bytes]]
Trace = Callable[[FrameType, str, Any], Any]


def change(tables: Tables, chunk: RowChunk) -> None:
    """Make the changes of a chunk in tables, as a sorted key-value store would."""
    table = tables[chunk.table]
    for begin, end in chunk.purged:
        for key in [key for key in table if begin <= key < end]:
            del table[key]
    for key in chunk.deleted:
        table.pop(key, None)
    table.update(chunk.rows)


def take(tables: Tables, frozen: Frozen, between: Callable[[], None] = lambda: None) -> dict[str, list[Row]]:
    """Make all changes of a view in tables, and call `between` after each chunk. Returns the tables."""
    for chunk in frozen:
        change(tables, chunk)
        between()
    assert {name: len(rows) for name, rows in tables.items()} == frozen.counts
    return {name: sorted(rows.items()) for name, rows in tables.items()}


def nothing() -> Tables:
    return {name: {} for name in TABLES}


def trade(engine: Engine, random: Random, times: range) -> None:
    for time in times:
        engine.apply(Batch(time * SECOND, [busy_command(random, time * 10 + n) for n in range(10)]))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_chain_of_changes_is_the_state_at_each_freeze(seed: int, whole: bool) -> None:
    engine, random, tables = Engine(), Random(seed), nothing()
    engine.apply(Batch(1, foundations((1_000, 3_000), 5_000)))
    time = 2
    for _ in range(12):
        until = time + random.randrange(1, 30)
        trade(engine, random, range(time, until))
        expected = dict(engine.tables())
        clock = iter(range(until, 10**6))

        def meanwhile(engine: Engine = engine, clock: object = clock) -> None:
            now = next(clock)  # type: ignore[call-overload]  # an iterator of numbers
            trade(engine, random, range(now, now + 1))

        tables = nothing() if whole else tables
        assert take(tables, engine.freeze(whole=whole), meanwhile) == expected
        time = next(clock)
        if random.random() < 0.3:
            engine = Engine.restore(dict(engine.tables()))
            tables = {name: dict(rows) for name, rows in engine.tables()}
    assert engine.freeze(whole=True).counts == {name: len(rows) for name, rows in engine.tables()}
    assert take(nothing(), engine.freeze(whole=True)) == dict(engine.tables())


@given(rates, st.lists(st.tuples(commands, st.sampled_from(["", "", "", "freeze", "whole", "restore"])), max_size=60))
@settings(max_examples=100)
def test_changes_and_replay_give_the_same_state(fees: tuple[int, int], flow: list[tuple[AnyCommand, str]]) -> None:
    """A snapshot is taken at any point and restored, and the later commands are replayed. The hash is that of the
    engine that never stopped.
    """
    engine, tables = Engine(), nothing()
    engine.apply(Batch(1, foundations(fees, 300)))
    replayed = Engine.restore(take(tables, engine.freeze()))
    for time, (command, what) in enumerate(flow, 2):
        for each in (engine, replayed):
            each.apply(Batch(time * SECOND, [command]))
        if what:
            tables = nothing() if what == "whole" else tables
            replayed = Engine.restore(take(tables, engine.freeze(whole=what == "whole")))
            assert replayed.full_hash() == engine.full_hash()
        if what == "restore":
            engine = Engine.restore(dict(engine.tables()))
    assert replayed.full_hash() == engine.full_hash()
    assert replayed.state_hash == engine.state_hash


def test_rows_that_an_account_drops_are_deleted() -> None:
    """More commands and done orders than an account keeps are applied between two snapshots, and during one."""
    engine, tables = Engine(), nothing()
    engine.apply(Batch(1, foundations((0, 0), 10**9)))
    numbers = iter(range(10**7))

    def some(count: int) -> list[AnyCommand]:
        return [
            PlaceOrder("ann", f"c{next(numbers)}", "XBT-ETH", Side.BUY, OrderType.LIMIT, 10, 1, client_oid=f"o{n}")
            if n % 2
            else PlaceOrder("ann", f"c{next(numbers)}", "XBT-ETH", Side.SELL, OrderType.LIMIT, 10, 1)
            for n in range(count)
        ]

    for count in (OUTCOMES_PER_ACCOUNT - 5, 40, OUTCOMES_PER_ACCOUNT + 300, 2 * DONE_ORDERS_PER_ACCOUNT):
        engine.apply(Batch(2, some(count)))
        expected = dict(engine.tables())
        frozen = engine.freeze()
        engine.apply(Batch(2, some(700)))
        assert take(tables, frozen) == expected
    assert len(tables["outcome"]) >= OUTCOMES_PER_ACCOUNT
    engine.check()


def test_only_changed_rows_are_written() -> None:
    engine = Engine()
    engine.apply(Batch(1, foundations((0, 0), 300)))
    trade(engine, Random(1), range(2, 40))
    list(engine.freeze())
    engine.apply(Batch(50, [Deposit("ann", "one-more", "USD", 5)]))
    chunks = list(engine.freeze())
    written = {name: sum(len(chunk.rows) for chunk in chunks if chunk.table == name) for name in TABLES}
    assert {name: count for name, count in written.items() if count or name in ("order", "done_order")} == {
        "counter": 1,
        "currency": 3,
        "product": 2,
        "account": 1,
        "balance": 3,
        "order": 0,
        "done_order": 0,
        "outcome": 1,
    }
    assert not [chunk for chunk in chunks if chunk.deleted]


def test_orders_that_enter_and_leave_between_two_freezes_are_not_written() -> None:
    engine = Engine()
    engine.apply(Batch(1, foundations((0, 0), 10**6)))
    list(engine.freeze())
    for number in range(50):
        for side in (Side.SELL, Side.BUY):
            engine.apply(
                Batch(2, [PlaceOrder("ann", f"{side} {number}".replace(" ", "-"), "XBT-ETH", side, OrderType.LIMIT, 10, 1)])
            )
    assert [len(chunk.rows) + len(chunk.deleted) for chunk in engine.freeze() if chunk.table == "order"] == [0]


def test_changed_api_keys_are_written() -> None:
    engine, tables = Engine(), nothing()
    engine.apply(Batch(1, foundations((0, 0), 1)))
    for name in ("k1", "k2", "k1"):
        engine.apply(Batch(2, [PutApiKey(OPERATOR, f"put-{engine.sequence}", name, "ann", "AAAA", "p", 1)]))
        assert take(tables, engine.freeze())["api_key"] == dict(engine.tables())["api_key"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_another_thread_may_read_a_frozen_view_while_the_engine_continues(seed: int, whole: bool) -> None:
    engine, random, tables = Engine(), Random(seed), nothing()
    engine.apply(Batch(1, foundations((1_000, 3_000), 50_000)))
    trade(engine, random, range(2, 100))
    for start in range(100, 400, 60):
        expected = dict(engine.tables())
        tables = nothing() if whole else tables
        frozen = engine.freeze(whole=whole)
        found: list[dict[str, list[Row]]] = []
        thread = threading.Thread(target=lambda frozen=frozen, found=found, tables=tables: found.append(take(tables, frozen)))
        thread.start()
        trade(engine, random, range(start, start + 60))
        thread.join()
        assert found == [expected]


@pytest.mark.parametrize("seed", range(4))
def test_changes_since_a_freeze_can_be_read_without_another_freeze(seed: int) -> None:
    engine, random, tables = Engine(), Random(seed), nothing()
    engine.apply(Batch(1, foundations((1_000, 3_000), 5_000)))
    time = 2
    for _ in range(6):
        trade(engine, random, range(time, time + 4))
        time += 4
        looked_at = {name: dict(rows) for name, rows in tables.items()}
        whole = {name: list(rows) for name, rows in engine.tables()}
        for _ in range(2):
            view = engine.changes_since_freeze()
            assert take({name: dict(rows) for name, rows in looked_at.items()}, view) == whole
            assert view.complete
        assert take(tables, engine.freeze()) == whole


def rows_of(chunks: list[RowChunk]) -> dict[bytes, bytes]:
    return {key: row for chunk in chunks if chunk.table == "order" for key, row in chunk.rows}


@pytest.mark.parametrize("whole", [False, True])
def test_a_refused_replacement_or_amendment_is_never_half_in_a_snapshot(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """The view is read while the command is checked, as another thread may read it."""
    engine = market()
    order = placed(engine, limit("ann", "order", Side.BUY, 2, 10))
    expected = dict(dict(engine.tables())["order"])
    new = NewOrder(PRODUCT, Side.BUY, OrderType.LIMIT, 10, 10**15)
    refused: list[AnyCommand] = [
        ReplaceOrder("ann", "replace", order.order_id, "", "", new),
        AmendOrder("ann", "amend", order.order_id, size=10**15),
    ]
    for command in refused:
        frozen = engine.freeze(whole=whole or command is not refused[0])
        taken: list[RowChunk] = []

        def take_now(frozen: Frozen = frozen, taken: list[RowChunk] = taken) -> None:
            taken.extend([] if frozen.complete else frozen)

        meanwhile(monkeypatch, take_now)
        assert isinstance(send(engine, command), Rejected)
        monkeypatch.undo()
        take_now()
        assert rows_of(taken) == expected
        engine.check()


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Call `act` whenever a replacement or an amendment is checked."""

    def checked(state: State, account: Account, command: Placing) -> Reject | None:
        act()
        return validation.place_order(state, account, command)

    monkeypatch.setattr(amending, "place_order", checked)
    if CORE == "plain":
        hold_at = Product.hold_at

        def held(product: Product, order: Order, price: int, remaining: int) -> int:
            act()
            return hold_at(product, order, price, remaining)

        monkeypatch.setattr(Product, "hold_at", held)


@pytest.mark.skipif(CORE != "plain", reason="the compiled core reads the queue in one step of the interpreter")
def test_a_queue_of_orders_that_changes_during_a_read_loses_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = market()
    orders = [placed(engine, limit("ann", f"{n}", Side.BUY, 1, 10)) for n in range(5)]
    expected = dict(dict(engine.tables())["order"])
    frozen = engine.freeze(whole=True)
    read = Account.open_orders

    def interrupted(account: Account) -> list[Order]:
        first = account.oldest
        if first is None:
            return []
        monkeypatch.setattr(Account, "open_orders", read)
        send(engine, CancelOrder("ann", "cancel", orders[0].order_id))
        assert first.newer is None, "the reader finds no successor and ends here"
        return [first]

    monkeypatch.setattr(Account, "open_orders", interrupted)
    assert rows_of(list(frozen)) == expected


@pytest.mark.skipif(CORE != "plain", reason="the compiled core has no lines at which another thread may run")
@pytest.mark.parametrize("seed", range(6))
def test_a_frozen_view_may_be_read_between_any_two_lines_of_a_command(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow has all kinds of commands and unfinished work. At a random line of each command, a view of the moment
    before the command is read.
    """
    monkeypatch.setattr(pending, "PENDING_WORK_PER_ENTRY", 3)
    random, tables = Random(seed), nothing()
    flow, _ = everything(random, 80)
    engine = bounded(Engine())
    for now, command in flow:
        expected = dict(engine.tables())
        whole = random.random() < 0.5
        tables = nothing() if whole else tables
        frozen = engine.freeze(whole=whole)
        found: list[dict[str, list[Row]]] = []

        def take_now(frozen: Frozen = frozen, tables: Tables = tables, found: list[dict[str, list[Row]]] = found) -> None:
            found.append(take(tables, frozen))

        at_line(int(random.expovariate(1 / 150)), take_now, partial(engine.apply, Batch(now, [command])))
        if not found:
            take_now()
        assert found == [expected], command


@pytest.mark.skipif(CORE != "plain", reason="the compiled core has no lines at which another thread may run")
def test_a_frozen_view_may_be_read_while_an_account_gets_its_first_outcome() -> None:
    for number in range(1, 30):
        engine = market()
        expected, frozen, tables = dict(engine.tables()), engine.freeze(), nothing()
        found: list[dict[str, list[Row]]] = []

        def take_now(frozen: Frozen = frozen, tables: Tables = tables, found: list[dict[str, list[Row]]] = found) -> None:
            found.append(take(tables, frozen))

        order = Batch(2, [limit("bob", "first", Side.BUY, 1, 1)])
        at_line(number, take_now, partial(engine.apply, order), "/reply_cache.py")
        if not found:
            take_now()
        assert found == [expected]


def at_line(number: int, act: Callable[[], None], run: Callable[[], object], where: str = "/statemachine/") -> None:
    """Call `run`, and call `act` before the line with this number that `run` executes in the state machine."""
    left, before = [number], sys.gettrace()

    def each(_frame: FrameType, event: str, _arg: object) -> Trace | None:
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(before)
                act()
                return None
        return each

    def enter(frame: FrameType, _event: str, _arg: object) -> Trace | None:
        return each if left[0] > 0 and where in frame.f_code.co_filename else None

    sys.settrace(enter)
    try:
        run()
    finally:
        sys.settrace(before)

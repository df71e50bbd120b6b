"""The next level's state is kept beside the present one. It equals a conversion of the whole state after every entry,
at whatever entry it was begun.
"""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from snapshots.levels import v0_2_0_journal as journal
from snapshots.levels.level import OWN, V0_2_0
from snapshots.levels.raising import raised
from snapshots.levels.shadow import Shadow, ShadowError
from snapshots.levels.states import empty
from snapshots.levels.v0_2_0 import FormerEngine
from statemachine.commands import Batch, Deposit, OpenAccount, PutCurrency
from statemachine.engine import Engine
from statemachine.events import OrderState
from statemachine.limits import OPERATOR, OUTCOMES_PER_ACCOUNT
from statemachine.types import Side
from tests.unit.snapshots.levels.markets import Market

from snapshots.levels.released.core_0_2_0 import state as core_state  # type: ignore[import-not-found]  # isort: skip  # in the archive


def market(seed: int, before: int) -> tuple[FormerEngine, Market]:
    """Return a state of 0.2.0 that has traded for some entries, and the flow that continues it."""
    engine, flow = empty(V0_2_0), Market(seed)
    assert isinstance(engine, FormerEngine)
    engine.apply(flow.foundations())
    for batch in flow.batches(before):
        engine.apply(batch)
    return engine, flow


def same(one: Engine, other: Engine) -> None:
    """Check that both are one state with the same arrangement: the tables show all rows, and `check` shows that indexes
    and queues agree with them.
    """
    for (name, mine), (_, theirs) in zip(one.tables(), other.tables(), strict=True):
        assert mine == theirs, name
    for product in one.products():
        for side in Side:
            assert one.book_orders(product.product_id, side) == other.book_orders(product.product_id, side)
    one.check()


@pytest.mark.parametrize("seed", range(8))
def test_a_shadow_equals_the_conversion_of_the_whole_state(seed: int) -> None:
    random = Random(seed)
    former, flow = market(seed, random.choice((0, 40)))
    shadow = Shadow(former)
    for batch in flow.batches(random.randrange(10)):
        former.apply(batch)
    tables = {name: list(rows) for name, rows in former.tables()}
    for batch in flow.batches(60):  # while it is made
        former.apply(batch)
    shadow.build(tables)
    going_on = flow.batches(150)
    while not shadow.advance(random.randrange(1, 12)):
        if random.random() < 0.8:
            former.apply(next(going_on))
    for number, batch in enumerate(going_on):
        former.apply(batch)
        shadow.follow()
        if number % 50 == 20:
            assert shadow._follower is not None
            assert shadow._made is not None
            shadow._follower.finish(raised(former, V0_2_0, OWN).state_hash)
            same(shadow._made, raised(former, V0_2_0, OWN))
    made = shadow.take(OWN)
    assert made.state_hash == raised(former, V0_2_0, OWN).state_hash
    same(made, raised(former, V0_2_0, OWN))
    assert not shadow.ready
    if seed < 50:
        goes_on_alike(made, raised(former, V0_2_0, OWN), flow)


def goes_on_alike(one: Engine, other: Engine, flow: Market) -> None:
    """Check that later entries give the same results, and that both give the same snapshot."""
    for batch in flow.batches(40):
        assert one.apply(batch) == other.apply(batch)
    assert one.full_hash() == other.full_hash()
    frozen = {(chunk.table, key) for chunk in one.freeze(whole=True) for key, _ in chunk.rows}
    assert frozen == {(name, key) for name, rows in other.tables() for key, _ in rows}
    for batch in flow.batches(10):
        assert one.apply(batch) == other.apply(batch)


@pytest.mark.parametrize("seed", range(4))
def test_orders_come_to_their_places_in_any_order(seed: int) -> None:
    former, _ = market(seed, 400)
    whole = raised(former, V0_2_0, OWN)
    tables = {name: list(rows) for name, rows in whole.tables()}
    orders = [msgspec.msgpack.decode(row, type=OrderState) for _, row in tables["order"]]
    assert len(orders) > 30
    Random(seed).shuffle(orders)
    made = whole
    patch = made.patch()
    for order in orders:
        patch.close_order(order.order_id)
    assert not any(made.book_orders(product.product_id, side) for product in made.products() for side in Side)
    for order in orders:
        patch.open_order(order)
    same(made, Engine.restore(tables, verified=True))


def test_done_orders_that_were_dropped_meanwhile_are_dropped_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_state, "DONE_ORDERS_PER_ACCOUNT", 7)
    test_a_shadow_equals_the_conversion_of_the_whole_state(77)


def test_outcomes_that_were_dropped_meanwhile_are_dropped_beside() -> None:
    former = empty(V0_2_0)
    assert isinstance(former, FormerEngine)
    former.apply(Batch(1, [PutCurrency(OPERATOR, "c", "USD", 2), OpenAccount(OPERATOR, "a", "ann")]))
    former.apply(Batch(2, [Deposit("ann", f"a{number}", "USD", 1) for number in range(OUTCOMES_PER_ACCOUNT - 5)]))
    shadow = Shadow(former)
    shadow.build({name: list(rows) for name, rows in former.tables()})
    assert shadow.advance(10)
    former.apply(Batch(3, [Deposit("ann", f"b{number}", "USD", 1) for number in range(20)]))
    shadow.follow()
    former.apply(Batch(4, [Deposit("ann", "bad", "USD", 0)] * 3))
    same(shadow.take(OWN), raised(former, V0_2_0, OWN))


def test_a_second_state_cannot_be_taken_before_it_follows_or_after_it_stopped() -> None:
    former, flow = market(1, 5)
    shadow = Shadow(former)
    with pytest.raises(ShadowError, match="not ready"):
        shadow.take(OWN)
    shadow.build({name: list(rows) for name, rows in former.tables()})
    assert shadow.advance(1)
    made = shadow.stop()
    assert made is not None
    made.release()
    with pytest.raises(ShadowError, match="not ready"):
        shadow.take(OWN)
    for batch in flow.batches(5):
        former.apply(batch)
    assert not shadow.stop()


def test_too_many_changes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "NOTED_MAX", 3)
    former, flow = market(2, 5)
    shadow = Shadow(former)
    tables = {name: list(rows) for name, rows in former.tables()}
    for batch in flow.batches(20):
        former.apply(batch)
    shadow.build(tables)
    with pytest.raises(ShadowError, match="more changed"):
        shadow.advance(5)


def test_a_state_with_another_number_of_rows_is_not_taken() -> None:
    former, _ = market(3, 5)
    shadow = Shadow(former)
    shadow.build({name: list(rows) for name, rows in former.tables()})
    assert shadow.advance(1)
    assert shadow._made is not None
    shadow._made.apply(Batch(10**15, [OpenAccount(OPERATOR, "x", "other")]))
    with pytest.raises(ShadowError, match="another number of rows: account"):
        shadow.take(OWN)

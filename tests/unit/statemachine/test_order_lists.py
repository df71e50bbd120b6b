"""An order list equals a plain filter over all orders, and reads each order once until it has enough."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.commands import CancelOrder
from statemachine.engine import Engine
from statemachine.entities import Account, Order
from statemachine.events import OrderState
from statemachine.order_lists import Wanted
from statemachine.types import OrderStatus, Side
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Return an engine with an account that has open and done orders on both sides."""
    engine = market()
    for number in range(1, 60):
        side = Side.BUY if number % 3 else Side.SELL
        placed(engine, limit("ann", f"{number}", side, 1, 10 if side is Side.BUY else 90))
    for number in range(1, 60, 4):
        send(engine, CancelOrder("ann", f"x{number}", number))
    return engine


def plain(orders: list[OrderState], wanted: Wanted, count: int) -> list[int]:
    """Return the ids of the wanted orders, found by a plain filter over all orders."""
    found = []
    for order in sorted(orders, key=lambda each: -each.order_id):
        done = order.status is OrderStatus.DONE
        currency = "USD" if order.side is Side.BUY else "XBT"
        keep = (
            (wanted.done if done else wanted.open)
            and wanted.product_id in ("", order.product_id)
            and (not wanted.before_id or order.order_id < wanted.before_id)
            and order.order_id > wanted.above_id
            and (not wanted.statuses or wanted.statuses >> order.status & 1)
            and order.created_at >= wanted.created_from
            and (not wanted.created_to or order.created_at < wanted.created_to)
            and (not wanted.holds or (order.hold > 0 and wanted.holds == currency))
        )
        if keep:
            found.append(order.order_id)
    return found[:count]


@given(data=st.data())
def test_an_order_list_equals_a_plain_filter(engine: Engine, data: st.DataObject) -> None:
    everything = engine.orders("ann", open=True, done=True, limit=1_000)
    times = st.sampled_from([0, *sorted({order.created_at for order in everything})])
    wanted = Wanted(
        product_id=data.draw(st.sampled_from(["", PRODUCT, "ETH-USD"])),
        open=data.draw(st.booleans()),
        done=data.draw(st.booleans()),
        before_id=data.draw(st.integers(0, 70)),
        above_id=data.draw(st.integers(0, 70)),
        statuses=data.draw(st.integers(0, 15)),
        created_from=data.draw(times),
        created_to=data.draw(times),
        holds=data.draw(st.sampled_from(["", "USD", "XBT", "EUR"])),
    )
    count = data.draw(st.integers(1, 70))
    listed = engine.order_list("ann", wanted, count)
    assert [order.order_id for order in listed] == plain(everything, wanted, count)
    assert engine.encoded_orders("ann", wanted, count) == msgspec.msgpack.encode(listed)


def test_an_order_list_reads_no_more_orders_than_it_needs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counted(account: Account) -> Iterator[Order]:
        nonlocal looked
        for order in account.newest_first():
            looked += 1
            yield order

    monkeypatch.setattr("statemachine.order_lists._opened", counted)
    assert len(engine.order_list("ann", Wanted(), 3)) == 3
    assert looked == 3
    looked = 0
    assert engine.order_list("ann", Wanted(holds="EUR"), 3) == []
    assert looked == engine._state.accounts["ann"].open_count, "each order is read once"


def test_a_listed_order_is_a_copy(engine: Engine) -> None:
    (order,) = engine.order_list("ann", Wanted(), 1)
    order.remaining = 0
    assert engine.order_list("ann", Wanted(), 1)[0].remaining > 0

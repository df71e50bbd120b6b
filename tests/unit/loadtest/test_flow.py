"""The generated flow is a pure function of the seed. Its numbers are whole and within the products' rules, its ids are
distinct, and the number of open orders is bounded.
"""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.flow import OPEN_MAX, ClientFlow, FlowCommand, MovingMid
from loadtest.market import CURRENCIES, PRODUCTS
from statemachine.commands import CancelAll, CancelOrder, PlaceOrder
from statemachine.types import OrderType, StopType, TimeInForce

SPECS = {spec.product_id: spec for spec in PRODUCTS}


def take(seed: int, account: str, count: int, run: str = "r") -> list[FlowCommand]:
    return list(islice(ClientFlow(seed, account, run), count))


def test_the_same_arguments_give_the_same_flow() -> None:
    assert take(7, "alice", 500) == take(7, "alice", 500)


@pytest.mark.parametrize("other", [(8, "alice", "r"), (7, "bob", "r"), (7, "alice", "s")])
def test_other_arguments_give_another_flow(other: tuple[int, str, str]) -> None:
    assert take(7, "alice", 50) != take(other[0], other[1], 50, other[2])


def test_every_kind_of_order_comes() -> None:
    flow = take(1, "alice", 3000)
    orders = [command for command in flow if isinstance(command, PlaceOrder)]
    assert {order.time_in_force for order in orders} == set(TimeInForce)
    assert {order.order_type for order in orders} == set(OrderType)
    assert {order.stop for order in orders} == set(StopType)
    assert any(order.post_only for order in orders)
    assert any(order.funds for order in orders)
    assert {order.product_id for order in orders} == set(SPECS)
    assert any(isinstance(command, CancelOrder) for command in flow)
    assert any(isinstance(command, CancelAll) for command in flow)
    assert len({order.command_id for order in orders}) < len(orders), "some orders are sent again"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), account=st.text("abc", min_size=1, max_size=5))
def test_orders_keep_the_rules_of_their_product(seed: int, account: str) -> None:
    for command in take(seed, account, 300):
        assert command.account_id == account
        if isinstance(command, PlaceOrder):
            spec = SPECS[command.product_id]
            assert command.command_id == f"c:{command.client_oid}"
            assert command.price % spec.tick == 0
            assert command.size % spec.lot == 0
            assert command.size == 0 or spec.min_size <= command.size <= spec.max_size
            assert (command.price > 0) == (command.order_type is OrderType.LIMIT)
            assert command.size > 0 or command.funds > 0
            assert command.stop_price % spec.tick == 0
            assert (command.stop_price > 0) == bool(command.stop)
            assert (command.cancel_after > 0) == (command.time_in_force is TimeInForce.GTT)


def test_the_same_id_has_the_same_contents() -> None:
    seen: dict[str, FlowCommand] = {}
    for command in take(3, "alice", 5000):
        assert seen.setdefault(command.command_id, command) == command


def test_open_orders_are_bounded() -> None:
    resting: dict[str, str] = {}
    for command in take(5, "alice", 5000):
        if isinstance(command, PlaceOrder) and command.order_type is OrderType.LIMIT and command.time_in_force is TimeInForce.GTC:
            resting[command.client_oid] = command.product_id
        elif isinstance(command, CancelOrder):
            resting.pop(command.client_oid, None)
        elif isinstance(command, CancelAll):
            resting = {oid: product_id for oid, product_id in resting.items() if product_id != command.product_id}
        assert len(resting) <= OPEN_MAX + 1, "the cancel of the oldest is the very next command"


def test_mid_depends_on_the_move_alone() -> None:
    forward, at_once = MovingMid(9, PRODUCTS[0]), MovingMid(9, PRODUCTS[0])
    values = [forward.at(move) for move in range(2000)]
    assert at_once.at(1999) == values[-1]
    assert min(values) >= 100
    assert len(set(values)) > 20


def test_products_keep_notionals_whole() -> None:
    for spec in PRODUCTS:
        assert spec.tick * spec.lot % 10 ** CURRENCIES[spec.base] == 0
        assert spec.min_size % spec.lot == 0

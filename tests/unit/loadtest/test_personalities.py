"""The personalities' flows are reproducible, differ from each other, and are within the rules of the products."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from loadtest.flow import OPEN_MAX, FlowCommand, recorded_flow
from loadtest.market import PRODUCTS
from loadtest.personalities import SHARES, Personality, flow_of, personality_of
from statemachine.commands import CancelAll, CancelOrder, PlaceOrder
from statemachine.types import OrderType, Side, TimeInForce

SPECS = {spec.product_id: spec for spec in PRODUCTS}
RECORDING = Path(__file__).parents[3] / "loadtest" / "traffic" / "recorded.csv"


def take(personality: Personality, count: int = 2000, run: str = "r") -> list[FlowCommand]:
    return list(islice(flow_of(personality, 5, "alice", run), count))


@pytest.mark.parametrize("personality", Personality)
def test_flows_are_reproducible_and_keep_the_rules(personality: Personality) -> None:
    commands = take(personality)
    assert commands == take(personality)
    assert not {command.command_id for command in commands} & {command.command_id for command in take(personality, run="s")}
    for order in commands:
        if isinstance(order, PlaceOrder):
            spec = SPECS[order.product_id]
            assert order.price % spec.tick == 0
            assert order.size % spec.lot == 0
            assert order.command_id == f"c:{order.client_oid}"


def test_a_market_maker_quotes_both_sides_and_replaces_its_quotes() -> None:
    commands = take(Personality.MAKER)
    resting: dict[str, PlaceOrder] = {}
    for command in commands:
        if isinstance(command, PlaceOrder):
            assert command.post_only
            resting[command.client_oid] = command
        else:
            assert isinstance(command, CancelOrder)
            assert resting.pop(command.client_oid).product_id == command.product_id
    assert len(resting) <= OPEN_MAX
    assert {(order.product_id, order.side) for order in resting.values()} == {
        (name, side) for name in SPECS for side in (Side.BUY, Side.SELL)
    }
    for spec in PRODUCTS:
        bids, asks = (
            [order.price for order in resting.values() if order.product_id == spec.product_id and order.side is side]
            for side in (Side.BUY, Side.SELL)
        )
        assert max(bids) < min(asks) + 60 * spec.tick, "around one mid"


def test_a_taker_takes_and_a_canceller_cancels() -> None:
    taken = take(Personality.TAKER)
    orders = [command for command in taken if isinstance(command, PlaceOrder)]
    now = [order for order in orders if order.order_type is OrderType.MARKET or order.time_in_force is not TimeInForce.GTC]
    assert len(now) > 0.8 * len(taken)
    cancels = [command for command in take(Personality.CANCELLER) if isinstance(command, CancelOrder | CancelAll)]
    assert 0.4 < len(cancels) / 2000 < 0.6


def test_ten_users_have_all_personalities() -> None:
    assert {personality_of(number) for number in range(len(SHARES))} == set(Personality)
    assert personality_of(3) is personality_of(3 + len(SHARES))


def test_the_small_recording_is_one() -> None:
    """`make loadtest` replays this recording without QUORUMBOOK_DATA."""
    commands = list(recorded_flow(RECORDING, "buyer", "seller", "run"))
    assert len(commands) == 1500
    assert all(command.command_id.partition(":")[2].startswith("run.") for command in commands)
    assert {command.account_id for command in commands} == {"buyer", "seller"}
    assert len({command.command_id for command in commands}) == len(commands)

"""A trailing stop order in the market database has the stop price that the engine says."""

from __future__ import annotations

from typing import Any

from node.history.projection import HistoryStep, Projection
from statemachine.commands import AnyCommand, Batch, OrderOptions, PlaceOrder
from statemachine.types import OrderType, Side, StopType
from tests.unit.statemachine.market import PRODUCT, limit, market


def test_the_stop_price_follows() -> None:
    engine = market(10_000, 0, 0)
    totals = {(row.account_id, row.currency): row.available for name in ("ann", "bob") for row in engine.balances(name)}
    projection, orders = Projection(engine, totals), dict[int, dict[str, Any]]()

    def known(wanted: set[int]) -> dict[int, dict[str, Any]]:
        return {number: dict(orders[number]) for number in wanted if number in orders}

    stop = {"stop": StopType.LOSS, "stop_price": 90, "options": OrderOptions(trail=5)}
    commands: list[AnyCommand] = [
        PlaceOrder("ann", "stop", PRODUCT, Side.SELL, OrderType.MARKET, 0, 1, **stop),  # type: ignore[arg-type]
        limit("ann", "sell", Side.SELL, 1, 100),
        limit("bob", "buy", Side.BUY, 1, 100),
    ]
    for command in commands:
        applied = engine.apply(Batch(engine.time + 1, [command]))
        step = HistoryStep(engine.sequence, engine.time, command, applied.outcomes[0], applied.events)
        orders.update(projection.rows([step], known).orders)
    state = engine.order(1)
    assert state is not None
    assert orders[1]["stop_price"] == state.stop_price == 95

"""Orders whose prices change by themselves: the market database has the engine's prices."""

from __future__ import annotations

from typing import Any

from node.history.projection import HistoryStep, Projection
from statemachine.commands import AnyCommand, Batch, OrderOptions, PlaceOrder, PutProductLimits
from statemachine.events import OrderState
from statemachine.limits import OPERATOR
from statemachine.types import CollarAction, OrderType, Side, StopType
from tests.unit.statemachine.market import PRODUCT, limit, market


def projected(commands: list[AnyCommand], order_id: int) -> tuple[dict[str, Any], OrderState]:
    """Return the row and the state of an order after commands."""
    engine = market(10_000, 0, 0)
    totals = {(row.account_id, row.currency): row.available for name in ("ann", "bob") for row in engine.balances(name)}
    projection, orders = Projection(engine, totals), dict[int, dict[str, Any]]()

    def known(wanted: set[int]) -> dict[int, dict[str, Any]]:
        return {number: dict(orders[number]) for number in wanted if number in orders}

    for command in commands:
        applied = engine.apply(Batch(engine.time + 1, [command]))
        step = HistoryStep(engine.sequence, engine.time, command, applied.outcomes[0], applied.events)
        orders.update(projection.rows([step], known).orders)
    state = engine.order(order_id)
    assert state is not None
    return orders[order_id], state


def test_the_stop_price_follows() -> None:
    stop = {"stop": StopType.LOSS, "stop_price": 90, "options": OrderOptions(trail=5)}
    row, state = projected(
        [
            PlaceOrder("ann", "stop", PRODUCT, Side.SELL, OrderType.MARKET, 0, 1, **stop),  # type: ignore[arg-type]
            limit("ann", "sell", Side.SELL, 1, 100),
            limit("bob", "buy", Side.BUY, 1, 100),
        ],
        1,
    )
    assert row["stop_price"] == state.stop_price == 95


def test_a_stop_order_rests_at_the_collar() -> None:
    limits = PutProductLimits(OPERATOR, "limits", PRODUCT, 50_000, 0, CollarAction.AUCTION, 0, 10**9, limit_ns=10**9)
    row, state = projected(
        [
            PlaceOrder("ann", "stop", PRODUCT, Side.BUY, OrderType.LIMIT, 120, 1, stop=StopType.ENTRY, stop_price=100),
            limits,
            limit("ann", "sell", Side.SELL, 1, 100),
            limit("bob", "buy", Side.BUY, 1, 100),
        ],
        1,
    )
    assert (row["price"], row["remaining"], row["opened_sequence"]) == (state.price, state.remaining, state.opened_sequence)
    assert state.price == 105

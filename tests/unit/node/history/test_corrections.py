"""Busts and corrected prices in the market database: the ledger goes on leading to what the engine says."""

from __future__ import annotations

import pytest

from node.history.projection import HistoryStep, LedgerKind, Projection
from statemachine.commands import AnyCommand, Batch, CorrectTrade
from statemachine.limits import OPERATOR
from statemachine.types import Side
from tests.unit.statemachine.market import PRODUCT, limit, market


def _known(wanted: set[int]) -> dict[int, dict[str, int]]:
    """Orders of before, as far as fills change them."""
    return {number: {"size": 1, "remaining": 1, "filled_size": 0, "executed_value": 0, "fill_fees": 0} for number in wanted}


@pytest.mark.parametrize("new_price", [0, 120, 90])
def test_the_ledger_has_the_money_that_a_correction_moved(new_price: int) -> None:
    engine = market(10_000, 10_000, 20_000)
    totals = {(row.account_id, row.currency): row.available for name in ("ann", "bob") for row in engine.balances(name)}
    projection = Projection(engine, totals)
    fees = (1, 2)
    commands: list[AnyCommand] = [
        limit("ann", "sell", Side.SELL, 1, 100),
        limit("bob", "buy", Side.BUY, 1, 100),
        CorrectTrade(OPERATOR, "bust", PRODUCT, 1, "bob", "ann", 100, 1, fees[1], fees[0], new_price),
    ]
    kinds = []
    for command in commands:
        applied = engine.apply(Batch(engine.time + 1, [command]))
        step = HistoryStep(engine.sequence, engine.time, command, applied.outcomes[0], applied.events)
        rows = projection.rows([step], _known)
        kinds = [(row["kind"], row["account_id"], row["trade_id"]) for row in rows.ledger]
    assert {kind for kind, *_ in kinds} == ({LedgerKind.MATCH, LedgerKind.FEE} if not new_price else {LedgerKind.MATCH})
    assert {name for _, name, _ in kinds} == {"ann", "bob"}
    assert {trade for *_, trade in kinds} == {1}

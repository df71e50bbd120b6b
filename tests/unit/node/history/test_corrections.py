"""Busts, corrected prices and approved proposals in the market database: the ledger still adds up to the engine's balances."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.history.projection import HistoryStep, LedgerKind, Projection
from statemachine.commands import (
    AnyCommand,
    Batch,
    CorrectTrade,
    DecideProposal,
    Grant,
    PlaceOrder,
    PutApiKey,
    PutCurrency,
    PutUser,
    SetAccess,
)
from statemachine.limits import OPERATOR, SECOND_NS
from statemachine.types import Decision, OrderType, Permission, Role, Scope, Side
from tests.property.worlds import foundations
from tests.unit.node.history.logs import NodeLog
from tests.unit.statemachine.market import PRODUCT, limit, market


def _known(wanted: set[int]) -> dict[int, dict[str, int]]:
    """Return the earlier orders, as far as fills change them."""
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


def test_an_approved_command_is_stored_as_if_it_needed_no_consent(tmp_path: Path) -> None:
    """The approval is the command with the outcome, and the proposed command is what was done."""
    node = NodeLog(tmp_path / "cluster")
    node.add(foundations((0, 0), 50_000))
    for name in ("ada", "eva"):
        node.add(
            [
                PutUser(
                    OPERATOR,
                    f"put-{name}",
                    name,
                    [Grant(role, Scope.VENUE) for role in (Role.ADMINISTRATOR, Role.MARKET_OPERATOR)],
                )
            ]
        )
        node.add([PutApiKey(OPERATOR, f"key-{name}", name, OPERATOR, "c2VjcmV0", "hidden", Permission.ADMIN, user_id=name)])
    consent = Permission.MARKET + Permission.CORRECT
    node.add([SetAccess(OPERATOR, "access", True, consent, 600 * SECOND_NS)])
    product = node.engine.products()[0]
    terms = OrderType.LIMIT, 10 * product.tick, 40 * product.lot
    node.add([PlaceOrder("ann", "sell", product.product_id, Side.SELL, *terms)])
    node.add([PlaceOrder("bob", "buy", product.product_id, Side.BUY, *terms)])
    node.follow()
    (trade,) = node.stored()["trades"]
    bust = (trade["taker_account_id"], trade["maker_account_id"], trade["price"], trade["size"])
    fees = (trade["taker_fee"], trade["maker_fee"])
    ada, eva = "operator/ada", "operator/eva"
    node.add([CorrectTrade(ada, "bust", product.product_id, trade["trade_id"], *bust, *fees)])
    bust_id = node.engine.sequence
    # Proposed and approved in one log entry, with a trade of the same accounts behind it.
    node.add(
        [
            PutCurrency(ada, "eur", "EUR", 2),
            DecideProposal(eva, "approve-eur", bust_id + 1, Decision.APPROVE),
            DecideProposal(eva, "approve-bust", bust_id, Decision.APPROVE),
            DecideProposal(eva, "twice", bust_id, Decision.APPROVE),
            PlaceOrder("ann", "sell-again", product.product_id, Side.SELL, *terms),
            PlaceOrder("bob", "buy-again", product.product_id, Side.BUY, *terms),
        ]
    )
    node.follow()
    stored = node.stored()
    assert "EUR" in {row["currency"] for row in stored["currencies"]}
    assert {row["trade_id"] for row in stored["ledger"] if row["sequence"] == bust_id + 3} == {trade["trade_id"]}
    for account_id in ("ann", "bob"):
        for balance in node.engine.balances(account_id):
            *_, last = [row for row in stored["ledger"] if (row["account_id"], row["currency"]) == (account_id, balance.currency)]
            assert last["balance"] == balance.available + balance.hold
    assert [(row["command"], row["outcome"]) for row in stored["operations"][-5:]] == [
        ("CorrectTrade", "proposed"),
        ("PutCurrency", "proposed"),
        ("DecideProposal", "done"),
        ("DecideProposal", "done"),
        ("DecideProposal", "unknown_proposal"),
    ]

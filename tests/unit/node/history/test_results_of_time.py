"""What time alone causes has the sequence of the command before it, and comes after everything that the command caused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.history.pages import PageRequest, Place
from node.history.queries import HistoryReader
from statemachine.commands import Deposit, OrderOptions, PlaceOrder, PutProductLimits
from statemachine.limits import OPERATOR, SECOND_NS
from statemachine.types import CollarAction, OrderStatus, OrderType, ProductStatus, Side, TimeInForce
from tests.property.worlds import foundations
from tests.unit.node.history.logs import NodeLog, gone_back, rows

CALL_S = 10


def interrupted(directory: Path) -> NodeLog:
    """Return a node whose two products are in calls, which end 10 and 20 seconds later. The last command is a deposit."""
    node = NodeLog(directory)
    node.add(foundations((0, 0), 10**9))
    for place, product in enumerate(node.engine.products(), 1):
        limits = (100_000, 0, CollarAction.AUCTION, 0, place * CALL_S * SECOND_NS)
        node.add([PutProductLimits(OPERATOR, f"limits-{place}", product.product_id, *limits)])
    for price in (100, 200):  # the second pair is outside the collar
        for product in node.engine.products():
            terms = OrderType.LIMIT, price * product.tick, 4 * product.lot
            name = f"{product.product_id}-{price}"
            node.add([PlaceOrder("ann", f"s-{name}", product.product_id, Side.SELL, *terms)], seconds=0.1)
            node.add([PlaceOrder("bob", f"b-{name}", product.product_id, Side.BUY, *terms)], seconds=0.1)
    assert {row.status for row in node.engine.products()} == {ProductStatus.AUCTION}
    node.add([Deposit("ann", "last", "USD", 5)])
    return node


@pytest.mark.parametrize("reopened", [False, True], ids=["", "reopened after each entry"])
def test_the_ledger_has_room_for_several_auctions(reopened: bool, tmp_path: Path) -> None:
    """Each auction opens with an entry without commands. The history once stopped there, on every node."""
    node = interrupted(tmp_path / "node")
    last = node.engine.sequence
    for _ in range(2):
        if reopened:
            node.follow()
        node.add([], seconds=CALL_S + 1)
    node.follow()
    stored = node.stored()
    assert len([trade for trade in stored["trades"] if trade["sequence"] == last]) == 2
    assert [row["position"] for row in stored["ledger"] if row["sequence"] == last] == list(range(9))
    node.add([Deposit("ann", "next", "USD", 5)])
    node.follow()
    assert node.stored()["ledger"][-1]["position"] == 0


def test_a_cut_removes_later_results_of_time(tmp_path: Path) -> None:
    node = interrupted(tmp_path / "node")
    node.follow()
    at, before = node.applied, rows(node)
    node.add([], seconds=CALL_S + 1)
    node.follow()
    assert rows(node) != before
    gone_back(node, at)
    node.follow()
    assert rows(node) == before


def test_no_fill_is_lost_between_two_pages(tmp_path: Path) -> None:
    """Both auctions open with one entry, with the same trade id: their trades have the same place among the account's."""
    node = interrupted(tmp_path / "node")
    node.add([], seconds=2 * CALL_S + 1)
    node.follow()
    past = HistoryReader(node.config)
    found: list[tuple[str, int]] = []
    after: Place | None = None
    while page := past.fills("ann", "", 0, PageRequest(1, after)):
        found += [(row["product_id"], row["trade_id"]) for row in page]
        after = page[-1]["sequence"], page[-1]["trade_id"]
    past.close()
    assert sorted(found) == [(product.product_id, number) for product in node.engine.products() for number in (1, 2)]


def test_an_exit_that_is_done_and_forgotten_within_a_transaction_has_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of an exit is in no outcome, and the engine keeps the last done orders of an account."""
    monkeypatch.setattr("statemachine.state.DONE_ORDERS_PER_ACCOUNT", 5)
    node = NodeLog(tmp_path / "node")
    node.add(foundations((0, 0), 10**9))
    product = node.engine.products()[0]

    def order(account: str, name: str, side: Side, price: int, **more: Any) -> PlaceOrder:
        terms = OrderType.LIMIT, price * product.tick, 4 * product.lot
        return PlaceOrder(account, name, product.product_id, side, *terms, **more)

    node.add([order("ann", "sell", Side.SELL, 100)])
    node.add([order("bob", "buy", Side.BUY, 100, options=OrderOptions(take_profit=200 * product.tick))])
    (leaves,) = node.engine.orders("bob", done=False)
    node.add([order("ann", "profit", Side.BUY, 200)])
    whole = node.engine.order(leaves.order_id)
    assert whole is not None
    assert whole.status is OrderStatus.DONE
    node.add([order("bob", f"i{each}", Side.BUY, 1, time_in_force=TimeInForce.IOC) for each in range(5)])
    assert node.engine.order(leaves.order_id) is None
    node.follow()
    (row,) = (row for row in node.stored()["orders"] if row["order_id"] == leaves.order_id)
    assert (row["status"], row["filled_size"], row["remaining"]) == (OrderStatus.DONE, whole.filled_size, 0)
    assert (row["executed_value"], row["done_at"]) == (whole.executed_value, whole.done_at)

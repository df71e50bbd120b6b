"""The history keeps who did what, and the options of orders."""

from __future__ import annotations

from pathlib import Path

from node.history.pages import PageRequest
from node.history.queries import HistoryReader
from statemachine.commands import OpenAccount, OrderOptions, PlaceOrder, PutApiKey, PutUser
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Permission, Side
from tests.property.worlds import foundations
from tests.unit.node.history.logs import NodeLog


def test_each_command_of_the_operator_names_its_sender(tmp_path: Path) -> None:
    node = NodeLog(tmp_path / "cluster")
    node.add(foundations((0, 0), 50_000))
    key = PutApiKey(OPERATOR, "key", "k-bare", OPERATOR, "c2VjcmV0", "hidden", Permission.ACCOUNTS)
    node.add([PutUser(OPERATOR, "user", "rita", []), key])
    node.add([OpenAccount("operator/key/k-bare", "one", "zoe"), OpenAccount("operator/rita", "two", "yann")])
    node.add([OpenAccount("operator/key/k-bare", "three", "zoe")])
    node.follow()
    past = HistoryReader(node.config)
    past.progress()
    newest = past.operations("", 5, 0, 0)
    shown = [(row["sender"], row["command"], row["outcome"]) for row in newest]
    assert shown == [
        ("key/k-bare", "OpenAccount", "unchanged"),
        ("rita", "OpenAccount", "not_permitted"),
        ("key/k-bare", "OpenAccount", "done"),
        ("operator", "PutApiKey", "done"),
        ("operator", "PutUser", "done"),
    ]
    assert newest[0]["fields"] == '{"new_account_id":"zoe"}'
    assert "c2VjcmV0" not in newest[3]["fields"]
    assert "hidden" not in newest[3]["fields"]
    assert [row["outcome"] for row in past.operations("key/k-bare", 5, newest[0]["sequence"], 0)] == ["done"]
    past.close()


def test_an_order_keeps_its_options(tmp_path: Path) -> None:
    node = NodeLog(tmp_path / "cluster")
    node.add(foundations((0, 0), 50_000))
    options = OrderOptions(session="desk", take_profit=48)
    product = node.engine.products()[0]
    order = PlaceOrder("ann", "x", product.product_id, Side.BUY, OrderType.LIMIT, 44, 40 * product.lot, options=options)
    node.add([order])
    node.follow()
    past = HistoryReader(node.config)
    past.progress()
    (found, *_) = node.engine.orders("ann", limit=1)
    stored = past.order("ann", found.order_id)
    assert stored is not None
    assert stored.terms == found.terms
    assert stored.terms is not None
    assert (stored.terms.session, stored.terms.take_profit) == ("desk", 48)
    assert past.done_orders("ann", "", 0, PageRequest()) is not None
    past.close()

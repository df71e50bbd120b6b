"""Records with orders: which become commands, and which are explained and skipped."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from node.client.shapes import product
from node.streams.orders import BadRecordError, _refusal, command_of
from statemachine.commands import CancelOrder, PlaceOrder
from statemachine.events import Rejected
from statemachine.tables import ProductRow
from statemachine.types import OrderType, ProductStatus, Reason, Side, TimeInForce

ROW = ProductRow("BTC-USD", "BTC", "USD", 1, 1, 1, 10**12, 0, 0, ProductStatus.ONLINE)
PRODUCTS = {"BTC-USD": product(ROW, {"BTC": 8, "USD": 2})}
ORDER: dict[str, Any] = {
    "account_id": "alice",
    "product_id": "BTC-USD",
    "side": "buy",
    "price": "30000.5",
    "size": "0.5",
    "client_oid": "a",
}


def read(**changed: Any) -> Any:
    return command_of(json.dumps({**ORDER, **changed}).encode(), "k:orders:0:7", PRODUCTS)


def test_an_order_in_json_is_read() -> None:
    command = read(time_in_force="ioc", post_only=False)
    assert isinstance(command, PlaceOrder)
    assert (command.account_id, command.command_id, command.client_oid) == ("alice", "k:orders:0:7", "a")
    assert (command.side, command.order_type, command.price, command.size) == (Side.BUY, OrderType.LIMIT, 3_000_050, 5 * 10**7)
    assert command.time_in_force is TimeInForce.IOC
    market = read(type="market", price="", size="", funds="10")
    assert (market.order_type, market.price, market.funds) == (OrderType.MARKET, 0, 1000)


def test_a_cancel_in_json_is_read() -> None:
    command = command_of(b'{"account_id": "alice", "type": "cancel", "client_oid": "a"}', "k:orders:0:8", PRODUCTS)
    assert command == CancelOrder("alice", "k:orders:0:8", 0, "a")
    assert read(type="cancel", order_id="12").order_id == 12


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"side": "bye"}, "side: expected one of buy, sell"),
        ({"type": "nonsense"}, "type: expected one of"),
        ({"price": "1.001"}, "price"),
        ({"size": "-1"}, "size"),
        ({"type": "market", "price": "", "funds": "0.00"}, "funds: expected more than 0"),
        ({"size": 5}, "account_id, type, product_id"),
        ({"product_id": "X"}, "product_id: expected one of BTC-USD"),
        ({"unknown": 1}, "unknown field"),
        ({"time_in_force": "x" * 1000}, "time_in_force"),
        ({"stp": "zz"}, "stp: expected one of"),
        ({"type": "cancel", "client_oid": ""}, "order_id: expected it or client_oid"),
        ({"type": "cancel", "order_id": "9" * 40}, "order_id: expected a number"),
        ({"type": "cancel", "order_id": "１"}, "order_id: expected a number"),
        ({"type": "cancel", "order_id": str(2**63)}, "order_id: expected a number"),
        ({"account_id": "operator/ada"}, "account_id: expected the name of an account"),
        ({"account_id": "operator"}, "account_id: expected the name of an account"),
        ({"account_id": ""}, "account_id: expected the name of an account"),
        ({"account_id": "x" * 1_000_000}, "account_id: expected the name of an account"),
        ({"type": "cancel", "client_oid": "x" * 1_000_000}, "client_oid: expected 1 to 64"),
        ({"product_id": "x" * 1_000_000}, "product_id: expected one of BTC-USD"),
    ],
)
def test_an_invalid_record_of_an_order_is_explained(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRecordError, match=text) as caught:
        read(**changed)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b"{}", b"\xff\xfe", b"null", b"[" * 100_000])
def test_any_bytes_raise_only_this_error(data: bytes) -> None:
    with pytest.raises(BadRecordError):
        command_of(data, "k:orders:0:1", PRODUCTS)


def test_a_repeated_offset_is_an_error_of_the_topic() -> None:
    """A topic that was deleted and created again begins at offset 0."""
    level, text = _refusal("k:orders:0:7", Rejected(1, 1, False, Reason.COMMAND_ID_REUSED, "command_id", "5"))
    assert level == logging.ERROR
    assert "k:orders:0:7" in text
    assert "a topic with a new name" in text
    level, text = _refusal("k:orders:0:8", Rejected(1, 1, False, Reason.INSUFFICIENT_FUNDS, "size", "5"))
    assert (level, text) == (logging.INFO, "k:orders:0:8 is refused: insufficient_funds size")

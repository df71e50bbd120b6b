"""The judge of answers accepts a right one and names each kind of wrong one, over the native protocol and over HTTP."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from loadtest.answers import fault
from loadtest.rest import RestRequest, answer_fault, flow_request, order_body, signed_headers
from node.keys.credentials import sign
from statemachine.commands import CancelAll, CancelOrder, PlaceOrder
from statemachine.events import Cancelled, Done, OrderState, Placed, Rejected
from statemachine.types import DoneReason, OrderStatus, OrderType, Reason, SelfTradePrevention, Side, StopType, TimeInForce

BTC = 10**8
ORDER = PlaceOrder("alice", "c:1", "BTC-USD", Side.BUY, OrderType.LIMIT, 100 * BTC, 2 * BTC, client_oid="1")
FUNDS = PlaceOrder("alice", "c:2", "BTC-USD", Side.BUY, OrderType.MARKET, 0, 0, 500 * BTC, client_oid="2")
STOP = msgspec.structs.replace(ORDER, side=Side.SELL, stop=StopType.LOSS, stop_price=110 * BTC)
FLEETING = msgspec.structs.replace(ORDER, time_in_force=TimeInForce.GTT, cancel_after=10**9)


def state(command: PlaceOrder, **changes: Any) -> OrderState:
    facts = {
        name: getattr(command, name)
        for name in ("account_id", "client_oid", "product_id", "side", "order_type", "price", "size", "funds")
    }
    rest = {name: getattr(command, name) for name in ("time_in_force", "post_only", "stp", "stop", "stop_price")}
    numbers = {"created_at": 1, "maker_fee_ppm": 0, "taker_fee_ppm": 0, "remaining": command.size, "hold": 0}
    return OrderState(**{"order_id": 1, **facts, **rest, **numbers, **changes})


def placed(command: PlaceOrder, **changes: Any) -> Placed:
    return Placed(1, 1, False, state(command, **changes))


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        (ORDER, {}),
        (ORDER, {"filled_size": BTC, "executed_value": 99 * BTC, "remaining": BTC}),
        (FUNDS, {"filled_size": BTC, "executed_value": 499 * BTC, "fill_fees": BTC, "status": OrderStatus.DONE}),
        (STOP, {"status": OrderStatus.ACTIVE}),
        (ORDER, {"status": OrderStatus.ACTIVE}),
        (FLEETING, {"expires_at": 1 + 10**9}),
    ],
)
def test_right_answers_pass(command: PlaceOrder, changes: dict[str, Any]) -> None:
    assert fault(command, placed(command, **changes)) == ""


def test_rejects_that_an_auction_may_give_pass() -> None:
    refused = Rejected(1, 1, False, Reason.PRODUCT_IN_AUCTION, "", "")
    assert fault(FUNDS, refused) == ""
    assert fault(msgspec.structs.replace(ORDER, post_only=True), refused) == ""
    assert "collects" in fault(ORDER, refused)
    assert "collects" in fault(STOP, refused)


@pytest.mark.parametrize(
    ("command", "changes", "text"),
    [
        (ORDER, {"account_id": "bob"}, "account_id 'bob'"),
        (ORDER, {"price": 1}, "price 1, sent"),
        (ORDER, {"filled_size": 3 * BTC}, "filled 300000000 of 200000000"),
        (ORDER, {"filled_size": BTC, "executed_value": 101 * BTC}, "bought for"),
        (FUNDS, {"executed_value": 500 * BTC, "fill_fees": 1, "status": OrderStatus.DONE}, "spent"),
        (FUNDS, {}, "rests"),
        (msgspec.structs.replace(ORDER, side=Side.SELL), {"filled_size": BTC, "executed_value": 99 * BTC}, "sold for"),
        (msgspec.structs.replace(ORDER, post_only=True), {"filled_size": BTC, "executed_value": BTC}, "post-only took"),
        (
            msgspec.structs.replace(ORDER, time_in_force=TimeInForce.FOK),
            {"filled_size": BTC, "executed_value": BTC, "status": OrderStatus.DONE},
            "fill or kill",
        ),
        (msgspec.structs.replace(ORDER, time_in_force=TimeInForce.IOC), {}, "rests"),
        (STOP, {}, "stop LOSS, and the order is OPEN"),
        (ORDER, {"status": OrderStatus.ACTIVE, "filled_size": BTC, "executed_value": 99 * BTC}, "an auction collected it"),
        (msgspec.structs.replace(ORDER, post_only=True), {"status": OrderStatus.ACTIVE}, "an auction collected it"),
        (FUNDS, {"status": OrderStatus.ACTIVE}, "rests"),
        (STOP, {"status": OrderStatus.ACTIVE, "stop_price": 1}, "stop_price 1, sent"),
        (FLEETING, {}, "leaves at 0"),
        (ORDER, {"expires_at": 5}, "leaves at 5"),
    ],
)
def test_wrong_answers_are_named(command: PlaceOrder, changes: dict[str, Any], text: str) -> None:
    assert text in fault(command, placed(command, **changes))


def test_rejects_that_the_flow_may_get_pass() -> None:
    allowed = Rejected(1, 1, False, Reason.ORDER_ALREADY_DONE, "", "")
    assert fault(CancelOrder("alice", "x", 1), allowed) == ""
    assert "ORDER_ALREADY_DONE" in fault(ORDER, allowed)
    assert "INVALID_PRICE price" in fault(ORDER, Rejected(1, 1, False, Reason.INVALID_PRICE, "price", ""))


def test_another_kind_of_outcome_is_wrong() -> None:
    assert fault(ORDER, Done(1, 1, False, True)) == "answered by Done, expected Placed"


def test_answers_to_cancels_are_checked() -> None:
    done = state(ORDER, status=OrderStatus.DONE, done_reason=DoneReason.CANCELLED)
    one = CancelOrder("alice", "x", 1, "", "BTC-USD")
    assert fault(one, Cancelled(1, 1, False, [done])) == ""
    assert "is OPEN" in fault(one, Cancelled(1, 1, False, [state(ORDER)]))
    assert "one order" in fault(one, Cancelled(1, 1, False, []))
    assert "of bob" in fault(one, Cancelled(1, 1, False, [msgspec.structs.replace(done, account_id="bob")]))
    assert "of BTC-USD" in fault(CancelAll("alice", "a", "ETH-USD"), Cancelled(1, 1, False, [done]))


def reply(**changes: object) -> dict[str, object]:
    return {**order_body(ORDER), "id": "i", "status": "open", "filled_size": "0", **changes}


def test_an_order_is_written_as_json() -> None:
    assert order_body(ORDER) == {
        "product_id": "BTC-USD",
        "side": "buy",
        "type": "limit",
        "client_oid": "1",
        "price": "100",
        "size": "2",
        "time_in_force": "GTC",
    }
    assert order_body(FUNDS) == {"product_id": "BTC-USD", "side": "buy", "type": "market", "client_oid": "2", "funds": "500"}
    stop = order_body(msgspec.structs.replace(STOP, time_in_force=TimeInForce.GTT, cancel_after=90 * 10**9))
    found = [stop[name] for name in ("stop", "stop_price", "time_in_force", "cancel_after")]
    assert found == ["loss", "110", "GTT", 90]
    assert order_body(msgspec.structs.replace(ORDER, stp=SelfTradePrevention.CN, post_only=True))["stp"] == "cn"


def test_each_command_has_its_http_target() -> None:
    assert flow_request(CancelOrder("alice", "x:9", 0, "1", "BTC-USD")).target == "/orders/client:1?product_id=BTC-USD"
    assert flow_request(CancelAll("alice", "a:9", "BTC-USD")).target == "/orders?product_id=BTC-USD"


def test_http_signature_agrees_with_the_servers() -> None:
    request = RestRequest("POST", "/orders?x=1", b'{"a":1}', "POST /orders")
    headers = signed_headers("k", "c2VjcmV0", "p", request)
    assert headers["CB-ACCESS-SIGN"] == sign("c2VjcmV0", headers["CB-ACCESS-TIMESTAMP"], "POST", "/orders?x=1", b'{"a":1}')


@pytest.mark.parametrize(
    ("status", "answer", "text"),
    [
        (200, reply(), ""),
        (200, reply(price="100.00"), ""),
        (400, {"message": "Insufficient funds", "reason": "insufficient_funds"}, ""),
        (200, reply(price="101"), "price '101'"),
        (200, reply(filled_size="3"), "filled 3 of 2"),
        (200, reply(filled_size="many"), "without its numbers"),
        (200, reply(status="pending"), "no id or status"),
        (200, reply(client_oid="2"), "client_oid '2'"),
        (200, "id", "an order expected"),
        (200, "<html>", "an order expected"),
        (400, [], "without a message"),
        (400, {"message": "Invalid price", "reason": "invalid_price"}, "status 400"),
        (500, {}, "status 500"),
    ],
)
def test_answers_over_http_are_checked(status: int, answer: object, text: str) -> None:
    found = answer_fault(ORDER, status, answer)
    assert text in found if text else found == ""

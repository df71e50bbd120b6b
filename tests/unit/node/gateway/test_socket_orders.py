"""Orders over the WebSocket: the answers and ids of REST, bounds, and who may send them."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse

from node.errors import RequestFailed
from node.gateway import socket_orders
from node.gateway.errors import UnavailableError
from node.keys.credentials import Credentials
from node.native.protocol import AnyQuery, FailCode, OrderQuery
from statemachine.commands import CancelAllAfter
from tests.unit.node.gateway.harness import Exchange, receive
from tests.waiting import until

ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "50", "size": "1"}


async def ask(socket: ClientWebSocketResponse, kind: str, request_id: str, **fields: Any) -> Any:
    """Send a message. Returns its answer."""
    await socket.send_json({"type": kind, "request_id": request_id} | fields)
    answer = await receive(socket)
    assert answer["type"] == "result", answer
    assert answer["request_id"] == request_id
    return answer


async def trader(exchange: Exchange, who: str = "alice") -> ClientWebSocketResponse:
    """Return a connection that has signed once."""
    socket = await exchange.socket()
    answer = await ask(socket, "cancel_all", "hello", **exchange.socket_signature(who))
    assert (answer["success"], answer["order_ids"]) == (True, [])
    return socket


async def test_an_order_is_placed_amended_and_cancelled(exchange: Exchange) -> None:
    socket = await trader(exchange)
    placed = await ask(socket, "place", "1", order=ORDER | {"client_oid": "mine"})
    assert (placed["success"], placed["status"], placed["order"]["status"]) == (True, 200, "open")
    assert (await exchange.call("alice", "GET", "/orders/client:mine"))[1] == placed["order"]
    amended = await ask(socket, "amend", "2", order={"client_oid": "mine", "size": "0.5"})
    assert (amended["order"]["id"], amended["order"]["size"]) == (placed["order"]["id"], "0.5")
    cancelled = await ask(socket, "cancel", "3", order_id=placed["order"]["id"])
    assert cancelled["order_ids"] == [placed["order"]["id"]]
    assert placed["sequence"] < amended["sequence"] < cancelled["sequence"]
    one = await ask(socket, "place", "4", order=ORDER)
    other = await ask(socket, "place", "5", order=ORDER | {"product_id": "ETH-BTC", "price": "0.01"})
    assert (await ask(socket, "cancel_all", "6", product_id="BTC-USD"))["order_ids"] == [one["order"]["id"]]
    assert (await ask(socket, "cancel_all", "7"))["order_ids"] == [other["order"]["id"]]


async def test_an_amendment_names_the_product_of_the_order(exchange: Exchange) -> None:
    """Amounts are read with the digits of the named product, so for another one they would be wrong by powers of ten."""
    socket = await trader(exchange)
    other = {"product_id": "ETH-BTC", "side": "buy", "price": "0.01", "size": "1", "client_oid": "mine"}
    assert (await ask(socket, "place", "1", order=other))["success"]
    refused = await ask(socket, "amend", "2", order={"client_oid": "mine", "price": "10000", "product_id": "BTC-USD"})
    assert (refused["success"], refused["error"]["field"]) == (False, "product_id")
    amended = await ask(socket, "amend", "3", order={"client_oid": "mine", "price": "0.02", "product_id": "ETH/BTC"})
    assert amended["order"]["price"] == "0.02"


async def test_a_follower_that_does_not_know_the_order_yet_asks_the_leader(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 404 would be final. Over REST such a node answers with 307 or 503."""
    socket = await trader(exchange)
    order = await exchange.order("alice", "buy", "50", "1")
    backend = exchange.backend
    known = backend.query

    async def behind(query: AnyQuery, linearizable: bool = False) -> Any:
        if isinstance(query, OrderQuery):
            raise RequestFailed(FailCode.NOT_FOUND, "no such order here")
        return await known(query, linearizable)

    async def at_leader(query: AnyQuery) -> Any:
        return await known(query)

    monkeypatch.setattr(backend, "query", behind)
    monkeypatch.setattr(backend, "query_leader", at_leader)
    backend.status["role"] = "follower"
    await exchange.gateway.monitor.poll()
    amended = await ask(socket, "amend", "1", order={"order_id": order["id"], "size": "0.5"})
    assert (amended["status"], amended["order"]["size"]) == (200, "0.5")
    backend.status["role"] = "leader"
    await exchange.gateway.monitor.poll()
    assert (await ask(socket, "amend", "2", order={"order_id": order["id"], "size": "0.4"}))["status"] == 404


@pytest.mark.parametrize("field", ["stop_limit_price", "max_floor"])
async def test_fields_that_orders_do_not_have_are_refused_as_over_rest(exchange: Exchange, field: str) -> None:
    socket = await trader(exchange)
    refused = await ask(socket, "place", "1", order=ORDER | {field: "1"})
    assert (refused["status"], refused["error"]["field"]) == (400, field)
    await exchange.order("alice", "buy", "50", "1", client_oid="mine")
    status, answer = await exchange.call("alice", "POST", "/orders/client:mine/replace", ORDER | {field: "1"})
    assert (status, answer["field"]) == (400, field)


async def test_a_mass_cancel_has_the_filters_of_rest(exchange: Exchange) -> None:
    socket = await trader(exchange)
    ids = [
        (await ask(socket, "place", f"p{price}", order=ORDER | {"price": str(price), "client_oid": f"at-{price}"}))["order"]["id"]
        for price in (90, 91, 92)
    ]
    assert (await ask(socket, "cancel_all", "1", side="sell"))["order_ids"] == []
    found = await ask(socket, "cancel_all", "2", product_id="BTC-USD", side="buy", price_min="91", price_max="91.5")
    assert found["order_ids"] == [ids[1]]
    assert (await ask(socket, "cancel_all", "3", product_id="BTC-USD", price_min=92))["order_ids"] == [ids[2]]
    for fields, field in (
        ({"price_min": "1"}, "product_id"),
        ({"side": "up"}, "side"),
        ({"product_id": "BTC-USD", "price_min": "9", "price_max": "8"}, "price_max"),
    ):
        refused = await ask(socket, "cancel_all", f"bad-{field}", **fields)
        assert (refused["status"], refused["error"]["field"]) == (400, field)
    assert (await ask(socket, "cancel_all", "4"))["order_ids"] == [ids[0]]


async def test_a_message_that_comes_again_is_carried_out_once(exchange: Exchange) -> None:
    socket = await trader(exchange)
    first = await ask(socket, "place", "a" * 60, order=ORDER)
    again = await ask(socket, "place", "a" * 60, order=ORDER)
    assert (again["order"]["id"], again["duplicate"]) == (first["order"]["id"], True)
    over_rest = await exchange.order("alice", "buy", "51", "1", client_oid="one")
    same = await ask(socket, "place", "b", order=ORDER | {"price": "51", "client_oid": "one"})
    assert (same["order"]["id"], same["duplicate"]) == (over_rest["id"], True)
    other = await ask(socket, "place", "a" * 60, order=ORDER | {"price": "52"})
    assert (other["success"], other["error"]["reason"]) == (False, "command_id_reused")


async def test_orders_without_signature_or_permission_are_refused(exchange: Exchange) -> None:
    socket = await exchange.socket()
    assert (await ask(socket, "place", "1", order=ORDER))["status"] == 401
    viewer = Credentials("viewer", exchange.keys["alice"].secret, "p")
    key = {"account_id": "alice", "secret": viewer.secret, "passphrase": viewer.passphrase, "permissions": ["view"]}
    assert (await exchange.call("admin", "PUT", "/admin/keys/viewer", key))[0] == 200
    exchange.keys["viewer"] = viewer
    refused = await ask(socket, "place", "2", order=ORDER, **exchange.socket_signature("viewer"))
    assert (refused["status"], refused["error"]["detail"]) == (403, "trade")
    socket = await exchange.socket()
    assert (await ask(socket, "place", "3", order=ORDER, **exchange.socket_signature("admin")))["status"] == 403
    assert not [command for command in exchange.backend.submitted if type(command).__name__ == "PlaceOrder"]


async def test_a_revoked_key_places_nothing_more(exchange: Exchange) -> None:
    socket = await trader(exchange)
    assert (await exchange.call("admin", "DELETE", "/admin/keys/alice-key"))[0] == 200
    await socket.send_json({"type": "place", "request_id": "1", "order": ORDER})
    answer = await receive(socket, "result")
    assert (answer["success"], answer["status"]) == (False, 401)


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("place", {"order": ORDER | {"price": "x"}}, "price"),
        ("place", {"order": ORDER | {"size": "0.001"}}, "size"),
        ("place", {"order": ORDER | {"product_id": "NONE"}}, "product_id"),
        ("place", {"order": ORDER | {"profile_id": "bob"}}, "profile_id"),
        ("amend", {"order": {"client_oid": "a"}, "request_id": "2"}, "order_id"),
        ("amend", {"order": {"client_oid": "a", "size": "1", "product_id": "BTC-USD"}}, "client_oid"),
        ("cancel", {}, "order_id"),
        ("cancel", {"order_id": "x"}, "order_id"),
        ("cancel", {"client_oid": "a b"}, "client_oid"),
        ("cancel", {"client_oid": "none"}, "client_oid"),
        ("cancel_all", {"product_id": "NONE"}, "product_id"),
        ("cancel_all", {"session": " "}, "session"),
    ],
)
async def test_a_refusal_names_the_field(exchange: Exchange, kind: str, fields: dict[str, Any], field: str) -> None:
    socket = await trader(exchange)
    await socket.send_json({"type": kind, "request_id": "1"} | fields)
    answer = await receive(socket, "result")
    assert (answer["success"], answer["error"]["field"]) == (False, field), answer


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"type": "place", "request_id": "1"}, "order is required"),
        ({"type": "place", "order": ORDER}, "request_id is required"),
        ({"type": "place", "request_id": 7, "order": ORDER}, "request_id: expected str"),
        ({"type": "place", "request_id": "1", "order": ORDER | {"colour": "red"}}, "order.colour is not a field"),
        ({"type": "cancel", "request_id": "1", "order_id": ["x"]}, "order_id: expected"),
        ({"type": "cancel_all", "request_id": "1", "price": "1"}, "price is not a field"),
    ],
)
async def test_a_message_that_cannot_be_read_is_an_error(exchange: Exchange, message: dict[str, Any], word: str) -> None:
    socket = await trader(exchange)
    await socket.send_json(message)
    answer = await receive(socket, "error")
    assert word in answer["message"], answer


async def test_too_many_commands_in_progress_are_refused(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = await trader(exchange)
    monkeypatch.setattr(socket_orders, "UNDER_WAY_MAX", 0)
    answer = await ask(socket, "place", "1", order=ORDER)
    assert (answer["status"], answer["error"]["reason"]) == (429, "rate_limit")


async def test_many_orders_are_sent_without_waiting_and_in_order(exchange: Exchange) -> None:
    socket = await trader(exchange)
    for number in range(30):
        await socket.send_json({"type": "place", "request_id": f"n{number}", "order": ORDER | {"price": str(50 + number)}})
    answers = [await receive(socket, "result") for _ in range(30)]
    assert [answer["request_id"] for answer in answers] == [f"n{number}" for number in range(30)]
    assert [answer["sequence"] for answer in answers] == sorted(answer["sequence"] for answer in answers)


class TestCancelOnDisconnect:
    @staticmethod
    async def count(exchange: Exchange) -> int:
        """Return the number of Alice's open orders."""
        return len((await exchange.call("alice", "GET", "/orders"))[1])

    @staticmethod
    def timers(exchange: Exchange) -> list[CancelAllAfter]:
        return [command for command in exchange.backend.submitted if isinstance(command, CancelAllAfter)]

    async def gone(self, exchange: Exchange, left: int) -> None:
        """Wait until so many orders are left and no timer is set."""
        await until(lambda: self.timers(exchange)[-1].timeout == 0)
        assert await self.count(exchange) == left

    async def test_the_orders_of_the_session_leave_with_the_connection(self, exchange: Exchange) -> None:
        socket = await trader(exchange)
        answer = await ask(socket, "cancel_on_disconnect", "1", session="s")
        assert (answer["success"], answer["trigger_time"][-1]) == (True, "Z")
        await ask(socket, "place", "2", order=ORDER | {"session": "s"})
        await ask(socket, "place", "3", order=ORDER)
        await socket.send_json({"type": "place", "request_id": "4", "order": ORDER | {"session": "s"}})
        await socket.close()
        await self.gone(exchange, 1)
        assert exchange.gateway.holders == {}

    async def test_without_a_session_all_orders_leave(self, exchange: Exchange) -> None:
        socket = await trader(exchange)
        await exchange.order("alice", "buy", "50", "1")
        await ask(socket, "cancel_on_disconnect", "1", timeout=20)
        await socket.close()
        await self.gone(exchange, 0)

    async def test_orders_of_an_offline_product_leave_too(self, exchange: Exchange) -> None:
        socket = await trader(exchange)
        await exchange.order("alice", "buy", "50", "1")
        await ask(socket, "cancel_on_disconnect", "1", timeout=20)
        offline = {"status": "offline"}
        assert (await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", offline))[0] == 200
        await socket.close()
        await self.gone(exchange, 0)

    async def test_a_cleared_cancel_on_disconnect_cancels_nothing(self, exchange: Exchange) -> None:
        socket = await trader(exchange)
        await exchange.order("alice", "buy", "50", "1")
        await ask(socket, "cancel_on_disconnect", "1")
        assert (await ask(socket, "cancel_on_disconnect", "2", timeout=0))["trigger_time"] is None
        await socket.close()
        await until(lambda: not exchange.gateway.feeds.sessions)
        assert (await self.count(exchange), self.timers(exchange)[-1].timeout) == (1, 0)

    async def test_the_end_of_a_connection_that_was_replaced_cancels_nothing(self, exchange: Exchange) -> None:
        old, new = await trader(exchange), await trader(exchange)
        await exchange.order("alice", "buy", "50", "1")
        await ask(old, "cancel_on_disconnect", "1")
        await ask(new, "cancel_on_disconnect", "2")
        await old.close()
        await until(lambda: len(exchange.gateway.feeds.sessions) == 1)
        assert await self.count(exchange) == 1
        await new.close()
        await self.gone(exchange, 0)

    async def test_the_timer_cancels_when_the_node_stops_or_dies(self, exchange: Exchange) -> None:
        socket = await trader(exchange)
        await exchange.order("alice", "buy", "50", "1")
        await ask(socket, "cancel_on_disconnect", "1", timeout=30)
        await exchange.gateway.feeds.close()
        await until(lambda: exchange.gateway.holders == {})
        assert await self.count(exchange) == 1
        exchange.backend.advance(seconds=29)
        assert await self.count(exchange) == 1
        exchange.backend.advance(seconds=2)
        assert await self.count(exchange) == 0

    async def test_the_timer_is_set_again_before_it_goes_off(self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket_orders, "SETS_PER_TIMEOUT", 1_000)
        socket = await trader(exchange)
        await ask(socket, "cancel_on_disconnect", "1")
        await until(lambda: len(self.timers(exchange)) > 5)
        assert {timer.timeout for timer in self.timers(exchange)} == {10 * 10**9}
        assert len({timer.command_id for timer in self.timers(exchange)}) == len(self.timers(exchange))

    async def test_taking_it_back_in_vain_leaves_it_in_force(self, exchange: Exchange) -> None:
        socket = await trader(exchange)
        await ask(socket, "cancel_on_disconnect", "1")
        await until(lambda: len(self.timers(exchange)) == 2)
        exchange.backend.fail.append(UnavailableError("gone"))
        assert (await ask(socket, "cancel_on_disconnect", "2", timeout=0))["success"] is False
        await until(lambda: len(self.timers(exchange)) == 3)
        assert {timer.timeout for timer in self.timers(exchange)} == {10 * 10**9}
        assert list(exchange.gateway.holders) == [("alice", "")]

    @pytest.mark.parametrize(
        ("fields", "field"), [({"timeout": 9}, "timeout"), ({"timeout": 301}, "timeout"), ({"session": "t"}, "session")]
    )
    async def test_a_refusal_names_the_field_and_changes_nothing(
        self, exchange: Exchange, fields: dict[str, Any], field: str
    ) -> None:
        socket = await trader(exchange)
        await ask(socket, "cancel_on_disconnect", "1", session="s")
        refused = await ask(socket, "cancel_on_disconnect", "2", **({"session": "s"} | fields))
        assert (refused["success"], refused["error"]["field"]) == (False, field)
        assert list(exchange.gateway.holders) == [("alice", "s")]

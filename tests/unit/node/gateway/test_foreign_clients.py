"""Requests of client libraries that were written for Coinbase Exchange: unknown parameters, exponents, whole seconds,
and the limits of tolerance.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.gateway.errors import UnavailableError
from node.gateway.requests import _may_repeat
from node.gateway.values import EXPONENT_MAX, plain
from tests.unit.node.gateway.harness import HOST, Exchange, headers

ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1"}


class Client:
    """A client with one connection, as `requests` and ccxt have it, which can send the same bytes again."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.connection = http.client.HTTPConnection(HOST, exchange.client.port, timeout=10)

    async def send(self, signed: Mapping[str, str], target: str, body: bytes) -> tuple[int, dict[str, object]]:
        return await asyncio.to_thread(self._send, "POST", signed, target, body)

    async def get(self, target: str) -> int:
        """Send a GET of alice with the target as it is written here. Returns the status."""
        signed = headers(self.exchange.keys["alice"], "GET", target)
        return (await asyncio.to_thread(self._send, "GET", signed, target, b""))[0]

    def _send(self, method: str, signed: Mapping[str, str], target: str, body: bytes) -> tuple[int, dict[str, object]]:
        self.connection.request(method, target, body, dict(signed))
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def client(exchange: Exchange) -> Iterator[Client]:
    made = Client(exchange)
    yield made
    made.connection.close()


def whole_second(
    exchange: Exchange, target: str = "/orders", body: object = ORDER, who: str = "alice"
) -> tuple[dict[str, str], bytes]:
    """Return a request as ccxt signs it."""
    data = json.dumps(body).encode()
    return headers(exchange.keys[who], "POST", target, data, str(int(time.time()))), data


async def open_orders(exchange: Exchange) -> int:
    return len((await exchange.call("alice", "GET", "/orders"))[1])


class TestEqualOrders:
    """ADR 0034: two equal orders in one second are two orders if the connection shows that the second is not the first
    one sent again.
    """

    async def test_equal_orders_one_after_the_other_on_one_connection_are_as_many_orders(
        self, exchange: Exchange, client: Client
    ) -> None:
        signed, body = whole_second(exchange)
        answers = [await client.send(signed, "/orders", body) for _ in range(3)]
        assert [status for status, _ in answers] == [200, 200, 200]
        assert len({answer["id"] for _, answer in answers}) == 3
        assert await open_orders(exchange) == 3

    async def test_equal_batches_on_one_connection_are_as_many_batches(self, exchange: Exchange, client: Client) -> None:
        signed, body = whole_second(exchange, "/orders/batch", {"orders": [ORDER, ORDER]})
        assert [(await client.send(signed, "/orders/batch", body))[0] for _ in range(2)] == [200, 200]
        assert await open_orders(exchange) == 4

    async def test_an_order_of_an_equal_batch_with_a_client_oid_is_placed_once(self, exchange: Exchange, client: Client) -> None:
        """Also if it is filled by then: the id of the client is the id of its command, whatever else is in the batch."""
        await exchange.order("bob", "sell", "100", "1")
        signed, body = whole_second(exchange, "/orders/batch", {"orders": [ORDER | {"client_oid": "mine"}, ORDER]})
        answers = [await client.send(signed, "/orders/batch", body) for _ in range(2)]
        assert [status for status, _ in answers] == [200, 200]
        placed = exchange.backend.engine.orders("alice", done=True)
        assert len(placed) == 3
        assert [order.client_oid for order in placed].count("mine") == 1

    async def test_an_equal_order_on_another_connection_is_a_replay(self, exchange: Exchange, client: Client) -> None:
        """This is what a library sends again after its connection was lost, and what an eavesdropper sends."""
        signed, body = whole_second(exchange)
        assert (await client.send(signed, "/orders", body))[0] == 200
        other = Client(exchange)
        status, answer = await other.send(signed, "/orders", body)
        other.connection.close()
        assert (status, answer["message"]) == (400, "request replayed")
        assert await open_orders(exchange) == 1

    async def test_an_order_repeated_after_an_unknown_outcome_is_placed_once(self, exchange: Exchange, client: Client) -> None:
        """A 504 leaves the outcome open. The same request on the same connection finds the first request's order."""
        signed, body = whole_second(exchange)
        exchange.backend.fail.append(UnavailableError("lost", outcome_unknown=True))
        assert (await client.send(signed, "/orders", body))[0] == 504
        assert (await client.send(signed, "/orders", body))[0] == 200
        assert await open_orders(exchange) == 1

    async def test_an_equal_order_sent_without_waiting_for_the_answer_is_a_replay(self, exchange: Exchange) -> None:
        signed, body = whole_second(exchange)
        head = "".join(f"{name}: {text}\r\n" for name, text in signed.items())
        request = f"POST /orders HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        reader, writer = await asyncio.open_connection(HOST, exchange.client.port)
        writer.write(request + request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        assert answer.count(b"HTTP/1.1 200") == 1
        assert answer.count(b"request replayed") == 1
        assert await open_orders(exchange) == 1

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
    async def test_behind_a_proxy_a_connection_proves_nothing(self, exchange: Exchange, client: Client, header: str) -> None:
        signed, body = whole_second(exchange)
        signed[header] = "192.0.2.1"
        answers = [await client.send(signed, "/orders", body) for _ in range(2)]
        assert [status for status, _ in answers] == [200, 400]

    async def test_a_connection_that_several_keys_share_proves_nothing(self, exchange: Exchange, client: Client) -> None:
        signed, body = whole_second(exchange)
        assert (await client.send(signed, "/orders", body))[0] == 200
        assert (await client.send(*_of(whole_second(exchange, who="bob"))))[0] == 200
        assert (await client.send(signed, "/orders", body))[0] == 400

    async def test_with_fractions_of_a_second_an_equal_request_is_a_replay(self, exchange: Exchange, client: Client) -> None:
        data = json.dumps(ORDER).encode()
        signed = headers(exchange.keys["alice"], "POST", "/orders", data, f"{time.time():.3f}")
        assert [(await client.send(signed, "/orders", data))[0] for _ in range(2)] == [200, 400]

    async def test_an_equal_order_two_seconds_later_is_a_replay(self, exchange: Exchange, client: Client) -> None:
        signed, body = whole_second(exchange)
        assert (await client.send(signed, "/orders", body))[0] == 200
        exchange.gateway.auth.now = lambda: time.time() + 2.0
        assert (await client.send(signed, "/orders", body))[0] == 400

    async def test_money_moves_once(self, exchange: Exchange, client: Client) -> None:
        signed, body = whole_second(exchange, "/withdrawals", {"currency": "USD", "amount": "1"})
        assert [(await client.send(signed, "/withdrawals", body))[0] for _ in range(2)] == [200, 400]


def _of(request: tuple[dict[str, str], bytes]) -> tuple[dict[str, str], str, bytes]:
    return request[0], "/orders", request[1]


class TestParameters:
    async def test_reads_and_cancels_ignore_unknown_parameters(self, exchange: Exchange) -> None:
        assert (await exchange.get("/products?no-cache=1795304696"))[0] == 200
        assert (await exchange.call("alice", "GET", "/accounts?type=spot"))[0] == 200
        order = await exchange.order("alice", "buy", "100", "1")
        assert (await exchange.call("alice", "DELETE", f"/orders/{order['id']}?body=%5Bobject%20Object%5D"))[0] == 200

    async def test_a_misspelt_product_cancels_nothing(self, exchange: Exchange) -> None:
        await exchange.order("alice", "buy", "100", "1")
        status, answer = await exchange.call("alice", "DELETE", "/orders?product=BTC-USD")
        assert (status, answer["field"]) == (400, "product")
        assert await open_orders(exchange) == 1

    @pytest.mark.parametrize("limit", ["1001", "12000", "9" * 400, "0" * 5_000 + "7"])
    async def test_a_limit_beyond_the_page_is_the_page(self, exchange: Exchange, limit: str) -> None:
        for target in ("/products/BTC-USD/trades", "/orders"):
            assert (await exchange.call("alice", "GET", f"{target}?limit={limit}"))[0] == 200

    @pytest.mark.parametrize("limit", ["0", "00", "-1", "1.5", "", "x", "%C2%B2"])
    async def test_a_limit_that_is_not_a_number_is_refused(self, exchange: Exchange, limit: str) -> None:
        status, answer = await exchange.call("alice", "GET", f"/orders?limit={limit}")
        assert (status, answer["field"]) == (400, "limit")


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (b'{"product_id":"BTC-USD","side":"buy","price":"1","size":"1","side":"sell"}', "side"),
            (b'{"product_id":"BTC-USD","side":"buy","price":"1","size":"1","si\\u0064e":"sell"}', "side"),
            (b'{"product_id":"BTC-USD","side":"buy","price":"1","size":1,"size" : 2}', "size"),
        ],
    )
    async def test_a_field_that_is_given_twice_is_refused(self, exchange: Exchange, body: bytes, field: str) -> None:
        """Some readers take the first value, some the last. The exchange takes neither."""
        response = await exchange.send("alice", "POST", "/orders", raw=body)
        assert response.status == 400
        assert (await response.json())["field"] == field
        assert await open_orders(exchange) == 0

    async def test_each_order_of_a_batch_has_its_own_fields(self, exchange: Exchange) -> None:
        status, answer = await exchange.call("alice", "POST", "/orders/batch", {"orders": [ORDER, ORDER | {"price": "101"}]})
        assert (status, [result["success"] for result in answer["results"]]) == (200, [True, True])
        raw = b'{"orders":[{"product_id":"BTC-USD","side":"buy","price":"1","price":"2","size":"1"}]}'
        assert (await exchange.send("alice", "POST", "/orders/batch", raw=raw)).status == 400

    @given(
        pairs=st.lists(
            st.tuples(st.text(max_size=4), st.text(max_size=6) | st.integers() | st.lists(st.text(max_size=3))), max_size=5
        )
    )
    def test_the_cheap_look_misses_no_repeated_key(self, pairs: list[tuple[str, object]]) -> None:
        body = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names) and not any(":" in name for name in names):
            assert _may_repeat(body.encode())

    @pytest.mark.parametrize("size", [b"1e-1", b"1E-1", b"0.001e2", b'"1e-1"', b"100e-3", b"0.1e+0"])
    async def test_exponents_are_read_exactly(self, exchange: Exchange, size: bytes) -> None:
        body = b'{"product_id":"BTC-USD","side":"buy","price":1e2,"size":' + size + b"}"
        response = await exchange.send("alice", "POST", "/orders", raw=body)
        order = await response.json()
        assert (order.get("price"), order.get("size")) == ("100", "0.1"), order

    @given(
        digits=st.integers(0, 10**12),
        places=st.integers(0, 12),
        exponent=st.integers(-EXPONENT_MAX, EXPONENT_MAX),
        sign=st.sampled_from(["", "-"]),
    )
    def test_an_exponent_only_moves_the_point(self, digits: int, places: int, exponent: int, sign: str) -> None:
        whole = str(digits).rjust(places + 1, "0")
        text = f"{sign}{whole[: len(whole) - places]}{'.' + whole[len(whole) - places :] if places else ''}e{exponent}"
        found = plain(text)
        assert "e" not in found
        assert Decimal(found) == Context(prec=100).create_decimal(text)


async def test_the_tick_and_the_lot_are_explained_in_decimals(exchange: Exchange) -> None:
    """The example is Coinbase's own BTC-USD with a dollar of two digits (B8)."""
    product = {"base_currency": "BTC", "quote_currency": "USD", "base_increment": "0.00000001", "quote_increment": "0.01"}
    status, answer = await exchange.call("admin", "PUT", "/admin/products/NEW-USD", product)
    assert (status, answer["field"]) == (400, "quote_increment")
    for text in ("0.0000000001 USD", "a multiple of 1,", "with 10 digits", "smallest unit, 0.01"):
        assert text in answer["detail"]
    assert (await exchange.call("admin", "PUT", "/admin/products/NEW-USD", product | {"base_increment": "1"}))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/currencies/USX", {"scale": 10}))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/products/BTC-USX", product | {"quote_currency": "USX"}))[0] == 200


async def test_the_smallest_order_is_in_the_field_that_clients_read(exchange: Exchange) -> None:
    """ccxt and freqtrade read `min_market_funds` and not `base_min_size` (E3). It is the cost of the smallest size."""
    assert (await exchange.get("/products/BTC-USD"))[1]["min_market_funds"] == "0.02"
    await exchange.order("bob", "sell", "15000", "1")
    await exchange.order("alice", "buy", "15000", "0.5")
    assert (await exchange.get("/products/BTC-USD"))[1]["min_market_funds"] == "300"


async def test_a_change_of_a_product_that_somebody_else_changed_is_refused(exchange: Exchange) -> None:
    """PATCH reads and puts, and must not undo a change between the two (code-reading, bug 5)."""
    ask = exchange.backend.query_leader

    async def slow(query: object) -> object:
        rows = await ask(query)  # type: ignore[arg-type]  # whatever the handler asks
        exchange.backend.query_leader = ask  # type: ignore[method-assign]
        assert (await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"maker_fee_rate": "0.005"}))[0] == 200
        return rows

    exchange.backend.query_leader = slow  # type: ignore[method-assign]
    status, answer = await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"taker_fee_rate": "0.006"})
    assert (status, answer["reason"]) == (409, "changed_meanwhile")
    product = (await exchange.get("/products/BTC-USD"))[1]
    assert (product["maker_fee_rate"], product["taker_fee_rate"]) == ("0.005", "0.002")


async def test_live_orders_are_sorted_as_asked(exchange: Exchange) -> None:
    await exchange.order("alice", "sell", "300", "3")
    await exchange.order("alice", "buy", "90", "5")
    body = {"product_id": "ETH-BTC", "side": "sell", "price": "100.5", "size": "4"}
    assert (await exchange.call("alice", "POST", "/orders", body))[0] == 200

    async def listed(query: str) -> list[str]:
        return [order["size"] for order in (await exchange.call("alice", "GET", f"/orders?{query}"))[1]]

    assert await listed("sortedBy=price&sorting=asc") == ["5", "4", "3"], "in decimals, whatever digits the currencies have"
    assert await listed("sortedBy=price") == ["3", "4", "5"]
    assert await listed("sortedBy=size&sorting=asc&limit=2") == ["3", "4"]
    assert await listed("sorting=asc") == ["3", "5", "4"]
    assert await listed("sortedBy=side&sorting=asc") == ["5", "4", "3"], "equal ones are newest first"


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("/payment-methods", []),
        ("/coinbase-accounts", []),
        ("/withdrawals/fee-estimate?currency=BTC&crypto_address=x", {"fee": "0"}),
        ("/users/self/exchange-limits", {"limit_currency": "USD", "transfer_limits": {}}),
        ("/users/alice/exchange-limits", {"limit_currency": "USD", "transfer_limits": {}}),
    ],
)
async def test_calls_for_missing_features_answer_truthfully(exchange: Exchange, target: str, answer: object) -> None:
    assert await exchange.call("alice", "GET", target) == (200, answer)


async def test_unknown_wallets_users_and_currencies_are_404(exchange: Exchange) -> None:
    assert (await exchange.call("alice", "POST", "/coinbase-accounts/x/addresses", {}))[0] == 404
    assert (await exchange.call("alice", "GET", "/users/bob/exchange-limits"))[0] == 404
    assert (await exchange.call("alice", "GET", "/withdrawals/fee-estimate?currency=NO"))[0] == 404


async def test_a_withdrawal_in_the_form_of_clients_is_booked(exchange: Exchange) -> None:
    body = {
        "currency": "BTC",
        "amount": 0.5,
        "crypto_address": "x",
        "nonce": 7,
        "network": "bitcoin",
        "add_network_fee_to_total": False,
    }
    assert (await exchange.call("alice", "POST", "/withdrawals/crypto", body))[0] == 200


async def test_names_with_colons_and_escapes_are_found_everywhere(exchange: Exchange, client: Client) -> None:
    """L7: the tests use the account of a currency `a:b`, and names written with percent escapes."""
    assert (await exchange.call("admin", "PUT", "/admin/currencies/a:b", {"scale": 2}))[0] == 200
    for target in (
        "/accounts/alice:a:b",
        "/accounts/alice%3Aa%3ab",
        "/accounts/alice:a:b/holds",
        "/accounts/%61lice:a%3Ab/holds",
    ):
        assert await client.get(target) == 200, target
    for target in ("/currencies/a:b", "/currencies/%61%3Ab", "/products/BTC%2FUSD", "/%70roducts/BTC%2dUSD", "/%74ime"):
        assert await client.get(target) == 200, target
    for target in ("/accounts/alice", "/accounts/bob:a:b/holds", "/products%2FBTC-USD", "/products/BTC/USD", "/accounts/alice:a"):
        assert await client.get(target) == 404, target

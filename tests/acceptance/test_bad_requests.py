"""Bad requests reach a real node at every interface. Each gets a status of 4xx that names the field, none gets a 5xx,
and the node continues to serve.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from loadtest.rest import RestRequest, signed_headers
from tests.real_cluster import Exchange

pytestmark = pytest.mark.cluster

ORDER: dict[str, object] = {"product_id": "BTC-USD", "side": "buy", "type": "limit", "price": "100", "size": "0.01"}
Answer = tuple[int, dict[str, str]]


class Api:
    """Requests of a trader or of the operator, signed by default."""

    def __init__(self, exchange: Exchange, url: str, session: aiohttp.ClientSession) -> None:
        self.exchange = exchange
        self.url = url
        self._session = session

    async def send(
        self, method: str, target: str, body: bytes = b"", *, operator: bool = False, headers: dict[str, str] | None = None
    ) -> Answer:
        """Return the status and the JSON of the answer. `headers` replace those of the signature."""
        person, admin = self.exchange.people[0], self.exchange.access.admin
        key = (admin.key_id, admin.secret, admin.passphrase) if operator else (person.key_id, person.secret, person.passphrase)
        signed = {**signed_headers(*key, RestRequest(method, target, body, "")), **(headers or {})}
        kept = {name: text for name, text in signed.items() if text}
        async with self._session.request(method, self.url + target, data=body or None, headers=kept) as response:
            answer = json.loads(await response.read())
            return response.status, answer if isinstance(answer, dict) else {"answer": answer}

    async def order(self, **changes: object) -> Answer:
        """Send POST /orders with a valid order in which these fields are changed. The value None leaves the field out."""
        facts = {name: value for name, value in {**ORDER, **changes}.items() if value is not None}
        return await self.send("POST", "/orders", json.dumps(facts).encode())


@pytest.fixture
async def api(shared_exchange: Exchange) -> AsyncIterator[Api]:
    url = await shared_exchange.leader_url()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield Api(shared_exchange, url, session)
        async with session.get(url + "/time") as response:
            assert response.status == 200, "the node continues to serve"


async def test_a_good_order_is_taken(api: Api) -> None:
    status, answer = await api.order()
    assert (status, answer["status"]) == (200, "open")
    assert (await api.send("DELETE", f"/orders/{answer['id']}"))[0] == 200


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"price": "100.001"}, "price"),
        ({"price": "100." + "0" * 30 + "1"}, "price"),
        ({"price": "-1"}, "price"),
        ({"price": "0"}, "price"),
        ({"price": "1e999"}, "price"),
        ({"price": "NaN"}, "price"),
        ({"price": "9" * 40}, "price"),
        ({"price": "9" * 5000}, "price"),
        ({"price": True}, "price"),
        ({"price": []}, "price"),
        ({"price": None}, "price"),
        ({"size": "0.0000001"}, "size"),
        ({"size": "-0.01"}, "size"),
        ({"size": "0"}, "size"),
        ({"size": {}}, "size"),
        ({"size": None}, "size"),
        ({"funds": "ten", "type": "market", "price": None, "size": None}, "funds"),
        ({"side": "hold"}, "side"),
        ({"side": 1}, "side"),
        ({"side": None}, "side"),
        ({"type": "iceberg"}, "type"),
        ({"product_id": "DOGE-USD"}, "product_id"),
        ({"product_id": 5}, "product_id"),
        ({"product_id": None}, "product_id"),
        ({"time_in_force": "SOON"}, "time_in_force"),
        ({"stp": "xx"}, "stp"),
        ({"post_only": "yes"}, "post_only"),
        ({"client_oid": "with space"}, "client_oid"),
        ({"client_oid": "x" * 500}, "client_oid"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, changes: dict[str, object], field: str) -> None:
    status, answer = await api.order(**changes)
    assert 400 <= status < 500, answer
    assert field in f"{answer['message']} {answer.get('field', '')}", answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b'{"price": 1e999999999}',
        b"[" * 50_000,
        b'{"a":' * 5_000,
        b'{"price":"1","price":"2"}',
    ],
)
async def test_a_malformed_body_is_refused(api: Api, body: bytes) -> None:
    status, answer = await api.send("POST", "/orders", body)
    assert status == 400, answer
    assert answer["message"]


async def test_an_oversized_body_is_refused(api: Api) -> None:
    status, answer = await api.send("POST", "/orders", json.dumps({**ORDER, "client_oid": "x" * 200_000}).encode())
    assert status in (400, 413), answer
    assert answer["message"]


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"CB-ACCESS-KEY": ""}, "CB-ACCESS-KEY"),
        ({"CB-ACCESS-KEY": "nobody"}, "invalid signature"),
        ({"CB-ACCESS-SIGN": ""}, "CB-ACCESS-SIGN"),
        ({"CB-ACCESS-SIGN": "bm90IGl0"}, "invalid signature"),
        ({"CB-ACCESS-SIGN": "not base64 at all"}, "invalid signature"),
        ({"CB-ACCESS-PASSPHRASE": "wrong"}, "Invalid Passphrase"),
        ({"CB-ACCESS-TIMESTAMP": ""}, "CB-ACCESS-TIMESTAMP"),
        ({"CB-ACCESS-TIMESTAMP": "yesterday"}, "timestamp"),
        ({"CB-ACCESS-TIMESTAMP": str(int(time.time()) - 3600)}, "timestamp"),
        ({"CB-ACCESS-TIMESTAMP": "9" * 400}, "timestamp"),
    ],
)
async def test_a_request_that_is_not_signed_right_is_refused(api: Api, headers: dict[str, str], named: str) -> None:
    status, answer = await api.send("GET", "/accounts", headers=headers)
    assert status == 401, answer
    assert named in f"{answer['message']} {answer.get('field', '')}", answer


async def test_a_trader_may_not_do_the_operators_work(api: Api) -> None:
    status, answer = await api.send("PUT", "/admin/accounts/mallory", b"{}")
    assert status == 403, answer
    assert "permission accounts" in f"{answer}"


@pytest.mark.parametrize(
    ("method", "target", "body", "field"),
    [
        ("PUT", "/admin/currencies/X!Y", {"scale": 2}, "id"),
        ("PUT", "/admin/currencies/XYZ", {"scale": "two"}, "scale"),
        ("PUT", "/admin/currencies/XYZ", {"scale": 99}, "scale"),
        ("PUT", "/admin/currencies/XYZ", {}, "scale"),
        ("PUT", "/admin/products/XYZ-USD", {"base_currency": "NONE"}, "quote_currency"),
        ("PUT", "/admin/keys/k9", {"account_id": "nobody", "secret": "!", "passphrase": "", "permissions": []}, ""),
        ("POST", "/admin/accounts/trader-000/deposits", {"currency": "USD", "amount": "-5"}, "amount"),
        ("POST", "/admin/accounts/trader-000/deposits", {"currency": "USD", "amount": "1.123456789"}, "amount"),
        ("POST", "/admin/accounts/trader-000/deposits", {"currency": "NONE", "amount": "1"}, "urrency"),
        ("POST", "/admin/accounts/nobody/deposits", {"currency": "USD", "amount": "1"}, "ccount"),
    ],
)
async def test_the_operators_mistakes_are_named(api: Api, method: str, target: str, body: dict[str, object], field: str) -> None:
    status, answer = await api.send(method, target, json.dumps(body).encode(), operator=True)
    assert 400 <= status < 500, answer
    assert field in f"{answer['message']} {answer.get('field', '')}", answer


@pytest.mark.parametrize(
    ("method", "target", "statuses"),
    [
        ("GET", "/nowhere", (404,)),
        ("PATCH", "/orders", (404, 405)),
        ("GET", "/orders/not-an-id", (400,)),
        ("GET", "/orders/00000000-0000-0000-0000-0000ffffffff", (404,)),
        ("GET", "/orders/ffffffff-ffff-ffff-ffff-ffffffffffff", (404,)),
        ("DELETE", "/orders/client:unknown", (404,)),
        ("GET", "/orders?limit=many", (400,)),
        ("GET", "/orders?limit=-1", (400,)),
        ("DELETE", "/orders?colour=red", (400,)),
        ("GET", "/products/DOGE-USD/book", (404,)),
        ("GET", "/products/BTC-USD/book?level=9", (400,)),
        ("GET", "/accounts/somebody:USD", (404,)),
        ("GET", "/%00%ff/../../etc/passwd", (400, 404)),
    ],
)
async def test_a_wrong_target_is_refused(api: Api, method: str, target: str, statuses: tuple[int, ...]) -> None:
    status, answer = await api.send(method, target)
    assert status in statuses, answer
    assert answer["message"]


async def test_a_parameter_that_a_read_does_not_know_is_passed_over(api: Api) -> None:
    assert await api.send("GET", "/orders?colour=red") == await api.send("GET", "/orders")


def raw(url: str, data: bytes) -> bytes:
    """Return what the HTTP port answers to bytes: b"" when it closes, or says nothing for two seconds."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=2) as connection:
        connection.settimeout(2)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)
        except (TimeoutError, ConnectionError):
            return b""


@pytest.mark.parametrize("seed", range(4))
async def test_the_http_port_survives_garbage(api: Api, seed: int) -> None:
    garbage = random.Random(seed).randbytes(4000)
    for data in (
        garbage,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /time HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
    ):
        answer = raw(api.url, data)
        assert not answer or b" 4" in answer.split(b"\r\n")[0] or b" 200" in answer.split(b"\r\n")[0], answer[:200]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"type":"dance"}',
        '{"type":"subscribe"}',
        '{"type":"subscribe","channels":["nothing"],"product_ids":["BTC-USD"]}',
        '{"type":"subscribe","product_ids":["DOGE-USD"],"channels":["full"]}',
        '{"type":"subscribe","product_ids":7}',
        '{"colour":"red"}',
        '{"type":"subscribe","product_ids":["BTC-USD"],"channels":["user"]}',
        "[" * 50000,
    ],
)
async def test_a_bad_message_on_the_web_socket_is_answered_with_an_error(api: Api, text: str) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(api.url) as socket_:
        await socket_.send_str(text)
        answer = await socket_.receive_json(timeout=30)
        assert answer["type"] == "error", answer
        assert answer["message"]


async def test_the_web_socket_survives_random_bytes(api: Api) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(api.url) as socket_:
        await socket_.send_bytes(b"\x80\x04K\x01.")
        message = await socket_.receive(timeout=30)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)

"""No input gives a 5xx: random JSON, types, numbers, headers, targets, bytes and WebSocket messages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from node.gateway.limits import SocketLimits
from tests.unit.node.gateway.harness import Exchange, headers, receive

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "BTC-USD", "BTC/USD", "buy", "sell", "limit", "market", "1", "0.5", "1e9", "-1", "NaN", "9" * 70, "\ud800", "\x00"]
    )
    | st.sampled_from(["stop", "loss", "entry", "GTT", "min", "²"])
)
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)
FIELDS = [
    *("product_id", "side", "type", "price", "size", "funds", "client_oid", "time_in_force", "post_only", "stp", "profile_id"),
    *("cancel_after", "stop", "stop_price", "amount", "currency", "transfer_id", "scale", "base_currency", "quote_currency"),
    *("base_increment", "quote_increment", "base_min_size", "base_max_size", "maker_fee_rate", "status", "account_id"),
    *("secret", "passphrase", "permissions", "name", "from", "to", "node_id"),
]
GOOD: dict[str, object] = {"product_id": "BTC-USD", "side": "buy", "type": "limit", "price": "100", "size": "1"}
BODIES: SearchStrategy[Any] = (
    ANY_JSON
    | st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=8)
    | st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, min_size=1, max_size=2).map(lambda change: GOOD | change)
)
CALLS = st.sampled_from(
    [
        ("alice", "POST", "/orders"),
        ("alice", "DELETE", "/orders"),
        ("alice", "DELETE", "/orders/client:x"),
        ("alice", "POST", "/deposits"),
        ("alice", "POST", "/withdrawals"),
        ("alice", "GET", "/orders"),
        ("alice", "POST", "/profiles/transfer"),
        ("admin", "PUT", "/admin/currencies/FUZZ"),
        ("admin", "PUT", "/admin/products/FUZZ-USD"),
        ("admin", "PATCH", "/admin/products/BTC-USD"),
        ("admin", "PATCH", "/admin/products"),
        ("admin", "PUT", "/admin/accounts/fuzz"),
        ("admin", "PUT", "/admin/keys/fuzz"),
        ("admin", "POST", "/admin/accounts/alice/deposits"),
        ("admin", "POST", "/admin/leadership"),
    ]
)


def check_answer(status: int, body: bytes) -> None:
    """Check that the status is not a 5xx, that the body is JSON, and that a refusal has a message."""
    assert status < 500, (status, body)
    answer = json.loads(body)
    if status >= 400:
        assert isinstance(answer["message"], str)
        assert answer["message"]


@FUZZ
@given(call=CALLS, body=BODIES)
async def test_any_json_body_is_answered(exchange: Exchange, call: tuple[str, str, str], body: object) -> None:
    response = await exchange.send(*call, raw=json.dumps(body).encode())
    check_answer(response.status, await response.read())


@FUZZ
@given(call=CALLS, raw=st.binary(max_size=64) | st.text(alphabet='{}[]":,0123456789.eE-tfn\\u ', max_size=40).map(str.encode))
async def test_any_bytes_as_a_body_are_answered(exchange: Exchange, call: tuple[str, str, str], raw: bytes) -> None:
    response = await exchange.send(*call, raw=raw)
    check_answer(response.status, await response.read())


NAMES = (
    "CB-ACCESS-KEY",
    "CB-ACCESS-SIGN",
    "CB-ACCESS-TIMESTAMP",
    "CB-ACCESS-PASSPHRASE",
    "Content-Encoding",
    "Content-Type",
    "X",
)
HEADER_TEXT = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=30)


@FUZZ
@given(name=st.sampled_from(NAMES), text=HEADER_TEXT)
async def test_any_header_is_answered(exchange: Exchange, name: str, text: str) -> None:
    signed = headers(exchange.keys["alice"], "GET", "/orders") | {name: text}
    response = await exchange.client.get("/orders", headers=signed)
    check_answer(response.status, await response.read())


PARAMETERS = [
    "level",
    "limit",
    "after",
    "before",
    "status",
    "product_id",
    "start_date",
    "end_date",
    "consistency",
    "profile_id",
    "what",
]
VALUES = st.text(max_size=12) | st.sampled_from(
    ["1", "0", "-1", "9" * 40, "2026-01-01T00:00:00Z", "9999-99-99", "all", "٣", "0001-01-01"]
)
PATHS = st.sampled_from(
    [
        "/orders",
        "/products/BTC-USD/book",
        "/products/BTC-USD/trades",
        "/products",
        "/accounts",
        "/fees",
        "/products/BTC-USD/ticker",
        "/time",
    ]
)


@FUZZ
@given(path=PATHS, query=st.lists(st.tuples(st.sampled_from(PARAMETERS), VALUES), max_size=4))
async def test_any_query_is_answered(exchange: Exchange, path: str, query: list[tuple[str, str]]) -> None:
    from yarl import URL

    target = str(URL.build(path=path, query=query))
    response = await exchange.send("alice", "GET", target)
    check_answer(response.status, await response.read())


@FUZZ
@given(
    start=st.sampled_from(
        [
            "GET /orders/",
            "DELETE /orders/client:",
            "GET /products/",
            "GET /accounts/",
            "PUT /admin/keys/",
            "GET /ui/",
            "OPTIONS /ui",
            "",
            "GET ",
        ]
    ),
    rest=st.binary(max_size=40),
)
async def test_any_bytes_as_a_request_are_answered(exchange: Exchange, start: str, rest: bytes) -> None:
    reader, writer = await asyncio.open_connection(str(exchange.client.host), exchange.client.port)
    signed = "".join(f"{name}: {text}\r\n" for name, text in headers(exchange.keys["alice"], "GET", "/").items())
    writer.write(
        start.encode() + rest + f" HTTP/1.1\r\nHost: x\r\n{signed}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    if answer:
        status = int(answer.split(b" ", 2)[1])
        assert status < 500, answer


MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["subscribe", "unsubscribe"]) | ANY_JSON,
        "product_ids": st.lists(st.sampled_from(["BTC-USD", "ETH/BTC", "NO"]) | ANY_JSON, max_size=3) | ANY_JSON,
        "channels": st.lists(st.sampled_from(["full", "level2", "ticker", "user", "status"]) | ANY_JSON, max_size=3) | ANY_JSON,
        "resume": st.dictionaries(st.sampled_from(["BTC-USD", "NO"]), SCALARS, max_size=2) | ANY_JSON,
        "signature": ANY_JSON,
        "key": ANY_JSON,
        "passphrase": ANY_JSON,
        "timestamp": ANY_JSON,
        "x": ANY_JSON,
    },
)


@settings(FUZZ, max_examples=100)
@given(messages=st.lists(MESSAGES | ANY_JSON, max_size=8))
async def test_any_websocket_message_is_answered(exchange: Exchange, messages: list[object]) -> None:
    exchange.gateway.socket_limits = SocketLimits(0.0)
    socket = await exchange.socket()
    for message in messages:
        await socket.send_str(json.dumps(message))
    await socket.send_str('{"type":"subscribe","channels":["status"]}')
    while True:
        answer = await receive(socket)
        if answer["type"] == "subscriptions" and any(row["name"] == "status" for row in answer["channels"]):
            break
    await socket.close()

"""The short path of orders and cancels: it answers as the long one does, and leaves to it every request that is not
plain.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ConnectionLost, RequestFailed
from node.gateway import values
from node.gateway.catalogue import Product
from node.gateway.errors import ApiError
from node.gateway.limits import Limits
from node.gateway.orders import OrderJson
from node.gateway.plain_order import plain_json, units
from node.native.protocol import FailCode
from statemachine.decimals import DecimalError
from statemachine.events import OrderState, OrderTerms
from statemachine.limits import AMOUNT_MAX
from statemachine.tables import ProductRow
from statemachine.types import DoneReason, OrderStatus, OrderType, ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce
from tests.unit.node.gateway.harness import Exchange, headers, running

PLAIN: list[dict[str, object]] = [
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "client_oid": "one"},
    {"product_id": "BTC/USD", "side": "sell", "price": "100.00", "size": "0.5", "client_oid": "two", "type": "limit"},
    {"product_id": "BTC-USD", "side": "sell", "type": "market", "size": "0.2", "client_oid": "three"},
    {
        "product_id": "BTC-USD",
        "side": "buy",
        "price": "99",
        "size": "1",
        "time_in_force": "IOC",
        "stp": "cn",
        "client_oid": "four",
    },
    {"product_id": "BTC-USD", "side": "buy", "price": "98", "size": "1", "post_only": True},
    {"product_id": "BTC-USD", "side": "buy", "price": "97", "size": "1", "client_oid": None},
]
"""Orders that are accepted."""

REFUSED: list[dict[str, object]] = [
    {"product_id": "BTC-USD", "side": "buy", "price": "1000000", "size": "900"},
    {"product_id": "BTC-USD", "side": "buy", "price": "1.5", "size": "1"},
]
"""Orders that the exchange's rules refuse."""

NO_TEXT: tuple[object, ...] = ("", 0, False, [], {})
ODD: list[object] = [
    {"product_id": "BTC-USD", "side": "buy", "price": 100, "size": 1},
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "stop": "entry", "stop_price": "200"},
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "time_in_force": None},
    {"product_id": "BTC-USD", "side": "buy", "price": "1e2", "size": "1"},
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "0"},
    {"product_id": "BTC-USD", "side": "buy", "price": "-1", "size": "1"},
    {"product_id": "BTC-USD", "side": "hold", "price": "100", "size": "1"},
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "post_only": "yes"},
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "client_oid": "a b"},
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "client_oid": 7},
    *({"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "client_oid": each} for each in NO_TEXT),
    {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1", "unknown": 1},
    {"product_id": ["BTC-USD"], "side": "buy", "price": "100", "size": "1"},
    {"product_id": "NO-PRODUCT", "side": "buy", "price": "100", "size": "1"},
    {"product_id": "BTC-USD", "side": "buy", "size": "1"},
    {"side": "buy"},
    [],
    "text",
    None,
]
"""Bodies that the short way leaves to the long one, right and wrong ones."""

RAW = [
    b'{"product_id":"BTC-USD","side":"buy","price":"100","price":"90","size":"1"}',
    b'{"product_id":"BTC-USD","side":"buy","price" :"100","size":"1"}',
    b'{"product_id":"BTC\\u002dUSD","side":"buy","price":"100","size":"1"}',
    b"{",
    b"\xff",
    b"[" * 10_000,
]


def plain(answer: Any) -> Any:
    """Return an answer without what differs between runs."""
    return (
        {name: value for name, value in answer.items() if name not in ("created_at", "done_at")}
        if isinstance(answer, dict)
        else answer
    )


async def answers(direct: bool, requests: list[tuple[str, str, bytes]]) -> tuple[list[tuple[int, Any]], int]:
    """Return what a new exchange answers to these requests, and how many took the short path."""
    async with running() as exchange:
        server = exchange.client.app.server
        assert server is not None
        if not direct:
            server.direct = None
        await exchange.call("alice", "GET", "/accounts")
        await exchange.call("alice", "GET", "/fees?product_id=BTC-USD")
        before, found = exchange.backend.taken, []
        for method, target, body in requests:
            response = await exchange.send("alice", method, target, raw=body)
            text = await response.read()
            assert ("x-quorumbook-sequence" in response.headers) is (response.status < 500)
            found.append((response.status, plain(json.loads(text))))
        return found, exchange.backend.taken - before


async def test_both_paths_answer_the_same() -> None:
    bodies = [json.dumps(order).encode() for order in (*PLAIN, *REFUSED, *PLAIN[:3], *ODD)]
    requests = [("POST", "/orders", body) for body in (*bodies, *RAW)]
    for number in (1, 4, 5, 99, 2**63):
        digits = f"{number:032x}"
        target = f"/orders/{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        requests += [("DELETE", target, b""), ("DELETE", f"{target}?product_id=BTC-USD", b""), ("DELETE", target, b"{}")]
    requests += [("DELETE", "/orders/client:one", b""), ("DELETE", "/orders/nonsense", b""), ("POST", "/orders?a=b", bodies[0])]
    short, taken = await answers(True, requests)
    long, none = await answers(False, requests)
    assert none == 0
    assert taken >= len(PLAIN) + len(REFUSED) + 5
    for request, one, other in zip(requests, short, long, strict=True):
        if one != other:
            pytest.fail(f"{request}\nshort: {one}\nlong: {other}")


async def test_a_lost_connection_continues_with_the_same_command(exchange: Exchange) -> None:
    await exchange.order("alice", "buy", "50", "1")
    exchange.backend.lost_answers = 1
    order = await exchange.order("alice", "buy", "51", "1", client_oid="mine")
    assert (order["client_oid"], order["status"]) == ("mine", "open")
    assert [command.command_id for command in exchange.backend.submitted[-2:]] == ["c:mine", "c:mine"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestFailed(FailCode.FORBIDDEN, "no"), 403),
        (ApiError(429, "Private rate limit exceeded"), 429),
        (ConnectionLost("gone"), 200),
    ],
)
async def test_failures_are_answered_as_on_the_normal_path(exchange: Exchange, error: Any, status: int) -> None:
    await exchange.order("alice", "buy", "50", "1")
    exchange.backend.fail = [error]
    body = {"product_id": "BTC-USD", "side": "buy", "price": "49", "size": "1", "client_oid": "x"}
    assert (await exchange.call("alice", "POST", "/orders", body))[0] == status


async def test_the_same_signature_is_carried_out_once(exchange: Exchange) -> None:
    await exchange.order("alice", "buy", "50", "1")
    body = b'{"product_id":"BTC-USD","side":"buy","price":"60","size":"1"}'
    signed = headers(exchange.keys["alice"], "POST", "/orders", body)
    statuses = []
    for _ in range(3):
        response = await exchange.client.request("POST", "/orders", data=body, headers=signed)
        statuses.append(response.status)
    assert statuses == [200, 400, 400]


async def test_a_flood_pays_for_each_order(exchange: Exchange) -> None:
    exchange.gateway.limits = Limits(2.5, 0.0)
    body = {"product_id": "BTC-USD", "side": "buy", "price": "49", "size": "1"}
    found = await asyncio.gather(*(exchange.call("alice", "POST", "/orders", body) for _ in range(20)))
    assert sum(status == 429 for status, _ in found) >= 13


async def test_requests_in_progress_are_answered_before_the_server_stops(exchange: Exchange) -> None:
    await exchange.order("alice", "buy", "50", "1")
    server = exchange.client.app.server
    assert server is not None
    body = {"product_id": "BTC-USD", "side": "buy", "price": "49", "size": "1"}
    asking = asyncio.create_task(exchange.call("alice", "POST", "/orders", body))
    while not server.under_way:  # noqa: ASYNC110 - a turn of the loop
        await asyncio.sleep(0)
    await server.stop(2.0)
    assert (await asking)[0] == 200


_AMOUNTS = st.integers(0, AMOUNT_MAX)
_TIMES = st.integers(0, 2**62)
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
_RARE = st.sampled_from([0, 0, 0, 0, 1])
_ORDERS = st.builds(
    OrderState,
    order_id=st.integers(1, 2**63 - 1),
    account_id=_TEXTS,
    client_oid=_TEXTS,
    product_id=_TEXTS,
    side=st.sampled_from(Side),
    order_type=st.sampled_from(OrderType),
    price=_AMOUNTS,
    size=_AMOUNTS,
    funds=_RARE,
    time_in_force=st.sampled_from(TimeInForce),
    post_only=st.booleans(),
    stp=st.sampled_from(SelfTradePrevention),
    created_at=_TIMES,
    maker_fee_ppm=st.just(0),
    taker_fee_ppm=st.just(0),
    remaining=_AMOUNTS,
    hold=_AMOUNTS,
    filled_size=_AMOUNTS,
    executed_value=st.integers(0, 2**64),
    fill_fees=st.integers(-AMOUNT_MAX, AMOUNT_MAX),
    status=st.sampled_from(OrderStatus),
    done_reason=st.sampled_from(DoneReason),
    done_at=_TIMES,
    stop=st.sampled_from([StopType.NONE, StopType.NONE, StopType.LOSS]),
    stop_price=_AMOUNTS,
    expires_at=_RARE,
    queued=_RARE,
    terms=st.sampled_from([None, None, OrderTerms()]),
)


@given(_ORDERS, st.integers(0, 18), st.integers(0, 18))
def test_the_text_of_a_plain_order_is_that_of_its_struct(order: OrderState, base_scale: int, quote_scale: int) -> None:
    product = Product(ProductRow("BTC-USD", "BTC", "USD", 1, 1, 1, 1, 0, 0, ProductStatus.ONLINE), base_scale, quote_scale)
    body = plain_json(order, product)
    rare = order.funds or order.stop or order.expires_at or order.queued or order.terms is not None or not order.size
    assert (body is None) is bool(rare) or order.executed_value == 2**64
    if body is not None:
        assert body == msgspec.json.encode(OrderJson.of(order, product))


def _converted(convert: Callable[[Any, int], int], text: object, scale: int) -> object:
    """Return the units, or the text of the refusal."""
    try:
        return convert(text, scale)
    except (DecimalError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


_DECIMALS = st.one_of(
    st.from_regex(r"[0-9]{0,12}\.?[0-9]{0,10}", fullmatch=True),
    st.sampled_from(["-1", "1e2", "1..2", "\u0661", "9223372036854775808", 7]),
)


@given(_DECIMALS, st.integers(0, 12))
def test_amounts_are_read_as_everywhere(text: object, scale: int) -> None:
    assert _converted(units, text, scale) == _converted(values.units, text, scale)

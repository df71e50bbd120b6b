"""Signatures and permissions: what is signed, what is refused, and the texts of the errors."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.gateway import auth
from node.gateway.auth import Authenticator, Claim
from node.gateway.errors import ApiError
from node.gateway.limits import Limits
from node.keys.credentials import Credentials, sign
from node.keys.encryption import ClusterKeys
from node.native.protocol import ApiKeyQuery, MemberStatus
from statemachine.types import Permission
from tests.unit.node.gateway.harness import ADMIN, SECRET, Exchange, FakeBackend, config, headers, running


def raw_request(exchange: Exchange, method: str, target: str, signed: dict[str, str], body: bytes = b"") -> tuple[int, Any]:
    """Send a request whose target goes out exactly as given."""
    connection = http.client.HTTPConnection(str(exchange.client.host), exchange.client.port, timeout=10)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, text in signed.items():
            connection.putheader(name, text)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_signatures_equal_known_vectors() -> None:
    secret = "c2VjcmV0"
    assert sign(secret, "1795304696", "GET", "/accounts") == "PHEbbsdPjaIq7avcJ9RgobpZEiAvQ1lsi3JaghRppzM="
    body = b'{"product_id":"BTC/USD"}'
    assert sign(secret, "1795304779.123456", "DELETE", "/orders?a=%2F", body) == "V4/u52kfnGq2EIOYkLEFbJqyJXiGyasKG/8XwXufXr8="


KEYS = ClusterKeys(Path("no cluster keys"))

TARGETS = [
    "/orders?product_id=BTC%2FUSD",
    "/orders?product_id=BTC/USD",
    "/%6frders?status=all",
    "/orders?",
    "/orders?status=%6fpen",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_the_target_is_signed_as_it_was_sent(exchange: Exchange, target: str) -> None:
    signed = headers(exchange.keys["alice"], "GET", target)
    assert await asyncio.to_thread(raw_request, exchange, "GET", target, signed) == (200, [])
    signed = headers(exchange.keys["alice"], "GET", target + "&")
    status, answer = await asyncio.to_thread(raw_request, exchange, "GET", target, signed)
    assert (status, answer["message"]) == (401, "invalid signature")


async def test_the_body_of_a_delete_is_signed(exchange: Exchange) -> None:
    body = b'{"product_id":"BTC/USD"}'
    signed = headers(exchange.keys["alice"], "DELETE", "/orders", body)
    assert await asyncio.to_thread(raw_request, exchange, "DELETE", "/orders", signed, body) == (200, [])
    status, answer = await asyncio.to_thread(raw_request, exchange, "DELETE", "/orders", signed, body.replace(b"BTC", b"ETH"))
    assert (status, answer["message"]) == (401, "invalid signature")


@pytest.mark.parametrize("form", ["{:.0f}", "{:.6f}", "{:.2f}"])
async def test_the_timestamp_is_taken_verbatim(exchange: Exchange, form: str) -> None:
    signed = headers(exchange.keys["alice"], "GET", "/accounts", timestamp=form.format(time.time()))
    response = await exchange.client.get("/accounts", headers=signed)
    assert response.status == 200


@pytest.mark.parametrize(
    ("header", "text", "message"),
    [
        ("CB-ACCESS-TIMESTAMP", "1", "request timestamp expired"),
        ("CB-ACCESS-TIMESTAMP", "99999999999", "request timestamp expired"),
        ("CB-ACCESS-TIMESTAMP", "now", "invalid timestamp"),
        ("CB-ACCESS-TIMESTAMP", "1e9", "invalid timestamp"),
        ("CB-ACCESS-TIMESTAMP", "-5", "invalid timestamp"),
        ("CB-ACCESS-TIMESTAMP", "inf", "invalid timestamp"),
        ("CB-ACCESS-TIMESTAMP", "1795304779\u00b2", "invalid timestamp"),
        ("CB-ACCESS-KEY", "nobody", "invalid signature"),
        ("CB-ACCESS-KEY", "white space", "invalid signature"),
        ("CB-ACCESS-KEY", "x" * 500, "invalid signature"),
        ("CB-ACCESS-SIGN", "AAAA", "invalid signature"),
        ("CB-ACCESS-SIGN", "sch\u00f6n", "invalid signature"),
        ("CB-ACCESS-PASSPHRASE", "wrong", "Invalid Passphrase"),
        ("CB-ACCESS-KEY", None, "CB-ACCESS-KEY header is required"),
        ("CB-ACCESS-SIGN", None, "CB-ACCESS-SIGN header is required"),
        ("CB-ACCESS-TIMESTAMP", None, "CB-ACCESS-TIMESTAMP header is required"),
        ("CB-ACCESS-PASSPHRASE", None, "CB-ACCESS-PASSPHRASE header is required"),
    ],
)
async def test_a_bad_claim_is_refused_by_header(exchange: Exchange, header: str, text: str | None, message: str) -> None:
    signed = headers(exchange.keys["alice"], "GET", "/accounts")
    if text is None:
        del signed[header]
    else:
        signed[header] = text
    response = await exchange.client.get("/accounts", headers=signed)
    assert response.status == 401
    answer = await response.json()
    assert (answer["message"], answer["field"]) == (message, "CB-ACCESS-SIGN" if message == "invalid signature" else header)


async def test_answers_do_not_show_which_keys_exist(exchange: Exchange) -> None:
    """An unknown key, a revoked one and a signature that does not fit are answered with the same bytes (L5), for reads
    and commands alike.
    """
    assert (await exchange.call("admin", "DELETE", "/admin/keys/bob-key"))[0] == 200
    for method, target in (("GET", "/accounts"), ("DELETE", "/orders")):
        answers = set()
        for key_id, secret in (("nobody", SECRET), ("bob-key", SECRET), ("alice-key", "AAAA")):
            signed = headers(Credentials(key_id, secret, "p"), method, target)
            async with exchange.client.request(method, target, headers=signed) as response:
                answers.add((response.status, await response.read()))
        assert len(answers) == 1, answers
        assert answers.pop()[0] == 401


async def test_a_permission_that_is_missing_is_named(exchange: Exchange) -> None:
    key = {"account_id": "alice", "secret": SECRET, "passphrase": "p", "permissions": ["view"]}
    assert (await exchange.call("admin", "PUT", "/admin/keys/reader", key))[0] == 200
    exchange.keys["reader"] = Credentials("reader", SECRET, "p")
    assert (await exchange.call("reader", "GET", "/accounts"))[0] == 200
    for method, target, name in (
        ("POST", "/orders", "trade"),
        ("DELETE", "/orders", "trade"),
        ("POST", "/withdrawals", "transfer"),
        ("PUT", "/admin/currencies/X", "market"),
    ):
        status, answer = await exchange.call("reader", method, target, {})
        assert (status, answer["message"]) == (403, f"The API key needs the permission {name}")


async def test_the_operator_has_no_account_of_its_own(exchange: Exchange) -> None:
    for method, target in (("GET", "/accounts"), ("GET", "/orders"), ("DELETE", "/orders")):
        status, answer = await exchange.call("admin", method, target)
        assert status == 403
        assert "no account" in answer["message"]


async def test_a_key_that_is_replaced_counts_at_once_here(exchange: Exchange) -> None:
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 200
    key = {"account_id": "alice", "secret": SECRET, "passphrase": "new", "permissions": ["view"]}
    assert (await exchange.call("admin", "PUT", "/admin/keys/alice-key", key))[0] == 200
    status, answer = await exchange.call("alice", "GET", "/accounts")
    assert (status, answer["message"]) == (401, "Invalid Passphrase")


def claim(key_id: str) -> Claim:
    stamp = f"{time.time():.3f}"
    return Claim(key_id, sign(SECRET, stamp, "GET", "/"), stamp, "p")


async def test_claims_that_no_key_proves_are_looked_up_at_a_bounded_rate_of_an_address(exchange: Exchange) -> None:
    """Formerly an address that guesses kept the engine from answering clients of other addresses whose keys are not
    cached.
    """
    authenticator, backend = exchange.gateway.auth, exchange.backend
    backend.queried.clear()
    messages = set()
    for number in range(int(auth.UNPROVEN_BURST) + 100):
        with pytest.raises(ApiError) as caught:
            await authenticator.identify(claim(f"guess-{number}"), "192.0.2.1", "GET", "/", b"")
        messages.add((caught.value.status, caught.value.message))
    assert messages == {(401, "invalid signature"), (429, "Private rate limit exceeded")}
    assert len(backend.queried) < auth.UNPROVEN_BURST + 100
    backend.on_keys(["alice-key"])
    assert (await exchange.call("alice", "GET", "/fees"))[0] == 200


@pytest.mark.parametrize("spent", [False, True])
async def test_neither_answer_nor_work_says_whether_a_key_exists(exchange: Exchange, spent: bool) -> None:
    """Formerly an address without budget got 429 for a key that does not exist, and 401 for one that does and is cached."""
    assert (await exchange.call("alice", "GET", "/fees"))[0] == 200
    authenticator, backend = exchange.gateway.auth, exchange.backend
    if spent:
        authenticator._unproven.spend("192.0.2.1", 1e6)
    seen = []
    for name in ("alice-key", "nobody", ADMIN.key_id, "bob-key") * 2:
        backend.queried.clear()
        with pytest.raises(ApiError) as caught:
            await authenticator.identify(msgspec.structs.replace(claim(name), signature="wrong"), "192.0.2.1", "GET", "/", b"")
        seen.append((caught.value.status, caught.value.message, [type(query) for query in backend.queried]))
    assert seen == seen[:1] * len(seen)
    assert (await exchange.call("alice", "GET", "/fees"))[0] == 200


async def test_guesses_that_come_together_do_not_shut_others_out(exchange: Exchange) -> None:
    authenticator = exchange.gateway.auth
    guesses = (authenticator.identify(claim(f"guess-{number}"), "127.0.0.1", "GET", "/", b"") for number in range(5_000))
    failures = await asyncio.gather(*guesses, return_exceptions=True)
    assert {str(failure) for failure in failures} == {"invalid signature"}, "all of them were checked, none was shut out"
    exchange.backend.on_keys(["alice-key"])
    end = time.monotonic() + 2.0
    while (await exchange.call("alice", "GET", "/fees"))[0] == 429:
        assert time.monotonic() < end, "a key that exists is not looked up"


async def test_guesses_do_not_push_out_a_key(monkeypatch: pytest.MonkeyPatch, exchange: Exchange) -> None:
    monkeypatch.setattr(auth, "KEYS_KEPT", 3)
    assert (await exchange.call("alice", "GET", "/fees"))[0] == 200
    for number in range(5):
        with pytest.raises(ApiError):
            await exchange.gateway.auth.identify(claim(f"guess-{number}"), "127.0.0.1", "GET", "/", b"")
    assert (await exchange.call("alice", "GET", "/fees"))[0] == 200
    assert exchange.backend.queried.count(ApiKeyQuery("alice-key")) == 1


async def test_requests_that_come_together_share_one_look_up(exchange: Exchange) -> None:
    exchange.backend.queried.clear()
    exchange.backend.on_keys(["alice-key"])
    answers = await asyncio.gather(*(exchange.call("alice", "GET", "/fees?product_id=BTC-USD") for _ in range(10)))
    assert {status for status, _ in answers} == {200}
    assert exchange.backend.queried.count(ApiKeyQuery("alice-key")) == 1


async def test_the_operators_key_may_do_everything() -> None:
    authenticator = Authenticator(FakeBackend(), config().admin, KEYS, 30.0)
    stamp = f"{time.time():.3f}"
    signature = sign(ADMIN.secret, stamp, "PUT", "/x", b"body")
    identity = await authenticator.identify(
        Claim(ADMIN.key_id, signature, stamp, ADMIN.passphrase), "127.0.0.1", "PUT", "/x", b"body"
    )
    assert identity.permissions == sum(Permission)
    assert identity.account_id == "operator"


async def test_the_operators_key_can_be_limited_to_addresses() -> None:
    admin = msgspec.structs.replace(config().admin, addresses=("10.0.0.0/8",))
    authenticator = Authenticator(FakeBackend(), admin, KEYS, 30.0)
    stamp = f"{time.time():.3f}"
    mine = Claim(ADMIN.key_id, sign(ADMIN.secret, stamp, "GET", "/x", b""), stamp, ADMIN.passphrase)
    assert (await authenticator.identify(mine, "10.1.2.3", "GET", "/x", b"")).account_id == "operator"
    with pytest.raises(ApiError, match="IP whitelist"):
        await authenticator.identify(mine, "192.0.2.1", "GET", "/x", b"")


async def test_a_caller_without_a_key_learns_little_of_the_cluster() -> None:
    """L4: Raft addresses, state hash and counters are for this machine and for operators."""
    node = config()
    node = msgspec.structs.replace(node, http=msgspec.structs.replace(node.http, trusted_proxies=("127.0.0.0/8",)))
    stranger = {"X-Forwarded-For": "192.0.2.7"}
    backend = FakeBackend()
    backend.status = {"state_hash": "abc", "counters": {"x": 1}, "members": [MemberStatus("n2", True, 5, raft="10.0.0.2:1")]}
    async with running(backend, node) as exchange:
        for target in ("/status", "/readyz"):

            async def shown(headers: dict[str, str], target: str = target) -> tuple[str, object, str]:
                async with exchange.client.get(target, headers=headers) as response:
                    body = await response.json()
                    assert body["node"]["role"] == "leader"
                    return body["node"]["state_hash"], body["node"]["counters"], body["members"][0]["raft"]

            everything = ("abc", {"x": 1}, "10.0.0.2:1")
            assert await shown({}) == everything
            assert await shown(stranger) == ("", {}, "")
            assert await shown(stranger | headers(exchange.keys["alice"], "GET", target)) == ("", {}, "")
            assert await shown(stranger | headers(exchange.keys["admin"], "GET", target)) == everything
        exchange.gateway.limits = Limits(0, 1.0, lambda: 0.0)
        statuses = []
        for _ in range(3):
            async with exchange.client.get("/status", headers=stranger) as response:
                statuses.append(response.status)
        assert statuses == [200, 200, 429]

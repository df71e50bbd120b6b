"""Transfers between accounts: from one's own only, the operator's key from any, booked once."""

from __future__ import annotations

import pytest

from node.keys.credentials import Credentials
from statemachine.types import Permission
from tests.unit.node.gateway.harness import Exchange

BODY = {"from": "alice", "to": "bob", "currency": "USD", "amount": "12.34", "transfer_id": "rent"}


async def available(exchange: Exchange, who: str, currency: str = "USD") -> str:
    _, account = await exchange.call(who, "GET", f"/accounts/{who}:{currency}")
    return str(account["available"])


@pytest.mark.parametrize("who", ["alice", "admin"])
async def test_money_moves_once(exchange: Exchange, who: str) -> None:
    status, first = await exchange.call(who, "POST", "/profiles/transfer", BODY)
    assert status == 200, first
    assert first == {
        "id": "rent",
        "from": "alice",
        "to": "bob",
        "currency": "USD",
        "amount": "12.34",
        "available": "999987.66",
        "hold": "0",
        "created_at": first["created_at"],
        "duplicate": False,
    }
    assert await exchange.call(who, "POST", "/profiles/transfer", BODY) == (200, first | {"duplicate": True})
    assert (await available(exchange, "alice"), await available(exchange, "bob")) == ("999987.66", "1000012.34")


async def test_the_same_id_for_another_transfer_is_refused(exchange: Exchange) -> None:
    await exchange.call("alice", "POST", "/profiles/transfer", BODY)
    status, answer = await exchange.call("alice", "POST", "/profiles/transfer", BODY | {"amount": "1"})
    assert (status, answer["reason"]) == (400, "command_id_reused")


@pytest.mark.parametrize(
    ("who", "change", "status", "field"),
    [
        ("bob", {}, 403, "from"),
        ("alice", {"to": "alice"}, 400, "to"),
        ("alice", {"to": "nobody"}, 404, "to"),
        ("admin", {"from": "nobody"}, 404, "from"),
        ("alice", {"to": "a b"}, 400, "to"),
        ("alice", {"currency": "EUR"}, 404, "currency"),
        ("alice", {"amount": "0"}, 400, "amount"),
        ("alice", {"amount": "1000000.01"}, 400, "amount"),
        ("alice", {"amount": "0.001"}, 400, "amount"),
        ("alice", {"amount": "-1"}, 400, "amount"),
        ("alice", {"transfer_id": "a b"}, 400, "transfer_id"),
        ("alice", {"profile_id": "alice"}, 400, "profile_id"),
    ],
)
async def test_a_bad_transfer_is_refused_by_name(
    exchange: Exchange, who: str, change: dict[str, object], status: int, field: str
) -> None:
    found, answer = await exchange.call(who, "POST", "/profiles/transfer", BODY | change)
    assert (found, answer["field"]) == (status, field), answer
    assert (await available(exchange, "alice"), await available(exchange, "bob")) == ("1000000", "1000000")


@pytest.mark.parametrize("name", ["from", "to", "currency", "amount"])
async def test_a_missing_field_is_named(exchange: Exchange, name: str) -> None:
    body = {key: value for key, value in BODY.items() if key != name}
    status, answer = await exchange.call("alice", "POST", "/profiles/transfer", body)
    assert (status, answer["field"]) == (400, name)


async def test_a_key_with_admin_is_an_operator_s(exchange: Exchange) -> None:
    key = {"account_id": "bob", "secret": "YQ==", "passphrase": "p", "permissions": ["transfer", "admin"]}
    await exchange.call("admin", "PUT", "/admin/keys/boss", key)
    exchange.keys["boss"] = Credentials("boss", "YQ==", "p")
    assert (await exchange.call("boss", "POST", "/profiles/transfer", BODY))[0] == 200
    assert await available(exchange, "alice") == "999987.66"


async def test_the_permission_is_that_of_deposits(exchange: Exchange) -> None:
    key = {"account_id": "alice", "secret": "YQ==", "passphrase": "p", "permissions": ["view", "trade"]}
    await exchange.call("admin", "PUT", "/admin/keys/alice-key", key)
    exchange.keys["alice"] = Credentials("alice-key", "YQ==", "p")
    status, answer = await exchange.call("alice", "POST", "/profiles/transfer", BODY)
    assert (status, answer["detail"]) == (403, Permission.TRANSFER.name.lower())

"""Users, roles and consent over HTTP, with the keys of users."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from node.gateway.gateway import STATUS_AGE_MAX
from node.keys.credentials import Credentials
from node.native.protocol import AnyQuery, ControlsQuery, ControlsView
from statemachine.commands import PutMember
from statemachine.limits import OPERATOR
from tests.unit.node.gateway.harness import DEADLINE, SECRET, Exchange, receive
from tests.waiting import until

ALL = ["view", "trade", "transfer", "deposit", "admin"]


async def give(exchange: Exchange, user: str, roles: list[dict[str, str]], account: str = "operator") -> None:
    """Create a user with roles, and a key of the same name that may do all that they allow."""
    assert (await exchange.call("admin", "PUT", f"/admin/users/{user}", {"roles": roles}))[0] == 200
    body = {"account_id": account, "secret": SECRET, "passphrase": "p", "permissions": ALL, "user_id": user}
    status, answer = await exchange.call("admin", "PUT", f"/admin/keys/{user}", body)
    assert status == 200, answer
    exchange.keys[user] = Credentials(user, SECRET, "p")


async def with_firm(exchange: Exchange) -> None:
    assert (await exchange.call("admin", "PUT", "/admin/firms/acme"))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/accounts/alice/firm", {"firm_id": "acme"}))[0] == 200
    await give(exchange, "rita", [{"role": "risk_officer", "scope": "firm", "id": "acme"}])


async def test_a_firms_risk_officer_acts_on_their_own_firm_only(exchange: Exchange) -> None:
    await with_firm(exchange)
    placed = await exchange.order("alice", "buy", "90", "1")
    status, answer = await exchange.call("rita", "PUT", "/admin/switches/firm/acme", {"switches": ["kill"]})
    assert (status, answer["cancelled"]) == (200, 1)
    assert (await exchange.call("alice", "GET", f"/orders/{placed['id']}"))[1]["status"] == "done"
    for target, body in (
        ("/admin/switches", {"switches": ["kill"]}),
        ("/admin/switches/account/bob", {"switches": ["kill"]}),
        ("/admin/risk/account/bob", {"orders": 1}),
    ):
        status, answer = await exchange.call("rita", "PUT", target, body)
        assert (status, answer["reason"]) == (403, "not_permitted"), target
        assert "the user rita does not have the permission" in answer["detail"]
    status, answer = await exchange.call("rita", "PUT", "/admin/users/rita", {"roles": [{"role": "administrator"}]})
    assert (status, answer["message"]) == (403, "The API key needs the permission access")
    assert (await exchange.call("rita", "POST", "/orders", {}))[0] == 403


async def test_a_user_sees_data_by_role(exchange: Exchange) -> None:
    await with_firm(exchange)
    for account in ("alice", "bob"):
        assert (await exchange.call("admin", "PUT", f"/admin/risk/account/{account}", {"orders": 5}))[0] == 200
    _, seen = await exchange.call("rita", "GET", "/admin/controls")
    assert [row["name"] for row in seen["risk"]] == ["alice"]
    assert "proposal" not in seen
    assert (await exchange.call("rita", "GET", "/admin/users"))[1] == [
        {"id": "rita", "roles": [{"role": "risk_officer", "scope": "firm", "id": "acme"}], "note": ""}
    ]
    assert (await exchange.call("alice", "GET", "/admin/controls"))[0] == 403
    assert (await exchange.call("alice", "GET", "/admin/users"))[0] == 403
    _, verified = await exchange.call("rita", "GET", "/users/self/verify")
    assert (verified["user"], verified["permissions"]) == ("rita", ["view", "switch", "limit"])


async def test_a_role_that_is_taken_away_is_gone_at_once(exchange: Exchange) -> None:
    await with_firm(exchange)
    assert (await exchange.call("rita", "PUT", "/admin/switches/account/alice", {"switches": ["buy_off"]}))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/users/rita", {"roles": []}))[0] == 200
    assert (await exchange.call("rita", "PUT", "/admin/switches/account/alice", {"switches": []}))[0] == 401


async def test_a_custodian_books_for_the_accounts_of_the_firm(exchange: Exchange) -> None:
    await with_firm(exchange)
    await give(exchange, "carl", [{"role": "custodian", "scope": "firm", "id": "acme"}])
    body = {"currency": "USD", "amount": "1", "transfer_id": "t-1"}
    assert (await exchange.call("carl", "POST", "/admin/accounts/alice/deposits", body))[0] == 200
    status, answer = await exchange.call("carl", "POST", "/admin/accounts/bob/deposits", body)
    assert (status, answer["detail"]) == (403, "deposit for the account bob")
    move = {"from": "alice", "to": "bob", "currency": "USD", "amount": "1", "transfer_id": "t-2"}
    assert (await exchange.call("carl", "POST", "/profiles/transfer", move))[0] == 200
    back = {**move, "from": "bob", "to": "alice", "transfer_id": "t-3"}
    assert (await exchange.call("carl", "POST", "/profiles/transfer", back))[0] == 403


async def test_a_firms_key_follows_the_executions_of_all_its_accounts(exchange: Exchange) -> None:
    """The drop copy of a firm: the channel `user` of a key that has no account of its own."""
    await with_firm(exchange)
    socket = await exchange.client.ws_connect("/")
    message = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["user"]}
    await socket.send_json(message | exchange.socket_signature("rita"))
    await receive(socket, "subscriptions")
    await exchange.order("bob", "sell", "100", "1")
    await exchange.order("alice", "buy", "100", "1")
    received = await receive(socket, "received")
    assert (received["user_id"], received["side"]) == ("alice", "buy")
    match = await receive(socket, "match")
    assert (match["taker_user_id"], match["taker_fee_rate"]) == ("alice", match["taker_fee_rate"])
    assert "maker_user_id" not in match
    assert (await exchange.call("admin", "PUT", "/admin/accounts/bob/firm", {"firm_id": "acme"}))[0] == 200
    seen = {"alice"}
    while "bob" not in seen:  # the connection learns of the new account in a moment
        await exchange.order("bob", "sell", "120", "1")
        await exchange.order("alice", "buy", "90", "1")
        seen.add((await receive(socket, "received"))["user_id"])
    await exchange.order("bob", "sell", "90", "1")
    while True:
        match = await receive(socket, "match")
        if match.get("taker_user_id") == "bob":
            break
    assert match["maker_user_id"] == "alice"


async def test_a_drop_copy_that_began_without_accounts_gets_those_that_join(exchange: Exchange) -> None:
    """Formerly a connection whose user saw no account was not looked up again, and missed the orders of all that joined
    later.
    """
    assert (await exchange.call("admin", "PUT", "/admin/firms/acme"))[0] == 200
    await give(exchange, "rita", [{"role": "viewer", "scope": "firm", "id": "acme"}])
    socket = await exchange.client.ws_connect("/")
    message = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["user"]}
    await socket.send_json(message | exchange.socket_signature("rita"))
    await receive(socket, "subscriptions")
    assert (await exchange.call("admin", "PUT", "/admin/accounts/bob/firm", {"firm_id": "acme"}))[0] == 200
    await until(lambda: not exchange.gateway.revocation._tasks)
    await exchange.order("bob", "sell", "120", "1")
    assert (await receive(socket, "received"))["user_id"] == "bob"


async def test_a_key_without_an_account_cannot_follow_balances(exchange: Exchange) -> None:
    """The subscription was confirmed for an account of the name `operator`, and no message ever came."""
    await with_firm(exchange)
    socket = await exchange.client.ws_connect("/")
    await socket.send_json({"type": "subscribe", "channels": ["balance"]} | exchange.socket_signature("rita"))
    answer = await receive(socket)
    assert (answer["type"], answer["message"]) == ("error", "The key has no account, so it has no balances")


async def test_the_later_of_two_changes_of_a_firm_counts(monkeypatch: pytest.MonkeyPatch, exchange: Exchange) -> None:
    """Formerly the second one was dropped while the first one was looked up, and the user still saw an account that had
    left.
    """
    await with_firm(exchange)
    assert (await exchange.call("admin", "PUT", "/admin/accounts/bob/firm", {"firm_id": "acme"}))[0] == 200
    socket = await exchange.client.ws_connect("/")
    message = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["user"]}
    await socket.send_json(message | exchange.socket_signature("rita"))
    await receive(socket, "subscriptions")
    ask, first, go_on = exchange.backend.query, asyncio.Event(), asyncio.Event()

    async def slow(query: AnyQuery, linearizable: bool = False) -> Any:
        found = await ask(query, linearizable)
        if isinstance(query, ControlsQuery) and query.table == "user" and not first.is_set():
            first.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(exchange.backend, "query", slow)
    exchange.backend.apply(PutMember(OPERATOR, "bob-leaves", "bob", ""))
    await asyncio.wait_for(first.wait(), DEADLINE)  # bob's leaving is known to it, alice's not yet
    exchange.backend.apply(PutMember(OPERATOR, "alice-leaves", "alice", ""))
    monkeypatch.setattr(exchange.backend, "query", ask)
    go_on.set()
    await until(lambda: not exchange.gateway.revocation._tasks)
    (session,) = exchange.gateway.feeds.sessions
    assert session.identity is not None
    assert session.identity.accounts == frozenset()


async def test_the_operators_key_is_switched_off_and_on(exchange: Exchange) -> None:
    status, answer = await exchange.call("admin", "PUT", "/admin/access", {"bootstrap": False})
    assert (status, answer["reason"]) == (409, "locked_out")
    await give(exchange, "ada", [{"role": "administrator"}])
    assert (await exchange.call("admin", "PUT", "/admin/access", {"bootstrap": False}))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/accounts/zoe"))[0] == 401
    assert (await exchange.call("ada", "GET", "/admin/access"))[1] == {"bootstrap": False, "consent": [], "consent_seconds": 0}
    assert (await exchange.call("ada", "PUT", "/admin/accounts/zoe"))[0] == 200
    assert (await exchange.call("ada", "DELETE", "/admin/keys/ada"))[0] == 409
    assert (await exchange.call("ada", "PUT", "/admin/access", {"bootstrap": True}))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/accounts/zoe"))[0] == 200


async def test_a_command_waits_for_a_second_user(exchange: Exchange) -> None:
    for name in ("ada", "eva"):
        await give(exchange, name, [{"role": "administrator"}])
    settings = {"bootstrap": False, "consent": ["accounts"], "consent_seconds": 600}
    assert (await exchange.call("ada", "PUT", "/admin/access", settings))[0] == 200
    status, answer = await exchange.call("ada", "PUT", "/admin/accounts/zoe")
    assert (status, answer["message"]) == (202, "Waits for the consent of another user")
    (proposal_id,) = answer["proposal_ids"]
    (waiting,) = (await exchange.call("eva", "GET", "/admin/proposals"))[1]
    assert waiting["expires_at"] == answer["expires_at"]
    assert (waiting["id"], waiting["proposer"], waiting["permission"]) == (proposal_id, "ada", "accounts")
    assert (waiting["command"], waiting["fields"]) == ("OpenAccount", {"new_account_id": "zoe"})
    status, refused = await exchange.call("ada", "POST", f"/admin/proposals/{proposal_id}/approve")
    assert (status, refused["reason"]) == (403, "needs_another_user")
    status, done = await exchange.call("eva", "POST", f"/admin/proposals/{proposal_id}/approve")
    assert (status, done["decision"]) == (200, "approve"), done
    assert (await exchange.call("eva", "GET", "/admin/proposals"))[1] == []
    status, answer = await exchange.call("ada", "PUT", "/admin/accounts/yann")
    assert status == 202
    proposal_id = answer["proposal_ids"][0]
    assert (await exchange.call("ada", "POST", f"/admin/proposals/{proposal_id}/withdraw"))[0] == 200
    assert (await exchange.call("eva", "POST", f"/admin/proposals/{proposal_id}/approve"))[0] == 404


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_node_that_lacks_a_proposal_does_not_judge_a_key(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """A key with fewer permissions than its user decides nothing, neither at a follower that is a moment behind, nor at
    a leader that is about to apply the proposal.
    """
    for name in ("ada", "eva"):
        await give(exchange, name, [{"role": "administrator"}])
    body = {"account_id": "operator", "secret": SECRET, "passphrase": "p", "permissions": ["view"], "user_id": "eva"}
    assert (await exchange.call("admin", "PUT", "/admin/keys/eva-view", body))[0] == 200
    exchange.keys["eva-view"] = Credentials("eva-view", SECRET, "p")
    settings = {"bootstrap": False, "consent": ["accounts"], "consent_seconds": 600}
    assert (await exchange.call("ada", "PUT", "/admin/access", settings))[0] == 200
    (proposal_id,) = (await exchange.call("ada", "PUT", "/admin/accounts/zoe"))[1]["proposal_ids"]
    target, query = f"/admin/proposals/{proposal_id}/approve", exchange.backend.query
    assert (await exchange.call("eva-view", "POST", target))[0] == 403

    async def behind(wanted: AnyQuery, linearizable: bool = False) -> object:
        found = await query(wanted, linearizable)
        return replace(found, proposal=[]) if isinstance(found, ControlsView) else found

    monkeypatch.setattr(exchange.backend, "query", behind)
    exchange.backend.status |= {"role": role, "sequence": proposal_id - 1}
    await until(lambda: exchange.gateway.monitor.age() > STATUS_AGE_MAX)
    assert (await exchange.call("eva-view", "POST", target))[0] == 404
    assert exchange.backend.engine.records("proposal")


async def test_the_secret_of_a_key_that_waits_for_consent_is_not_lost(exchange: Exchange) -> None:
    for name in ("ada", "eva"):
        await give(exchange, name, [{"role": "administrator"}])
    settings = {"bootstrap": False, "consent": ["access"], "consent_seconds": 600}
    assert (await exchange.call("ada", "PUT", "/admin/access", settings))[0] == 200
    status, answer = await exchange.call("ada", "POST", "/admin/keys", {"account_id": "alice", "permissions": ["view"]})
    assert status == 202
    key = answer["key"]
    exchange.keys["new"] = Credentials(key["id"], key["secret"], key["passphrase"])
    assert (await exchange.call("new", "GET", "/accounts"))[0] == 401
    (proposal_id,) = answer["proposal_ids"]
    assert (await exchange.call("eva", "POST", f"/admin/proposals/{proposal_id}/approve"))[0] == 200
    assert (await exchange.call("new", "GET", "/accounts"))[0] == 200


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "field"),
    [
        ("PUT", "/admin/users/rita", {"roles": [{"role": "king"}]}, 400, "roles[0].role"),
        ("PUT", "/admin/users/rita", {"roles": [{"role": "viewer", "scope": "group"}]}, 400, "roles[0].scope"),
        ("PUT", "/admin/users/rita", {"roles": [{"role": "viewer", "scope": "firm", "id": "none"}]}, 400, "grants[0]"),
        ("PUT", "/admin/users/rita", {}, 400, "roles"),
        ("PUT", "/admin/users/a,b", {"roles": []}, 400, "id"),
        ("PUT", "/admin/access", {"bootstrap": True, "consent": ["luck"]}, 400, "consent"),
        ("PUT", "/admin/access", {"bootstrap": True, "consent": ["market"], "consent_seconds": 60}, 400, "bootstrap"),
        ("PUT", "/admin/access", {"bootstrap": True, "consent_seconds": -1}, 400, "consent_seconds"),
        ("POST", "/admin/proposals/x/approve", None, 404, "id"),
        ("POST", "/admin/proposals/7/forget", None, 400, "decision"),
        ("POST", "/admin/proposals/7/approve", None, 404, "proposal_id"),
    ],
)
async def test_a_wrong_field_of_a_control_is_named(
    exchange: Exchange, method: str, target: str, body: object, status: int, field: str
) -> None:
    found, answer = await exchange.call("admin", method, target, body)
    assert (found, answer.get("field")) == (status, field), answer

"""`user`, `access`, `proposal`, and keys of users."""

from __future__ import annotations

import json
from typing import Any

import pytest

from statemachine.commands import Batch, OpenAccount
from statemachine.events import Proposed
from tests.unit.node.cli.conftest import Run
from tests.unit.node.cli.fakes import FakeClient


def test_users_have_roles_and_keys(market: Run, run_json: Any) -> None:
    market("firm", "put", "acme")
    market("user", "put", "rita", "risk-officer@firm:acme", "viewer", "--note", "desk 4")
    assert run_json("user", "list") == [{"user": "rita", "roles": "risk-officer@firm:acme, viewer", "note": "desk 4"}]
    made = json.loads(market("key", "put", "k-rita", "--user", "rita").stdout)
    assert made["account_id"] == "operator"
    assert run_json("key", "list")[0]["user"] == "rita"
    assert "no roles" in market("user", "put", "rita").stdout


def test_the_operators_key_is_switched_off_when_somebody_can_take_over(market: Run, run_json: Any) -> None:
    assert "at least 1 users" in market("access", "set", "--no-bootstrap", code=1).stderr
    for name in ("ada", "eva"):
        market("user", "put", name, "administrator")
        market("key", "put", f"k-{name}", "--user", name)
    market("access", "set", "--no-bootstrap", "--consent", "accounts", "--seconds", "600")
    assert run_json("access", "show") == [{"operator's key": "off", "consent": "accounts", "seconds": "600"}]
    assert run_json("proposal", "list") == []
    assert "no such proposal waits" in market("proposal", "approve", "7", code=1).stderr


def test_a_proposal_is_shown_with_its_command(market: Run, run_json: Any, client: FakeClient) -> None:
    for name in ("ada", "eva"):
        market("user", "put", name, "administrator")
        market("key", "put", f"k-{name}", "--user", name)
    market("access", "set", "--no-bootstrap", "--consent", "accounts", "--seconds", "600")
    (outcome,) = client.engine.apply(Batch(client.engine.time + 1, [OpenAccount("operator/ada", "o", "zoe")])).outcomes
    assert isinstance(outcome, Proposed)
    (row,) = run_json("proposal", "list")
    assert (row["id"], row["proposer"], row["command"]) == (outcome.proposal_id, "ada", "OpenAccount new_account_id=zoe")


def test_a_command_that_waits_is_not_done(market: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def submit(_commands: object) -> list[Proposed]:
        return [Proposed(7, 1, False, 7, 60 * 10**9)]

    monkeypatch.setattr(client, "submit", submit)
    waits = market("account", "open", "zoe", code=1).stderr
    assert "not done yet: until 1970-01-01 00:01:00Z proposal 7 waits for the consent of another user" in waits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["user", "put", "rita", "king"], "the role must be one of viewer, trader,"),
        (["user", "put", "rita", "trader@product:BTC-USD"], "the scope of trader must be one of venue, firm, account"),
        (["access", "set", "--bootstrap", "--consent", "luck"], "'luck' is none of view,"),
        (["key", "put", "k"], "Give --account, or --user, or both."),
    ],
)
def test_a_user_that_cannot_be_put_is_refused_in_one_line(market: Run, arguments: list[str], message: str) -> None:
    assert message in market(*arguments, code=2).stderr

"""`key put | list | revoke | reseal` and `cluster rotate-key`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.deployment.setup import initialise
from node.errors import ConnectionLost, QuorumbookError, RequestFailed
from node.keys.encryption import read_keys
from node.native.protocol import ControlAction, FailCode
from statemachine.events import Proposed
from tests.unit.node.cli.conftest import Run
from tests.unit.node.cli.fakes import FakeClient


def test_a_key_is_put_listed_and_revoked_and_shown_once(market: Run, run_json: Any, client: FakeClient) -> None:
    made = json.loads(market("key", "put", "mine", "--account", "alice", "--address", "192.0.2.7", "--address", "::/0").stdout)
    row = {
        "key_id": "mine",
        "account_id": "alice",
        "permissions": "view,trade",
        "addresses": "192.0.2.7/32,::/0",
        "user": "",
        "cluster_key": 0,
    }
    assert run_json("key", "list") == [row]
    for printed in (market("key", "list").stdout, market("key", "revoke", "mine").stdout):
        assert made["secret"] not in printed
        assert made["passphrase"] not in printed
    assert run_json("key", "list")[0]["permissions"] == "revoked"
    found = client.engine.api_key("mine")
    assert found is not None
    assert found.secret != made["secret"]


def test_all_pages_are_listed(market: Run, run_json: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.cli.keys.PAGE", 2)
    for number in range(5):
        market("key", "put", f"key-{number}", "--account", "alice")
    assert [row["key_id"] for row in run_json("key", "list")] == [f"key-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["key", "put", "k", "--account", "alice", "--address", "192.0.2.1/24"], 2, "--address: 192.0.2.1/24 has host bits set"),
        (["key", "put", "k", "--account", "alice", "--address", "home"], 2, "--address: "),
        (["key", "revoke", "nobody"], 1, "no API key 'nobody'"),
    ],
)
def test_a_key_that_cannot_be_put_is_refused_in_one_line(market: Run, arguments: list[str], code: int, message: str) -> None:
    assert message in market(*arguments, code=code).stderr


def test_the_leader_encrypts_keys_again(market: Run, client: FakeClient) -> None:
    market("key", "put", "mine", "--account", "alice")
    assert "1 API keys, encrypted under cluster key 0" in market("key", "reseal").stdout
    assert client.controls == [(ControlAction.RESEAL, "")]


def test_a_rotation_says_which_files_are_new(run: Run, tmp_path: Path) -> None:
    initialise(tmp_path / "c", 3)
    printed = run("cluster", "rotate-key", str(tmp_path / "c")).stdout
    assert "cluster key 2 is new" in printed
    for node_id in ("n1", "n2", "n3"):
        assert str(tmp_path / "c" / node_id / "cluster.key") in printed
    (tmp_path / "c" / "n3").rename(tmp_path / "n3")
    assert "Copy one of these files to n3 before you continue." in run("cluster", "rotate-key", str(tmp_path / "c")).stdout


def test_a_new_cluster_may_have_the_keys_of_another(run: Run, tmp_path: Path) -> None:
    initialise(tmp_path / "old", 1)
    kept = tmp_path / "old" / "n1" / "cluster.key"
    run("init", str(tmp_path / "new"), "--cluster-key", str(kept))
    assert read_keys(tmp_path / "new" / "n2" / "cluster.key") == read_keys(kept)
    (tmp_path / "none").write_text("{}")
    assert "expected JSON such as" in run("init", str(tmp_path / "other"), "--cluster-key", str(tmp_path / "none"), code=1).stderr
    assert not (tmp_path / "other").exists()


def test_a_key_that_is_there_is_not_replaced_in_silence(market: Run, run_json: Any, tmp_path: Path) -> None:
    market("key", "put", "k", "--account", "alice", "--out", str(tmp_path / "first.json"))
    assert "--replace" in market("key", "put", "k", "--account", "alice", "--out", str(tmp_path / "second.json"), code=1).stderr
    assert not (tmp_path / "second.json").exists()
    market("key", "put", "k", "--account", "alice", "--out", str(tmp_path / "second.json"), "--replace")
    assert [view["key_id"] for view in run_json("key", "list")] == ["k"]


def test_a_key_file_says_where_the_cluster_is(market: Run, tmp_path: Path) -> None:
    market("key", "put", "k", "--account", "alice", "--out", str(tmp_path / "k.json"))
    written = json.loads((tmp_path / "k.json").read_text())
    assert (written["nodes"], written["ca"]) == ({"n1": "127.0.0.1:7011"}, "PEM")


@pytest.mark.parametrize(
    ("failure", "code", "kept"),
    [
        (RequestFailed(FailCode.OUTCOME_UNKNOWN, "no answer"), 75, True),
        (RequestFailed(FailCode.NO_LEADER, "no leader"), 69, False),
        (ConnectionLost("gone"), 69, False),
    ],
)
def test_the_secret_of_a_key_that_may_be_stored_is_kept(
    market: Run, client: FakeClient, tmp_path: Path, failure: QuorumbookError, code: int, kept: bool
) -> None:
    """The old secret may be void by now, so the new one must not be lost."""
    client.failures.append(failure)
    path = tmp_path / "k.json"
    output = market("key", "put", "k", "--account", "alice", "--replace", "--out", str(path), code=code).stderr
    assert path.exists() == kept
    assert ("stays: its secret is the only copy" in output) == kept


def test_the_secret_of_a_key_that_waits_for_consent_is_shown(
    market: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def submit(_commands: object) -> list[Proposed]:
        return [Proposed(7, 1, False, 7, 60 * 10**9)]

    monkeypatch.setattr(client, "submit", submit)
    path = tmp_path / "k.json"
    market("key", "put", "k", "--account", "alice", "--out", str(path), code=1)
    assert json.loads(path.read_text())["key_id"] == "k"
    assert json.loads(market("key", "put", "k", "--account", "alice", code=1).stdout)["secret"]

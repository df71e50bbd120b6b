"""`check`, `config`, `doctor`, `bundle`, `cluster can-stop`, `node stop`, `top`: what they say, and their exit codes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from node.cli import clusters, nodes, session
from node.cli import diagnosis as bundles
from node.cli import diagnosis as checks
from node.cli import diagnosis as tops
from node.cluster_directory import Access
from node.deployment import local_cluster
from node.deployment import statuses as asked
from node.deployment.statuses import Statuses
from node.diagnosis import bundle, health
from node.diagnosis.findings import Finding, Severity
from node.keys.credentials import Credentials
from tests.ports import free_port
from tests.unit.node.cli.conftest import Run
from tests.unit.node.cli.fakes import FakeClient
from tests.unit.node.diagnosis.statuses import status, three


@pytest.fixture
def node_statuses(monkeypatch: pytest.MonkeyPatch) -> Statuses:
    """Provide what all nodes report. A test may change it."""
    found = three()

    async def ask(_addresses: Mapping[str, str], _tls: object, _credentials: Credentials, _as_node: object = None) -> Statuses:
        return dict(found)

    for module in (asked, health, bundle, tops, local_cluster, clusters):
        monkeypatch.setattr(module, "ask_all", ask)
    monkeypatch.setattr(Access, "tls", lambda _self: None)
    return found


@pytest.fixture
def directory(run: Run, tmp_path: Path) -> Path:
    run("init", "exchange", "--base-port", str(free_port()), "--cluster-id", "trial")
    return tmp_path / "exchange"


def test_check_prints_the_format_of_nagios(run: Run, node_statuses: Statuses) -> None:
    output = run("check", "leader", "lag", "--interval", "0").stdout
    assert output.startswith("OK - 4 findings, nothing wrong | 'leader_n1_term'=3 'lag_n1_entries'=0")
    assert output.count("\n") == 1
    node_statuses["n1"] = None
    assert run("check", "leader", "--interval", "0", code=2).stdout.startswith("CRITICAL - leader - no leader serves")
    node_statuses["n1"] = status("n1", "leader", commit_index=5_000)
    assert "WARNING lag of n2" in run("check", "lag", "-v", "--interval", "0", code=1).stdout
    assert run("check", "lag", "--warning", "10000", "--interval", "0").stdout.startswith("OK")
    assert run("check", "lag", "--critical", "2000", "--interval", "0", code=2).stdout.startswith("CRITICAL")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nonsense"], "is not one of"),
        (["--warning", "3"], "belong to one CHECK"),
        (["leader", "--warning", "3"], "belong to one CHECK"),
        (["lag", "disk", "--critical", "3"], "belong to one CHECK"),
        (["lag", "--warning", "5", "--critical", "3"], "expected at least"),
        (["disk", "--warning", "5", "--critical", "30"], "expected at most"),
        (["lag", "--interval", "-1"], "range"),
    ],
)
def test_check_rejects_unusable_options(run: Run, node_statuses: Statuses, words: list[str], text: str) -> None:
    assert text in run("check", *words, code=2).stderr


def test_check_is_unknown_where_there_is_not_a_cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "reach", lambda target: target.access())
    assert run("check", "leader", code=3).stdout.startswith("UNKNOWN - ")


@pytest.mark.parametrize("option", ["--key", "--ca"])
def test_check_is_unknown_where_a_file_cannot_be_read(run: Run, option: str) -> None:
    assert run("check", option, "missing", code=3).stdout.startswith("UNKNOWN - ")


def test_a_bar_in_a_text_does_not_begin_the_performance_data() -> None:
    assert checks.line(Severity.WARNING, [Finding(Severity.WARNING, "n1", "x", "a | b")]) == "WARNING - x of n1: a / b"


def test_config_check_and_config_show_print_the_settings(run: Run, run_json: Any, directory: Path) -> None:
    assert "n2 of trial can start" in run("config", "check").stdout
    shown = run("config", "show", "--config", str(directory / "n1" / "node.toml")).stdout
    assert 'admin.secret = "********"' in shown
    secret = json.loads((directory / "admin.json").read_text())["secret"]
    assert secret not in shown
    assert "snapshot.keep = 2  # default" in shown
    assert "snapshot.keep" not in run("config", "show", "--changed").stdout
    path = directory / "n2" / "node.toml"
    path.write_text(path.read_text().replace('cluster_id = "trial"', 'cluster_id = "other"'))
    assert "cluster_id differs between" in run("config", "check", code=1).stderr
    path.write_text(path.read_text() + "\nnonsense = 1\n")
    answer = run_json("config", "check", code=1)
    assert list(answer["faults"]) == ["exchange/n2/node.toml"]
    assert "no node in it" in run("config", "show", "--cluster", str(directory / "n1"), code=1).stderr


def test_doctor_examines_a_directory_a_node_or_a_file(run: Run, run_json: Any, directory: Path) -> None:
    found = run_json("doctor", "--node", "n2", code=1)
    assert {finding["node_id"] for finding in found["findings"]} == {"n2"}
    assert found["level"] == "warning", "the other nodes are down"
    assert "what to do" in run("doctor", "--config", str(directory / "n1" / "node.toml"), code=1).stdout
    assert "no node n9" in run("doctor", "--node", "n9", code=1).stderr
    (directory / "n3" / "node.toml").write_text("[raft")
    assert {
        (each["node_id"], each["check"]) for each in run_json("doctor", code=2)["findings"] if each["level"] == "critical"
    } == {("n3", "configuration")}


def test_can_stop_says_whether_a_node_may_stop(run: Run, run_json: Any, directory: Path, node_statuses: Statuses) -> None:
    assert "n1 may stop" in run("cluster", "can-stop", "n1").stdout
    node_statuses["n3"] = None
    assert run_json("cluster", "can-stop", "n1", code=1)["may_stop"] is False
    assert "n2 must not stop" in run("cluster", "can-stop", "--config", str(directory / "n2" / "node.toml"), code=1).stdout
    assert "Name the NODE" in run("cluster", "can-stop", code=2).stderr
    node_statuses.update(dict.fromkeys(node_statuses))
    run("cluster", "can-stop", "n1", code=69)


def test_node_stop_does_not_stop_a_node_that_is_needed(
    run: Run, directory: Path, node_statuses: Statuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[int] = []
    pids = [123]
    monkeypatch.setattr(nodes, "locked_pid", lambda _path: pids[0] if pids else None)

    def send(pid: int, _number: int) -> None:
        signals.append(pid)
        pids.clear()

    monkeypatch.setattr(nodes, "send", send)
    node_statuses["n3"] = None
    config = str(directory / "n1" / "node.toml")
    assert "would stand still" in run("node", "stop", "--config", config, code=1).stderr
    assert not signals
    assert "has stopped" in run("node", "stop", "--config", config, "--force").stdout
    pids.append(123)
    node_statuses["n1"] = None
    assert "has stopped" in run("node", "stop", "--config", config).stdout, "no leader serves anyway"
    assert signals == [123, 123]


def test_a_bundle_has_a_manifest_and_no_secret(run: Run, run_json: Any, directory: Path, node_statuses: Statuses) -> None:
    key = json.loads((directory / "admin.json").read_text())
    (directory / "n1" / "node.log").write_text(f"somebody wrote {key['secret']} into the log\n")
    found = run_json("bundle", "--output", "b.tar.gz")
    with tarfile.open("b.tar.gz") as archive:
        files = {member.name.removeprefix("b/"): archive.extractfile(member) for member in archive.getmembers()}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    manifest = json.loads(contents.pop("manifest.json"))
    listed = {entry["name"]: entry for entry in manifest["files"] if not entry["missing"]}
    assert set(listed) == set(contents)
    assert {name: entry["bytes"] for name, entry in listed.items()} == {name: len(data) for name, data in contents.items()}
    assert {"environment.json", "n1/status.json", "n1/settings.json", "n1/node.log", "n2/doctor.json", "n3/files.json"} <= set(
        contents
    )
    assert any(entry["name"] == "n1/processes" and entry["missing"] for entry in manifest["files"])
    secrets = {key["secret"], key["passphrase"]}
    secrets |= {line for path in directory.glob("n*/*.key") for line in path.read_text().split() if len(line) >= 40}
    assert len(secrets) > 5
    for secret in secrets:
        assert not [name for name, data in contents.items() if secret.encode() in data], "no file holds a secret"
    assert "somebody wrote ********" in contents["n1/node.log"].decode()
    assert Path("b.tar.gz").stat().st_mode & 0o777 == 0o600
    assert found["manifest"]["cluster_id"] == "trial"
    assert "exists already" in run("bundle", "--output", "b.tar.gz", code=1).stderr


def test_top_prints_once(run: Run, market: Run, client: FakeClient, node_statuses: Statuses) -> None:
    market("order", "place", "BTC-USD", "buy", "1", "--price", "100", "--as", "alice")
    output = run("top", "--count", "1", "--interval", "0.1").stdout
    assert "leader" in output
    assert "BTC-USD" in output
    assert "100" in output
    node_statuses["n2"] = None
    assert "does not answer" in run("top", "--count", "1", "--interval", "0.1").stdout
    answer = json.loads(run("top", "--json", "--interval", "0.1").stdout)
    assert [each["node_id"] for each in answer["nodes"]] == ["n1", "n3"]
    assert answer["products"][0]["bid"] == 100 * 10**6
    assert "no product 'X'" in run("top", "--product", "X", "--count", "1", "--interval", "0.1", code=1).stderr


def test_the_modules_are_those_that_the_program_names() -> None:
    assert bundles.bundle.name == "bundle"
    assert tops.top.name == "top"

"""What operators do by the command line: init, up, down, status, log, audit, version, node start."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import msgspec
import pytest

from cluster.log import DurableLog
from cluster.messages import COMMAND
from cluster.ports import LogEntry
from cluster.storage import RealDisk
from node.cli import clusters, members, records, session, snapshots
from node.cli.target import Target
from node.cluster_directory import KeyFile
from node.config.file import load
from node.config.settings import NodeConfig
from node.deployment.local_cluster import LocalCluster
from node.deployment.statuses import Statuses
from node.errors import NodeStartError
from node.keys.credentials import Credentials
from node.native.protocol import ControlAction, MemberStatus, NodeStatus
from snapshots.abi import ABI
from snapshots.job import JobState
from snapshots.manifest import SnapshotFields
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand, Batch, OpenAccount, PutApiKey, PutCurrency, encode_batch
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from tests.unit.node.cli.conftest import Run
from tests.unit.node.cli.fakes import FakeClient
from tests.unit.snapshots.making import wait

RunJson = Callable[..., Any]
COMMANDS: list[AnyCommand] = [
    PutCurrency(OPERATOR, "usd", "USD", 2),
    OpenAccount(OPERATOR, "a", "alice"),
    PutApiKey(OPERATOR, "k", "alice-key", "alice", "c2VjcmV0", "hush", 3),
]


def status(node_id: str, role: str) -> NodeStatus:
    members = [MemberStatus(node_id, True, 1234), MemberStatus("n2", True, 12), MemberStatus("n3", False, 0)]
    reached = (3, 1234, 1234, 1234, 1, 1000, 5678)
    return NodeStatus(
        node_id, "trial", role, "n1", *reached, "ab" * 16, True, True, True, 61.4, "0.1.0", "abi", members, mode="Ready"
    )


class FakeLocal(LocalCluster):
    """Nodes that only record what was done with them."""

    def __init__(self, directory: Path | str, *, leave_out_invalid: bool = False) -> None:
        super().__init__(directory, leave_out_invalid=leave_out_invalid)
        self.calls: list[tuple[Any, ...]] = []
        self.up = ["n2"]
        self.statuses: Statuses = {"n1": status("n1", "leader"), "n2": status("n2", "follower"), "n3": None}

    def running(self) -> list[str]:
        return self.up

    def start(self, node_ids: Any = None, *, rejoin: bool = False, seconds: float = 0.0) -> None:
        self.calls.append(("start", list(node_ids), rejoin))

    def stop(self, node_ids: Any = None, *, seconds: float = 0.0) -> None:
        self.calls.append(("stop", node_ids))

    async def status(self) -> Statuses:
        return self.statuses

    async def wait_ready(self, seconds: float = 30.0, node_ids: Any = None) -> Statuses:
        if seconds < 1:
            raise NodeStartError("not ready within 0.5 s: n3 does not answer")
        return dict.fromkeys(node_ids, self.statuses["n1"])


@pytest.fixture
def local(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLocal:
    run("init", "exchange", "--base-port", "18200", "--cluster-id", "trial")
    fake = FakeLocal(tmp_path / "exchange")
    monkeypatch.setattr(clusters, "LocalCluster", lambda directory, **_options: fake)
    return fake


def test_init_makes_a_cluster_that_loads(run: Run, tmp_path: Path) -> None:
    output = run("init", "here", "--nodes", "5", "--base-port", "18300").stdout
    assert [load(path).node_id for path in sorted((tmp_path / "here").glob("*/node.toml"))] == ["n1", "n2", "n3", "n4", "n5"]
    assert "quorumbook cluster up --cluster here" in output
    assert "here" in run("init", "here", code=1).stderr


def test_init_quotes_a_path_with_spaces_in_the_command_that_it_prints(run: Run) -> None:
    output = run("init", "my exchange", "--base-port", "18300").stdout
    assert "quorumbook cluster up --cluster 'my exchange'" in output
    output = run("init", "our exchange", "--hosts", "10.0.0.1,10.0.0.2,10.0.0.3").stdout
    assert "quorumbook node start --config 'our exchange/NODE/node.toml'" in output
    assert "--cluster 'our exchange/admin.json'" in output
    assert "make one with: quorumbook init 'no exchange'" in run("cluster", "up", "--cluster", "no exchange", code=1).stderr


@pytest.mark.parametrize(
    "options",
    [["--node", "n1=10.0.0.1", "--node", "n2=10.0.0.2", "--node", "n3=10.0.0.3"], ["--hosts", "10.0.0.1,10.0.0.2,10.0.0.3"]],
)
def test_init_takes_a_host_for_each_node(run: Run, tmp_path: Path, options: list[str]) -> None:
    result = run("init", "here", *options)
    assert "Move each node's directory" in result.stdout
    configs = [load(path) for path in sorted((tmp_path / "here").glob("*/node.toml"))]
    assert [config.raft.listen for config in configs] == ["10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"]
    assert all(config.http.tls for config in configs), "data that leaves the machine is encrypted"
    assert "not encrypted" in run("init", "open", *options, "--http").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "x", "--node", "n1"], "expected NODE=HOST"),
        (["init", "x", "--node", "n1=h", "--nodes", "3"], "Give only one of --nodes"),
        (["init", "x", "--nodes", "2"], "'2' is not one of '1', '3', '5'"),
        (["init", "x", "--base-port", "80"], "80 is not in the range"),
        (["cluster", "up", "--cluster", "exchange", "--rejoin"], "name it with --node"),
        (["node", "start"], "Missing option '--config'"),
        (["node", "start", "--config", "absent.toml"], "absent.toml"),
        (["replay", "absent.csv"], "'absent.csv' does not exist"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(run: Run, arguments: list[str], message: str) -> None:
    assert message in run(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cluster", "status", "--cluster", "nowhere"], "nowhere: no node in it"),
        (["cluster", "up"], "exchange: no node in it"),
        (["txlog", "export", "--cluster", "."], "neither a node's nor a cluster's directory"),
    ],
)
def test_a_missing_object_is_reported_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments, code=1)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_up_starts_stopped_nodes_and_prints_their_addresses(run: Run, local: FakeLocal) -> None:
    output = run("cluster", "up").stdout
    assert local.calls == [("start", ["n1", "n3"], False)]
    assert "n1, n2, n3 ready, n1 leads" in output
    assert "n3: http://127.0.0.1:18223, native 127.0.0.1:18213" in output
    run("cluster", "up", "--node", "n3", "--rejoin", "--wait", "0")
    assert local.calls[-1] == ("start", ["n3"], True)


def test_up_that_does_not_come_up_is_exit_code_1(run: Run, local: FakeLocal) -> None:
    assert "n3 does not answer" in run("cluster", "up", "--wait", "0.5", code=1).stderr


def test_down_stops_running_nodes(run: Run, local: FakeLocal) -> None:
    assert run("cluster", "down").stdout == "n2 stopped\n"
    local.up = []
    assert run("cluster", "down", "--node", "n1").stdout == "nothing was running\n"
    assert local.calls == [("stop", None), ("stop", ["n1"])]


@pytest.mark.parametrize("text", ["not TOML [", "cluster_id = 7\n"])
def test_status_and_down_name_an_invalid_node_toml_and_continue(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    run("init", "exchange", "--base-port", "18200", "--cluster-id", "trial")
    bad = tmp_path / "exchange" / "n2" / "node.toml"
    bad.write_text(text, encoding="utf-8")
    fake = FakeLocal(tmp_path / "exchange", leave_out_invalid=True)
    fake.up = ["n1"]
    monkeypatch.setattr(clusters, "LocalCluster", lambda directory, **_options: fake)
    shown = run("cluster", "status", code=1)
    assert "n1" in shown.stdout and "leader" in shown.stdout  # noqa: PT018
    assert f"error: {bad}: " in shown.stderr
    stopped = run("cluster", "down", code=1)
    assert stopped.stdout == "n1 stopped\n"
    assert f"error: {bad}: " in stopped.stderr
    assert fake.calls == [("stop", None)]
    assert fake.node_ids == ["n1", "n3"]
    assert sorted(fake.layout.addresses) == ["n1", "n2", "n3"]


def test_status_names_the_file_if_no_node_toml_is_valid(run: Run, tmp_path: Path) -> None:
    run("init", "exchange", "--base-port", "18200")
    paths = sorted((tmp_path / "exchange").glob("*/node.toml"))
    for path in paths:
        path.write_text("not TOML [", encoding="utf-8")
    assert str(paths[0]) in run("cluster", "status", code=1).stderr


def test_status_shows_one_row_for_each_node(run: Run, local: FakeLocal) -> None:
    rows = [line for line in run("cluster", "status").stdout.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows]
    assert cells[0] == [
        "n1",
        "Ready",
        "leader",
        "3",
        "1,234",
        "1,234",
        "0",
        "5,678",
        "abababababab",
        "1,000",
        "n2, (n3)",
        "yes",
        "1 min 1 s",
        "0.1.0 abi",
        "0.1.0",
    ]
    assert cells[2][:3] == ["n3", "", "unreachable"]


def test_status_shows_members_without_a_vote_and_snapshots_on_their_way(run: Run, local: FakeLocal) -> None:
    members = [
        MemberStatus("n1", True, 9),
        MemberStatus("n2", True, 0, "learner", snapshot_sent=5, snapshot_size=20),
        MemberStatus("n3", True, 9, "read_only"),
    ]
    for node_id, role in (("n1", "leader"), ("n2", "follower"), ("n3", "follower")):
        local.statuses[node_id] = msgspec.structs.replace(status(node_id, role), members=members, voter=node_id == "n1")
    rows = [line for line in run("cluster", "status").stdout.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows]
    assert [row[2] for row in cells] == ["leader", "learner", "read-only"]
    assert cells[0][10] == "n2 (snapshot 25 %), n3"
    assert [row[11] for row in cells] == ["yes", "yes", "yes"]


def test_status_as_json_has_everything(run: Run, local: FakeLocal) -> None:
    printed = json.loads(run("cluster", "status", "--json").stdout)
    assert printed["leader"] == "n1"
    member = printed["nodes"]["n1"]["members"][1]
    assert {name: member[name] for name in ("node_id", "connected", "match_index", "role")} == {
        "node_id": "n2",
        "connected": True,
        "match_index": 12,
        "role": "voter",
    }
    assert printed["nodes"]["n3"] is None


def test_status_without_a_leader_is_exit_code_69(run: Run, local: FakeLocal) -> None:
    local.statuses = {"n1": None, "n2": status("n2", "candidate"), "n3": None}
    assert "candidate" in run("cluster", "status", code=69).stdout


def test_operators_send_requests_to_nodes(run: Run, local: FakeLocal, client: FakeClient) -> None:
    assert run("cluster", "transfer-leadership").stdout == "n2 leads (before: n1)\n"
    assert run("cluster", "transfer-leadership", "--to", "n3").stdout == "n3 leads (before: n2)\n"
    assert run("cluster", "transfer-leadership", "--to", "n3").stdout == "n3 leads already\n"
    assert run("snapshot", "take", "n1").stdout == "n1: the snapshot at index 40 is on disk\n"
    asked = [(ControlAction.TRANSFER_LEADERSHIP, ""), (ControlAction.TRANSFER_LEADERSHIP, "n3"), (ControlAction.SNAPSHOT, "n1")]
    assert client.controls == asked
    assert (
        "no node 'n9' in the cluster; there are: n1, n2, n3" in run("cluster", "transfer-leadership", "--to", "n9", code=1).stderr
    )
    assert "no node 'n9'; there are: n1, n2, n3" in run("snapshot", "take", "n9", code=1).stderr


def test_the_version_has_the_abi(run: Run) -> None:
    printed = json.loads(run("version", "--json").stdout)
    assert len(printed["abi"]) == 40
    assert printed["abi"] in run("version").stdout


BATCHES = [Batch(index * 10**9, [command]) for index, command in enumerate(COMMANDS, 2)]


def write_log(directory: Path, batches: Sequence[Batch] = BATCHES) -> None:
    for node_id in ("n1", "n2", "n3"):
        log = DurableLog(RealDisk(directory / node_id / "data" / "log", fsync=False), node_id=node_id, abi=ABI)
        log.append(LogEntry(bytes([COMMAND]), 1, 1))
        for index, batch in enumerate(batches, 2):
            log.append(LogEntry(bytes([COMMAND]) + encode_batch(batch), index, 1))
        log.close()


def test_a_log_is_exported_shown_replayed_and_made_again(run: Run, run_json: RunJson, local: FakeLocal, tmp_path: Path) -> None:
    write_log(tmp_path / "exchange")
    heading, *lines = [json.loads(line) for line in run("txlog", "export", "--without-secrets").stdout.splitlines()]
    assert (heading["first_index"], heading["secrets"]) == (1, False)
    assert lines[0] == {
        "index": 2,
        "term": 1,
        "time": "1970-01-01T00:00:02Z",
        "commands": [{"kind": "PutCurrency", "account_id": OPERATOR, "command_id": "usd", "currency": "USD", "scale": 2}],
    }
    assert lines[2]["commands"][0]["secret"] == lines[2]["commands"][0]["passphrase"] == ""
    run("txlog", "export", "--node", "n2", "log.jsonl")
    assert "c2VjcmV0" in (tmp_path / "log.jsonl").read_text()
    assert "log.jsonl: exists already" in run("txlog", "export", "log.jsonl", code=1).stderr
    assert "3 entries in again" in run("txlog", "import", "log.jsonl", "again").stdout
    shown = run("txlog", "show", "log.jsonl", "--from", "3").stdout
    assert "alice-key" in shown
    assert "USD" not in shown
    assert "c2VjcmV0" not in shown
    by_node, by_file = (run_json("txlog", "replay", *source) for source in ([], ["log.jsonl"]))
    assert by_node == by_file
    assert (by_node["sequence"], by_node["clock"], by_node["agrees"]) == (3, "1970-01-01T00:00:04Z", None)
    part = run_json("txlog", "replay", "--until", "2", "--freeze-clock")
    assert (part["sequence"], part["index"]) == (2, 3)
    assert "there is no command 9" in run("txlog", "replay", "--until", "9", code=1).stderr
    assert "no node 'n9'; there are: n1, n2, n3" in run("txlog", "export", "--node", "n9", code=1).stderr


@pytest.mark.parametrize(("entries", "agrees"), [(3, None), (4, True)])
def test_a_replay_is_compared_with_a_snapshot_of_the_same_moment(
    run: Run, run_json: RunJson, local: FakeLocal, tmp_path: Path, entries: int, agrees: bool | None
) -> None:
    """The last entry has no command: before and after it the sequence is the same, and the state differs."""
    batches = [*BATCHES, Batch(9 * 10**9, [])]
    write_log(tmp_path / "exchange", batches)
    engine = Engine()
    for batch in batches[:entries]:
        engine.apply(batch)
    fields = SnapshotFields(1 + entries, 1, b"", engine.sequence, "0", 0, engine.full_hash())
    job = SnapshotStore(tmp_path / "exchange" / "n1" / "data" / "snapshots").begin(fields, dict(engine.tables()))
    assert wait(job) is JobState.DONE, job.reason
    replayed = run_json("txlog", "replay", "--node", "n1", "--diff", "--freeze-clock")
    assert bool(replayed["differences"]) is (agrees is None)
    assert (replayed["sequence"], replayed["index"], replayed["agrees"]) == (3, 5, agrees)
    assert "time passes" in run("txlog", "show").stdout


def test_a_damaged_log_is_one_line(run: Run, local: FakeLocal, tmp_path: Path) -> None:
    write_log(tmp_path / "exchange")
    (path,) = (tmp_path / "exchange" / "n1" / "data" / "log").glob("*.seg")
    path.write_bytes(b"garbage" + path.read_bytes())
    assert "not a log segment" in run("txlog", "export", code=1).stderr


def test_an_audit_works_by_the_logs_alone(run: Run, local: FakeLocal, run_json: RunJson, tmp_path: Path) -> None:
    write_log(tmp_path / "exchange")
    acks = tmp_path / "acks.jsonl"
    acks.write_text('{"account_id":"operator","command_id":"usd","kind":"done","sequence":1}\n')
    output = run("audit", "--acks", str(acks), "--offline").stdout
    assert output.count("holds") == 4
    acks.write_text('{"account_id":"operator","command_id":"eur","kind":"done","sequence":1}\n')
    report = run_json("audit", "--acks", str(acks), code=1)
    assert report["holds"] is False
    assert [check["holds"] for check in report["checks"]] == [True, True, True, False]


def test_an_audit_asks_the_nodes_that_run(run: Run, local: FakeLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path / "exchange")
    monkeypatch.setattr(records, "LocalCluster", lambda directory: local)
    output = run("audit", code=1).stdout
    assert "n2 is at sequence 5678, where no committed entry ends" in output
    assert "n1 is" not in output


def test_the_cluster_comes_from_the_environment(
    run: Run, local: FakeLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def note(target: Target) -> FakeClient:
        seen.append(target.place)
        return FakeClient()

    monkeypatch.setattr(session, "open_client", note)
    monkeypatch.setenv("QUORUMBOOK_CLUSTER", "elsewhere")
    run("product", "list")
    run("product", "list", "--cluster", "here")
    assert seen == [Path("elsewhere"), Path("here")]


def test_a_nodes_configuration_is_checked_without_a_start(run: Run, local: FakeLocal, tmp_path: Path) -> None:
    assert "n1 of trial can start" in run("node", "check", "--config", "exchange/n1/node.toml").stdout
    path = tmp_path / "exchange" / "n1" / "node.toml"
    (path.parent / "node.key").chmod(0o644)
    assert "chmod 600" in run("node", "check", "--config", "exchange/n1/node.toml").stderr
    path.write_text(path.read_text().replace("[raft]", "[raft]\nheartbeat = 99.0"))
    assert "raft.heartbeat" in run("node", "check", "--config", "exchange/n1/node.toml", code=1).stderr


@pytest.mark.parametrize(
    ("data_dir", "text"),
    [("/dev/null", "cannot be read"), ("nowhere", "does not exist"), ("../n2/data", "directory of node 'n2'")],
)
def test_a_node_whose_data_directory_forbids_it_cannot_start(
    run: Run, local: FakeLocal, tmp_path: Path, data_dir: str, text: str
) -> None:
    """Formerly both commands said that it can start, and its start failed."""
    path = tmp_path / "exchange" / "n1" / "node.toml"
    path.write_text(path.read_text().replace('data_dir = "data"', f'data_dir = "{data_dir}"'))
    assert text in run("node", "check", "--config", "exchange/n1/node.toml", code=1).stderr
    checked = run("config", "check", code=1)
    assert text in checked.stderr
    assert "n1 of trial can start" not in checked.stdout
    assert "n2 of trial can start" in checked.stdout


def test_a_state_without_the_operators_key_is_named(local: FakeLocal, capsys: pytest.CaptureFixture[str]) -> None:
    """The new cluster's admin.json would be refused, without a word why."""
    records.warn_of_keys(Engine(), local.layout)
    assert capsys.readouterr().err == ""
    off = SimpleNamespace(access=SimpleNamespace(bootstrap_off=True), api_keys=list)
    records.warn_of_keys(cast(Engine, off), local.layout)
    assert "--key FILE" in capsys.readouterr().err


def test_a_directory_whose_nodes_have_moved_names_the_key_file(run: Run, local: FakeLocal, tmp_path: Path) -> None:
    """Formerly the advice was to make another cluster."""
    for node_id in ("n1", "n2", "n3"):
        shutil.rmtree(tmp_path / "exchange" / node_id)
    result = run("pki", "show", code=1).stderr
    assert "--cluster exchange/admin.json" in result
    assert "init" not in result


class Changed:
    """Records how the membership would be changed."""

    made: ClassVar[list[Credentials | None]] = []

    def __init__(self, _local: LocalCluster, _report: object, credentials: Credentials | None = None) -> None:
        self.made.append(credentials)

    async def add(self, *_arguments: object, **_options: object) -> None:
        """Do nothing."""

    remove = replace = add

    async def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("words", [["add", "n4"], ["remove", "n3"], ["replace", "n3", "n4"]])
def test_a_users_key_changes_the_members(
    run: Run, local: FakeLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Formerly nobody could while the operator's key was switched off, as docs/operations.md recommends."""
    monkeypatch.setattr(members, "MemberChanges", Changed)
    key = KeyFile("ada-1", "c2VjcmV0", "hush", "", {"n1": "127.0.0.1:1"}, "PEM")
    (tmp_path / "ada.json").write_bytes(msgspec.json.encode(key))
    run("cluster", *words, "--key", "ada.json")
    run("cluster", *words)
    assert Changed.made[-2:] == [key.credentials(), None]


def test_a_backup_needs_no_key(run: Run, local: FakeLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly it asked with the operator's key, and failed when that was switched off."""
    asked: list[str] = []

    async def snapshot_now(config: NodeConfig, _seconds: float) -> None:
        asked.append(config.node_id)

    assert "n1 does not run; --newest copies" in run("backup", "backups", "--node", "n1", code=1).stderr
    monkeypatch.setattr(snapshots, "is_running", lambda _config: True)
    monkeypatch.setattr(snapshots, "snapshot_now", snapshot_now)
    monkeypatch.setattr(session, "open_client", None)
    assert "there is no snapshot" in run("backup", "backups", "--node", "n1", code=1).stderr
    assert asked == ["n1"]


def test_a_data_directory_that_cannot_be_written_forbids_a_start(
    run: Run, local: FakeLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _path, mode, **_options: mode != os.W_OK)
    assert "cannot be written" in run("node", "check", "--config", "exchange/n1/node.toml", code=1).stderr
    assert "cannot be written" in run("config", "check", code=1).stderr


def test_clocks_that_differ_are_shown(run: Run, local: FakeLocal, client: FakeClient) -> None:
    members = [
        MemberStatus("n1", True, 1),
        MemberStatus("n2", True, 1, clock_skew=-0.9),
        MemberStatus("n3", True, 1, clock_skew=0.01),
    ]
    client.status = msgspec.structs.replace(client.status, members=members)
    local.statuses["n1"] = msgspec.structs.replace(status("n1", "leader"), members=members)
    shown = run("cluster", "members").stdout
    assert "-900 ms" in shown
    assert "+10 ms" in shown
    assert "n2 (clock -0.9 s), n3" in run("cluster", "status").stdout

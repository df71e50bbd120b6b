"""Progress bars of the command line: what a terminal shows, and that nothing else gets one."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from node.cli import levels
from node.cluster_directory import Access
from node.deployment.statuses import Statuses
from node.native.protocol import LevelReport, NodeStatus
from node.records import exporting
from snapshots.job import JobState
from snapshots.manifest import SnapshotFields
from snapshots.store import SnapshotStore
from statemachine.commands import Batch, OpenAccount, PutCurrency
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from tests.unit.node.cli.conftest import Run, Watched
from tests.unit.node.cli.fakes import FakeClient
from tests.unit.node.cli.test_operation import status
from tests.unit.snapshots.making import wait


@pytest.fixture
def old(run: Run, tmp_path: Path) -> Path:
    """Make a cluster of one node with a snapshot."""
    run("init", "old", "--nodes", "1")
    engine = Engine()
    engine.apply(Batch(10**9, [PutCurrency(OPERATOR, "usd", "USD", 2), OpenAccount(OPERATOR, "a", "alice")]))
    fields = SnapshotFields(3, 1, b"", engine.sequence, "0", 0, engine.full_hash())
    job = SnapshotStore(tmp_path / "old" / "n1" / "data" / "snapshots").begin(fields, dict(engine.tables()))
    assert wait(job) is JobState.DONE, job.reason
    return tmp_path / "old"


def test_commands_that_copy_a_state_show_their_stages(
    run: Run, watched: Watched, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = watched("export", "tables", "--cluster", str(old))
    for stage in ("n1: its newest snapshot", "the snapshot is copied", "the snapshot is checked", "the snapshot is read"):
        assert stage in shown, stage
    assert "the tables are written" in shown
    assert "n1 at index 3" in capsys.readouterr().out

    run("init", "imported", "--nodes", "1")
    shown = watched("import", "tables", "--cluster", "imported")
    for stage in ("the tables are read", "a snapshot of them is written", "the rows are read", "the state is checked"):
        assert stage in shown, stage
    assert "n1: the snapshot is copied" in shown

    shown = watched("backup", "backups", "--cluster", "imported", "--node", "n1", "--newest")
    assert "the snapshot is copied" in shown
    assert "the snapshot is checked" in shown
    snapshot = str(tmp_path / "backups" / f"{2:020d}")
    assert f"{snapshot}: the rows are read" in watched("snapshot", "verify", snapshot)

    run("init", "restored", "--nodes", "3")
    shown = watched("snapshot", "restore", snapshot, "--cluster", "restored")
    assert f"{snapshot}: the rows are read" in shown
    for node_id in ("n1", "n2", "n3"):
        assert f"{node_id}: the snapshot is copied" in shown


def test_an_export_on_a_full_disk_leaves_nothing(run: Run, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly the next attempt failed because of what the first one had left, and the error named no file."""

    def write_tables(directory: Path, *_rows: object, **_options: object) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "Account.tsv").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_tables", write_tables)
        assert "tables: No space left on device" in run("export", "tables", "--cluster", str(old), code=1).stderr
    assert not (tmp_path / "tables").exists()
    run("export", "tables", "--cluster", str(old))


def test_a_node_that_takes_a_snapshot_is_named(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    assert "n1 takes a snapshot" in watched("snapshot", "take", "n1")
    assert capsys.readouterr().out == "n1: the snapshot at index 40 is on disk\n"


def test_an_upgrade_names_the_nodes_that_it_waits_for(
    watched: Watched, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change_level(version: str, *, check: bool, earlier: bool, deadline: float) -> LevelReport:
        return LevelReport("0.2.0", version, [], [], 7)

    answers = [{"n1"}, {"n1", "n3"}, {"n1", "n2", "n3"}]

    async def ask_all(*_access: object) -> Statuses:
        there = answers.pop(0)
        roles = {"n1": "leader", "n2": "follower", "n3": "follower"}
        return {name: at_level(name, role, "0.3.0" if name in there else "0.2.0") for name, role in roles.items()}

    monkeypatch.setattr(client, "change_level", change_level)
    monkeypatch.setattr(levels, "ask_all", ask_all)
    monkeypatch.setattr(Access, "tls", lambda _access: None)
    shown = watched("cluster", "upgrade", "--to", "0.3.0")
    assert "waiting for n1 to make their states ready" in shown
    assert shown.index("waiting for n2, n3") < shown.index("waiting for n2 ")
    assert "67%" in shown


def at_level(node_id: str, role: str, level: str) -> NodeStatus:
    return msgspec.structs.replace(status(node_id, role), level=level)


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}])
def test_nothing_is_shown_in_ci_and_on_a_terminal_without_a_cursor(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert watched("snapshot", "take", "n1") == ""


def test_nothing_is_shown_beside_json(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    assert watched("snapshot", "take", "n1", "--json") == ""
    assert json.loads(capsys.readouterr().out)["snapshot_index"] == 40


@pytest.mark.parametrize("forced", ["", "1"])
def test_nothing_is_shown_in_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("FORCE_COLOR", forced)
    assert run("snapshot", "take", "n1").stderr == ""

"""A backup of a running cluster becomes a new cluster, which continues to trade. The test uses the command line, as an
operator does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from loadtest.ground import prepare
from node.data_directory import identity
from node.system.processes import PID_FILE, PidFile
from tests.real_cluster import MakeGround, end, run_cli

pytestmark = pytest.mark.cluster


def run(directory: Path, *arguments: str, code: int = 0) -> str:
    """Run a command line against a cluster. Returns what it printed."""
    return run_cli(directory, *arguments, code=code).output


def state(directory: Path) -> set[tuple[int, str]]:
    """Return the sequence and the state hash of every node."""
    nodes = json.loads(run(directory, "cluster", "status", "--json"))["nodes"].values()
    return {(node["sequence"], node["state_hash"]) for node in nodes}


def test_a_backup_becomes_a_new_cluster(make_ground: MakeGround, tmp_path: Path) -> None:
    old = make_ground().directory
    for arguments in (
        ("currency", "put", "USD", "--scale", "6"),
        ("currency", "put", "BTC", "--scale", "8"),
        ("product", "put", "BTC-USD"),
        ("account", "open", "alice"),
        ("deposit", "alice", "USD", "1000", "--transfer-id", "first"),
        ("order", "place", "BTC-USD", "buy", "0.5", "--price", "100", "--as", "alice", "--client-oid", "mine"),
    ):
        run(old, *arguments)
    assert "n2: the snapshot at index" in run(old, "snapshot", "take", "n2")
    backup = tmp_path / "backup"
    printed = run(old, "backup", str(backup), "--node", "n2")
    snapshot = Path(printed.split(":")[0])
    assert snapshot.parent == backup
    assert "intact; hash over all tables" in run(old, "snapshot", "verify", str(snapshot))
    assert json.loads(run(old, "snapshot", "list", "--node", "n2", "--json"))["n2"][-1]["manifest"]["index"] == int(snapshot.name)
    run(old, "backup", str(backup), "--node", "n2")
    assert len(list(backup.glob("0*"))) >= 1
    before = state(old)
    assert len(before) == 1

    refused = run(old, "snapshot", "restore", str(snapshot), str(old), code=1)
    assert "has run already" in refused

    ground = prepare(tmp_path / "new")
    new = ground.directory
    shutil.move(new / "n3", tmp_path / "n3")
    assert "expected the directories of all nodes (n1, n2, n3), found n1, n2" in run(
        new, "snapshot", "restore", str(snapshot), str(new), code=1
    )
    shutil.move(tmp_path / "n3", new / "n3")
    held = PidFile.acquire(ground.cluster.layout.configs["n2"].data_path / PID_FILE)
    assert "runs on this data directory already" in run(new, "snapshot", "restore", str(snapshot), str(new), code=1)
    held.release()
    for _ in range(2):
        assert "n1, n2, n3 of" in run(new, "snapshot", "restore", str(snapshot), str(new))
    assert {identity.read(config).stage for config in ground.cluster.layout.configs.values()} == {identity.Stage.NEW}
    try:
        run(new, "cluster", "up")
        assert state(new) == before
        again = run(new, "deposit", "alice", "USD", "1000", "--transfer-id", "first", "--json")
        assert json.loads(again)["duplicate"] is True
        run(new, "order", "place", "BTC-USD", "buy", "0.5", "--price", "99", "--as", "alice")
        run(new, "cluster", "down")
        run(new, "cluster", "up")
        assert len(state(new)) == 1
        assert state(new) != before
    finally:
        end(ground)


def test_a_damaged_backup_is_reported(make_ground: MakeGround, tmp_path: Path) -> None:
    old = make_ground().directory
    run(old, "currency", "put", "USD", "--scale", "6")
    snapshot = Path(run(old, "backup", str(tmp_path / "backup"), "--node", "n1").split(":")[0])
    victim = max(snapshot.glob("*.sst"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert str(victim) in run(old, "snapshot", "verify", str(snapshot), code=1)
    new = prepare(tmp_path / "new").directory
    assert str(victim) in run(new, "snapshot", "restore", str(snapshot), str(new), code=1)
    shutil.rmtree(snapshot)
    assert "there is no snapshot" in run(old, "backup", str(tmp_path / "b"), "--node", "n3", "--newest", code=1)

"""The command line and the supervisor on a real cluster of three nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.deployment.local_cluster import LocalCluster
from node.system.processes import ENGINE_PID_FILE, alive, descendants, locked_pid
from tests.real_cluster import MakeGround, run_cli
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster

DEADLINE = 30.0
TRADER = "alice"


def run(directory: Path, *arguments: str, code: int = 0) -> str:
    """Run a command line against a cluster. Returns what it printed on stdout."""
    return run_cli(directory, *arguments, code=code).stdout


def pid_of(cluster: LocalCluster, node_id: str) -> int:
    pid = cluster.pid(node_id)
    assert pid is not None
    return pid


def engine_of(cluster: LocalCluster, node_id: str) -> int | None:
    """Return the process id of a node's engine, None while it has none."""
    return locked_pid(cluster.layout.configs[node_id].data_path / ENGINE_PID_FILE)


def leader(directory: Path) -> str:
    return str(json.loads(run(directory, "cluster", "status", "--json"))["leader"])


def trade(directory: Path, client_oid: str) -> str:
    """Place one order by the command line. Returns its id."""
    answer = run(
        directory,
        "order",
        "place",
        "BTC-USD",
        "buy",
        "--size",
        "0.1",
        "--price",
        "99",
        "--as",
        TRADER,
        "--client-oid",
        client_oid,
        "--json",
    )
    return str(json.loads(answer)["id"])


def test_trading_continues_after_every_kind_of_failure(make_ground: MakeGround, tmp_path: Path) -> None:
    ground = make_ground()
    directory, cluster = ground.directory, ground.cluster
    for line in (
        "currency put USD --scale 6",
        "currency put BTC --scale 8",
        "product put BTC-USD",
        f"account open {TRADER}",
        f"deposit {TRADER} USD 1000",
    ):
        run(directory, *line.split())
    orders = {"before": trade(directory, "before")}

    first = leader(directory)
    engine = engine_of(cluster, first)
    assert engine is not None
    os.kill(engine, signal.SIGKILL)
    orders["engine killed"] = trade(directory, "engine-killed")
    wait_until(lambda: engine_of(cluster, first) not in (None, engine), "the engine, started again by its supervisor")

    second = leader(directory)
    supervisor = pid_of(cluster, second)
    family = descendants(supervisor)
    assert len(family) >= 2
    os.kill(supervisor, signal.SIGKILL)
    orders["supervisor killed"] = trade(directory, "supervisor-killed")
    wait_until(lambda: not any(alive(pid) for pid in family), "the end of its children")
    run(directory, "cluster", "up")

    third = leader(directory)
    run(directory, "cluster", "down", "--node", third)
    orders["leader stopped"] = trade(directory, "leader-stopped")
    run(directory, "cluster", "up")

    assert trade(directory, "before") == orders["before"]
    assert len(set(orders.values())) == len(orders)
    listed = {view["id"] for view in json.loads(run(directory, "order", "list", "--as", TRADER, "--json"))}
    assert listed == set(orders.values())
    wait_until(lambda: _level(directory), "all nodes at one sequence")
    run(directory, "audit", str(directory))
    _, *exported = [json.loads(line) for line in run(directory, "txlog", "export", str(directory)).splitlines()]
    commands = [command for entry in exported for command in entry["commands"]]
    placed = [command["client_oid"] for command in commands if command["kind"] == "PlaceOrder"]
    assert placed.count("before") == 2, "sent twice, applied once"
    run(directory, "cluster", "down")
    assert cluster.running() == []


def test_a_node_in_the_foreground_stops_in_order(make_ground: MakeGround) -> None:
    ground = make_ground()
    directory, cluster = ground.directory, ground.cluster
    node_id = leader(directory)
    config = str(cluster.layout.config_paths[node_id])
    again = subprocess.run(
        [sys.executable, "-m", "node.supervisor", "--config", config], capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 2
    assert f"runs on this data directory already (pid {cluster.pid(node_id)})" in again.stderr
    run(directory, "cluster", "down", "--node", node_id)
    with subprocess.Popen(
        [sys.executable, "-m", "node.supervisor", "--config", config], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: cluster.pid(node_id) == process.pid and _answers(directory, node_id), "the node in the foreground")
            process.send_signal(signal.SIGINT)
            _, output = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "killed" not in output
    assert "Traceback" not in output


def _answers(directory: Path, node_id: str) -> bool:
    return json.loads(run(directory, "cluster", "status", "--json"))["nodes"][node_id] is not None


def _level(directory: Path) -> bool:
    nodes = json.loads(run(directory, "cluster", "status", "--json"))["nodes"].values()
    return all(node is not None and node["ready"] for node in nodes) and len({node["sequence"] for node in nodes}) == 1

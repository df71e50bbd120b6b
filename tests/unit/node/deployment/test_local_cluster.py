"""Nodes as processes: small programs that hold a pid file and have a child, as a node's supervisor does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.cluster_directory import REMOVED
from node.deployment import local_cluster
from node.deployment.local_cluster import LocalCluster
from node.deployment.setup import initialise
from node.deployment.statuses import Statuses, leader_of
from node.engine.modes import Mode
from node.errors import DirectoryError, NodeRunningError, NodeStartError
from node.native.protocol import NodeStatus
from node.system.processes import ENGINE_PID_FILE, PidFile, alive, descendants

PROGRAM = """
import signal, subprocess, sys, time
from pathlib import Path
from node.system.processes import PidFile
directory = Path(sys.argv[sys.argv.index("--config") + 1]).parent
print("arguments:", *sys.argv[1:], flush=True)
if (directory / "broken").exists():
    sys.exit("error: no luck")
child = subprocess.Popen(["sleep", "1000"])
def stop(number, frame):
    child.kill()
    child.wait()
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if (directory / "deaf").exists() else stop)
held = PidFile.acquire(directory / "data" / "node.pid")
while True:
    time.sleep(60)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    initialise(tmp_path / "cluster", 3, base_port=18_100)
    local = LocalCluster(tmp_path / "cluster", command=(sys.executable, "-c", PROGRAM))
    try:
        yield local
    finally:
        for node_id in local.node_ids:
            local.kill(node_id)


def home(cluster: LocalCluster, node_id: str) -> Path:
    return cluster.layout.config_paths[node_id].parent


def status(node_id: str, role: str, term: int = 1, *, ready: bool = True) -> NodeStatus:
    return NodeStatus(node_id, "c", role, "n1", term, 5, 5, 5, 1, 0, 6, "00", True, ready, True, 1.0, "0", "abi", [])


def test_nodes_are_started_found_again_and_stopped(cluster: LocalCluster) -> None:
    cluster.start()
    assert cluster.running() == ["n1", "n2", "n3"]
    assert LocalCluster(cluster.layout.directory).running() == ["n1", "n2", "n3"]
    everyone = [pid for node_id in cluster.node_ids for pid in (_pid(cluster, node_id), *descendants(_pid(cluster, node_id)))]
    assert len(everyone) == 6
    cluster.stop(["n2"])
    assert cluster.running() == ["n1", "n3"]
    cluster.stop()
    assert cluster.running() == []
    assert not any(alive(pid) for pid in everyone)


def test_a_kill_takes_the_whole_node(cluster: LocalCluster) -> None:
    cluster.start(["n1", "n2"])
    everyone = [_pid(cluster, "n1"), *descendants(_pid(cluster, "n1"))]
    assert len(everyone) == 2
    cluster.kill("n1")
    assert not any(alive(pid) for pid in everyone)
    assert cluster.running() == ["n2"]
    cluster.kill("n1")


def test_a_node_is_started_again(cluster: LocalCluster) -> None:
    cluster.start(["n1"])
    first = _pid(cluster, "n1")
    cluster.restart("n1")
    second = _pid(cluster, "n1")
    cluster.kill("n1", signal.SIGKILL)
    cluster.restart("n1", rejoin=True)
    assert len({first, second, _pid(cluster, "n1")}) == 3
    lines = cluster.layout.log_file("n1").read_text().splitlines()
    assert [line.endswith("--rejoin") for line in lines] == [False, False, True]


def test_a_second_start_is_refused_and_starts_nothing(cluster: LocalCluster) -> None:
    cluster.start(["n2"])
    with pytest.raises(NodeRunningError, match=rf"n2 runs already \(pid {_pid(cluster, 'n2')}\)"):
        cluster.start()
    assert cluster.running() == ["n2"]


def test_a_node_that_does_not_start_shows_the_end_of_its_log(cluster: LocalCluster) -> None:
    (home(cluster, "n3") / "broken").touch()
    with pytest.raises(NodeStartError, match=r"n3 did not start; the end of .*node.log:(?s:.)*error: no luck"):
        cluster.start()


def test_a_process_that_does_not_stop_in_time_is_killed(cluster: LocalCluster) -> None:
    (home(cluster, "n1") / "deaf").touch()
    cluster.start(["n1"])
    everyone = [_pid(cluster, "n1"), *descendants(_pid(cluster, "n1"))]
    cluster.stop(seconds=0.3)
    assert not any(alive(pid) for pid in everyone)


def test_an_unknown_node_is_named(cluster: LocalCluster) -> None:
    with pytest.raises(NodeStartError, match=r"no node n9 in .*; there are n1, n2, n3"):
        cluster.start(["n1", "n9"])
    assert cluster.running() == []


def test_a_directory_without_nodes_is_named(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="quorumbook init"):
        LocalCluster(tmp_path)


async def test_nodes_that_are_down_have_no_status(cluster: LocalCluster) -> None:
    assert await cluster.status() == {"n1": None, "n2": None, "n3": None}
    assert await cluster.leader() == ""


async def test_waiting_ends_when_a_node_has_ended(cluster: LocalCluster) -> None:
    with pytest.raises(NodeStartError, match="n1 ended"):
        await cluster.wait_ready(60)


async def test_waiting_ends_at_its_deadline_and_names_nodes_that_are_not_ready(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start()
    found: Statuses = {"n1": status("n1", "leader"), "n2": status("n2", "follower", ready=False), "n3": None}

    async def reported() -> Statuses:
        return found

    async def takes_http(node_id: str) -> bool:
        return True

    monkeypatch.setattr(cluster, "status", reported)
    monkeypatch.setattr(cluster, "_takes_http", takes_http)
    with listening_engines(cluster, "n1", "n2"):
        with pytest.raises(NodeStartError, match=r"n2 is follower in term 1, applied 5, not ready; n3 does not answer"):
            await cluster.wait_ready(0.1)
        assert list(await cluster.wait_ready(0.1, ["n1"])) == ["n1"]
    # An engine whose data directory was deleted while it ran answers, and no engine runs on the new directory.
    with pytest.raises(NodeStartError, match="not ready within"):
        await cluster.wait_ready(0.1, ["n1"])


@contextmanager
def listening_engines(cluster: LocalCluster, *node_ids: str) -> Iterator[None]:
    """Let engines hold the nodes' data directories, as if they listened."""
    locks = [PidFile.acquire(cluster.layout.configs[node_id].data_path / ENGINE_PID_FILE) for node_id in node_ids]
    for lock in locks:
        lock.note(Mode.READY)
    yield
    for lock in locks:
        lock.release()


async def test_the_time_does_not_run_while_a_node_migrates(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly it stopped waiting after 30 seconds and returned 1 while the migration continued."""
    cluster.start()
    lock = PidFile.acquire(cluster.layout.configs["n1"].data_path / ENGINE_PID_FILE)
    lock.note(Mode.STARTED)
    looks = 0

    async def reported() -> Statuses:
        nonlocal looks
        looks += 1
        if looks == 5:
            lock.note(Mode.READY)
        ready = looks >= 6
        return {
            node_id: status(node_id, "leader" if node_id == "n1" else "follower", ready=ready) for node_id in cluster.node_ids
        }

    async def takes_http(node_id: str) -> bool:
        return True

    monkeypatch.setattr(cluster, "status", reported)
    monkeypatch.setattr(cluster, "_takes_http", takes_http)
    try:
        with monkeypatch.context() as patch:
            # A hundred seconds pass from look to look.
            patch.setattr("node.deployment.local_cluster.time", SimpleNamespace(monotonic=lambda: 100.0 * looks))
            with listening_engines(cluster, "n2", "n3"):
                assert list(await cluster.wait_ready(150)) == ["n1", "n2", "n3"]
    finally:
        lock.release()


def test_the_leader_of_the_highest_term_counts() -> None:
    assert leader_of({}) == ""
    assert leader_of({"n1": status("n1", "leader"), "n2": status("n2", "leader", 2), "n3": None}) == "n2"
    assert leader_of({"n1": status("n1", "leader", ready=False), "n2": status("n2", "follower")}) == ""


def _pid(cluster: LocalCluster, node_id: str) -> int:
    pid = cluster.pid(node_id)
    assert pid is not None
    return pid


def test_the_certificate_of_a_removed_node_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other nodes refuse it, and with it everything while the operator's key is off."""
    initialise(tmp_path / "c", 3)
    (tmp_path / "c" / REMOVED).write_text("n1\n")
    shown: list[str] = []
    monkeypatch.setattr(local_cluster, "certified", lambda configs: shown.extend(config.node_id for config in configs))
    LocalCluster(tmp_path / "c")._as_node()
    assert shown == ["n2", "n3"]

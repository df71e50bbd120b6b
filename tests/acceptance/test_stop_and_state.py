"""A cluster starts with a dataset and stops in order. Its state is exported as text and imported into another cluster."""

from __future__ import annotations

import functools
import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from loadtest.ground import Ground, prepare
from node.config.file import Setting, change_settings
from node.engine.modes import Mode
from node.system.processes import PID_FILE, descendants, locked_pid, send
from tests.real_cluster import end, run_cli
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster

EXAMPLE = Path(__file__).parents[2] / "datasets" / "example"


Prepare = Callable[[Mapping[str, Setting]], Ground]


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[Prepare]:
    """Return a function that makes clusters without starting them."""
    grounds: list[Ground] = []

    def make(settings: Mapping[str, Setting]) -> Ground:
        grounds.append(prepare(tmp_path / f"cluster{len(grounds)}", settings=settings))
        return grounds[-1]

    try:
        yield make
    finally:
        for ground in grounds:
            end(ground)


def run(directory: Path, *arguments: str, code: int = 0) -> str:
    """Run a command line against a cluster. Returns what it printed."""
    return run_cli(directory, *arguments, code=code).output


def modes(ground: Ground, node_id: str) -> list[str]:
    """Return the modes that a node has been in, from its log."""
    return re.findall(r"mode (\w+)$", ground.cluster.layout.log_file(node_id).read_text(), flags=re.MULTILINE)


def pid_file(ground: Ground, node_id: str) -> Path:
    """Return the path of a node's supervisor's pid file."""
    return ground.cluster.layout.configs[node_id].data_path / PID_FILE


def test_a_state_goes_from_a_dataset_through_a_stop_into_another_cluster(prepared: Prepare, tmp_path: Path) -> None:
    ground = prepared({"start.dataset": str(EXAMPLE)})
    directory = ground.directory
    run(directory, "cluster", "up")
    run(directory, "order", "place", "BTC-USD", "buy", "0.5", "--price", "100", "--as", "alice")
    run(directory, "export", str(tmp_path / "live"), "--node", "n2")
    assert "is not empty" in run(directory, "export", str(tmp_path / "live"), code=1)
    for node_id in ("n1", "n2", "n3"):
        config = str(ground.cluster.layout.config_paths[node_id])
        if node_id == "n2":
            assert "would stand still" in run(directory, "node", "stop", "--config", config, code=1)
        assert f"{node_id} has stopped" in run(
            directory, "node", "stop", "--config", config, *(["--force"] if node_id == "n2" else [])
        )
        assert f"{node_id} is not running" in run(directory, "node", "stop", "--config", config)
        assert modes(ground, node_id) == [mode.value for mode in Mode]
        result = json.loads(run(directory, "txlog", "replay", "--node", node_id, "--freeze-clock", "--json"))
        assert result["agrees"] is True, "the last snapshot is the state that the log gives"
    run(directory, "export", str(tmp_path / "stopped"), "--node", "n3")
    for path in (tmp_path / "live").iterdir():
        assert path.read_bytes() == (tmp_path / "stopped" / path.name).read_bytes()

    other = prepared({})
    run(other.directory, "import", str(tmp_path / "stopped"))
    run(other.directory, "cluster", "up")
    assert "filled 0.2" in run(other.directory, "order", "place", "BTC-USD", "sell", "0.2", "--price", "100", "--as", "bob")
    run(other.directory, "cluster", "down")
    assert "has run already" in run(other.directory, "import", str(tmp_path / "stopped"), code=1)


def test_a_kill_or_a_second_sigterm_while_stopping_loses_nothing(prepared: Prepare) -> None:
    ground = prepared({"start.dataset": str(EXAMPLE)})
    directory, cluster = ground.directory, ground.cluster
    run(directory, "cluster", "up")
    for orders, mode in enumerate((Mode.UNLOAD, Mode.UNLOADING, Mode.CLOSED), 1):
        run(directory, "order", "place", "BTC-USD", "buy", "0.1", "--price", "100", "--as", "alice", "--client-oid", mode.value)
        before = {node_id: modes(ground, node_id).count(mode.value) for node_id in cluster.node_ids}
        supervisors = {node_id: locked_pid(pid_file(ground, node_id)) for node_id in cluster.node_ids}
        engines = {node_id: descendants(pid or 0) for node_id, pid in supervisors.items()}
        for pid in supervisors.values():
            send(pid or 0, signal.SIGTERM)
        reached = "n1" if mode is Mode.UNLOAD else "n2"
        wait_until(functools.partial(_entered, ground, reached, mode, before[reached]), f"{reached} in {mode}")
        for node_id, pid in supervisors.items():
            if node_id == "n3":
                send(pid or 0, signal.SIGTERM)
            else:
                for each in engines[node_id]:
                    send(each, signal.SIGKILL)
        wait_until(lambda: not cluster.running(), "all nodes have ended")
        run(directory, "cluster", "up")
        listed = json.loads(run(directory, "order", "list", "--as", "alice", "--json"))
        assert len(listed) == orders
    run(directory, "audit", str(directory))


def _entered(ground: Ground, node_id: str, mode: Mode, before: int) -> bool:
    return modes(ground, node_id).count(mode.value) > before


def test_the_initial_state_of_a_node_can_be_chosen(prepared: Prepare) -> None:
    ground = prepared({"start.from": "snapshot"})
    path = ground.cluster.layout.config_paths["n1"]
    assert 'start.from is "snapshot", and there is none in' in refused(ground)
    change_settings(path, {"start.from": "dataset", "start.dataset": "nowhere"})
    assert "nowhere: expected a directory with files such as Product.tsv" in refused(ground)
    change_settings(path, {"start.dataset": str(EXAMPLE)})
    for node_id in ("n2", "n3"):
        settings = {"start.from": "dataset", "start.dataset": str(EXAMPLE)}
        change_settings(ground.cluster.layout.config_paths[node_id], settings)
    run(ground.directory, "cluster", "up")
    run(ground.directory, "order", "place", "BTC-USD", "buy", "0.1", "--price", "100", "--as", "alice")
    run(ground.directory, "cluster", "down")
    assert 'start.from is "dataset", and this node has run on' in refused(ground)
    for node_id in ("n1", "n2", "n3"):
        change_settings(ground.cluster.layout.config_paths[node_id], {"start.from": "log"})
    run(ground.directory, "cluster", "up")
    assert "building the state at index" in ground.cluster.layout.log_file("n1").read_text()
    assert len(json.loads(run(ground.directory, "order", "list", "--as", "alice", "--json"))) == 1
    run(ground.directory, "cluster", "down")


def refused(ground: Ground) -> str:
    """Return what n1 prints when it does not start."""
    return run(ground.directory, "cluster", "up", "--node", "n1", code=1)

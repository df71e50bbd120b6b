"""Whole clusters under seeds: no guarantee is ever violated, and the same seed is the same history. Many seeds are in
`test_seeds.py`; these runs are longer, or have faults of their own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.run import main, run_seed
from tests.simulation.world import Faults, World

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(3))
def test_three_nodes_keep_every_guarantee(seed: int) -> None:
    assert len(run_seed(seed, 3).acknowledged) > 300


@pytest.mark.parametrize("seed", range(100, 103))
def test_three_nodes_that_lose_their_disks_keep_every_guarantee(seed: int) -> None:
    assert len(run_seed(seed, 3, lose_disks=True).acknowledged) > 200


@pytest.mark.parametrize("seed", range(200, 202))
def test_five_nodes_keep_every_guarantee(seed: int) -> None:
    assert len(run_seed(seed, 5, lose_disks=seed % 2 == 1).acknowledged) > 300


@pytest.mark.parametrize("seed", range(300, 302))
def test_five_nodes_keep_every_guarantee_on_a_slow_network_that_repeats_messages(seed: int) -> None:
    faults = Faults(latency=0.03, copies=0.1, stall=0.02)
    world = World(seed, 5, faults=faults, snapshot_entries=15)
    world.run(steps=1500)
    assert len(world.acknowledged) > 100


@pytest.mark.parametrize("seed", range(400, 403))
def test_a_single_node_keeps_every_guarantee(seed: int) -> None:
    faults = Faults(cut=0.0, isolate=0.0, reset=0.0, stall=0.0, transfer_leadership=0.0, power_loss_in_write=0.002)
    world = World(seed, 1, faults=faults)
    world.run(steps=800)
    assert len(world.acknowledged) > 150


def _history(seed: int) -> str:
    trace = run_seed_traced(seed)
    return hashlib.sha256("\n".join(trace).encode()).hexdigest()


def run_seed_traced(seed: int) -> list[str]:
    """Return everything that happened under a seed, in short."""
    world = World(seed, 3, trace=True)
    world.run(steps=600)
    assert world.trace is not None
    return [*world.trace, str(world.network.sent), repr(sorted(world.acknowledged.items())), repr(world.committed)]


def test_the_same_seed_is_the_same_history() -> None:
    assert _history(7) == _history(7)
    assert _history(7) != _history(8)


def test_the_history_does_not_depend_on_the_hash_seed() -> None:
    code = "import logging; logging.disable(50); from tests.simulation.test_cluster import _history; print(_history(7))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert found == {_history(7)}


def test_the_command_prints_how_to_replay_a_violation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: World, _steps: int) -> None:
        raise self.violation("made up")

    assert main(["--seed", "3", "--runs", "1", "--steps", "300"]) == 0
    assert "1 seeds, 0 violations" in capsys.readouterr().out
    monkeypatch.setattr(World, "run", fails)
    assert main(["--seed", "3", "--runs", "2", "--nodes", "5", "--jobs", "1"]) == 1
    assert "replay: make simulate SEED=3 RUNS=1 NODES=5 TRACE=1" in capsys.readouterr().out


def test_several_processes_find_the_same_as_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    for jobs in ("1", "2"):
        assert main(["--seed", "20", "--runs", "3", "--steps", "300", "--jobs", jobs, "--report", str(report)]) == 0
    one, two = (line.rpartition(";")[0] for line in report.read_text().splitlines())
    assert one == two
    assert "`make simulate SEED=20 RUNS=3 NODES=3 STEPS=300`: 3 seeds, 0 violations" in one
    assert one.partition(": ")[2] in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(4))
def test_wrong_clocks_and_lost_disks_lose_nothing_that_was_acknowledged(seed: int) -> None:
    """A wrong clock and a lost disk are two failures. Three nodes must keep what they acknowledged, and need not stay
    available: see `docs/raft.md`, section 4.
    """
    world = World(seed, faults=Faults(clock=0.004, lose_disk=0.002, copies=0.0))
    for node in world.ids:
        world.start(node)
    for _ in range(1500):
        world.step(faults=True, load=True)
    assert len(world.acknowledged) > 50

"""The whole exchange under seeds: whatever happens to the nodes, clients see what one exchange without faults would
show them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from node.engine.snapshot_port import SnapshotPort
from tests.simulation.exchange import ExchangeFaults, ExchangeWorld
from tests.simulation.run import Setting, main, outcome_of
from tests.simulation.world import ViolationError

ROOT = Path(__file__).parents[2]
STEPS = 1000
DAMAGE = ExchangeFaults(flip=0.01, lose_disk=0.001, copies=0.0)


def finished(seed: int, nodes: int = 3, faults: ExchangeFaults | None = None, *, rocks: bool = False) -> ExchangeWorld:
    world = ExchangeWorld(seed, nodes, faults=faults, rocks=rocks)
    world.run(STEPS)
    assert world.verdict.answered > 200
    assert world.verdict.reads > 50
    assert all(reader.seen > 50 and reader.compared for reader in world.readers)
    return world


def test_an_exchange_of_three_nodes_keeps_its_guarantees_and_the_rare_events_occur() -> None:
    """These few seeds include the rare events, so the simulation shows what it claims."""
    counts: Counter[str] = Counter()
    for seed in range(5):
        counts += finished(seed).counts
    snapshots = ("snapshots taken", "snapshots failed", "snapshots received", "snapshots restored")
    for what in (*snapshots, "duplicates", "handovers", "stop orders triggered", "orders expired"):
        assert counts[what] > 0, (what, counts)


def test_five_nodes() -> None:
    finished(100, 5)


def test_damaged_snapshots_are_refused_and_their_nodes_recover() -> None:
    assert sum(finished(seed, 3, DAMAGE).refused_starts for seed in range(200, 203)) >= 1


class DamagedLeader(ExchangeWorld):
    """A world in which, after the faults, a bit flips in the leader's newest snapshot, and a follower then starts with
    an empty disk.
    """

    def __init__(self, seed: int, where: float) -> None:
        super().__init__(seed, 3, snapshot_entries=1_000_000)
        self._where = where

    def _end_faults(self) -> None:
        super()._end_faults()
        self._recover()
        self.leader = next(node for node in self.ids if self.leads(node))
        self.led = self.hosts[self.leader].process
        assert self.led is not None
        for _ in range(2):
            wanted = self.led.raft.commit_index + 50
            while self.led.raft.commit_index < wanted:
                self.step(faults=False, load=True)
            self.led.raft.request_snapshot()
            while self.led.raft.status().snapshot_index < wanted:
                self.step(faults=False, load=True)
        assert self.led.raft.status().first_log_index > 1
        self.flip(self.leader, self._where)
        follower = next(node for node in self.ids if node != self.leader)
        self.crash(follower, lose_disk=True)
        self.start(follower)


@pytest.mark.parametrize("where", [0.0, 0.97, 0.999], ids=["a table", "the file SEAL", "the manifest"])
def test_a_leader_with_a_damaged_snapshot_makes_another_for_a_node_without_data(where: float) -> None:
    world = DamagedLeader(400, where)
    world.run(100)
    assert world.flipped
    assert world.hosts[world.leader].process is world.led, "the leader stopped"


def test_a_leader_that_never_examines_its_snapshot_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SnapshotPort, "examine", lambda _: None)
    with pytest.raises(ViolationError, match="not caught up"):
        DamagedLeader(400, 0.0).run(100)


def test_snapshots_in_rocksdb() -> None:
    assert finished(300, 3, DAMAGE, rocks=True).counts["snapshots taken"] > 3


def _history(seed: int) -> str:
    world = ExchangeWorld(seed, 3, faults=DAMAGE, trace=True)
    world.run(250)
    digest = hashlib.sha256("\n".join(world.trace or ()).encode())
    digest.update(msgspec.msgpack.encode(world.history))
    digest.update(repr(world.committed).encode())
    return digest.hexdigest()


def test_the_same_seed_is_the_same_history_in_another_process() -> None:
    code = "import logging; logging.disable(60); from tests.simulation.test_exchange import _history; print(_history(7))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert _history(7) == other.stdout.strip()
    assert _history(7) != _history(8)


def test_the_list_of_faults_of_a_run_reproduces_the_run() -> None:
    setting = Setting(exchange=True, lose_disks=True)
    happened = outcome_of(5, setting)
    faults = "; ".join(map(str, happened.faults))
    assert "start" in faults
    assert outcome_of(5, replace(setting, faults=faults)) == happened


def test_a_failing_seed_is_printed_with_a_short_list_of_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = ExchangeWorld.flip

    def flip(self: ExchangeWorld, node: str, where: float) -> None:
        original(self, node, where)
        raise self.violation("made up")

    monkeypatch.setattr(ExchangeWorld, "flip", flip)
    assert main(["--exchange", "--lose-disks", "--seed", "1", "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert "replay: make simulate SEED=1 RUNS=1 NODES=3 EXCHANGE=1 DISKS=1 TRACE=1" in printed
    assert "these 1 are enough: make simulate SEED=1 RUNS=1 NODES=3 EXCHANGE=1 DISKS=1 FAULTS='" in printed

"""No command waits for a heartbeat. A message that makes the next step possible also wakes the node that takes it."""

from __future__ import annotations

import pytest

from cluster.raft import ProposeResult, Raft
from cluster.settings import RaftSettings
from tests.simulation.parts import stamped
from tests.simulation.world import STEP, Faults, World

MESSAGE_SECONDS = 0.001
ROUNDS = 3
"""Steps of the world between a proposal and its result: to the followers, back, and one to apply it."""


class Timed(World):
    """A cluster without faults that records how long each command took."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, faults=Faults(latency=MESSAGE_SECONDS, copies=0.0), snapshot_entries=1_000_000)
        self.took: list[float] = []
        for node in self.ids:
            self.start(node)
        for host in self.hosts.values():
            host.disk.death_chance = host.disk.error_chance = 0.0

    def propose(self, raft: Raft) -> None:
        begun = self.now
        self.proposed += 1

        def done(result: ProposeResult) -> None:
            assert result.error is None
            self.took.append(self.now - begun)

        raft.propose(stamped(self.time_ns(), b"c%d" % self.proposed), done)


@pytest.mark.parametrize("seed", range(2))
def test_no_command_waits_for_a_heartbeat(seed: int) -> None:
    world = Timed(seed)
    for _ in range(2_000):
        world.step(faults=False, load=True)
    assert len(world.took) > 800
    assert max(world.took) <= (ROUNDS + 1) * STEP < RaftSettings("n1", ()).heartbeat

"""A test of the simulation: when any one protection is switched off, it finds a violation within a few seeds.

Some protections need faults of their own kind, and begin with a seed that a search found. Those for which no search helps
have a history of their own in `test_histories.py`. Tests with hand-made messages in `tests/unit/cluster/test_guard.py`
show each of them as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.test_histories import HISTORIES
from tests.simulation.world import Faults, ViolationError, World


@dataclass(frozen=True)
class Hunt:
    """The faults that soon show a missing protection, the largest number of seeds, and the first seed."""

    faults: Faults = field(default_factory=Faults)
    seeds: range = range(25)
    snapshot_entries: int = 40
    nodes: int = 3
    steps: int = 1500

    def run(self, seed: int) -> None:
        """Run one seed. Raises ViolationError."""
        World(seed, self.nodes, faults=self.faults, snapshot_entries=self.snapshot_entries).run(steps=self.steps)


ELSEWHERE = {
    "truncation_not_synced": "tests/unit/cluster/test_log.py",
    "torn_end_not_synced": "tests/unit/cluster/test_log.py",
    "removed_from_the_front": "tests/unit/cluster/test_log.py",
    "hard_state_before_log": "tests/unit/cluster/test_raft_log.py",
}
"""Mutants that seldom matter in a whole cluster, with the test that detects each within a second."""

HARMED = Faults(power_loss_in_write=0.008, restart=0.1, harm_log=0.005, copies=0.0)
WRONG_CLOCKS = Faults(clock=0.004)
POWER_CUTS = Faults(power_loss_in_write=0.005, crash=0.01, restart=0.1)
ELECTIONS = Faults(crash=0.02, restart=0.3, isolate=0.01, heal=0.03, transfer_leadership=0.02, latency=0.03)
OFTEN_ISOLATED = Faults(latency=0.03, isolate=0.02, cut=0.01, heal=0.03, restart=0.1)
HUNTS = {
    "no_reset_to_commit": Hunt(OFTEN_ISOLATED, range(30, 60)),
    "no_commit_clamp": Hunt(seeds=range(40)),
    "old_snapshots": Hunt(Faults(copies=0.03), range(40), 15),
    "no_vote_sync": Hunt(Faults(crash=0.03, restart=0.3, isolate=0.01, transfer_leadership=0.01, latency=0.01), range(30)),
    "no_recovery": Hunt(Faults(lose_disk=0.002, copies=0.0)),
    "no_sync_before_answers": Hunt(POWER_CUTS),
    "no_sync_of_own_entries": Hunt(replace(POWER_CUTS, crash=0.02, cut=0.02, isolate=0.01, heal=0.03)),
    "log_removed_before_snapshot": Hunt(POWER_CUTS),
    "torn_records_believed": Hunt(replace(POWER_CUTS, power_loss_in_write=0.015), range(60)),
    "hard_state_in_place": Hunt(POWER_CUTS),
    "unsettled_start": Hunt(POWER_CUTS),
    "cache_believed": Hunt(replace(POWER_CUTS, disk_error=0.002), range(40)),
    "forgotten_end_believed": Hunt(HARMED),
    "doubtful_end_believed": Hunt(HARMED),
    "doubt_stored_late": Hunt(replace(HARMED, power_loss_in_write=0.03, harm_log=0.02), range(60)),
    "full_segment_not_synced": Hunt(POWER_CUTS),
    "compacted_from_the_back": Hunt(replace(POWER_CUTS, power_loss_in_write=0.01), range(40)),
    "entries_from_the_future": Hunt(WRONG_CLOCKS),
    "refused_leader_stays": Hunt(WRONG_CLOCKS, range(24, 100)),
    "committed_entries_refused": Hunt(WRONG_CLOCKS),
    "snapshot_clears_log": Hunt(replace(ELECTIONS, crash=0.03), range(87, 180), 8),
}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in HISTORIES and name not in ELSEWHERE])
def test_a_missing_protection_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    hunt = HUNTS.get(name, Hunt())
    for seed in hunt.seeds:
        try:
            hunt.run(seed)
        except ViolationError as error:
            print(f"{name}: {error}")
            return
    pytest.fail(f"{name}: not noticed in {len(hunt.seeds)} seeds")


@pytest.mark.parametrize("hunt", HUNTS.values(), ids=HUNTS)
def test_with_all_protections_the_same_faults_do_no_harm(hunt: Hunt) -> None:
    for seed in hunt.seeds[:2]:
        hunt.run(seed)

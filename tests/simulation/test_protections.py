"""The test of the test: with any one protection switched off, the simulation notices within a few seeds.

Some need more luck than a few seconds have: votes that come twice, entries behind a snapshot, leaders of an old term. Messages made by hand
show them in `tests/unit/cluster/test_guard.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Faults, ViolationError, World


@dataclass(frozen=True)
class Hunt:
    """Under which faults a missing protection shows soon: how many seeds at most, from which."""

    faults: Faults = field(default_factory=Faults)
    seeds: range = range(25)
    snapshot_entries: int = 40


OFTEN_ISOLATED = Faults(latency=0.015, isolate=0.005, cut=0.003)
HUNTS = {
    "no_reset_to_commit": Hunt(OFTEN_ISOLATED, range(20, 60)),
    "no_commit_clamp": Hunt(seeds=range(40)),
    "no_reply_term": Hunt(Faults(copies=0.03), range(60), 15),
    "old_snapshots": Hunt(Faults(copies=0.03), range(40), 15),
    "no_vote_sync": Hunt(Faults(crash=0.03, restart=0.3, isolate=0.01, hand_over=0.01, latency=0.01), range(30)),
    "no_probation": Hunt(Faults(lose_disk=0.002, copies=0.0)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_protection_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    MUTANTS[name](monkeypatch)
    hunt = HUNTS.get(name, Hunt())
    for seed in hunt.seeds:
        try:
            World(seed, 3, faults=hunt.faults, snapshot_entries=hunt.snapshot_entries).run(steps=1500)
        except ViolationError as error:
            print(f"{name}: {error}")
            return
    pytest.fail(f"{name}: not noticed in {len(hunt.seeds)} seeds")


@pytest.mark.parametrize("hunt", HUNTS.values(), ids=HUNTS)
def test_with_all_protections_the_same_faults_do_no_harm(hunt: Hunt, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    for seed in hunt.seeds[:2]:
        World(seed, 3, faults=hunt.faults, snapshot_entries=hunt.snapshot_entries).run(steps=1500)

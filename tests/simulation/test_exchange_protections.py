"""A test of the simulation of the whole exchange: when any one protection is switched off, it finds a violation within
a few seeds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from tests.simulation.exchange import ExchangeFaults, ExchangeWorld
from tests.simulation.exchange_mutants import MUTANTS
from tests.simulation.world import ViolationError


@dataclass(frozen=True)
class Hunt:
    """The faults that soon show a missing protection, the largest number of seeds, and the text of the violation."""

    says: str
    faults: ExchangeFaults = field(default_factory=ExchangeFaults)
    seeds: range = range(25)
    steps: int = 1000


HUNTS = {
    "no_command_ids": Hunt("applied twice", steps=300),
    "no_barrier": Hunt("wrong read", ExchangeFaults(pause_leader=0.01), range(2, 40)),
    "early_reply": Hunt("lost: |wrong outcome: ", ExchangeFaults(crash=0.02), steps=200),
    "no_snapshot_check": Hunt("another full hash|could not be loaded", ExchangeFaults(flip=0.02, copies=0.0)),
    "unchecked_sharing": Hunt("another full hash|could not be loaded", ExchangeFaults(flip=0.02, copies=0.0), range(25, 60)),
    "torn_snapshots": Hunt("SEAL: |there is no snapshot"),
    "unsynced_snapshots": Hunt("SEAL: |there is no snapshot|the log begins with", seeds=range(3, 40)),
    "snapshot_name_not_synced": Hunt("there is no snapshot|the log begins with", seeds=range(8, 60)),
    "snapshot_files_not_synced": Hunt("bytes, and .* were written|digest differs"),
    "seal_not_synced": Hunt("SEAL: "),
    "early_compaction": Hunt("there is no snapshot"),
    "ignored_disk_errors": Hunt(
        "its log ends at|match its checksum|goes back from", ExchangeFaults(disk_error=0.002, copies=0.0)
    ),
    "silent_feed": Hunt("events of a product have no gap"),
    "forgotten_market": Hunt("another market"),
}


def violation(seed: int, hunt: Hunt) -> str:
    """Return the violation under a seed, or ""."""
    try:
        ExchangeWorld(seed, faults=hunt.faults).run(hunt.steps)
    except ViolationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_protection_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    hunt = HUNTS[name]
    noticed = next((text for seed in hunt.seeds if (text := violation(seed, hunt))), "nothing")
    print(f"{name}: {noticed}")
    assert re.search(hunt.says, noticed), noticed


def test_with_all_protections_the_same_faults_do_no_harm() -> None:
    assert not violation(0, HUNTS["no_snapshot_check"])
    assert not violation(0, HUNTS["ignored_disk_errors"])

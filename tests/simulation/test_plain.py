"""PySyncObj without the guard: the checkers must find the commands that it loses, so they can find such faults."""

from __future__ import annotations

import pytest

from tests.simulation.plain import KILLS_AND_CUTS, PlainWorld
from tests.simulation.world import ViolationError, World

LOSES = 7
"""A seed whose faults make it lose commands that were acknowledged to clients."""


def test_plain_pysyncobj_loses_acknowledged_commands() -> None:
    with pytest.raises(ViolationError, match=r"leads and does not have \d+ acknowledged commands"):
        PlainWorld(LOSES).run()


def test_behind_the_guard_the_same_faults_do_no_harm() -> None:
    for seed in range(LOSES, LOSES + 3):
        World(seed, faults=KILLS_AND_CUTS).run()

"""About 150 seeds, each with a short time of faults: every kind of world keeps every guarantee. `make simulate`
runs more seeds, and longer.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.run import Setting, outcomes

JOBS = min(4, os.cpu_count() or 1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("setting", "seeds"),
    [
        (Setting(3, steps=400), range(60)),
        (Setting(3, lose_disks=True, steps=400), range(1000, 1030)),
        (Setting(5, lose_disks=True, steps=400), range(2000, 2012)),
        (Setting(3, lose_disks=True, members=True, steps=500), range(3000, 3025)),
        (Setting(3, lose_disks=True, exchange=True, steps=400), range(4000, 4015)),
        (Setting(3, lose_disks=True, exchange=True, members=True, steps=400), range(5000, 5010)),
    ],
    ids=["consensus", "lost disks", "five nodes", "members", "exchange", "exchange and members"],
)
def test_every_guarantee_is_kept(setting: Setting, seeds: range) -> None:
    found = list(outcomes(seeds, setting, JOBS))
    assert [f"{setting.command(one.seed)}: {one.violation}" for one in found if one.violation] == []
    assert min(one.acknowledged for one in found) > 50

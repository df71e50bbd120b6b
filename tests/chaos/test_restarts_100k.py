"""Three nodes apply 100,000 commands while each of them is killed or stopped at random. Their hashes are equal, and no
command is lost.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtest.soak import SoakPlan, soak

pytestmark = pytest.mark.cluster

PLAN = SoakPlan(seed=3, commands=100_000, seconds=240.0, clients=12, chunk=25, rate=3000.0)


@pytest.mark.timeout(360)
def test_restarts_under_100k_commands_lose_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    result = asyncio.run(soak(tmp_path / "cluster", PLAN, lines.append))
    failed = [check for check in result.verdict.checks if not check.holds]
    assert not failed, (failed, lines)
    assert result.verdict.holds
    assert result.acknowledged >= PLAN.commands, lines
    assert all(result.kills[name] + result.stops[name] for name in result.kills), "each node was restarted"

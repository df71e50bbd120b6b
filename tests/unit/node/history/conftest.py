"""Histories to begin with."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from statemachine.commands import Transfer
from tests.property.worlds import busy_command, foundations
from tests.unit.node.history.logs import NodeLog


@pytest.fixture
def three_days(tmp_path: Path) -> NodeLog:
    """A history of three days, and a little of a fourth."""
    random = Random(4)
    node = NodeLog(tmp_path / "cluster")
    node.add(foundations((1_000, 3_000), 100_000))
    node.add([Transfer("ann", "between-1", "bob", "USD", 1), Transfer("bob", "between-2", "ann", "USD", 1)])
    for number in range(0, 400, 4):
        node.add([busy_command(random, number + place) for place in range(4)], seconds=2_700)
    node.follow()
    return node

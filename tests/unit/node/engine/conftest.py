"""Fixtures for tests of the engine's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.node.engine.desk import Desk
from tests.unit.node.fakes import FakeNode, config_of, running


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[FakeNode]:
    """A node that leads a cluster of one."""
    async with running(config_of(tmp_path)) as made:
        yield made


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """The engine's service without a socket, on a node that leads."""
    return Desk(tmp_path)

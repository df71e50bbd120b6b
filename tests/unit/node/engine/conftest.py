"""Fixtures for tests of the engine's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.node.fakes import FakeNode, config_of, running


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[FakeNode]:
    """A node that leads a cluster of one."""
    async with running(config_of(tmp_path)) as made:
        yield made

"""The exchange that the gateway's tests speak to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.node.gateway.harness import Exchange, running


@pytest_asyncio.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with running() as started:
        yield started

"""The cluster of the foreign clients, and the table of their calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.stage import Stage, open_stage
from tests.clients.table import Table
from tests.real_cluster import end


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/clients --clients-report docs/clients.md` writes the table of calls and results there."""
    parser.addoption("--clients-report", default="", help="the Markdown file whose table of calls and results is replaced")


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Yield a table for every client's calls. It is written at the end if a report was requested."""
    gathered = Table()
    yield gathered
    path = request.config.getoption("--clients-report")
    if path:
        gathered.write(Path(path))


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Three nodes with a market and a market maker's orders on the book."""
    opened = open_stage(tmp_path_factory.mktemp("clients") / "cluster")
    try:
        asyncio.run(opened.begin())
        yield opened
    finally:
        end(opened.ground)

"""Fixtures of the simulation's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Suppress the log, which no test here reads: simulated nodes are killed a hundred times."""
    caplog.set_level(60)

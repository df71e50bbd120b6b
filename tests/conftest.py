"""Options and profiles for all tests."""

from __future__ import annotations

import hypothesis
import pytest

from tests.ports import take_share

take_share()

CLUSTER_SECONDS = 300
"""The time limit of a test with real nodes that names none: on a busy machine a node takes half a minute to start."""

hypothesis.settings.register_profile("default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("soak", parent=hypothesis.settings.get_profile("default"), max_examples=2_000)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `pytest --rewrite`, which writes the expected traces of the interaction scripts. Read the changes before you
    commit them.
    """
    parser.addoption("--rewrite", action="store_true", default=False, help="replace the traces of tests/interaction/*.txt")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests with real nodes more time than the others."""
    for item in items:
        if item.get_closest_marker("cluster") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(CLUSTER_SECONDS))

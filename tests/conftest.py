"""Options and profiles for all tests."""

from __future__ import annotations

import hypothesis
import pytest

from tests.ports import take_share

take_share()

hypothesis.settings.register_profile("default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("soak", parent=hypothesis.settings.get_profile("default"), max_examples=2_000)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest --rewrite` writes the expected traces of the interaction scripts anew. Read them before you commit."""
    parser.addoption("--rewrite", action="store_true", default=False, help="write the traces of tests/interaction/*.txt anew")

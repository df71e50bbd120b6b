"""The compiled modules of the gateway and the plain ones pass the same tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import compiled, gateway
from node.gateway import direct, plain_order
from node.gateway.http import connection, messages
from node.native import arrivals, framing, submissions
from statemachine.core import COMPILED, PLAIN, compiled_directory
from tests.cores import run

HERE = Path(__file__).parent
NATIVE = HERE.parent / "native"
MODULES = (framing, arrivals, submissions, messages, connection, plain_order, direct)

needs_compiled_gateway = pytest.mark.skipif(
    not compiled_directory(compiled.ROOT, compiled.MODULES).exists(),
    reason="no compiled modules of these sources: `make core` makes them where a C compiler is",
)


def test_the_modules_that_run_are_those_that_are_shown() -> None:
    compiled_ones = [not str(module.__file__).endswith(".py") for module in MODULES]
    assert len(compiled_ones) == len(compiled.MODULES)
    assert compiled_ones == [gateway.CODE == COMPILED] * len(compiled_ones)


@needs_compiled_gateway
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "files",
    [
        [HERE / "test_direct.py", NATIVE / "test_arrivals.py", NATIVE / "test_framing.py"],
        [HERE / "test_http_server.py"],
        [HERE / "test_http_bounds.py"],
    ],
    ids=["orders", "server", "bounds"],
)
def test_the_others_pass_the_same_tests(files: list[Path]) -> None:
    """This process runs the tests with one kind of these modules. Here they run with the other kind."""
    other = PLAIN if gateway.CODE == COMPILED else COMPILED
    shown = run(other, "-c", "from node import gateway; print(gateway.CODE)")
    assert shown.strip() == other
    run(other, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files), timeout=200)

"""The fail points exist in the product, and a process dies or sleeps at them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.chaos.failing.sitecustomize import FUNCTIONS, POINTS, Plan, wrap
from tests.chaos.points import FAILING


@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_a_point_is_a_function_of_the_product(function: str) -> None:
    module, _, path = function.partition(":")
    found: object = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    assert callable(found)


def test_there_are_enough_points() -> None:
    assert len(POINTS) >= 25


def test_a_process_dies_at_the_named_call(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text("hardstate.store.after panic 2\n")
    program = (
        "from pathlib import Path\nfrom cluster import hardstate\nfrom cluster.storage import RealDisk\n"
        f"disk = RealDisk(Path({str(tmp_path / 'disk')!r}))\n"
        "for term in range(1, 9):\n    hardstate.store(disk, hardstate.HardState(term))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FAILING), str(Path.cwd())]), "FAIL_POINTS": str(plan)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    from cluster import hardstate
    from cluster.storage import RealDisk

    stored = hardstate.load(RealDisk(tmp_path / "disk"))
    assert stored is not None
    assert stored.term == 2


def test_a_call_is_delayed_at_the_named_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    (tmp_path / "plan").write_text("x.before sleep 0.25\n")
    module = ModuleType("module")
    module.__dict__["function"] = lambda value: value + 1
    wrap(module, "function", "x", Plan(tmp_path / "plan"))
    assert module.function(1) == 2
    assert slept == [0.25]

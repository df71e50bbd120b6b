"""The time of day of one process jumps. The tests check that the exchange's time does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.clocks import HOUR, JUMPING, never_back, set_clock
from tests.chaos.errors import UnsafeError

SHOWS = """
import sys, time
for line in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.monotonic(), flush=True)
    time.sleep(0.01)
"""


def test_a_clock_fault_changes_the_time_of_day_and_not_monotonic_time(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    variables = {**os.environ, "PYTHONPATH": str(JUMPING), "JUMPING_CLOCK": str(clock)}
    argv = [sys.executable, "-c", SHOWS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables) as process:
        to, back = process.stdin, process.stdout
        assert to is not None
        assert back is not None

        def ask() -> list[float]:
            to.write("now?\n")
            to.flush()
            shown = [float(text) for text in back.readline().split()]
            return [shown[0] - time.time(), shown[1] - time.time(), shown[2] - time.monotonic()]

        def wait_for(offset: int) -> None:
            deadline = time.monotonic() + 10
            while abs(ask()[0] - offset) > HOUR / 2 and time.monotonic() < deadline:
                pass
            assert ask() == pytest.approx([offset, offset, 0.0], abs=60.0)

        try:
            for offset in (0, HOUR, -HOUR, 0):
                set_clock(clock, offset)
                wait_for(offset)
        finally:
            process.kill()


def test_a_time_that_runs_back_is_noticed() -> None:
    never_back([1, 1, 5])
    with pytest.raises(UnsafeError, match=r"ran back by 2\.000 s"):
        never_back([1, 5 * 10**9, 3 * 10**9])

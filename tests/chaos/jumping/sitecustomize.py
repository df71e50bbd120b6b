"""Gives a Python process another time of day. Python loads this automatically in a process that has this directory in
PYTHONPATH.

The file that `JUMPING_CLOCK` names holds the difference in seconds, and may change while the process runs. Only the
time of day differs: the clocks that measure durations are the machine's. libfaketime would do the same from outside,
but changes how a process sleeps as well, which CPython does not survive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

REREAD_SECONDS = 0.1


class _Difference:
    """The difference that the file names, read again every so often."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds = 0
        self._read_again = 0.0

    def seconds(self) -> int:
        now = time.monotonic()
        if now >= self._read_again:
            self._read_again = now + REREAD_SECONDS
            self._seconds = int(self._path.read_text(encoding="ascii"))
        return self._seconds


def _jump(difference: _Difference, real: Callable[[], float], real_ns: Callable[[], int]) -> None:
    time.time = lambda: real() + difference.seconds()
    time.time_ns = lambda: real_ns() + difference.seconds() * 10**9


if _name := os.environ.get("JUMPING_CLOCK"):
    _jump(_Difference(Path(_name)), time.time, time.time_ns)

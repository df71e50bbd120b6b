"""Waits for a condition, with a deadline and never for a fixed time; and a clock that a test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS = 20.0
"""The default deadline. It is longer than anything takes on a busy machine."""

PAUSE_S = 0.005
"""Seconds between two checks."""


async def until(condition: Callable[[], bool], what: str = "the condition", seconds: float = SECONDS) -> None:
    """Wait until a condition holds. After the deadline raises AssertionError, which names the condition as `what`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(PAUSE_S)


def wait_until(condition: Callable[[], bool], what: str = "the condition", seconds: float = 2 * SECONDS) -> None:
    """`until` for tests without an event loop. `condition` may be slow: it looks at processes or asks a node."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(PAUSE_S)


class Clock:
    """A clock that the test moves, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

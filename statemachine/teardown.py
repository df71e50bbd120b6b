"""Emptying containers in small steps.

A container takes all that is in it along when its last reference goes, in one step of the interpreter: about 0.4 s for
300,000 orders. No other thread has its turn meanwhile, whichever of them does it. So a large state is emptied before it
goes, in a thread of its own.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from sortedcontainers import SortedList

PIECE = 1_000
"""Items of a list that go in one step."""


def clear(*containers: list[Any] | deque[Any] | dict[Any, Any] | SortedList) -> None:
    """Empty these, one after the other."""
    for container in containers:
        if isinstance(container, list):
            while container:
                del container[-PIECE:]
        elif isinstance(container, dict):
            while container:
                container.popitem()
        else:
            while container:
                container.pop()

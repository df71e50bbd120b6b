"""Turns for other threads during long work on the state.

A thread gives the interpreter away only while it runs interpreted code. A loop of the compiled core keeps it to its end:
about a second for a million orders, and the event loop of the node stands still meanwhile. So a loop over a whole table
goes through `parts`, and a loop whose every step is long calls `turn`. This module is never compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

PART = 512
"""Items between two turns: less than a millisecond of work."""


def parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in slices of `PART`. Before each slice another thread may have its turn."""
    for start in range(0, len(items), PART):
        yield items[start : start + PART]


def turn() -> None:
    """Let another thread have its turn, if one waits for the interpreter."""

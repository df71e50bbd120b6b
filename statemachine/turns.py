"""Turns for other threads during long work on the state.

A thread releases the interpreter lock only while it runs interpreted code. A loop of the compiled core holds the lock
until its end: about a second for a million orders, in which the event loop of the node does not run. So a loop over a
whole table goes through `parts`, or `taken` where the table is read at the same time. A loop whose every step is long
calls `turn`. This module is never compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

PART = 512
"""Items between two turns: less than a millisecond of work."""


def parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield the items in slices of `PART`. Before each slice other threads can run."""
    for start in range(0, len(items), PART):
        yield items[start : start + PART]


def taken(items: Iterator[Item]) -> Iterator[Sequence[Item]]:
    """Yield the items of an iterator in lists of `PART`, read on demand. Before each list other threads can
    run.
    """
    while part := list(islice(items, PART)):
        yield part


def turn() -> None:
    """Let another thread run, if one waits for the interpreter lock."""

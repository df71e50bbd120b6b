"""Timers that wake a process together."""

from __future__ import annotations

import asyncio

from node.system.tasks import at_next

PERIOD_S = 64.0


async def test_timers_of_one_period_are_due_together() -> None:
    now = asyncio.get_running_loop().time()
    one, two = at_next(PERIOD_S, lambda: None), at_next(PERIOD_S, lambda: None)
    assert two.when() - one.when() in (0.0, PERIOD_S), "the period may end between the two calls"
    assert now < one.when() <= now + PERIOD_S + 1
    assert one.when() % PERIOD_S == 0
    one.cancel()
    two.cancel()

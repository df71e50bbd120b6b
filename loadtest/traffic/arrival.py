"""When a user sends its requests.

In a *closed loop* a user sends the next request after the answer to the last one. A slow exchange then receives less,
and the latencies do not show how long other clients would have waited (coordinated omission: Gil Tene, "How NOT to
measure latency"). In an *open loop* requests have intended times that no answer delays, and the latency runs from the
intended time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

Send = Callable[[float], Awaitable[None]]
"""Sends the next request. The argument is the time at which it was due, in seconds of `time.perf_counter`."""

UNDER_WAY_MAX = 32
"""Requests of one user that wait for answers in an open loop. Later ones wait until one of these is answered; their
latency contains the wait."""


async def closed_loop(send: Send, rate: float, stopping: asyncio.Event) -> None:
    """Send until `stopping`, at most `rate` requests a second (0: no limit), and each after the answer to the last
    one.
    """
    interval = 1 / rate if rate > 0 else 0.0
    while not stopping.is_set():
        begin = time.perf_counter()
        await send(begin)
        await _wait_until(begin + interval, stopping)


async def open_loop(send: Send, rate: float, random: Random, stopping: asyncio.Event) -> None:
    """Send until `stopping` at the times of a Poisson process with `rate` requests a second. Returns when every request
    is answered. Raises what `send` raises.
    """
    places = asyncio.Semaphore(UNDER_WAY_MAX)
    due = time.perf_counter()
    async with asyncio.TaskGroup() as requests:
        while True:
            due += random.expovariate(rate)
            await _wait_until(due, stopping)
            if stopping.is_set():
                return
            await places.acquire()
            requests.create_task(_sent(send, due, places))


async def _sent(send: Send, due: float, places: asyncio.Semaphore) -> None:
    try:
        await send(due)
    finally:
        places.release()


async def _wait_until(moment: float, stopping: asyncio.Event) -> None:
    """Wait until `moment` or `stopping`. Other tasks run at least once meanwhile."""
    delay = moment - time.perf_counter()
    if delay <= 0:
        await asyncio.sleep(0)
        return
    try:
        async with asyncio.timeout(delay):
            await stopping.wait()
    except TimeoutError:
        pass

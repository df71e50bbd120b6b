"""The honest trader: orders over every node's HTTP at a steady pace, and the result of each."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import aiohttp
import msgspec

from loadtest.access import ClusterAccess
from loadtest.recorder import percentile
from tests.attack.target import HONEST, signed

PACE = 0.05
"""Seconds between orders. They are sent whether or not the previous one was answered, so that every order during a
pause shows it.
"""

TIMEOUT = 15.0


class Window(msgspec.Struct):
    """The honest trader's results in a time: the seconds of each accepted order, and the number of other results, by
    status or error.
    """

    latencies: list[float] = []
    failures: dict[str, int] = {}

    @property
    def p50(self) -> float:
        """The median latency in seconds."""
        return percentile(self.latencies, 50)

    @property
    def p99(self) -> float:
        """The latency in seconds that 99 % of the orders do not exceed."""
        return percentile(self.latencies, 99)


class HonestTrader:
    """Sends orders that rest far from the market and are cancelled at once (immediate or cancel), each through the next
    node.
    """

    def __init__(self, access: ClusterAccess) -> None:
        self._urls = list(access.https.values())
        self._person = HONEST[0]
        self._ids = itertools.count()
        self._run = f"{time.time_ns():x}"

    async def trade(self, seconds: float) -> Window:
        """Trade for this many seconds."""
        window, failures = Window(), Counter[str]()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as orders:
            until = time.monotonic() + seconds
            for url in itertools.cycle(self._urls):
                if time.monotonic() >= until:
                    break
                orders.create_task(self._order(session, url, window, failures))
                await asyncio.sleep(PACE)
        window.failures = dict(failures)
        return window

    async def _order(self, session: aiohttp.ClientSession, url: str, window: Window, failures: Counter[str]) -> None:
        order = {
            "product_id": "BTC-USD",
            "side": "buy",
            "price": "1",
            "size": "0.001",
            "time_in_force": "IOC",
            "client_oid": f"{self._run}-{next(self._ids)}",
        }
        headers, data = signed(self._person, "POST", "/orders", order)
        begun = time.monotonic()
        try:
            async with session.post(f"{url}/orders", data=data, headers=headers) as response:
                text = await response.text()
                if response.status == 200:
                    window.latencies.append(time.monotonic() - begun)
                else:
                    failures[f"{response.status} {text[:120]}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            failures[type(error).__name__] += 1

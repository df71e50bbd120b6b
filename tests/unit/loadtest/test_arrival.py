"""Users send after the last answer, or at times that no answer delays."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from loadtest.traffic import arrival
from loadtest.traffic.arrival import closed_loop, open_loop


async def test_a_closed_loop_waits_for_the_answer() -> None:
    stopping, dues, under_way = asyncio.Event(), list[float](), 0

    async def send(due: float) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        dues.append(due)
        await asyncio.sleep(0.005)
        under_way -= 1
        if len(dues) == 10:
            stopping.set()

    await closed_loop(send, 100.0, stopping)
    assert dues[-1] - dues[0] >= 9 * 0.01 * 0.9, "at most 100 a second"


async def test_an_open_loop_does_not_wait_and_counts_from_the_intended_time() -> None:
    """The exchange stops for a while. Requests become due meanwhile, and their latencies show that."""
    stopping, latencies = asyncio.Event(), list[float]()
    answers = asyncio.Event()

    async def send(due: float) -> None:
        await answers.wait()
        latencies.append(time.perf_counter() - due)
        if len(latencies) >= 100:
            stopping.set()

    async with asyncio.timeout(20):
        asyncio.get_running_loop().call_later(0.3, answers.set)
        await open_loop(send, 500.0, Random(1), stopping)
    assert max(latencies) >= 0.25, "the first one waited until the end"
    late = sum(latency > 0.05 for latency in latencies)
    assert late > 2 * arrival.UNDER_WAY_MAX, "later ones waited too, although they were not sent yet"


async def test_an_open_loop_has_a_bound_and_its_rate() -> None:
    stopping, under_way, most, sent = asyncio.Event(), 0, 0, 0
    full = asyncio.Event()

    async def send(_: float) -> None:
        nonlocal under_way, most, sent
        sent += 1
        under_way += 1
        most = max(most, under_way)
        if under_way == arrival.UNDER_WAY_MAX:
            full.set()
        await full.wait()
        under_way -= 1
        if sent >= 3 * arrival.UNDER_WAY_MAX:
            stopping.set()

    async with asyncio.timeout(20):
        await open_loop(send, 5000.0, Random(1), stopping)
    assert most == arrival.UNDER_WAY_MAX
    assert not under_way, "it ends when everything is answered"


async def test_an_error_of_a_request_ends_the_open_loop() -> None:
    async def send(_: float) -> None:
        raise RuntimeError("broken")

    with pytest.raises(ExceptionGroup):
        await open_loop(send, 100.0, Random(1), asyncio.Event())

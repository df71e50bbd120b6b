"""The driver ticks by the clock, and at once when there is work. It passes on every error that stops the node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import pytest

from cluster.driver import RaftDriver
from cluster.errors import RaftFatalError
from cluster.raft import Raft


class Ticks:
    """A `Raft` as the driver sees it. `interval` is the number of seconds after which it wants to tick again."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.fixed: float | None = None
        self.asked = 0
        self.ticked_at = -1e9
        self.wake: Callable[[], None] = lambda: None
        self.count = 0
        self.error: Exception | None = None
        self.ticked = asyncio.Event()

    def tick(self) -> None:
        self.count += 1
        self.ticked_at = asyncio.get_running_loop().time()
        self.ticked.set()
        if self.error is not None:
            raise self.error

    def due_in(self) -> float:
        self.asked += 1
        if self.fixed is not None:
            return self.fixed
        return self.ticked_at + self.interval - asyncio.get_running_loop().time()

    async def next(self) -> None:
        """Wait until the next tick."""
        self.ticked.clear()
        async with asyncio.timeout(10):
            await self.ticked.wait()


def driven(*, interval: float = 0.001, wire_failed: asyncio.Future[None] | None = None) -> tuple[Ticks, RaftDriver]:
    ticks = Ticks(interval)
    return ticks, RaftDriver(cast(Raft, ticks), wire_failed=wire_failed)


async def test_a_driver_ticks_by_the_clock_until_it_is_stopped() -> None:
    ticks, driver = driven()
    running = asyncio.create_task(driver.run())
    for _ in range(5):
        await ticks.next()
    driver.stop()
    await asyncio.wait_for(running, 10)
    count = ticks.count
    ticks.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ticks.count == count >= 5


async def test_many_wakes_are_one_tick_at_once() -> None:
    ticks, driver = driven(interval=1000)
    running = asyncio.create_task(driver.run())
    await ticks.next()
    for _ in range(10):
        ticks.wake()
    await ticks.next()
    assert ticks.count == 2
    ticks.wake()
    await ticks.next()
    assert ticks.count == 3
    driver.stop()
    await asyncio.wait_for(running, 10)


@pytest.mark.parametrize("woken", [False, True])
async def test_an_error_of_a_tick_ends_the_run(woken: bool) -> None:
    ticks, driver = driven(interval=1000 if woken else 0.001)
    running = asyncio.create_task(driver.run())
    await ticks.next()
    ticks.error = RaftFatalError("stop")
    if woken:
        ticks.wake()
    with pytest.raises(RaftFatalError, match="stop"):
        await asyncio.wait_for(running, 10)
    count = ticks.count
    ticks.wake()
    await asyncio.sleep(0)
    assert ticks.count == count, "a node that failed does nothing more"


async def test_an_error_of_the_wire_ends_the_run() -> None:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ticks, driver = driven(wire_failed=failed)
    running = asyncio.create_task(driver.run())
    await ticks.next()
    failed.set_exception(OSError("address in use"))
    with pytest.raises(OSError, match="address in use"):
        await asyncio.wait_for(running, 10)


async def test_a_wire_that_failed_before_ends_the_run() -> None:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(OSError("address in use"))
    _, driver = driven(wire_failed=failed)
    with pytest.raises(OSError, match="address in use"):
        await asyncio.wait_for(driver.run(), 10)


async def test_a_cancelled_run_ticks_no_more() -> None:
    ticks, driver = driven(interval=1000)
    running = asyncio.create_task(driver.run())
    await ticks.next()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    ticks.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ticks.count == 1


async def test_a_driver_that_is_stopped_before_its_run_ends_at_once() -> None:
    ticks, driver = driven()
    ticks.wake()
    driver.stop()
    await asyncio.wait_for(driver.run(), 10)
    assert ticks.count == 0


async def test_a_node_that_has_nothing_to_do_does_not_tick() -> None:
    """The next due time has moved since the timer was set, as an election timeout does with each heartbeat. The timer
    is set again without a tick.
    """
    ticks, driver = driven(interval=1000)
    running = asyncio.create_task(driver.run())
    await ticks.next()
    ticks.fixed = 0.001
    driver._arm(0.001)
    async with asyncio.timeout(10):
        while ticks.asked < 5:  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0)
    assert ticks.count == 1
    ticks.fixed = 0.0
    await ticks.next()
    driver.stop()
    await asyncio.wait_for(running, 10)


async def test_a_driver_whose_tick_is_always_due_leaves_time_for_other_tasks() -> None:
    ticks, driver = driven(interval=-1.0)
    running = asyncio.create_task(driver.run())
    for _ in range(3):
        await ticks.next()
    others = 0
    while ticks.count < 6:
        others += 1
        await asyncio.sleep(0)
    assert others > 3
    driver.stop()
    await asyncio.wait_for(running, 10)


async def test_a_node_that_was_paused_says_so_itself(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.driver.PAUSE_NOTED", 0.05)
    ticks, driver = driven(interval=0.01)
    running = asyncio.create_task(driver.run())
    await ticks.next()
    caplog.clear()
    time.sleep(0.1)  # noqa: ASYNC251  # as a process that is stopped
    await ticks.next()
    assert "this node did not run for" in caplog.text
    driver.stop()
    await asyncio.wait_for(running, 10)

"""Runs one node's Raft under asyncio. It ticks when something is due by the clock, and at once when there is work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cluster.raft import Raft

log = logging.getLogger(__name__)

WAIT_MIN = 0.001
"""Seconds between two ticks that are due by the clock, so that overdue work does not block the event loop."""

PAUSE_NOTED = 1.0
"""Seconds by which a tick may be late before it is logged."""


class RaftDriver:
    """The asyncio owner of a `Raft`.

    It asks the node when it wants to tick next (`Raft.due_in`), so an idle node costs next to nothing. `wake` schedules
    a tick at once; several calls before it runs cause one tick. Proposals, and messages that change something, wake the
    driver.
    """

    def __init__(self, raft: Raft, *, wire_failed: asyncio.Future[None] | None = None) -> None:
        self._raft = raft
        self._wire_failed = wire_failed
        self._woken = False
        self._stopping = False
        self._ended: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._call_soon: Callable[..., object] = lambda _function: None
        self.ticks = 0
        raft.wake = self.wake

    def wake(self) -> None:
        """Tick before anything else waits."""
        if not self._woken and self._ended is not None and not self._ended.done():
            self._woken = True
            self._call_soon(self._tick)

    def _tick(self) -> None:
        """Tick, and set the timer for the next tick. An error ends `run`."""
        assert self._ended is not None
        self._woken = False
        if self._ended.done():
            return
        self.ticks += 1
        try:
            self._raft.tick()
            wait = max(WAIT_MIN, self._raft.due_in())
        except Exception as error:  # noqa: BLE001  # `run` raises it
            self._ended.set_exception(error)
            return
        self._arm(wait)

    def _arm(self, wait: float) -> None:
        """Schedule a tick after `wait` seconds. A timer that is due before that stays, because creating a new one each
        time would cost more.
        """
        loop = self._ended.get_loop() if self._ended is not None else asyncio.get_running_loop()
        due_at = loop.time() + wait
        if self._timer is not None:
            if self._due_at <= due_at:
                return
            self._timer.cancel()
        self._due_at = due_at
        self._timer = loop.call_at(due_at, self._timer_is_due)

    def _timer_is_due(self) -> None:
        """Tick if one is due now; otherwise set the timer again. Log a pause of the process."""
        assert self._ended is not None
        self._timer = None
        if self._ended.done():
            return
        late = self._ended.get_loop().time() - self._due_at
        if late > PAUSE_NOTED:
            log.warning(
                "this node did not run for %.1f s: its process was paused, or the machine was too busy. Others may have given it up",
                late,
            )
        try:
            wait = self._raft.due_in()
        except Exception as error:  # noqa: BLE001  # as above
            self._ended.set_exception(error)
            return
        if wait <= 0:
            self._tick()
        else:
            self._arm(max(WAIT_MIN, wait))

    def stop(self) -> None:
        """Let `run` return, even if it begins later."""
        self._stopping = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def run(self) -> None:
        """Tick until `stop` or cancellation. Raises the exception that stopped the node."""
        loop = asyncio.get_running_loop()
        self._call_soon = loop.call_soon
        self._ended = loop.create_future()
        if self._stopping:
            self._ended.set_result(None)
        if self._wire_failed is not None:
            self._wire_failed.add_done_callback(self._wire_ended)
        try:
            self._tick()
            await self._ended
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._ended.cancel()

    def _wire_ended(self, failed: asyncio.Future[None]) -> None:
        """End `run` with the error of the wire."""
        error = None if failed.cancelled() else failed.exception()
        if error is not None and self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

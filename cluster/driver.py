"""Runs one node's Raft under asyncio: ticks by the clock, and at once when there is something to do."""

from __future__ import annotations

import asyncio

from cluster.raft import Raft


class RaftDriver:
    """The asyncio owner of a `Raft`.

    `interval` is the longest time between ticks, in seconds. `wake` schedules one at once; many calls before it runs are one tick.
    Proposals and messages wake the driver by themselves.
    """

    def __init__(self, raft: Raft, *, interval: float = 0.01, wire_failed: asyncio.Future[None] | None = None) -> None:
        self._raft = raft
        self._interval = interval
        self._wire_failed = wire_failed
        self._woken = False
        self._stopping = False
        self._ended: asyncio.Future[None] | None = None
        raft.wake = self.wake

    def wake(self) -> None:
        """Tick before anything else waits."""
        if not self._woken and self._ended is not None and not self._ended.done():
            self._woken = True
            self._ended.get_loop().call_soon(self._tick_soon)

    def _tick_soon(self) -> None:
        self._woken = False
        self._tick()

    def _tick(self) -> None:
        assert self._ended is not None
        if self._ended.done():
            return
        try:
            self._raft.tick()
        except Exception as error:  # noqa: BLE001  # told by `run`, which ends with it
            self._ended.set_exception(error)

    def stop(self) -> None:
        """Let `run` return, also one that begins later."""
        self._stopping = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def run(self) -> None:
        """Tick until `stop`, or until cancelled. Raises what stopped the node."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        if self._stopping:
            self._ended.set_result(None)
        if self._wire_failed is not None:
            self._wire_failed.add_done_callback(self._wire_ended)
        try:
            while not self._ended.done():
                self._tick()
                await asyncio.wait([self._ended], timeout=self._interval)
        finally:
            self._ended.cancel()
        self._ended.result()

    def _wire_ended(self, failed: asyncio.Future[None]) -> None:
        error = None if failed.cancelled() else failed.exception()
        if error is not None and self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

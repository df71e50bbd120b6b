"""Turns at something of which only a few may go on at once, fair between those who wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator


class TurnRefusedError(Exception):
    """The holder has too many in the queue already."""


class Turns:
    """`places` at once, each holder in turn: whoever waits is served before a holder that had its turn since.

    Args:
        places: how many may go on at once, of all holders together.
        waiting: how many of one holder may wait.
    """

    def __init__(self, places: int, waiting: int) -> None:
        assert places > 0
        assert waiting > 0
        self._free = places
        self._waiting_max = waiting
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Who waits, by holder; the holder in front is next, and goes to the end then."""

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits: whoever has had a place for long should give it back, and queue again."""
        return bool(self._queues)

    @contextlib.asynccontextmanager
    async def turn(self, holder: str) -> AsyncIterator[None]:
        """Have a place for as long as the block takes. Raises TurnRefusedError."""
        await self._enter(holder)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, holder: str) -> None:
        if self._free and not self._queues:
            self._free -= 1
            return
        queue = self._queues.setdefault(holder, deque())
        if len(queue) >= self._waiting_max:
            raise TurnRefusedError(f"{len(queue)} of this address wait already")
        mine = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # the place had been given to us
            else:
                self._forget(holder, mine)
            raise

    def _forget(self, holder: str, mine: asyncio.Future[None]) -> None:
        queue = self._queues.get(holder)
        if queue is not None and mine in queue:
            queue.remove(mine)
            if not queue:
                del self._queues[holder]

    def _leave(self) -> None:
        """Give a place to the next holder's oldest, or keep it free."""
        while self._queues:
            holder, queue = self._queues.popitem(last=False)
            mine = queue.popleft()
            if queue:
                self._queues[holder] = queue
            if not mine.done():
                mine.set_result(None)
                return
        self._free += 1

"""The history as handlers ask it: in threads, and waited for, so that a client sees in it what the node has told it before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from node.config.settings import NodeConfig
from node.errors import HistoryError
from node.gateway.errors import ApiError
from node.history.queries import History
from node.history.store import Gap, Progress

log = logging.getLogger(__name__)

THREADS = 4
"""Questions to the database at a time; more of them wait."""

WAIT = 1.0
"""Seconds that a read waits for a history that is behind, before it is answered with what is there."""

POLL = 0.02

_Result = TypeVar("_Result")


class HistorySource:
    """One history and the threads that ask it."""

    def __init__(self, config: NodeConfig) -> None:
        self._history = History(config)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="history")
        self._arriving = asyncio.Lock()
        self._progress = Progress()

    async def ask(self, question: Callable[[History], _Result]) -> _Result:
        """The answer to a question.

        Raises:
            ApiError: 503, the database cannot be read.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, question, self._history)
        except (SQLAlchemyError, HistoryError) as error:
            log.warning("the history cannot be read: %s", error)
            message = "The history of this node cannot be read at the moment"
            raise ApiError(503, message, reason="history_unavailable", headers={"Retry-After": "1"}) from None

    async def reach(self, log_index: int) -> Progress:
        """Where the history is, once it has log entry `log_index`, or has not got there in `WAIT` seconds. Raises as `ask`.

        An entry, not a command: one without commands moves the time on, and orders leave.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT
        while self._progress.log_index < log_index:
            async with self._arriving:
                if self._progress.log_index < log_index:
                    self._progress = await self.ask(History.progress)
            if self._progress.log_index >= log_index or loop.time() >= until:
                break
            await asyncio.sleep(POLL)
        return self._progress

    async def standing(self) -> tuple[Progress, list[Gap]]:
        """Where the history is now, and what it lacks. Raises as `ask`."""
        self._progress = await self.ask(History.progress)
        return self._progress, await self.ask(History.gaps) if self._progress.log_index else []

    def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=True)
        self._history.close()

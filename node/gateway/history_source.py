"""The history as handlers ask it: in threads, and waited for, so that a client sees in it what the node has told it
before.
"""

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
from node.history.queries import HistoryReader
from node.history.store import HistoryProgress, LogGap

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
        self._history = HistoryReader(config)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="history")
        self._arriving = asyncio.Lock()
        self._progress = HistoryProgress()
        self._confirmed_by = ""

    async def ask(self, question: Callable[[HistoryReader], _Result]) -> _Result:
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
            # What a driver says may name hosts and users; what we say is for the reader.
            detail = str(error) if isinstance(error, HistoryError) else "its database does not answer; the node's log says why"
            raise ApiError(503, message, reason="history_unavailable", detail=detail, headers={"Retry-After": "1"}) from None

    async def reach(self, log_index: int, start: str) -> HistoryProgress:
        """Where the history is, once it has log entry `log_index`, or has not got there in `WAIT` seconds.

        An entry, not a command: one without commands moves the time on, and orders leave.

        Args:
            start: the engine's, of which the history must have confirmed that it is of its log.

        Raises:
            ApiError: as `ask`; or 503, the history has not been compared with the log of this start of the engine.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT
        while not self._has(log_index, start):
            async with self._arriving:
                if not self._has(log_index, start):
                    self._progress, self._confirmed_by = await self.ask(_place)
            if self._has(log_index, start) or loop.time() >= until:
                break
            await asyncio.sleep(POLL)
        if self._confirmed_by != start:
            self._history.begin_again()
            raise ApiError(
                503,
                "The history of this node cannot answer at the moment",
                reason="history_unconfirmed",
                detail="it has not been compared with the node's log since the node was started, or is of another log; node.log says which",
                headers={"Retry-After": "1"},
            )
        return self._progress

    def _has(self, log_index: int, start: str) -> bool:
        return self._progress.log_index >= log_index and self._confirmed_by == start

    @property
    def confirmed_by(self) -> str:
        """The start of the engine for which the history was last found to be of its log."""
        return self._confirmed_by

    async def standing(self) -> tuple[HistoryProgress, list[LogGap]]:
        """Where the history is now, and what it lacks. Raises as `ask`."""
        self._progress, self._confirmed_by = await self.ask(_place)
        return self._progress, await self.ask(HistoryReader.gaps) if self._progress.log_index else []

    def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=True)
        self._history.close()


def _place(history: HistoryReader) -> tuple[HistoryProgress, str]:
    return history.progress(), history.confirmed_by()

"""The history as handlers use it. Queries run in threads, and wait until the history includes what the node has already
answered.
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
"""Concurrent queries to the database. Further ones wait."""

WAIT = 1.0
"""Seconds for which a read waits for a history that is behind. Then it is answered from the available data."""

POLL = 0.02

_Result = TypeVar("_Result")


class HistorySource:
    """One history, and the threads that query it."""

    def __init__(self, config: NodeConfig) -> None:
        self._history = HistoryReader(config)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="history")
        self._arriving = asyncio.Lock()
        self._progress = HistoryProgress()
        self._confirmed_by = ""

    async def ask(self, question: Callable[[HistoryReader], _Result]) -> _Result:
        """Return the answer to a query.

        Raises:
            ApiError: 503 if the database cannot be read.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, question, self._history)
        except (SQLAlchemyError, HistoryError) as error:
            log.warning("the history cannot be read: %s", error)
            message = "The history of this node cannot be read at the moment"
            # A driver's text may name hosts and users, so the client gets a text without them.
            detail = str(error) if isinstance(error, HistoryError) else "its database does not answer; the node's log says why"
            raise ApiError(503, message, reason="history_unavailable", detail=detail, headers={"Retry-After": "1"}) from None

    async def reach(self, log_index: int, start: str) -> HistoryProgress:
        """Return the progress of the history when it includes log entry `log_index`, or after `WAIT` seconds.

        The position is a log index, because an entry without commands may also expire orders.

        Args:
            start: the id of the engine's start. The history must have confirmed that it matches the log of this start.

        Raises:
            ApiError: as `ask`, and 503 if the history was not yet compared with the log of this start.
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
        """Return whether the history includes a log entry, and was compared with the log of this engine's start."""
        return self._progress.log_index >= log_index and self._confirmed_by == start

    @property
    def confirmed_by(self) -> str:
        """The id of the engine's start for whose log the history was confirmed last."""
        return self._confirmed_by

    async def standing(self) -> tuple[HistoryProgress, list[LogGap]]:
        """Return the current progress of the history, and its gaps. Raises as `ask`."""
        self._progress, self._confirmed_by = await self.ask(_place)
        return self._progress, await self.ask(HistoryReader.gaps) if self._progress.log_index else []

    def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=True)
        self._history.close()


def _place(history: HistoryReader) -> tuple[HistoryProgress, str]:
    return history.progress(), history.confirmed_by()

"""Work in the background: tasks that are kept while they run and cancelled together, timers that wake a process together,
and the pauses between attempts of something that may succeed soon, such as a connection to a node that restarts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any


def keep(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine as a task that is in `tasks` until it ends. The event loop itself keeps no reference to a task."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended. What they raise is dropped."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


def at_next(period_s: float, function: Callable[[], object]) -> asyncio.TimerHandle:
    """Run a function at the next multiple of the period by the event loop's clock. Timers of a process with the same period
    then wake it together: a wake-up of an idle process costs more than what such a function does.
    """
    loop = asyncio.get_running_loop()
    return loop.call_at((math.floor(loop.time() / period_s) + 1) * period_s, function)


class Backoff:
    """Pauses of growing length: the first lasts `first_s` seconds, each further one twice as long as the one before,
    and none longer than `most_s`.

    >>> backoff = Backoff(0.1, 0.3)
    >>> backoff.next_s(), backoff.next_s(), backoff.next_s()
    (0.1, 0.2, 0.3)
    >>> backoff.reset()
    >>> backoff.next_s()
    0.1
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        assert 0 < first_s <= most_s
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the length of the next pause in seconds. The caller waits."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return pause_s

    def reset(self) -> None:
        """Begin with the shortest pause again, after a success."""
        self._next_s = self._first_s

    async def wait(self) -> None:
        """Wait for the next pause."""
        await asyncio.sleep(self.next_s())

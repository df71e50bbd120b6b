"""An asyncio event loop beside Locust's greenlets.

Locust replaces the blocking calls of Python's library by gevent's. The clients of the exchange use asyncio. They run on
uvloop in a thread of the system, where they meet no greenlet. Greenlets and the loop exchange work and results through
plain objects that each side looks at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import gevent
import uvloop

LOOK_S = 0.02
"""Seconds between two checks of a job by a greenlet."""


class Job:
    """A coroutine on the loop. `stopping` is set to end it. `error` is its exception, if it failed."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None


Work = Callable[[asyncio.Event], Coroutine[Any, Any, Any]]


class LocustLoop:
    """The loop and its thread, which begins at construction and ends with the process."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.jobs: set[Job] = set()
        gevent.get_hub().threadpool.spawn(self._loop.run_forever)

    def start(self, work: Work) -> Job:
        """Run a coroutine; it is given its job's `stopping`."""
        job = Job()
        self.jobs.add(job)
        self._loop.call_soon_threadsafe(self._begin, job, work)
        return job

    def _begin(self, job: Job, work: Work) -> None:
        task = self._loop.create_task(self._run(job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job, work: Work) -> None:
        """Run the work of a job, and store its result or its exception."""
        try:
            job.value = await work(job.stopping)
        except BaseException as error:  # noqa: BLE001  # the greenlet that waits raises it
            job.error = error
        finally:
            job.done = True

    def stop(self, job: Job) -> None:
        """Ask a job to end."""
        self._loop.call_soon_threadsafe(job.stopping.set)

    def wait(self, job: Job, seconds: float = float("inf")) -> Any:
        """Let other greenlets run until a job is done. Returns its value, or raises its error.

        Raises:
            TimeoutError: it is not done after `seconds`.
        """
        waited = 0.0
        while not job.done:
            if waited > seconds:
                raise TimeoutError(f"not done after {seconds:g} s")
            gevent.sleep(LOOK_S)
            waited += LOOK_S
        self.jobs.discard(job)
        if job.error is not None:
            raise job.error
        return job.value

    def call(self, work: Callable[[], Coroutine[Any, Any, Any]], seconds: float = float("inf")) -> Any:
        """Run a coroutine to its end. Raises as `wait`."""
        return self.wait(self.start(lambda _: work()), seconds)

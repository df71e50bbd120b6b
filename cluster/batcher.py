"""Many small requests, few log entries.

While fewer than `in_flight_max` proposals are under way, everything that has queued is sealed into one payload and proposed. There is no
timer: a lone request is proposed at once, and batches form only because requests queue while proposals are under way. More than one
proposal is allowed under way so that the disk, the network and the state machine work at the same time; few, so that batches grow
with the load instead of the log filling with small entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from cluster.raft import ProposeError, ProposeResult

IN_FLIGHT_MAX = 4

Item = TypeVar("Item")
ItemDone = Callable[["Refusal | None", Sequence[Any]], None]


class Refusal(Enum):
    """Why an item has no results."""

    OVERLOADED = "overloaded"
    """Nothing was done: the queue is full."""
    TOO_LARGE = "too_large"
    """Nothing was done: the item alone is more than one log entry may hold."""
    NOT_LEADER = "not_leader"
    """Nothing was done."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """Leadership was lost under way: it may or may not be applied."""


_REFUSAL = {ProposeError.NOT_LEADER: Refusal.NOT_LEADER, ProposeError.OUTCOME_UNKNOWN: Refusal.OUTCOME_UNKNOWN}


class _Queued(Generic[Item]):
    __slots__ = ("done", "item", "size", "units")

    def __init__(self, item: Item, units: int, size: int, done: ItemDone) -> None:
        self.item = item
        self.units = units
        self.size = size
        self.done = done


class BatcherCounts(msgspec.Struct):
    """What a batcher has done since it began; `units / proposals` is the mean batch."""

    proposals: int = 0
    units: int = 0
    refused: int = 0


class Batcher(Generic[Item]):
    """Groups items into proposals and hands each item its part of what apply returned.

    An item stands for `units` results and about `size` bytes; the state machine returns one result a unit, in order. Every item's `done`
    is called exactly once, in the order of submission within one proposal: `(None, its results)` or `(why not, ())`.

    Args:
        propose: `Raft.propose`.
        seal: makes the payload of a proposal; must give at most the sum of the items' sizes and a little.
        later: runs a function soon, after what has already arrived (`loop.call_soon`); so requests that come together are one entry.
        units_max, bytes_max: of one proposal. An item is never split, so one item may have more units, but not more bytes.
        queue_max: units that may wait.
    """

    def __init__(
        self,
        propose: Callable[[bytes, Callable[[ProposeResult], None]], None],
        seal: Callable[[list[Item]], bytes],
        *,
        later: Callable[[Callable[[], None]], object],
        units_max: int,
        bytes_max: int,
        queue_max: int,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        assert units_max > 0
        assert bytes_max > 0
        assert in_flight_max > 0
        self._propose = propose
        self._seal = seal
        self._later = later
        self._units_max = units_max
        self._bytes_max = bytes_max
        self._queue_max = queue_max
        self._in_flight_max = in_flight_max
        self._queue: deque[_Queued[Item]] = deque()
        self._queued_units = 0
        self._in_flight = 0
        self._scheduled = False
        self._held = False
        self.counts = BatcherCounts()

    @property
    def queued(self) -> int:
        """Units that wait for a proposal."""
        return self._queued_units

    @property
    def in_flight(self) -> int:
        """Proposals under way."""
        return self._in_flight

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._queue and not self._in_flight

    def submit(self, item: Item, units: int, size: int, done: ItemDone) -> None:
        """Queue an item, or refuse it at once (`done` is then called before this returns)."""
        assert units > 0
        if size > self._bytes_max:
            self._refuse(done, Refusal.TOO_LARGE)
            return
        if self._queued_units + units > self._queue_max and self._queue:
            self._refuse(done, Refusal.OVERLOADED)
            return
        self._queue.append(_Queued(item, units, size, done))
        self._queued_units += units
        self._schedule()

    def hold(self) -> None:
        """Propose nothing more until `release`; what is under way goes on, and items may queue."""
        self._held = True

    def release(self) -> None:
        """Undo `hold`."""
        self._held = False
        if self._queue:
            self._schedule()

    def fail_queued(self, refusal: Refusal) -> None:
        """Refuse everything that waits; what is under way is told by its proposal."""
        failed, self._queue = self._queue, deque()
        self._queued_units = 0
        for queued in failed:
            self._refuse(queued.done, refusal)

    def _refuse(self, done: ItemDone, refusal: Refusal) -> None:
        self.counts.refused += 1
        done(refusal, ())

    def _schedule(self) -> None:
        if not self._scheduled and self._in_flight < self._in_flight_max:
            self._scheduled = True
            self._later(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        while self._queue and self._in_flight < self._in_flight_max and not self._held:
            batch = self._take()
            self._in_flight += 1
            self.counts.proposals += 1
            self._propose(self._seal([queued.item for queued in batch]), partial(self._resolved, batch))

    def _take(self) -> list[_Queued[Item]]:
        """The next proposal's items: as many as fit, at least one."""
        queue = self._queue
        batch = [queue.popleft()]
        units, size = batch[0].units, batch[0].size
        while queue and units + queue[0].units <= self._units_max and size + queue[0].size <= self._bytes_max:
            queued = queue.popleft()
            units += queued.units
            size += queued.size
            batch.append(queued)
        self._queued_units -= units
        self.counts.units += units
        return batch

    def _resolved(self, batch: list[_Queued[Item]], result: ProposeResult) -> None:
        self._in_flight -= 1
        if self._queue:
            self._schedule()
        if result.error is not None:
            refusal = _REFUSAL[result.error]
            for queued in batch:
                self._refuse(queued.done, refusal)
            return
        values = result.value
        assert isinstance(values, list), "the state machine returns a list, one result a unit"
        start = 0
        for queued in batch:
            end = start + queued.units
            queued.done(None, values[start:end])
            start = end
        assert start == len(values), f"{start} units were proposed and {len(values)} results came back"

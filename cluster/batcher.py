"""Batching: many small requests become few log entries.

While fewer than `in_flight_max` proposals are in flight, everything in the queue is closed into one batch and proposed.
There is no timer: a single request is proposed at once, and batches form only because requests queue while proposals
are in flight. Several proposals may be in flight, so that the disk, the network and the state machine work at the same
time. Their number is small, so that batches grow with the load and the log does not fill with small entries.

Items belong to *shares*. Items of one share keep their order, and shares take turns. The order of service is that of
fair queueing by start times (Goyal, Vin and Cheng, 1996): a share's item starts when its previous item is complete, or
now if there is none, and the item that starts first is taken first. Virtual time is counted in units that each waiting
share has been given. So a share that queues thousands of units delays another share by about as many units as the other
one sends, and no share starves. A share may hold as many units as are free in the queue (a dynamic threshold:
Choudhury and Hahne, 1998), so one share fills at most half of it, and a new share always has room. Both cost O(log
shares) an item.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from cluster.raft import ProposeError, ProposeResult

IN_FLIGHT_MAX = 4

IN_FLIGHT_ENTRIES = 2
"""Full proposals in flight, at most: a new item of another share waits for no more than these. More are allowed only
while they are small.
"""

Item = TypeVar("Item")
ItemDone = Callable[["Refusal | None", Sequence[Any]], None]
Release = Callable[[], None]


class Refusal(Enum):
    """Why an item has no results."""

    OVERLOADED = "overloaded"
    """Nothing was done: the queue has no room for more items of this share."""
    TOO_LARGE = "too_large"
    """Nothing was done: the item alone exceeds the limit of a log entry."""
    NOT_LEADER = "not_leader"
    """Nothing was done."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """Leadership was lost during the proposal: the item may or may not be applied."""


_REFUSAL = {ProposeError.NOT_LEADER: Refusal.NOT_LEADER, ProposeError.OUTCOME_UNKNOWN: Refusal.OUTCOME_UNKNOWN}


class _Queued(msgspec.Struct, Generic[Item]):
    """An item that waits, with its units, its size in bytes and its callback."""

    item: Item
    units: int
    size: int
    done: ItemDone


class _Share(msgspec.Struct, Generic[Item]):
    """The waiting items of one share: the first, and those behind it in order. `start` is when the first one starts, in
    virtual time. Nearly every share has one item, so the queue of the others is created with the second.
    """

    key: Hashable
    start: float
    units: int
    first: _Queued[Item]
    behind: deque[_Queued[Item]] | None = None


class _Turns(Generic[Item]):
    """The queue of items, and the turns of the shares. Virtual time restarts at 0 when the queue is empty.

    A share without items that was given more than its turn is stored until the virtual time has caught up. Otherwise it
    would get as much again with its next item.
    """

    def __init__(self) -> None:
        self.units = 0
        self.size = 0
        self._behind = 0
        """The number of items that wait behind another one of their share."""
        self._now = 0.0
        self._number = 0
        self._shares: dict[Hashable, _Share[Item]] = {}
        self._heap: list[tuple[float, int, _Share[Item]]] = []
        self._ahead: dict[Hashable, float] = {}
        self._ends: list[tuple[float, int, Hashable]] = []

    def __bool__(self) -> bool:
        return bool(self._heap)

    def units_of(self, key: Hashable) -> int:
        """Return the waiting units of a share."""
        share = self._shares.get(key)
        return 0 if share is None else share.units

    def has_room(self, key: Hashable, units: int, units_max: int) -> bool:
        """Return whether so many units of a share fit into a queue of `units_max`. An empty queue takes any number."""
        return not self.units or self.units_of(key) + units <= units_max - self.units

    def add(self, key: Hashable, queued: _Queued[Item], units_max: int) -> bool:
        """Queue an item after those of its share. Return False, and do nothing, if there is no room for it."""
        if not self.has_room(key, queued.units, units_max):
            return False
        share = self._shares.get(key)
        if share is None:
            start = max(self._now, self._ahead.pop(key, 0.0)) if self._ahead else self._now
            share = self._shares[key] = _Share(key, start, queued.units, queued)
            self._push(share)
        else:
            if share.behind is None:
                share.behind = deque()
            share.behind.append(queued)
            share.units += queued.units
            self._behind += 1
        self.units += queued.units
        self.size += queued.size
        return True

    def first(self) -> _Queued[Item]:
        """Return the item whose turn it is."""
        return self._heap[0][2].first

    def pop(self) -> _Queued[Item]:
        """Remove the item whose turn it is, and return it."""
        active = len(self._heap)
        start, _, share = heapq.heappop(self._heap)
        queued = share.first
        self._now = max(start, self._now + queued.units / active)
        share.units -= queued.units
        self.units -= queued.units
        self.size -= queued.size
        share.start += queued.units
        if share.behind:
            share.first = share.behind.popleft()
            self._behind -= 1
            self._push(share)
        else:
            self._leave(share)
        self._forget()
        return queued

    def pop_all(self, units_max: int, size_max: int) -> list[_Queued[Item]] | None:
        """Remove all items and return them in the order of their turns, if they fit into these limits and each share has
        one item. That is the usual case, and takes no bookkeeping for later turns: the queue is empty afterwards. In all
        other cases return None, and change nothing.
        """
        if self._behind or self.units > units_max or self.size > size_max:
            return None
        waiting = [share.first for _, _, share in sorted(self._heap)]
        self._begin_again()
        return waiting

    def clear(self) -> list[_Queued[Item]]:
        """Remove all items, and return them."""
        waiting = [queued for share in self._shares.values() for queued in (share.first, *(share.behind or ()))]
        self._begin_again()
        return waiting

    def _push(self, share: _Share[Item]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (share.start, self._number, share))

    def _leave(self, share: _Share[Item]) -> None:
        """Forget a share without items. A share that is ahead of the others keeps its start until they have caught up."""
        del self._shares[share.key]
        if not self._heap:
            self._begin_again()
        elif share.start > self._now:
            self._number += 1
            self._ahead[share.key] = share.start
            heapq.heappush(self._ends, (share.start, self._number, share.key))

    def _forget(self) -> None:
        """Forget the shares that are no longer ahead of the others."""
        while self._ends and self._ends[0][0] <= self._now:
            end, _, key = heapq.heappop(self._ends)
            if self._ahead.get(key) == end:
                del self._ahead[key]

    def _begin_again(self) -> None:
        self.units, self.size, self._behind, self._now = 0, 0, 0, 0.0
        self._shares, self._heap, self._ahead, self._ends = {}, [], {}, []


class BatcherCounts(msgspec.Struct):
    """Counters of a batcher since it was created; `units / proposals` is the mean batch."""

    proposals: int = 0
    units: int = 0
    refused: int = 0


class Batcher(Generic[Item]):
    """Groups items into proposals and hands each item its part of what apply returned.

    An item stands for `units` results and about `size` bytes; the state machine returns one result a unit, in order.
    Every item's `done` is called exactly once, in the order of submission within one proposal: `(None, its results)` or
    `(the reason, ())`.

    Args:
        propose: `Raft.propose`.
        encode: makes the payload of a proposal, which is little larger than the sum of the items' sizes.
        later: runs a function after the events that have already arrived (`loop.call_soon`), so that requests that
            arrive together become one entry.
        units_max, bytes_max: limits of one proposal. An item is never split. One item may have more units, but not more
            bytes.
        queue_max: units that may wait. One share may hold as many as are free, so at most half of them.
    """

    def __init__(
        self,
        propose: Callable[[bytes, Callable[[ProposeResult], None]], None],
        encode: Callable[[list[Item]], bytes],
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
        self._encode = encode
        self._later = later
        self._units_max = units_max
        self.bytes_max = bytes_max
        self._queue_max = queue_max
        self._in_flight_max = in_flight_max
        self._turns: _Turns[Item] = _Turns()
        self._in_flight = 0
        self._units_in_flight = 0
        self._scheduled = False
        self._holds = 0
        self.counts = BatcherCounts()

    @property
    def queued(self) -> int:
        """The units that wait for a proposal."""
        return self._turns.units

    @property
    def in_flight(self) -> int:
        """The number of proposals in flight."""
        return self._in_flight

    @property
    def idle(self) -> bool:
        """Whether no item waits and no proposal is in flight."""
        return not self._turns and not self._in_flight

    def submit(self, item: Item, units: int, size: int, done: ItemDone, share: Hashable = "") -> None:
        """Queue an item of a share, or refuse it at once (`done` is then called before this returns)."""
        assert units > 0
        if size > self.bytes_max:
            self._refuse(done, Refusal.TOO_LARGE)
        elif not self._turns.add(share, _Queued(item, units, size, done), self._queue_max):
            self._refuse(done, Refusal.OVERLOADED)
        elif not self._scheduled:
            self._schedule()

    def has_room(self, units: int, share: Hashable) -> bool:
        """Return whether so many units of a share may queue now."""
        return self._turns.has_room(share, units, self._queue_max)

    def hold(self) -> Release:
        """Hold all proposals until the returned function is called. Proposals in flight continue, and items may queue.

        There may be several holds, each with its own function. Nothing is proposed before all of them have ended.
        """
        self._holds += 1
        ended = False

        def release() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._holds -= 1
                if self._turns:
                    self._schedule()

        return release

    def fail_queued(self, refusal: Refusal) -> None:
        """Reject all waiting items. Items in flight are answered by their proposals."""
        for queued in self._turns.clear():
            self._refuse(queued.done, refusal)

    def _refuse(self, done: ItemDone, refusal: Refusal) -> None:
        self.counts.refused += 1
        done(refusal, ())

    def _schedule(self) -> None:
        if not self._scheduled and self._may_propose:
            self._scheduled = True
            self._later(self._pump)

    @property
    def _may_propose(self) -> bool:
        return self._in_flight < self._in_flight_max and self._units_in_flight < IN_FLIGHT_ENTRIES * self._units_max

    def _pump(self) -> None:
        """Propose batches while items wait and proposing is allowed."""
        self._scheduled = False
        while self._turns and self._may_propose and not self._holds:
            batch, units = self._take()
            self._in_flight += 1
            self._units_in_flight += units
            self.counts.units += units
            self.counts.proposals += 1
            self._propose(self._encode([queued.item for queued in batch]), partial(self._resolved, batch, units))

    def _take(self) -> tuple[list[_Queued[Item]], int]:
        """Return the items of the next proposal and their units: as many as fit, at least one. The next item is never
        skipped in favour of a smaller one.
        """
        turns = self._turns
        waiting = turns.units
        everything = turns.pop_all(self._units_max, self.bytes_max)
        if everything is not None:
            return everything, waiting
        batch = [turns.pop()]
        units, size = batch[0].units, batch[0].size
        while turns:
            queued = turns.first()
            if units + queued.units > self._units_max or size + queued.size > self.bytes_max:
                break
            batch.append(turns.pop())
            units += queued.units
            size += queued.size
        return batch, units

    def _resolved(self, batch: list[_Queued[Item]], units: int, result: ProposeResult) -> None:
        """Answer the items of a batch with the result of its proposal."""
        self._in_flight -= 1
        self._units_in_flight -= units
        if self._turns:
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
        assert units == len(values), f"{units} units were proposed and {len(values)} results came back"

"""The latest events of one product, in a ring with a bound."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from node.engine.market import Tail

BLOCK = 1_000
"""Events of one block, which is kept or dropped as a whole. A small ring has smaller blocks."""


class _Head(msgspec.Struct, array_like=True):
    """The first bytes of an encoded event."""

    tag: int
    product_id: str
    product_sequence: int


_heads = msgspec.msgpack.Decoder(_Head)


def sequence_of(event: bytes) -> int:
    """Return the product sequence of an encoded event."""
    return _heads.decode(event).product_sequence


class _Block:
    """Events that are kept or dropped together. The events of an apply are cut out when somebody asks for an event of
    the block: on a node without readers that are behind, nobody does.
    """

    __slots__ = ("_events", "_uncut", "count")

    def __init__(self, events: Sequence[bytes]) -> None:
        self._events: list[bytes] = []
        self._uncut = [events]
        self.count = len(events)

    def extend(self, events: Sequence[bytes]) -> None:
        """Append the events of one apply."""
        self._uncut.append(events)
        self.count += len(events)

    @property
    def parts(self) -> list[Sequence[bytes]]:
        """The events as they are now, not cut."""
        return [list(self._events), *self._uncut]

    @property
    def events(self) -> list[bytes]:
        """The single events."""
        if self._uncut:
            for events in self._uncut:
                self._events += events
            self._uncut.clear()
        return self._events


class Ring:
    """The latest events of a product, encoded and contiguous: at least `capacity` of them, and always all events of the
    latest apply.

    Events are stored in blocks, and all events of one apply are in one block. The oldest block is dropped when
    `capacity` newer events exist, so a single apply cannot push out its own events or those just before. Bound:
    `capacity`, the events of the largest apply, and a block.
    """

    def __init__(self, capacity: int, next_sequence: int = 1, events: Sequence[bytes] = ()) -> None:
        assert capacity > 0
        assert next_sequence > len(events)
        self._capacity = capacity
        self._block = max(1, min(BLOCK, capacity // 8))
        self._blocks: list[_Block] = []
        self._starts: list[int] = []
        """The sequence of each block's first event."""
        self._count = 0
        self.next_sequence = next_sequence - len(events)
        for at in range(0, len(events), self._block):
            self.extend(events[at : at + self._block])

    @property
    def first_sequence(self) -> int:
        """Sequence of the oldest event kept, or `next_sequence` if the ring is empty."""
        return self.next_sequence - self._count

    def extend(self, events: Sequence[bytes]) -> None:
        """Append events that continue the sequence, and that nobody changes later. O(1) per event."""
        count, first = len(events), self.next_sequence
        assert sequence_of(events[0]) == first, "events of a product have no gap"
        assert sequence_of(events[-1]) == first + count - 1, "events of a product have no gap"
        blocks = self._blocks
        if blocks and blocks[-1].count + count <= self._block:
            blocks[-1].extend(events)
        else:
            blocks.append(_Block(events))
            self._starts.append(first)
        self._count += count
        self.next_sequence = first + count
        while self._count - blocks[0].count >= self._capacity:
            self._count -= blocks.pop(0).count
            del self._starts[0]

    def slice(self, start: int, count: int) -> list[bytes]:
        """Return up to `count` events from sequence `start` on. `start` must be a kept sequence or the next one. The
        result also ends where a block ends.
        """
        assert self.first_sequence <= start <= self.next_sequence
        if start == self.next_sequence:
            return []
        at = bisect_right(self._starts, start) - 1
        begin = start - self._starts[at]
        return self._blocks[at].events[begin : begin + count]

    def latest(self, count: int) -> Tail:
        """Return the latest events, up to `count`, oldest first. Later ones do not change the result."""
        found: list[Sequence[bytes]] = []
        for block in reversed(self._blocks):
            if count <= 0:
                break
            found[:0] = block.parts if block.count <= count else [block.events[-count:]]
            count -= block.count
        return Tail(found)

"""The result of applying a batch: encoded, and as structs on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

import msgspec

from statemachine.events import AnyEvent, AnyOutcome

_outcome: msgspec.msgpack.Decoder[AnyOutcome] = msgspec.msgpack.Decoder(AnyOutcome)
_event: msgspec.msgpack.Decoder[AnyEvent] = msgspec.msgpack.Decoder(AnyEvent)


class Pieces(Sequence[bytes]):
    """Encoded values that stand one after the other in `joined`. Each is cut out when it is needed."""

    __slots__ = ("_ends", "joined")

    def __init__(self, joined: bytes, ends: Sequence[int]) -> None:
        self.joined = joined
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[bytes]:
        return iter(_pieces(self.joined, self._ends))

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        ends = self._ends
        if isinstance(place, slice):
            return _pieces(self.joined, ends)[place]
        start = 0 if place in (0, -len(ends)) else ends[place - 1]
        return self.joined[start : ends[place]]

    def with_tag(self, tag: int) -> list[bytes]:
        """Return the values with a tag below 128. It is the first element of an array of less than 16 elements, or of
        more.
        """
        joined, start, found = self.joined, 0, []
        for end in _listed(self._ends):
            if joined[start + (1 if joined[start] < 0xDC else 3)] == tag:
                found.append(joined[start:end])
            start = end
        return found


class AppliedBatch:
    """One outcome per command, in order, and all events, in order; see `events.Applied`.

    Both are encoded once, for the running hash; replies and the feed use the same bytes. The structs are decoded on
    first access.

    Attributes:
        event_products: the product of each event.
        command_ends: the number of events before the first command, and after each command; empty if nothing was
            applied.
        keys_put: the ids of the API keys that the batch added or replaced, without those of rejected commands.
    """

    __slots__ = (
        "_event_bytes",
        "_event_ends",
        "_events",
        "_outcome_bytes",
        "_outcome_ends",
        "_outcomes",
        "command_ends",
        "event_products",
        "keys_put",
    )

    def __init__(
        self,
        outcomes: bytes,
        outcome_ends: Sequence[int],
        events: bytes,
        event_ends: Sequence[int],
        event_products: list[str],
        command_ends: list[int],
        keys: list[str],
    ) -> None:
        self.command_ends = command_ends
        self.event_products = event_products
        self.keys_put = keys
        self._outcome_bytes, self._outcome_ends = outcomes, outcome_ends
        self._event_bytes, self._event_ends = events, event_ends
        self._outcomes: list[AnyOutcome] | None = None
        self._events: list[AnyEvent] | None = None

    @property
    def encoded_outcomes(self) -> list[bytes]:
        """msgpack of each outcome."""
        return _pieces(self._outcome_bytes, self._outcome_ends)

    @property
    def encoded_events(self) -> list[bytes]:
        """msgpack of each event."""
        return _pieces(self._event_bytes, self._event_ends)

    @property
    def packed_events(self) -> Pieces:
        """msgpack of all events, not cut yet."""
        return Pieces(self._event_bytes, self._event_ends)

    @property
    def outcomes(self) -> list[AnyOutcome]:
        """The outcomes, decoded on first use."""
        if self._outcomes is None:
            self._outcomes = [_outcome.decode(each) for each in self.encoded_outcomes]
        return self._outcomes

    @property
    def events(self) -> list[AnyEvent]:
        """The events, decoded on first use."""
        if self._events is None:
            self._events = [_event.decode(each) for each in self.encoded_events]
        return self._events

    def __eq__(self, other: object) -> bool:
        """Two results are equal when their bytes are equal."""
        if not isinstance(other, AppliedBatch):
            return NotImplemented
        return self.encoded_outcomes == other.encoded_outcomes and self.encoded_events == other.encoded_events

    def __repr__(self) -> str:
        return f"AppliedBatch(outcomes={self.outcomes!r}, events={self.events!r})"


def _pieces(encoded: bytes, ends: Sequence[int]) -> list[bytes]:
    return [encoded[start:end] for start, end in pairwise([0, *_listed(ends)])]


def _listed(ends: Sequence[int]) -> Sequence[int]:
    """Return the numbers as a list, which is faster to walk through than the compiled writer's memory."""
    return ends.tolist() if isinstance(ends, memoryview) else ends

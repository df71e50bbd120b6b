"""What applying a batch gave, encoded; and as structs for whoever asks for them."""

from __future__ import annotations

import msgspec

from statemachine.events import AnyEvent, AnyOutcome

_outcome: msgspec.msgpack.Decoder[AnyOutcome] = msgspec.msgpack.Decoder(AnyOutcome)
_event: msgspec.msgpack.Decoder[AnyEvent] = msgspec.msgpack.Decoder(AnyEvent)


class AppliedBatch:
    """An outcome a command, in order, and the events of all of them, in order: see `events.Applied`.

    Both were encoded once, for the running hash, and reply and feed take the same bytes. Structs are decoded when they are asked for first.

    Attributes:
        encoded_outcomes: msgpack of each outcome.
        event_products: the product of each event.
        command_ends: how many events there were before the first command, and after each; empty where nothing was applied.
    """

    __slots__ = ("_ends", "_event_bytes", "_events", "_outcomes", "command_ends", "encoded_outcomes", "event_products")

    def __init__(
        self, encoded_outcomes: list[bytes], event_bytes: bytes, ends: list[int], products: list[str], command_ends: list[int]
    ) -> None:
        self.command_ends = command_ends
        self.encoded_outcomes = encoded_outcomes
        self.event_products = products
        self._event_bytes = event_bytes
        self._ends = ends
        self._outcomes: list[AnyOutcome] | None = None
        self._events: list[AnyEvent] | None = None

    @property
    def encoded_events(self) -> list[bytes]:
        """msgpack of each event."""
        found, start = [], 0
        for end in self._ends:
            found.append(self._event_bytes[start:end])
            start = end
        return found

    @property
    def outcomes(self) -> list[AnyOutcome]:
        """The outcomes."""
        if self._outcomes is None:
            self._outcomes = [_outcome.decode(each) for each in self.encoded_outcomes]
        return self._outcomes

    @property
    def events(self) -> list[AnyEvent]:
        """The events."""
        if self._events is None:
            self._events = [_event.decode(each) for each in self.encoded_events]
        return self._events

    def __eq__(self, other: object) -> bool:
        """Two are equal when their bytes are."""
        if not isinstance(other, AppliedBatch):
            return NotImplemented
        return self.encoded_outcomes == other.encoded_outcomes and self.encoded_events == other.encoded_events

    def __repr__(self) -> str:
        return f"AppliedBatch(outcomes={self.outcomes!r}, events={self.events!r})"

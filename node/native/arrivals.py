"""The transport's side of a native connection, from the client's end: it cuts what the node sends into messages, and
passes them on with a bounded amount of work in each turn of the loop.

Outcomes of commands go ahead of all messages that arrived with them or wait: a node sends the events of an order before
its outcome, and the answer to a trader does not wait until a gateway has processed events. The refusal of commands goes
ahead, too: a gateway forwards a command after the refusal of a follower. So does a status for which the owner asked
with `NativeConnection.status_ahead_of_events`. Changes of API keys go ahead with outcomes, because they arrive before
every answer that reflects them. All other messages keep their order.

The events of a stop cascade may take a gateway tens of milliseconds. What is left at the end of a turn waits for the
next one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeGuard, cast

import msgspec

from node.errors import FramingError
from node.native.framing import RESPONSE_MAX, UNDECODABLE, FrameSplitter, response_id_of
from node.native.protocol import Answer, Events, Failed, KeysChanged, Results, response_decoder

TURN_SECONDS = 0.001
"""Seconds for which messages are passed on in one turn of the loop. An order passes through a gateway in several turns."""

EVENTS_TOGETHER = 40
"""Events that are passed on in one call: less than a millisecond of a gateway's rendering."""

WAITING_MAX = 4 * 1024 * 1024
"""Bytes of messages that wait here. With more, nothing is read from the node until half of them are passed on."""


def _tag(kind: type[msgspec.Struct]) -> int:
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int), f"{kind.__name__} is an array that begins with its number"
    return tag


_EVENTS = _tag(Events)
_URGENT = frozenset({_tag(Results), _tag(KeysChanged)})
"""Tags of messages that go ahead of the others."""
_URGENT_BY_REQUEST = frozenset({_tag(Answer), _tag(Failed)})
"""Tags of messages that go ahead if the owner says so of their request."""


class Owner(Protocol):
    """The connection to which messages are passed on."""

    reading: bool

    def is_urgent(self, request_id: int) -> bool:
        """Return whether the answer or the refusal of this request goes ahead of other messages."""

    def received(self, message: msgspec.Struct) -> None:
        """Called with a message of the node."""

    def flush(self) -> None:
        """Called when more may be written."""

    def lost(self, reason: str) -> None:
        """Called when the connection has ended, or must end for this reason."""


class Arrivals:
    """Receives a connection's bytes, and passes its messages to the owner; see the module.

    It has the methods of `asyncio.Protocol` and does not inherit them, because a compiled class has no plain base.

    Attributes:
        transport: the connection, or None before it is made.
        ended: set when the connection has ended.
        writable: set while more bytes may be written.
    """

    __slots__ = (
        "_bytes",
        "_clock",
        "_crowded",
        "_owner",
        "_scheduled",
        "_splitter",
        "_waiting",
        "ended",
        "transport",
        "writable",
    )

    def __init__(self, owner: Owner, clock: Callable[[], float] = time.monotonic) -> None:
        self._owner = owner
        self._clock = clock
        self._splitter = FrameSplitter(RESPONSE_MAX)
        self._waiting: deque[bytes | Events] = deque()
        self._bytes = 0
        self._scheduled = False
        self._crowded = False
        self.transport: asyncio.Transport | None = None
        self.ended = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    # ------------------------------------------------------------------ the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            frames = self._splitter.feed(data)
        except FramingError as error:
            self._not_the_protocol(error)
            return
        self._waiting.extend(frames)
        self._bytes += sum(map(len, frames))
        if not self._scheduled:
            self._pass_on()
        else:
            self._urgent_first()
            self._balance()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        return False

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.writable.set()
        self._owner.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. Events that wait are dropped, because their reader begins again elsewhere. Answers
        are not.
        """
        waiting, self._waiting = self._waiting, deque()
        try:
            for body in waiting:
                if isinstance(body, bytes) and body[1:2] != bytes([_EVENTS]):
                    self._owner.received(response_decoder.decode(body))
        except UNDECODABLE as error:
            self._not_the_protocol(error)
        self.ended.set()
        self.writable.set()
        self._owner.lost(str(exc) if exc else "the node closed the connection")

    # ------------------------------------------------------------------ messages in their order

    def go_on(self) -> None:
        """Continue after the owner stopped reading for a while."""
        if self._waiting and not self._scheduled:
            self._schedule()
        self._balance()

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._scheduled = False
        self._pass_on()

    def _pass_on(self) -> None:
        """Pass waiting messages to the owner for a short time."""
        if len(self._waiting) > 1 and self._owner.reading:
            self._urgent_first()
        until = self._clock() + TURN_SECONDS
        try:
            while self._waiting and self._owner.reading:
                self._owner.received(self._take())
                if self._waiting and self._clock() > until:
                    self._schedule()
                    break
        except UNDECODABLE as error:
            self._not_the_protocol(error)
        self._balance()

    def _urgent_first(self) -> None:
        """Pass on the messages that go ahead."""
        urgent: list[bytes] = []
        others: deque[bytes | Events] = deque()
        for message in self._waiting:
            if self._is_urgent(message):
                urgent.append(message)
            else:
                others.append(message)
        if not urgent:
            return
        self._waiting = others
        self._bytes -= sum(map(len, urgent))
        try:
            for body in urgent:
                self._owner.received(response_decoder.decode(body))
        except UNDECODABLE as error:
            self._not_the_protocol(error)

    def _is_urgent(self, message: bytes | Events) -> TypeGuard[bytes]:
        if not isinstance(message, bytes) or len(message) < 2:
            return False
        tag = message[1]
        return tag in _URGENT or (tag in _URGENT_BY_REQUEST and self._owner.is_urgent(response_id_of(message)))

    def _take(self) -> msgspec.Struct:
        """Remove and return the next message, or the next events of a long one."""
        first = self._waiting.popleft()
        message = first
        if isinstance(first, bytes):
            self._bytes -= len(first)
            message = response_decoder.decode(first)
        if isinstance(message, Events) and len(message.events) > EVENTS_TOGETHER:
            rest = Events(message.product_id, message.events[EVENTS_TOGETHER:])
            self._waiting.appendleft(rest)
            return Events(message.product_id, message.events[:EVENTS_TOGETHER])
        assert isinstance(message, msgspec.Struct), "a message is decoded"
        return message

    def _balance(self) -> None:
        """Read from the node while there is room."""
        if self.transport is None or self.transport.is_closing():
            return
        if not self._crowded and self._bytes > WAITING_MAX:
            self._crowded = True
            self.transport.pause_reading()
        elif self._crowded and self._bytes <= WAITING_MAX // 2:
            self._crowded = False
            if self._owner.reading:
                self.transport.resume_reading()

    @property
    def crowded(self) -> bool:
        """Whether so much waits here that nothing is read."""
        return self._crowded

    def _not_the_protocol(self, error: Exception) -> None:
        self._owner.lost(f"the node sent what is not the native protocol: {error}")

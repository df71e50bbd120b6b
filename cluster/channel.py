"""One end of a connection between two nodes: it splits incoming bytes into frames, and sends frames.

A frame is a 4-byte big-endian length and that many bytes; an empty frame is a keepalive. While the two nodes greet each
other, `frame` waits for one frame at a time. After `serve` the owner gets each frame in the call in which its last byte
arrives: no stream and no task lies between, because each costs the loop a turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from cluster.errors import WireRefusedError

log = logging.getLogger(__name__)

FRAME_MAX = 8 * 1024 * 1024
"""Bytes of a frame. The longest valid one is an AppendEntries of `settings.APPEND_BYTES_MAX` and one entry."""
HELLO_MAX = 1024
"""Bytes of the first frame: a caller that is not identified cannot make the node allocate more."""
WRITE_BUFFER_MAX = 64 * 1024 * 1024
"""Bytes waiting for a peer that does not read; with more the connection is closed."""

_PREFIX = 4

Take = Callable[[bytes, bool], bool]
"""Handles a frame. The second argument is whether another frame has arrived already, which follows at once. Returns
whether the connection still counts; if not, frames behind it are dropped.
"""


def framed(data: bytes) -> bytes:
    """Return a frame with these bytes."""
    return len(data).to_bytes(_PREFIX, "big") + data


class Channel(asyncio.Protocol):
    """One end of a connection.

    Attributes:
        transport: the connection.
        heard, wrote: when bytes were last received and sent (`loop.time`).
        ended: done when the connection has ended, with the exception of `Take` if that is the reason.
    """

    transport: asyncio.Transport

    def __init__(self, made: Callable[[Channel], None] = lambda _channel: None) -> None:
        self._made = made
        self._loop = asyncio.get_running_loop()
        self._rest = bytearray()
        self._take: Take | None = None
        self._more: asyncio.Event = asyncio.Event()
        self._lost: BaseException | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.heard = self.wrote = self._loop.time()

    # ------------------------------------------------------------------ the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)
        self._made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end(exc or EOFError("the peer closed the connection"))
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard = self._loop.time()
        self._rest += data
        if self._take is None:
            if len(self._rest) > HELLO_MAX:
                self.transport.pause_reading()
            self._more.set()
        elif not self.ended.done():
            self._cut()

    def _end(self, reason: BaseException) -> None:
        """Record why the connection ended; only the first reason counts."""
        self._lost = self._lost or reason
        self._more.set()

    # ------------------------------------------------------------------ reading

    async def frame(self, limit: int) -> bytes:
        """Return the next frame, before `serve`.

        Raises:
            WireRefusedError: the frame has more than `limit` bytes.
            OSError, EOFError: the connection has ended.
        """
        while True:
            if (body := self._next(0, limit)) is not None:
                del self._rest[: _PREFIX + len(body)]
                return body
            if self._lost is not None:
                raise self._lost
            self._more.clear()
            await self._more.wait()

    async def serve(self, take: Take) -> None:
        """Pass all further frames to `take`, until the connection ends. Raises what `take` raises."""
        self._take = take
        self._cut()
        if not self.transport.is_closing():
            self.transport.resume_reading()
        await self.ended

    def _next(self, at: int, limit: int) -> bytes | None:
        """Return the frame that begins at a position, or None if it is not complete."""
        rest = self._rest
        body = at + _PREFIX
        if len(rest) < body:
            return None
        length = int.from_bytes(rest[at:body], "big")
        if length > limit:
            raise WireRefusedError("oversized", f"a frame of {length} bytes, {limit} at most")
        return bytes(rest[body : body + length]) if len(rest) >= body + length else None

    def _cut(self) -> None:
        """Pass on the complete frames."""
        assert self._take is not None, "serve was called"
        frames, used, fault = self._complete()
        del self._rest[:used]
        try:
            for number, body in enumerate(frames, 1):
                if not self._take(body, number < len(frames)):
                    break
            if fault is not None:
                raise fault
        except Exception as error:  # noqa: BLE001  # `serve` raises it
            self.transport.abort()
            if not self.ended.done():
                self.ended.set_exception(error)

    def _complete(self) -> tuple[list[bytes], int, WireRefusedError | None]:
        """Return the complete frames except keepalives, the bytes of all complete frames, and the error of the next one."""
        frames: list[bytes] = []
        at = 0
        try:
            while (body := self._next(at, FRAME_MAX)) is not None:
                at += _PREFIX + len(body)
                if body:
                    frames.append(body)
        except WireRefusedError as fault:
            return frames, at, fault
        return frames, at, None

    # ------------------------------------------------------------------ writing

    def send(self, data: bytes, peer: str) -> bool:
        """Send a frame. Returns False if the connection has ended, or ends now because the peer does not read."""
        transport = self.transport
        if transport.is_closing():
            return False
        if transport.get_write_buffer_size() > WRITE_BUFFER_MAX:
            log.warning("%s does not read: the connection is closed", peer)
            transport.abort()
            return False
        self.wrote = self._loop.time()
        transport.write(framed(data))
        return True

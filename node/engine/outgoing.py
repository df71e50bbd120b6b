"""The outgoing bytes of a session: joined, in order, and handed to the transport in chunks.

Messages of one turn of the loop are written together: at the end of the turn, or earlier by `flush`. A long one, such
as a book at level 3, is handed over `CHUNK` bytes at a time and only as fast as the peer takes it, so that encrypting
it does not delay other sessions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

CHUNK = 128 * 1024
"""Bytes handed to the transport in one turn of the loop: about 0.1 ms to encrypt."""


class Outgoing:
    """The bytes that one session has yet to write.

    Args:
        high: bytes in the transport's own buffer above which it is given no more.
        flushed: called after bytes were handed over.
    """

    def __init__(self, transport: asyncio.Transport, high: int, flushed: Callable[[], None]) -> None:
        transport.set_write_buffer_limits(high=min(CHUNK, high))
        self._transport = transport
        self._flushed = flushed
        self._chunks: deque[bytes | memoryview] = deque()
        self._bytes = 0
        self._scheduled = False
        self.blocked = False
        self.written = 0

    @property
    def waiting(self) -> int:
        """Bytes in this process that the peer has not accepted yet."""
        return self._bytes + self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Queue bytes for writing."""
        self._chunks.append(data)
        self._bytes += len(data)
        self.written += len(data)
        self._schedule()

    def flush(self) -> None:
        """Hand over the queued bytes now, unless the transport accepts no more or they are longer than `CHUNK`."""
        if self._chunks and not self.blocked and self._bytes <= CHUNK:
            self._transport.write(self._take())
            self._flushed()

    def unblock(self) -> None:
        """Called when the transport accepts more bytes again."""
        self.blocked = False
        if self._chunks:
            self._schedule()
        else:
            self._flushed()

    def finish(self, most: int) -> bool:
        """Hand over everything at once if it is at most so many bytes. Returns False if it is more; a final message
        then cannot be sent in order.
        """
        if self._bytes > most:
            return False
        if self._chunks:
            self._transport.write(b"".join(self._chunks))
        self.discard()
        return True

    def discard(self) -> None:
        """Discard the bytes that have not been handed over."""
        self._chunks.clear()
        self._bytes = 0

    def _schedule(self) -> None:
        if not self._scheduled and not self.blocked:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Hand queued bytes to the transport, unless it accepts no more."""
        self._scheduled = False
        if self._chunks and not self.blocked:
            self._transport.write(self._take())
        if self._chunks:
            self._schedule()
        self._flushed()

    def _take(self) -> bytes | memoryview:
        """Return the next bytes, at most `CHUNK`."""
        chunks = self._chunks
        taken: list[bytes | memoryview] = []
        room = CHUNK
        while chunks and room > 0:
            chunk = chunks.popleft()
            if len(chunk) > room:
                view = memoryview(chunk)
                chunks.appendleft(view[room:])
                chunk = view[:room]
            taken.append(chunk)
            room -= len(chunk)
        self._bytes -= CHUNK - room
        return taken[0] if len(taken) == 1 else b"".join(taken)

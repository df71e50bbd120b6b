"""TLS for servers on an event loop that must not wait: handshakes are made in other threads.

A handshake costs about a millisecond of a core, almost all of it inside OpenSSL, which releases the interpreter lock
for that time. asyncio makes handshakes in the loop's thread, so new connections take that time from all other work of
the loop. `TlsProtocol` makes each step of a handshake in a small pool of threads, and continues in the loop. To the
protocol inside it then looks like any transport with TLS.

Nothing is allocated for TLS before the first byte arrives, so a silent connection costs a descriptor and no CPU time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, cast

READ_BYTES = 64 * 1024
"""Bytes decrypted at a time."""

Failed = Callable[[BaseException], None]


class TlsTransport(asyncio.Transport):
    """The transport of the protocol inside. Writing encrypts at once. Flow control is that of the underlying connection."""

    def __init__(self, owner: TlsProtocol, below: asyncio.Transport, channel: ssl.SSLObject) -> None:
        super().__init__({"ssl_object": channel, "sslcontext": channel.context})
        self._owner = owner
        self._below = below

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return information about the TLS channel, or else about the underlying connection."""
        found = super().get_extra_info(name)
        return self._below.get_extra_info(name, default) if found is None else found

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send."""
        self._owner.write(data)

    def close(self) -> None:
        """Send the waiting bytes and the TLS close message, and close."""
        self._owner.close()

    def abort(self) -> None:
        """Close at once."""
        self._below.abort()

    def is_closing(self) -> bool:
        """Return whether the connection is closed or closing."""
        return self._below.is_closing()

    def pause_reading(self) -> None:
        """Stop reading from the peer until `resume_reading`."""
        if self.is_reading():
            self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read from the peer again."""
        if not self.is_closing():
            self._below.resume_reading()

    def is_reading(self) -> bool:
        """Return whether reading is not paused."""
        return self._below.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the waiting bytes above which the protocol is paused, and below which it is resumed."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the number of encrypted bytes that wait to be sent."""
        return self._below.get_write_buffer_size()


class TlsProtocol(asyncio.Protocol):
    """The server's end of a connection, between the transport and the protocol inside. `make` creates the latter after
    the handshake.

    Args:
        threads: runs the steps of handshakes. The bytes of the session are encrypted in the loop's thread.
        failed: called with the reason if the handshake fails. The connection is closing then.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        threads: Executor,
        *,
        failed: Failed = lambda _error: None,
    ) -> None:
        self._context = context
        self._make = make
        self._threads = threads
        self._failed = failed
        self._transport: asyncio.Transport
        self._channel: ssl.SSLObject | None = None
        self._incoming: ssl.MemoryBIO
        self._outgoing: ssl.MemoryBIO
        self._early = bytearray()
        self._stepping = False
        self._closed = False
        self._inside: asyncio.Protocol | None = None

    @property
    def begun(self) -> bool:
        """Whether the peer has sent a byte."""
        return self._channel is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closed = True
        inside, self._inside = self._inside, None
        if inside is not None:
            inside.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self._inside is not None:
            self._inside.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self._inside is not None:
            self._inside.resume_writing()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. A TLS connection is closed as a whole."""
        if self._inside is not None:
            self._inside.eof_received()
        return False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._closed:
            return
        if self._inside is not None:
            self._incoming.write(data)
            self._read()
            return
        self._early += data
        if not self._stepping:
            self._step()

    # ------------------------------------------------------------------ the handshake

    def _step(self) -> None:
        """Pass the received bytes to OpenSSL in another thread. Until it returns, the loop's thread does not use the
        channel, and reading is paused, because the peer may already send data of any length.
        """
        if self._channel is None:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._channel = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._incoming.write(self._early)
        self._early = bytearray()
        self._stepping = True
        self._transport.pause_reading()
        step = asyncio.get_running_loop().run_in_executor(self._threads, _handshake, self._channel)
        step.add_done_callback(self._stepped)

    def _stepped(self, step: asyncio.Future[bool]) -> None:
        """Continue after a step of the handshake: with the next step, or with the connection."""
        self._stepping = False
        if self._closed or step.cancelled():
            return
        if not self._transport.is_closing():
            self._transport.resume_reading()
        error = step.exception()
        self._send()
        if error is not None:
            self._fail(error)
        elif step.result():
            self._begin_safely()
        elif self._early:
            self._step()

    def _begin_safely(self) -> None:
        """Begin the session. As for any protocol, an exception ends this connection and is passed to the loop's
        exception handler, and the loop continues.
        """
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001  # passed to the exception handler
            context = {"message": "a protocol failed after its handshake", "exception": error, "protocol": self._inside}
            asyncio.get_running_loop().call_exception_handler(context)
            self._transport.abort()

    def _begin(self) -> None:
        """Begin the connection after the handshake, with the bytes that arrived early."""
        assert self._channel is not None, "the handshake is done"
        self._inside = self._make()
        self._inside.connection_made(TlsTransport(self, self._transport, self._channel))
        if self._early:
            self._incoming.write(self._early)
            self._early = bytearray()
        self._read()

    def _fail(self, error: BaseException) -> None:
        self._closed = True
        self._failed(error)
        self._transport.close()

    # ------------------------------------------------------------------ the session

    def _read(self) -> None:
        """Pass on all bytes that can be decrypted. One read of the transport bounds them."""
        channel = self._channel
        assert channel is not None, "the handshake is done"
        chunks: list[bytes] = []
        ended = False
        try:
            while chunk := channel.read(READ_BYTES):
                chunks.append(chunk)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            ended = True
        if chunks and self._inside is not None:
            self._inside.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        self._send()
        if ended:
            self._transport.close()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send."""
        channel = self._channel
        if self._closed or channel is None or not data:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[channel.write(rest) :]
        except ssl.SSLError:
            self._transport.abort()
            return
        self._send()

    def close(self) -> None:
        """Send the TLS close message, and close after it is sent."""
        if self._closed:
            return
        self._closed = True
        if self._channel is not None:
            with contextlib.suppress(ssl.SSLError):  # the peer has not sent its close message, and need not
                self._channel.unwrap()
            self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())


def _handshake(channel: ssl.SSLObject) -> bool:
    """Run one step of a handshake in a thread of the pool. Returns whether it is complete, or raises its error."""
    try:
        channel.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True

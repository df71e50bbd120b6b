"""One client's connection: parses requests, serves them one after the other, and writes the answers.

The requests of a connection are served in order. The next request begins when the previous one is answered and most of
its answer is sent. The following rules hold for any input (tests/unit/node/gateway/test_http_server.py):

- An ambiguous request is refused with 400, and the connection is closed. This covers two lengths, a length with a chunked
  body, transfer codings other than chunked, folded or malformed headers, bare line feeds, versions other than 1.0 and
  1.1, a missing or repeated host, and an upgrade with a body.
- All waiting data is bounded: the head, the body, pipelined requests, and the bytes of answers. All times are bounded:
  for a head, for a body, between requests, and for a client to accept its answer. One timer for all connections calls
  `tick`.
- No input causes a traceback, or a log line above DEBUG. Refusals are counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, cast

import httptools

from node.gateway.http import limits
from node.gateway.http.messages import LongResponse, Origin, Request, Response, failure

if TYPE_CHECKING:
    from node.gateway.http.server import HttpServer

log = logging.getLogger(__name__)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_METHODS: dict[bytes, str] = {}
_NAMES: dict[bytes, str] = {}
"""Header names in lower case, by the spelling that clients use."""
_NAMES_MAX = 1_000
_NAME_LENGTH_MAX = 64
"""Bytes of a header name that is kept. Clients choose the names, so longer ones could take 64 MB."""
_LENGTH_DIGITS = 10
"""Digits of a Content-Length that is read as a number: more than that of any body."""
_PROGRESS = 4_096
"""Minimum bytes of a waiting answer that a client must accept within `limits.WRITE_TIMEOUT`."""
_NEVER = float("inf")
_HEADERS_MAX, _HEAD_MAX, _BODY_MAX = limits.HEADERS_MAX, limits.HEAD_MAX, limits.BODY_MAX

_BEGIN, _HEAD, _BODY, _NOTHING = range(4)
"""The next expected input: the first byte of a request, its head, its body, or nothing, because the connection is
closing and further input is discarded. They are numbers, because each request compares them about ten times.
"""


class _Refusal(Exception):  # noqa: N818 - never leaves this module: it stops the parser
    """The request is refused: `status` and `message` of the answer, and `kind` for the counter."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind


class Connection:
    """See the module. The server creates one for each connection that it accepts.

    It has the methods of `asyncio.Protocol` and does not inherit them, because a compiled class has no plain base.
    """

    __slots__ = (
        "_body",
        "_body_size",
        "_busy",
        "_deadline",
        "_drained",
        "_early",
        "_fed",
        "_head_size",
        "_header_count",
        "_headers",
        "_held",
        "_keep_alive",
        "_loop",
        "_origin",
        "_parser",
        "_pending",
        "_reading",
        "_server",
        "_successor",
        "_target",
        "_timed",
        "_transport",
        "_unsent",
        "_upgrading",
        "_waiting",
        "_writable",
        "holder",
        "peer",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = server.loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._successor: asyncio.Protocol | None = None
        self._reading = self._timed = _BEGIN
        self._pending: deque[Request | Response] = deque()
        self._busy = False
        self._keep_alive = False
        self._drained: asyncio.Future[None] | None = None
        self._held = b""
        self._deadline = _NEVER
        self._writable = True
        self._waiting = 0
        self._unsent = 0
        self._early = False
        self._origin = Origin()
        self._begin()
        self.peer = ""
        self.holder = ""

    # ------------------------------------------------------------------ the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client has connected. If its address has too many connections, it gets 429 and the connection is closed."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(limits.WAITING_HIGH)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        self._deadline = self._loop.time() + limits.HEAD_TIMEOUT
        encrypted = transport.get_extra_info("sslcontext") is not None
        self._origin = Origin(direct=(encrypted or self._server.is_local(self.peer)) and not self._server.exempt(self.peer))
        if not self._server.enter(self):
            self._refuse(_Refusal(429, "Too many connections", "connections"))

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client."""
        if self._successor is not None:
            self._successor.data_received(data)
        elif self._reading != _NOTHING:
            if self._held or len(data) > limits.SLICE:
                self._held += data
                self._feed_held()
            else:
                self._feed(data)

    def eof_received(self) -> bool:
        """The client sends no more bytes. Complete requests are answered, and an incomplete one is dropped."""
        if self._successor is not None:
            return bool(self._successor.eof_received())
        waits = self._busy or bool(self._pending) or bool(self._held)
        if not self._held:
            self._reading = _NOTHING
        assert self._transport is not None
        return waits and self._transport.get_extra_info("sslcontext") is None  # TLS has no half-closed connections

    def pause_writing(self) -> None:
        """The client reads its answers more slowly than they are written."""
        if self._successor is not None:
            self._successor.pause_writing()
            return
        self._writable = False
        self._deadline = self._loop.time() + limits.WRITE_TIMEOUT
        self._note_waiting()

    def resume_writing(self) -> None:
        """Most of the answer is sent, so the next request may begin."""
        if self._successor is not None:
            self._successor.resume_writing()
            return
        self._writable = True
        self._note_waiting()
        if self._busy:  # a long answer continues
            self._deadline = _NEVER
            self._wake()
        if self._transport is not None and not self._transport.is_closing() and not self._busy:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended. A request under way is still carried out."""
        self._transport = None
        self._parser = cast(httptools.HttpRequestParser, None)  # breaks the reference cycle; nothing is parsed any more
        self._reading = _NOTHING
        self._pending.clear()
        self._held = b""
        self._wake()
        self._note_waiting()
        self._server.leave(self)
        if self._successor is not None:
            self._successor.connection_lost(exc)

    # ------------------------------------------------------------------ reading

    def _begin(self) -> None:
        """Reset the parser state for the next request."""
        self._target = b""
        self._headers: dict[str, str | list[str]] = {}
        self._header_count = 0
        self._head_size = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._fed = 0
        self._upgrading = False

    def _feed_held(self) -> None:
        """Parse the held bytes while the pipeline has room. While it has none, reading is paused."""
        while self._held and self._reading != _NOTHING and len(self._pending) < limits.PIPELINED_MAX:
            chunk, self._held = self._held[: limits.SLICE], self._held[limits.SLICE :]
            self._feed(chunk)
        if self._transport is None or self._transport.is_closing():
            return
        if self._held and self._successor is None and self._reading != _NOTHING:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        """Give bytes to the parser, and refuse a request that is too large."""
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
            if self._reading != self._timed and not self._busy:
                self._set_deadline()
            if self._reading == _HEAD and self._fed > _HEAD_MAX:
                raise _Refusal(431, f"The head of a request has at most {_HEAD_MAX} bytes", "head")
            if self._reading == _BODY and self._fed > _HEAD_MAX + limits.CHUNKED_MAX:
                raise _Refusal(413, "The body is too large", "body")
        except _Refusal as refusal:
            self._refuse(refusal)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, _Refusal):
                raise
            self._refuse(cause)
        except httptools.HttpParserError as error:
            self._refuse(_Refusal(400, f"This is not HTTP/1.1: {error}", "malformed"))

    def _set_deadline(self) -> None:
        """Set the deadline of a head or a body that is not complete. Most requests arrive at once and need none."""
        self._timed = self._reading
        if self._reading == _HEAD:
            self._deadline = self._loop.time() + limits.HEAD_TIMEOUT
        elif self._reading == _BODY:
            self._deadline = self._loop.time() + limits.BODY_TIMEOUT

    def on_message_begin(self) -> None:
        """The parser has seen the first byte of a request."""
        self._reading = _HEAD
        self._timed = _BEGIN
        self._early = self._busy or bool(self._pending)

    def on_url(self, url: bytes) -> None:
        """The parser has read a part of the request target."""
        self._target += url
        if len(self._target) > limits.TARGET_MAX:
            raise _Refusal(414, f"The request target has at most {limits.TARGET_MAX} bytes", "head")

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser has read a header, or a trailer of a chunked body, which is ignored."""
        self._header_count += 1
        if self._reading == _BODY:
            if self._header_count > 2 * _HEADERS_MAX:
                raise _Refusal(413, "A chunked body has too many trailers", "body")
            return
        self._head_size += len(name) + len(value)
        if self._header_count > _HEADERS_MAX or self._head_size > _HEAD_MAX:
            text = f"A request has at most {_HEADERS_MAX} headers of together {_HEAD_MAX} bytes"
            raise _Refusal(431, text, "head")
        key = _NAMES.get(name)
        if key is None:
            key = name.decode("latin-1").lower()
            if len(_NAMES) < _NAMES_MAX and len(name) <= _NAME_LENGTH_MAX:
                _NAMES[name] = key
        text = value.strip(b" \t").decode("utf-8", "surrogateescape")
        before = self._headers.setdefault(key, text)
        if before is not text:
            self._headers[key] = [before, text] if isinstance(before, str) else [*before, text]

    def on_headers_complete(self) -> None:
        """The head is complete. Raises _Refusal if the request is ambiguous."""
        headers, version = self._headers, self._parser.get_http_version()
        self._reading = _BODY
        if version not in ("1.1", "1.0"):
            raise _Refusal(505, "The HTTP version must be 1.1 or 1.0", "malformed")
        if not isinstance(headers.get("host", "" if version == "1.0" else None), str):
            raise _Refusal(400, "A request names its Host once", "malformed")
        coding, length = headers.get("transfer-encoding"), headers.get("content-length", "0")
        if coding is not None and (not isinstance(coding, str) or coding.lower() != "chunked" or version == "1.0"):
            raise _Refusal(400, "Transfer-Encoding must be chunked, and only in HTTP/1.1", "malformed")
        if not isinstance(length, str) or not length.isdigit():
            raise _Refusal(400, "Content-Length must be given once", "malformed")
        digits = length.lstrip("0")  # `int` raises ValueError for a text of more than 4,300 digits, zeros included
        if len(digits) > _LENGTH_DIGITS or int(digits or "0") > _BODY_MAX:
            raise _Refusal(413, f"A body has at most {_BODY_MAX} bytes", "body")
        has_body = coding is not None or digits != ""
        self._upgrading = self._parser.should_upgrade()
        if self._upgrading and has_body:
            raise _Refusal(400, "An upgrade has no body", "malformed")
        expected = headers.get("expect")
        if expected is not None:
            if not isinstance(expected, str) or expected.lower() != "100-continue":
                raise _Refusal(417, "Expect must be 100-continue", "malformed")
            if has_body and version == "1.1" and not self._busy and not self._pending and self._transport is not None:
                self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        """The parser has read a part of the body."""
        self._body.append(body)
        self._body_size += len(body)
        if self._body_size > _BODY_MAX:
            raise _Refusal(413, f"A body has at most {_BODY_MAX} bytes", "body")
        if len(self._body) > limits.PIECES_MAX:
            raise _Refusal(413, f"A body arrives in at most {limits.PIECES_MAX} pieces", "body")

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._upgrading:
            return  # `_upgrade` follows
        self._take(self._request(self._parser.should_keep_alive()))
        self._begin()

    def _request(self, keep_alive: bool) -> Request:
        """Return the request that was parsed."""
        name = self._parser.get_method()
        method = _METHODS.get(name)
        if method is None:
            method = _METHODS[name] = name.decode("ascii")  # the parser accepts about 40 methods
        request = Request(method, self._target.decode("latin-1"), self._headers, self.peer, keep_alive, self._origin, self._early)
        if self._body:
            request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return request

    def _take(self, request: Request) -> None:
        """Serve a request now, or queue it behind earlier ones."""
        self._reading = _BEGIN if request.keep_alive else _NOTHING
        if self._busy or self._pending or not self._writable:
            self._pending.append(request)
        else:
            self._serve(request)

    def _upgrade(self, rest: bytes) -> None:
        """Handle a request for another protocol. A WebSocket request on one of its paths is handed over. Any other
        request is answered without the upgrade, and is the last one of the connection.
        """
        request = self._request(False)
        headers = self._headers
        self._begin()
        if not self._server.is_socket(request):
            self._take(request)
            return
        if self._busy or self._pending:
            self._refuse(_Refusal(400, "An upgrade must wait for the answers before it", "malformed"))
            return
        assert self._transport is not None
        self._reading, self._deadline = _NOTHING, _NEVER
        rest, self._held = rest + self._held, b""
        self._successor = successor = self._server.socket_protocol()
        successor.connection_made(self._transport)
        successor.data_received(_head(request, headers) + rest)

    # ------------------------------------------------------------------ answering

    def _serve(self, request: Request) -> None:
        """Serve a request: by the fast path for orders, or by a task."""
        self._busy = True
        self._deadline = _NEVER
        direct = self._server.direct
        if direct is not None and direct(request, self.respond):
            self._server.under_way += 1
            self._keep_alive = request.keep_alive
        else:
            self._server.begin(self._answer(request))

    def respond(self, response: Response) -> None:
        """Send the short answer to a request that `HttpServer.direct` accepted."""
        self._server.under_way -= 1
        if self._transport is None:
            return
        keep_alive = not self._server.stopping and self._keep_alive
        self._transport.write(response.encode(keep_alive=keep_alive))
        self._busy = False
        if not keep_alive:
            self._close()
        elif self._writable:
            self._next()

    async def _answer(self, request: Request) -> None:
        """Handle a request, and write its answer."""
        response = await self._server.handle(request)
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            await asyncio.sleep(limits.REFUSAL_PAUSE)
        if self._transport is None:
            return
        keep_alive = request.keep_alive and not self._server.stopping
        data = response.encode(keep_alive=keep_alive, with_body=request.method != "HEAD")
        if isinstance(response, LongResponse) and request.method != "HEAD":
            # Connections share the text, so it does not count as memory of this connection.
            if not await self._write_chunks(chain((data,), response.text.chunks()), 0):
                return
        elif len(data) > limits.WAITING_HIGH:
            slices = (data[start : start + limits.WAITING_HIGH] for start in range(0, len(data), limits.WAITING_HIGH))
            if not await self._write_chunks(slices, len(data)):
                return
        else:
            self._transport.write(data)
        self._busy = False
        if not keep_alive:
            self._close()
        elif self._writable:
            self._next()

    async def _write_chunks(self, chunks: Iterable[bytes], size: int) -> bool:
        """Write a long answer as fast as the client accepts it. Returns False if the connection ended. `tick` cuts off
        a client that accepts nothing.

        The answer is written in chunks, because TLS accepts any amount at once and does not report how much of it
        waits. The unsent part of `size` bytes counts as waiting.
        """
        self._unsent = size
        self._note_waiting()
        try:
            for chunk in chunks:
                while not self._writable and self._transport is not None:
                    self._drained = self._loop.create_future()
                    await self._drained
                if self._transport is None:
                    return False
                self._unsent = max(0, self._unsent - len(chunk))
                self._transport.write(chunk)
            return True
        finally:
            self._unsent = 0
            self._note_waiting()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _next(self) -> None:
        """Serve the next pending request, if there is one."""
        if self._pending:
            following = self._pending.popleft()
            if isinstance(following, Response):
                self._end_with(following)
                return
            self._serve(following)
            if self._held:
                self._feed_held()
            return
        if self._held:
            self._feed_held()
        if self._busy or self._reading == _NOTHING:
            if not self._busy:
                self._close()
            return
        self._timed = self._reading
        timeout = limits.IDLE_TIMEOUT if self._reading == _BEGIN else limits.HEAD_TIMEOUT
        self._deadline = self._loop.time() + timeout

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer a refused request after the answers before it, and stop reading."""
        if self._reading == _NOTHING:
            return  # the last answer of the connection is already queued
        self._server.refused(refusal.kind, self.peer)
        self._reading, self._held = _NOTHING, b""
        response = failure(refusal.status, refusal.message)
        if self._busy or self._pending or not self._writable:
            self._pending.append(response)
        else:
            self._end_with(response)

    def _end_with(self, response: Response) -> None:
        """Send the last answer. Input is discarded for a short time before the connection closes, because an immediate
        close could reset the connection before the client reads the answer.
        """
        if self._transport is None or self._transport.is_closing():
            return
        self._reading = _NOTHING
        self._transport.write(response.encode(keep_alive=False))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._deadline = self._loop.time() + limits.LINGER

    def _close(self) -> None:
        """Close after the answer is sent. `tick` cuts off a client that does not accept it."""
        self._reading = _NOTHING
        self._deadline = self._loop.time() + limits.WRITE_TIMEOUT
        if self._transport is not None:
            self._transport.close()

    # ------------------------------------------------------------------ the clock

    @property
    def waiting(self) -> int:
        """Bytes waiting for the client."""
        return self._unsent + self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def is_socket(self) -> bool:
        """Whether the connection was handed over to the WebSocket protocol."""
        return self._successor is not None

    def tick(self, now: float) -> None:
        """End the connection if a deadline has passed. `now` is the loop's time in seconds."""
        transport = self._transport
        if transport is None or self._successor is not None:
            return
        if not self._writable:
            if self.waiting <= self._waiting - _PROGRESS:
                self._note_waiting()
                self._deadline = now + limits.WRITE_TIMEOUT
            elif now >= self._deadline:
                self.cut("unread")
        elif now >= self._deadline:
            self._timed_out()

    def _timed_out(self) -> None:
        """End a connection whose time is over. A request that has begun to arrive gets 408."""
        assert self._transport is not None
        if self._reading == _BODY or (self._reading == _HEAD and self._fed):
            self._refuse(_Refusal(408, "the request did not arrive in time", "slow"))
        elif self._reading == _NOTHING:
            self._transport.abort()
        else:
            self._transport.close()
            self._deadline, self._reading = self._loop.time() + limits.WRITE_TIMEOUT, _NOTHING

    def cut(self, kind: str) -> None:
        """End the connection at once, and count it as `kind`."""
        self._server.refused(kind, self.peer)
        self._server.waiting -= self._waiting
        self._waiting = 0
        self.abort()

    def abort(self) -> None:
        """End the connection without sending waiting bytes."""
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        """End the connection after the waiting bytes are sent."""
        if self._transport is not None:
            self._transport.close()

    def stop(self) -> None:
        """The server stops. A connection without a request ends now, any other one after its answer."""
        if self._successor is None and not self._busy and not self._pending and self._transport is not None:
            self._close()

    def _note_waiting(self) -> None:
        """Update the server's sum of waiting bytes."""
        size = self.waiting if self._unsent or not self._writable else 0
        grown = size - self._waiting
        self._server.waiting += grown
        self._waiting = size
        if grown > 0:
            self._server.shed()


def _head(request: Request, headers: dict[str, str | list[str]]) -> bytes:
    """Encode the head of a parsed request, so that the next parser reads it in the same way."""
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    lines += [f"{name}: {text}" for name, value in headers.items() for text in ([value] if isinstance(value, str) else value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

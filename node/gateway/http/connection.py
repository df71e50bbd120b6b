"""One client's connection: bytes in, requests one after the other, answers out.

Requests of a connection are served in order: the next one begins when the one before is answered and its answer has
mostly left. What follows holds for any bytes that come; tests/unit/node/gateway/test_http_server.py checks it:

- A request is understood in one way, or it is refused with 400 and the connection is closed. Refused are: two lengths,
  a length beside chunks, other transfer codings than chunked, folded or broken headers, bare line feeds, other versions
  than 1.0 and 1.1, no host or two, a body with an upgrade.
- What waits is bounded: the head, the body, requests in the pipeline, bytes of answers. So is each time: for a head,
  for a body, between requests, and for a client to take its answer. One clock for all connections calls `tick`.
- No input makes a traceback or a line in the log above DEBUG. Refusals are counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from enum import Enum
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
"""Names of headers in lower case, by how clients write them."""
_NAMES_MAX = 1_000
_PROGRESS = 4_096
"""Bytes that a client with an answer waiting takes within `limits.WRITE_TIMEOUT` at least."""
_NEVER = float("inf")


class _Refusal(Exception):  # noqa: N818 - never leaves this module: it stops the parser
    """The request cannot be taken: `status` and `message` of the answer, `kind` for the counter."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind


class _Reading(Enum):
    """What is expected next of the client."""

    BEGIN = "begin"
    """The first byte of a request."""
    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"
    """The connection is closing; what comes is thrown away."""


class Connection(asyncio.Protocol):
    """See the module. Made by the server for each connection that it accepts."""

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
        self._reading = _Reading.BEGIN
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
        """The transport is there. A client that may have no more connections is told so, and the connection closed."""
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
        """Bytes of the client."""
        if self._successor is not None:
            self._successor.data_received(data)
        elif self._reading is not _Reading.NOTHING:
            if self._held or len(data) > limits.SLICE:
                self._held += data
                self._feed_held()
            else:
                self._feed(data)

    def eof_received(self) -> bool:
        """The client sends no more: what it has asked for is answered, a request that is not whole is given up."""
        if self._successor is not None:
            return bool(self._successor.eof_received())
        waits = self._busy or bool(self._pending) or bool(self._held)
        if not self._held:
            self._reading = _Reading.NOTHING
        assert self._transport is not None
        return waits and self._transport.get_extra_info("sslcontext") is None  # TLS is never half closed

    def pause_writing(self) -> None:
        """The client takes its answers more slowly than they are made."""
        if self._successor is not None:
            self._successor.pause_writing()
            return
        self._writable = False
        self._deadline = self._loop.time() + limits.WRITE_TIMEOUT
        self._note_waiting()

    def resume_writing(self) -> None:
        """Most of the answer has left: the next request may begin."""
        if self._successor is not None:
            self._successor.resume_writing()
            return
        self._writable = True
        self._note_waiting()
        if self._busy:  # a long answer goes on
            self._deadline = _NEVER
            self._wake()
        if self._transport is not None and not self._transport.is_closing() and not self._busy:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended. A request under way is carried out all the same."""
        self._transport = None
        self._parser = cast(httptools.HttpRequestParser, None)  # it refers to this object, and nothing is parsed any more
        self._reading = _Reading.NOTHING
        self._pending.clear()
        self._held = b""
        self._wake()
        self._note_waiting()
        self._server.leave(self)
        if self._successor is not None:
            self._successor.connection_lost(exc)

    # ------------------------------------------------------------------ reading

    def _begin(self) -> None:
        """Expect a request."""
        self._target = b""
        self._headers: dict[str, str | list[str]] = {}
        self._header_count = 0
        self._head_size = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._fed = 0
        self._upgrading = False

    def _feed_held(self) -> None:
        """Parse what was held back, as long as the pipeline has room. While it has none, nothing is read."""
        while self._held and self._reading is not _Reading.NOTHING and len(self._pending) < limits.PIPELINED_MAX:
            chunk, self._held = self._held[: limits.SLICE], self._held[limits.SLICE :]
            self._feed(chunk)
        if self._transport is None or self._transport.is_closing():
            return
        if self._held and self._successor is None and self._reading is not _Reading.NOTHING:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
            if self._reading is _Reading.HEAD and self._fed > limits.HEAD_MAX:
                raise _Refusal(431, f"The head of a request has at most {limits.HEAD_MAX} bytes", "head")
            if self._reading is _Reading.BODY and self._fed > limits.HEAD_MAX + limits.CHUNKED_MAX:
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

    def on_message_begin(self) -> None:
        """The parser has seen the first byte of a request."""
        self._reading = _Reading.HEAD
        self._early = self._busy or bool(self._pending)
        if not self._busy:
            self._deadline = self._loop.time() + limits.HEAD_TIMEOUT

    def on_url(self, url: bytes) -> None:
        """A chunk of the request target."""
        self._target += url
        if len(self._target) > limits.TARGET_MAX:
            raise _Refusal(414, f"The request target has at most {limits.TARGET_MAX} bytes", "head")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or what comes behind a chunked body in the form of one, which is passed over."""
        if self._reading is _Reading.BODY:
            return
        self._header_count += 1
        self._head_size += len(name) + len(value)
        if self._header_count > limits.HEADERS_MAX or self._head_size > limits.HEAD_MAX:
            text = f"A request has at most {limits.HEADERS_MAX} headers of together {limits.HEAD_MAX} bytes"
            raise _Refusal(431, text, "head")
        key = _NAMES.get(name)
        if key is None:
            key = name.decode("latin-1").lower()
            if len(_NAMES) < _NAMES_MAX:
                _NAMES[name] = key
        text = value.strip(b" \t").decode("utf-8", "surrogateescape")
        before = self._headers.setdefault(key, text)
        if before is not text:
            self._headers[key] = [before, text] if isinstance(before, str) else [*before, text]

    def on_headers_complete(self) -> None:
        """The head is whole: refuse what could be understood in two ways."""
        headers, version = self._headers, self._parser.get_http_version()
        self._reading = _Reading.BODY
        if not self._busy:
            self._deadline = self._loop.time() + limits.BODY_TIMEOUT
        if version not in ("1.1", "1.0"):
            raise _Refusal(505, "The HTTP version must be 1.1 or 1.0", "malformed")
        if not isinstance(headers.get("host", "" if version == "1.0" else None), str):
            raise _Refusal(400, "A request names its Host once", "malformed")
        coding, length = headers.get("transfer-encoding"), headers.get("content-length", "0")
        if coding is not None and (not isinstance(coding, str) or coding.lower() != "chunked" or version == "1.0"):
            raise _Refusal(400, "Transfer-Encoding must be chunked, and only in HTTP/1.1", "malformed")
        if not isinstance(length, str) or not length.isdigit():
            raise _Refusal(400, "Content-Length must be given once", "malformed")
        if int(length) > limits.BODY_MAX:
            raise _Refusal(413, f"A body has at most {limits.BODY_MAX} bytes", "body")
        has_body = coding is not None or int(length) > 0
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
        """A chunk of the body."""
        self._body.append(body)
        self._body_size += len(body)
        if self._body_size > limits.BODY_MAX:
            raise _Refusal(413, f"A body has at most {limits.BODY_MAX} bytes", "body")

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._upgrading:
            return  # `_upgrade` follows
        self._take(self._request(keep_alive=self._parser.should_keep_alive()))
        self._begin()

    def _request(self, *, keep_alive: bool) -> Request:
        name = self._parser.get_method()
        method = _METHODS.get(name)
        if method is None:
            method = _METHODS[name] = name.decode("ascii")  # the parser knows about 40
        request = Request(method, self._target.decode("latin-1"), self._headers, self.peer, keep_alive, self._origin, self._early)
        if self._body:
            request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return request

    def _take(self, request: Request) -> None:
        """Serve a request, now or when its turn comes."""
        self._reading = _Reading.BEGIN if request.keep_alive else _Reading.NOTHING
        if self._busy or self._pending or not self._writable:
            self._pending.append(request)
        else:
            self._serve(request)

    def _upgrade(self, rest: bytes) -> None:
        """The client wants another protocol: WebSocket where that is spoken, else the request is answered as it is, the
        last one.
        """
        request = self._request(keep_alive=False)
        headers = self._headers
        self._begin()
        if not self._server.is_socket(request):
            self._take(request)
            return
        if self._busy or self._pending:
            self._refuse(_Refusal(400, "An upgrade must wait for the answers before it", "malformed"))
            return
        assert self._transport is not None
        self._reading, self._deadline = _Reading.NOTHING, _NEVER
        rest, self._held = rest + self._held, b""
        self._successor = successor = self._server.socket_protocol()
        successor.connection_made(self._transport)
        successor.data_received(_head(request, headers) + rest)

    # ------------------------------------------------------------------ answering

    def _serve(self, request: Request) -> None:
        self._busy = True
        self._deadline = _NEVER
        direct = self._server.direct
        if direct is not None and direct(request, self.respond):
            self._server.under_way += 1
            self._keep_alive = request.keep_alive
        else:
            self._server.begin(self._answer(request))

    def respond(self, response: Response) -> None:
        """Answer a request that was taken directly; its answer is short."""
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
        response = await self._server.handle(request)
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            await asyncio.sleep(limits.REFUSAL_PAUSE)
        if self._transport is None:
            return
        keep_alive = request.keep_alive and not self._server.stopping
        data = response.encode(keep_alive=keep_alive, with_body=request.method != "HEAD")
        if isinstance(response, LongResponse) and request.method != "HEAD":
            # Its chunks are shared by all who ask for the same: they are not this connection's memory.
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
        """Write a long answer as fast as the client takes it; False where the connection ended. The clock cuts off a
        client that takes nothing.

        In chunks, because TLS takes a whole answer at once and does not tell how much of it waits. `size` counts as
        waiting meanwhile.
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
        """Turn to the next request, if it is there."""
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
        if self._busy or self._reading is _Reading.NOTHING:
            if not self._busy:
                self._close()
            return
        timeout = limits.IDLE_TIMEOUT if self._reading is _Reading.BEGIN else limits.HEAD_TIMEOUT
        self._deadline = self._loop.time() + timeout

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer what cannot be taken, behind the answers before it, and read nothing more."""
        if self._reading is _Reading.NOTHING:
            return  # the client said that it would send no more: the answer to that is on its way
        self._server.refused(refusal.kind, self.peer)
        self._reading, self._held = _Reading.NOTHING, b""
        response = failure(refusal.status, refusal.message)
        if self._busy or self._pending or not self._writable:
            self._pending.append(response)
        else:
            self._end_with(response)

    def _end_with(self, response: Response) -> None:
        """Send the last answer. What the client still sends is thrown away for a moment: closing at once would take the
        answer from it.
        """
        if self._transport is None or self._transport.is_closing():
            return
        self._reading = _Reading.NOTHING
        self._transport.write(response.encode(keep_alive=False))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._deadline = self._loop.time() + limits.LINGER

    def _close(self) -> None:
        """Close when the answer has left; a client that does not take it is cut off by the clock."""
        self._reading = _Reading.NOTHING
        self._deadline = self._loop.time() + limits.WRITE_TIMEOUT
        if self._transport is not None:
            self._transport.close()

    # ------------------------------------------------------------------ the clock

    @property
    def waiting(self) -> int:
        """Bytes that wait for the client."""
        return self._unsent + self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def is_socket(self) -> bool:
        """Whether the connection was handed over."""
        return self._successor is not None

    def tick(self, now: float) -> None:
        """End what takes too long."""
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
        assert self._transport is not None
        if self._reading is _Reading.BODY or (self._reading is _Reading.HEAD and self._fed):
            self._refuse(_Refusal(408, "the request did not arrive in time", "slow"))
        elif self._reading is _Reading.NOTHING:
            self._transport.abort()
        else:
            self._transport.close()
            self._deadline, self._reading = self._loop.time() + limits.WRITE_TIMEOUT, _Reading.NOTHING

    def cut(self, kind: str) -> None:
        """End the connection at once."""
        self._server.refused(kind, self.peer)
        self._server.waiting -= self._waiting
        self._waiting = 0
        self.abort()

    def abort(self) -> None:
        """End the connection without sending what waits."""
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        """End the connection when what waits has left."""
        if self._transport is not None:
            self._transport.close()

    def stop(self) -> None:
        """The server stops: a connection without a request ends, another one after its answer."""
        if self._successor is None and not self._busy and not self._pending and self._transport is not None:
            self._close()

    def _note_waiting(self) -> None:
        """Keep the server's sum of what waits."""
        size = self.waiting if self._unsent or not self._writable else 0
        grown = size - self._waiting
        self._server.waiting += grown
        self._waiting = size
        if grown > 0:
            self._server.shed()


def _head(request: Request, headers: dict[str, str | list[str]]) -> bytes:
    """The head of a request as bytes again, in its one reading."""
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    lines += [f"{name}: {text}" for name, value in headers.items() for text in ([value] if isinstance(value, str) else value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

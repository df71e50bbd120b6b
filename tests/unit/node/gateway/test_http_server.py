"""The HTTP server against raw sockets: any bytes have one reading, and answers are in order."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.gateway.http import limits, messages
from node.gateway.http.connection import Connection
from node.gateway.http.messages import Request, Response, json_response
from node.tls.pki import issue, make_authority, trusting_context
from tests.unit.node.gateway.harness import HOST, Exchange
from tests.unit.node.gateway.raw_http import GET, HOST_LINE, Served, post, serving
from tests.waiting import until

AMBIGUOUS = {
    "length and chunks": post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks and length": post(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
    "equal lengths": post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    "list of lengths": post(b"Content-Length: 3, 3", body=b"abc"),
    "signed length": post(b"Content-Length: +3", body=b"abc"),
    "negative length": post(b"Content-Length: -3", body=b"abc"),
    "hexadecimal length": post(b"Content-Length: 0x3", body=b"abc"),
    "space before the colon": post(b"Content-Length : 3", body=b"abc"),
    "other coding": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "coding behind chunked": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity", body=b""),
    "misspelt coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "control byte in coding": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "two codings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded header": post(b"A: b", b" c"),
    "bare line feeds": b"GET /a HTTP/1.1\nHost: x\n\n",
    "NUL in a header": post(b"A: \x00"),
    "carriage return in a header": post(b"A: b\rc"),
    "no host": b"GET /a HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "chunk size with 0x": post(b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk with bare line feeds": post(b"Transfer-Encoding: chunked", body=b"3\nabc\n0\n\n"),
    "chunk size with a space": post(b"Transfer-Encoding: chunked", body=b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk longer than its size": post(b"Transfer-Encoding: chunked", body=b"1\r\nabc\r\n0\r\n\r\n"),
    "endless chunk size": post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffffff\r\n"),
    "body with an upgrade": post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3", body=b"abc"),
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    "no method": b"FOO /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "small method": b"get /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes beyond ASCII in the target": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET /a HTTP/1.2\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_ambiguous_requests_are_refused_and_the_connection_is_closed(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing after it is served, because that may be the smuggled request."""
    caplog.set_level(logging.INFO)
    async with serving() as served:
        answer = await served.talk(AMBIGUOUS[name] + GET)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"Connection: close" in answer
        assert b'{"message":' in answer
        assert served.requests == []
        assert served.refused == {"malformed": 1}
    assert caplog.records == []


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://x/a?b=c", "/a"),
        (b"http://x", "/"),
        (b"http://x?b=c", "/"),
        (b"http://x:99999/a//b", "/a//b"),
        (b"http://[::1/a", "/a"),
        (b"http://[x]y/a", "/a"),
        (b"http://[::1/ws", "/ws"),
        (b"*", "/"),
    ],
)
@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: other\r\n"])
async def test_a_target_in_absolute_form_has_its_path(
    target: bytes, path: str, upgrade: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Formerly a host such as "[::1" closed the connection without an answer, and left a traceback in the log."""
    async with serving() as served:
        lines = HOST_LINE + upgrade + b"Connection: close\r\n\r\n"
        answer = await served.talk(b"OPTIONS " + target + b" HTTP/1.1\r\n" + lines)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert [request.path for request in served.requests] == [path]
    assert caplog.records == []


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9"])
async def test_other_versions_are_refused(version: bytes) -> None:
    async with serving() as served:
        answer = await served.talk(b"GET /a " + version + b"\r\nHost: x\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 505 ", b"HTTP/1.1 400 "))
        assert served.requests == []


async def test_requests_are_answered_in_the_order_in_which_they_came() -> None:
    async with serving() as served:
        last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        many = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(2_000))
        answer = await served.talk(many + last)
        assert answer.count(b"HTTP/1.1 200 OK") == 2_001
        assert [request.target for request in served.requests] == [*(f"/{number}" for number in range(2_000)), "/last"]


async def test_a_pipeline_waits_in_bounded_memory() -> None:
    async with serving() as served:
        served.gate.clear()
        reader, writer = await served.connect()
        writer.write(GET * 20_000)
        await until(lambda: len(served.requests) == 1)
        (connection,) = served.server._connections
        await until(lambda: len(connection._pending) >= limits.PIPELINED_MAX)
        assert len(served.requests) == 1, "one request of a connection is served at a time"
        assert len(connection._pending) <= limits.PIPELINED_MAX + limits.SLICE // len(GET) + 1
        assert len(connection._held) <= 512 * 1024, "no more than one read of the transport is held"
        served.gate.set()
        async with asyncio.timeout(30):
            for _ in range(20_000):
                await reader.readuntil(b'"body":""}')
        writer.close()


async def test_the_bodys_pieces_and_chunks_are_put_together() -> None:
    async with serving() as served:
        chunked = post(
            b"Transfer-Encoding: Chunked", b"Connection: close", body=b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
        )
        assert b'"body":"abcde"' in await served.talk(chunked)
        assert served.requests[-1].header("trailer") is None, "bytes after a body are not headers"
        reader, writer = await served.connect()
        for byte in post(b"Content-Length: 5", b"Connection: close", body=b"hello"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert b'"body":"hello"' in await reader.read()
        writer.close()


async def test_expect_is_answered_before_the_body_comes() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(post(b"Expect: 100-continue", b"Content-Length: 2", b"Connection: close"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert b'"body":"ok"' in await reader.read()
        writer.close()
        assert (await served.talk(post(b"Expect: tea", b"Content-Length: 2"))).startswith(b"HTTP/1.1 417 ")


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (b"GET /a HTTP/1.0\r\n\r\n", False),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", False),
    ],
)
async def test_a_connection_stays_as_long_as_the_client_wants(head: bytes, stays: bool) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(head)
        answer = await reader.readuntil(b'"body":""}')
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (b"Connection: close" in answer) is not stays
        if stays:
            writer.write(GET)
            await reader.readuntil(b'"body":""}')
        else:
            assert await reader.read() == b""
        writer.close()


async def test_head_has_the_length_of_the_body_and_no_body() -> None:
    async with serving() as served:
        answer = await served.talk(b"HEAD /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body == b""
        assert b"Content-Length: 41" in head


async def test_a_client_that_has_sent_all_still_reads_its_answers() -> None:
    async with serving() as served:
        assert (await served.talk(GET + GET, eof=True)).count(b"HTTP/1.1 200 OK") == 2
        assert await served.talk(b"GET /a HT", eof=True) == b""
        assert await served.talk(b"", eof=True) == b""


async def test_a_websocket_is_handed_over_with_all_its_bytes() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"GET /ws?x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nA: \xc3\xa4\r\n\r\nframes")
        writer.write_eof()
        answer = await reader.read()
        assert answer == (
            b"handed over: GET /ws?x HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\na: \xc3\xa4\r\n\r\nframes"
        )
        writer.close()
        assert served.requests == []


async def test_a_websocket_behind_an_unanswered_request_is_refused() -> None:
    async with serving() as served:
        served.gate.clear()
        reader, writer = await served.connect()
        writer.write(GET + b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await until(lambda: served.refused.total() == 1)
        served.gate.set()
        answer = await reader.read()
        assert answer.index(b"HTTP/1.1 200") < answer.index(b"HTTP/1.1 400")
        writer.close()


async def test_a_broken_request_does_not_take_the_answers_before_it() -> None:
    async with serving() as served:
        served.gate.clear()
        reader, writer = await served.connect()
        writer.write(GET + GET + b"\x00\x01")
        await until(lambda: served.refused.total() == 1)
        served.gate.set()
        answer = await reader.read()
        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.count(b"HTTP/1.1 400") == 1
        writer.close()


async def test_a_request_continues_when_its_client_has_gone() -> None:
    """A command that was sent is executed. Its answer is dropped."""
    async with serving() as served:
        served.gate.clear()
        done: list[Request] = []

        def answer(request: Request) -> Response:
            done.append(request)
            return json_response({})

        served.answer = answer
        _reader, writer = await served.connect()
        writer.write(GET)
        await until(lambda: len(served.requests) == 1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        writer.transport.abort()
        await until(lambda: not served.server._connections)
        served.gate.set()
        await until(lambda: len(done) == 1)


async def test_connections_leave_nothing_behind() -> None:
    async with serving() as served:
        for _ in range(50):
            await served.talk(GET, eof=True)
            await served.talk(b"\x00")
        await until(lambda: not served.server._connections)
        assert served.server._places.taken == 0
        assert served.server.waiting == 0
        assert not served.server._tasks


def test_a_path_that_no_route_can_have_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def note(part: str) -> str:
        decoded.append(part)
        return part

    monkeypatch.setattr(messages, "unquote", note)
    router: messages.Router[str] = messages.Router()
    router.add("GET", "/orders/{id}", "an order")
    for path in ("/%41" * 2_000, "/orders/" + "%41" * 2_000):
        assert router.find(path) == ({}, {})
    assert decoded == []
    assert router.find("/orders/%41")[0] == {"GET": "an order"}
    assert decoded == ["", "orders", "%41"]


class TestTls:
    """The same server behind TLS, where a connection is never half closed, and its end takes a moment."""

    @pytest.fixture
    def contexts(self, tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        now = datetime.datetime.now(datetime.UTC)
        authority = make_authority("c1", now)
        pair = issue(authority, "n1", [], now)
        (tmp_path / "node.pem").write_bytes(pair.certificate)
        (tmp_path / "node.key").write_bytes(pair.key)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(tmp_path / "node.pem", tmp_path / "node.key")
        return server, trusting_context(authority.certificate.decode())

    async def test_requests_refusals_and_unread_answers_work_over_tls(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(limits, "WRITE_TIMEOUT", 0.2)
        monkeypatch.setattr(limits, "TICK", 0.01)
        own, theirs = contexts
        served = Served()
        await served.server.start(HOST, 0, own)
        try:

            async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection(HOST, served.server.port, ssl=theirs)
                served.writers.append(writer)
                return reader, writer

            reader, writer = await connect()
            writer.write(GET + GET + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).count(b"HTTP/1.1 200") == 3
            assert served.requests[0].origin.direct
            reader, writer = await connect()
            writer.write(GET + b"\x00")
            answer = await reader.read()
            assert answer.index(b"HTTP/1.1 200") < answer.index(b"HTTP/1.1 400")
            served.answer = lambda _request: Response(200, b"x" * 20_000_000)
            reader, writer = await connect()
            writer.write(GET)
            await until(lambda: served.refused["unread"] == 1)
            await until(lambda: not served.server._connections)
            assert served.server.waiting == 0
        finally:
            await served.close()
        assert caplog.records == []

    async def test_plain_bytes_end_the_handshake(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        served = Served()
        await served.server.start(HOST, 0, contexts[0])
        try:
            assert b"HTTP" not in await served.talk(GET)
            assert served.requests == []
        finally:
            await served.close()
        assert caplog.records == []

    @pytest.mark.parametrize("bound", ["places", "budget"])
    async def test_handshakes_of_an_address_are_bounded_and_other_addresses_continue(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, bound: str
    ) -> None:
        """Formerly connections that never finish the handshake were not counted, and could take all descriptors."""
        own, theirs = contexts
        monkeypatch.setattr(limits, "CONNECTIONS_EACH" if bound == "places" else "HANDSHAKE_BURST", 5)
        monkeypatch.setattr(limits, "HANDSHAKE_RATE", 1e-3)
        served = Served()
        await served.server.start(HOST, 0, own)
        try:
            silent = [await served.connect() for _ in range(8)]
            ended = [asyncio.create_task(reader.read()) for reader, _ in silent]
            await until(lambda: served.refused["handshakes"] == 3)
            await until(lambda: sum(task.done() for task in ended) == 3)
            reader, writer = await asyncio.open_connection(HOST, served.server.port, ssl=theirs, local_addr=("127.0.0.2", 0))
            served.writers.append(writer)
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            for _, each in silent:
                each.close()
            await until(lambda: served.server._shaking.taken == 0)
            assert served.refused["handshake"] == 5
            await asyncio.gather(*ended, return_exceptions=True)
        finally:
            await served.close()


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            b"GET /a HTTP/1.1\r\n",
            b"POST /a?x=%00 HTTP/1.1\r\n",
            b"HEAD * HTTP/1.0\r\n",
            b"CONNECT x:1 HTTP/1.1\r\n",
            b"Host: x\r\n",
            b"Content-Length: 3\r\n",
            b"Content-Length: 0\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: upgrade\r\nUpgrade: websocket\r\n",
            b"Connection: close\r\n",
            b"Expect: 100-continue\r\n",
            b"\r\n",
            b"abc",
            b"3\r\nabc\r\n",
            b"GET http://[::1/a HTTP/1.1\r\n",
            b"0\r\n\r\n",
            b"\n",
            b" ",
            b":",
        ]
    )
    | st.binary(max_size=8),
    max_size=14,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=FRAGMENTS, cuts=st.integers(1, 9))
async def test_any_bytes_are_survived(pieces: list[bytes], cuts: int) -> None:
    """The test calls the connection's own methods, so that any exception in them fails the test."""
    data = b"".join(pieces)
    served = Served()
    connection, transport = Connection(served.server), _Transport()
    connection.connection_made(transport)
    for start in range(0, len(data), cuts):
        if not transport.is_closing():
            connection.data_received(data[start : start + cuts])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if not transport.is_closing():
        connection.eof_received()
    connection.tick(served.server.loop.time() + 1_000)
    connection.connection_lost(None)
    assert served.server.waiting == 0
    for line in transport.written.split(b"HTTP/1.1 ")[1:]:
        assert line[:3] in {b"100", b"200", b"400", b"408", b"413", b"414", b"417", b"431", b"505"}
    await served.server.stop(0.1)


class _Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.written = b""
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def test_a_call_without_a_body_refuses_one(exchange: Exchange) -> None:
    """A signature does not say where the target ends (L1): `k-x1` with the body `0` was `k-x10` without."""
    status, answer = await exchange.call("admin", "DELETE", "/admin/keys/alice-key", raw=b"0")
    assert (status, answer["message"]) == (400, "This call takes no body")
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 200
    assert (await exchange.call("alice", "GET", "/accounts", raw=b"{}"))[0] == 200, "coinbase-pro-node sends this with every GET"
    for body in (b'{"a":1}', b"[]", b"{}{}", b"x"):
        assert (await exchange.call("alice", "GET", "/accounts", raw=body))[0] == 400

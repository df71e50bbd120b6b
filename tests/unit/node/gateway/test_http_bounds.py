"""The bounds of the HTTP server: sizes, times, connections, and answers that no client reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from node.gateway import CODE
from node.gateway.http import connection, limits
from node.gateway.http.messages import Response
from node.gateway.limits import Limits
from tests.unit.node.gateway.harness import Exchange
from tests.unit.node.gateway.raw_http import GET, post, serving
from tests.waiting import until

TOO_MUCH = {
    "headers": (post(*(b"A%d: b" % number for number in range(limits.HEADERS_MAX))), 431),
    "bytes of headers": (post(*(b"A%d: %s" % (number, b"b" * 4_000) for number in range(10))), 431),
    "one header": (post(b"A: " + b"b" * 200_000), 431),
    "a header's name": (post(b"A" * 200_000 + b": b"), 431),
    "target": (b"GET /" + b"a" * limits.TARGET_MAX + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "endless target": (b"GET /" + b"a" * 300_000, 414),
    "length": (post(b"Content-Length: %d" % (limits.BODY_MAX + 1)), 413),
    "a length of many digits": (post(b"Content-Length: " + b"0" * 5_000 + b"99999", body=b"a"), 413),
    "length beyond numbers": (post(b"Content-Length: 99999999999999999999999"), 400),
    "many chunks": (post(b"Transfer-Encoding: chunked", body=(b"1000\r\n" + b"a" * 4_096 + b"\r\n") * 20), 413),
    "chunks of one byte": (post(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n" * 2_000 + b"0\r\n\r\n"), 413),
    "a few hundred trailers": (post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n"), 413),
    "chunk extensions": (post(b"Transfer-Encoding: chunked", body=b"1;" + b"a" * 400_000), 413),
    "trailers": (post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"A: b\r\n" * 80_000), 413),
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_too_much_is_refused_before_it_is_kept(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data, status = TOO_MUCH[name]
    async with serving() as served:
        answer = await served.talk(data)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 %d " % status), answer  # a reset may overtake the answer
        assert served.requests == []
        assert served.refused.total() == 1
    assert caplog.records == []


async def test_a_length_may_begin_with_zeros() -> None:
    async with serving() as served:
        answer = await served.talk(post(b"Content-Length: " + b"0" * 5_000 + b"5", b"Connection: close", body=b"abcde"))
        assert answer.startswith(b"HTTP/1.1 200")
        assert served.requests[0].body == b"abcde"


@pytest.mark.skipif(
    CODE != "plain", reason="the compiled module keeps its names where no test can see them; its source is the same"
)
async def test_long_names_of_headers_are_not_kept() -> None:
    """Formerly a thousand names of 32 KiB, each sent once, took 64 MB of a process for its life."""
    before = len(connection._NAMES)
    async with serving() as served:
        for number in range(3):
            await served.talk(post(b"X-%d-%s: b" % (number, b"a" * 1_000), b"Connection: close"))
        assert len(served.requests) == 3
    assert len(connection._NAMES) == before


async def test_the_largest_body_is_taken() -> None:
    async with serving() as served:
        body = b"a" * limits.BODY_MAX
        answer = await served.talk(post(b"Content-Length: %d" % len(body), b"Connection: close", body=body))
        assert answer.startswith(b"HTTP/1.1 200")
        assert served.requests[0].body == body


@pytest.mark.parametrize(
    ("bound", "sent", "answer"),
    [
        ("HEAD_TIMEOUT", b"", b""),
        ("HEAD_TIMEOUT", b"GET /a HTTP/1.1\r\nHost: x\r\n", b"HTTP/1.1 408 "),
        ("BODY_TIMEOUT", post(b"Content-Length: 5", body=b"abc"), b"HTTP/1.1 408 "),
    ],
)
async def test_a_slow_request_ends(monkeypatch: pytest.MonkeyPatch, bound: str, sent: bytes, answer: bytes) -> None:
    """A client that sends one byte now and then is disconnected too: the time is for the whole request."""
    monkeypatch.setattr(limits, bound, 0.05)
    monkeypatch.setattr(limits, "TICK", 0.01)
    async with serving() as served:
        found = await served.talk(sent)
        assert found.startswith(answer)
        assert bool(found) is bool(answer)
        assert served.requests == []


async def test_a_dripping_client_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT", 0.2)
    monkeypatch.setattr(limits, "TICK", 0.01)
    async with serving() as served:
        reader, writer = await served.connect()
        sent = 0
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /a HTTP/1.1\r\n" + b"A: b\r\n" * 1_000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.01)
                sent += 1
                if reader.at_eof() or served.refused:
                    break
        assert served.refused == {"slow": 1}
        writer.close()


async def test_an_idle_connection_ends_and_a_busy_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("IDLE_TIMEOUT", "HEAD_TIMEOUT", "BODY_TIMEOUT"):
        monkeypatch.setattr(limits, bound, 0.05)
    monkeypatch.setattr(limits, "TICK", 0.01)
    async with serving() as served:
        served.gate.clear()
        reader, writer = await served.connect()
        writer.write(GET)
        await until(lambda: len(served.requests) == 1)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert len(served.server._connections) == 1, "a handler may take its time"
        served.gate.set()
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert served.refused == {}
        writer.close()


async def test_unread_answers_are_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request of such a connection does not begin."""
    monkeypatch.setattr(limits, "WRITE_TIMEOUT", 0.1)
    monkeypatch.setattr(limits, "TICK", 0.01)
    async with serving() as served:
        served.answer = lambda _request: Response(200, b"x" * 8_000_000)
        _reader, writer = await served.connect()
        writer.write(GET * 10)
        await until(lambda: served.refused["unread"] == 1)
        await until(lambda: not served.server._connections)
        assert len(served.requests) == 1
        assert served.server.waiting == 0
        writer.close()


async def test_unread_answers_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITING_MAX", 40_000_000)
    async with serving() as served:
        served.answer = lambda _request: Response(200, b"x" * 20_000_000)  # the system's own buffers take a few millions
        writers = []
        for number in range(6):
            _reader, writer = await served.connect()
            writer.write(GET)
            writers.append(writer)
            await until(lambda number=number: len(served.requests) == number + 1)  # type: ignore[misc]  # bound at once
        await until(lambda: served.refused["unread"] >= 3)
        assert served.server.waiting <= limits.WAITING_MAX
        for writer in writers:
            writer.close()


async def test_the_number_of_connections_of_an_address_is_bounded_and_closed_ones_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_EACH", 3)
    async with serving() as served:
        held = [await served.connect() for _ in range(3)]
        await until(lambda: len(served.server._connections) == 3)
        answer = await served.talk(GET)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert served.refused == {"connections": 1}
        held[0][1].close()
        await until(lambda: len(served.server._connections) == 2)
        assert (await served.talk(GET, eof=True)).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()


async def test_trusted_proxies_are_bounded_in_total_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_EACH", 1)
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
    async with serving() as served:
        served.server.exempt = lambda _peer: True
        held = [await served.connect() for _ in range(2)]
        await until(lambda: len(served.server._connections) == 2)
        assert (await served.talk(GET)).startswith(b"HTTP/1.1 429 ")
        for _, writer in held:
            writer.close()


async def test_an_address_that_only_makes_trouble_is_cut_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TROUBLE_BURST", 5.0)
    monkeypatch.setattr(limits, "TROUBLE_RATE", 0.001)
    async with serving() as served:
        answers = [await served.talk(b"\x00") for _ in range(10)]
        assert [bool(answer) for answer in answers] == [True] * 6 + [False] * 4
        assert served.refused == {"malformed": 6, "trouble": 4}
        served.server.exempt = lambda _peer: True
        assert (await served.talk(GET, eof=True)).startswith(b"HTTP/1.1 200"), "a trusted proxy is not cut"


async def test_a_client_that_ignores_refusals_is_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal is delayed, and the next request of the connection waits behind it."""
    monkeypatch.setattr(limits, "REFUSAL_PAUSE", 30.0)
    async with serving() as served:
        served.answer = lambda _request: Response(429, b"{}")
        _reader, writer = await served.connect()
        writer.write(GET * 1_000)
        await until(lambda: len(served.requests) == 1)
        other = Response(200, b"{}")
        served.answer = lambda _request: other
        assert (await served.talk(GET, eof=True)).startswith(b"HTTP/1.1 200"), "others do not wait"
        assert [request.target for request in served.requests] == ["/a", "/a"]
        writer.close()


async def test_an_address_pays_for_bytes_that_are_not_http(exchange: Exchange) -> None:
    """They cost 20 units each. The metric counts them, and the address has so much less for its requests."""
    exchange.gateway.limits = Limits(0, 30.0, lambda: 0.0)
    for _ in range(3):
        reader, writer = await asyncio.open_connection(exchange.client.host, exchange.client.port)
        writer.write(b"nonsense\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
    text = await (await exchange.client.get("/metrics")).text()
    assert 'quorumbook_http_refused_total{kind="malformed",node="n1",worker="0"} 3.0' in text
    assert (await exchange.get("/time"))[0] == 429

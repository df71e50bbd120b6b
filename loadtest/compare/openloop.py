"""A load generator that sends requests at intended times, whether or not earlier ones were answered.

A closed loop sends fewer requests when the server is slow, and so hides the latency of clients that wait. Here the
latency of a request runs from the moment at which it should have been sent (Gil Tene, "How NOT to measure latency":
coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from loadtest.errors import LoadTestError
from loadtest.recorder import percentile

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class OpenLoad(msgspec.Struct, frozen=True):
    """Answers by status class, the run's length, and the latencies of 2xx answers, in seconds from the intended time of
    sending.
    """

    sent: int
    good: int
    refused: int
    seconds: float
    p50: float
    p99: float
    p999: float

    @property
    def goodput(self) -> float:
        """2xx answers a second."""
        return self.good / self.seconds


class _Connection(asyncio.Protocol):
    """One kept HTTP/1.1 connection with at most one request under way."""

    def __init__(self, generator: OpenLoop) -> None:
        self._generator = generator
        self._buffer = b""
        self._intended = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes, intended: float) -> None:
        self._intended = intended
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Report an answer to the generator as soon as its head and body are complete."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if len(self._buffer) < end + 4 + (int(length[1]) if length else 0):
            return
        status = int(self._buffer[9:12])
        self._buffer = b""
        self._generator.answered(self, status, time.perf_counter() - self._intended)

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.lost(self, exc)


class OpenLoop:
    """Sends raw requests to one address at `rate` a second over at most `connections` kept connections."""

    def __init__(self, address: str, rate: float, connections: int) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._interval = 1 / rate
        self._connections = connections
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._due: deque[tuple[bytes, float]] = deque()
        self._under_way = 0
        self._latencies: list[float] = []
        self._refused = 0
        self._closing = False
        self._all_sent = False
        self._ended = asyncio.Event()
        self._error: Exception | None = None

    async def run(self, requests: Sequence[bytes], *, most_seconds: float = 0.0) -> OpenLoad:
        """Send all `requests`. Returns when each is answered, or after `most_seconds` (0: no limit) with the answers so
        far.

        Raises:
            LoadTestError: a connection broke.
        """
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            _, connection = await loop.create_connection(lambda: _Connection(self), self._host, self._port)
            self._idle.append(connection)
            self._open.add(connection)
        begin = time.perf_counter()
        end = begin + (most_seconds or float("inf"))
        for number, request in enumerate(requests):
            if time.perf_counter() > end:
                break
            intended = begin + number * self._interval
            delay = intended - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            elif number % 64 == 0:
                await asyncio.sleep(0)
            self._due.append((request, intended))
            self._send_due()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(end - time.perf_counter() if most_seconds else None):
                await self._through()
        seconds = time.perf_counter() - begin
        self._cut()
        if self._error is not None:
            raise LoadTestError(f"a connection broke: {self._error}")
        p50, p99, p999 = (percentile(self._latencies, parts) for parts in (50, 99, 99.9))
        return OpenLoad(len(requests), len(self._latencies), self._refused, seconds, p50, p99, p999)

    def _cut(self) -> None:
        """End all connections, those with a request under way too: a server counts each one until it ends."""
        self._closing = True
        for connection in self._open:
            connection.transport.abort()

    async def _through(self) -> None:
        """Wait until every request that was sent is answered, or a connection broke."""
        self._all_sent = True
        self._check_through()
        await self._ended.wait()

    def _check_through(self) -> None:
        if self._error is not None or (self._all_sent and not self._due and not self._under_way):
            self._ended.set()

    def _send_due(self) -> None:
        while self._due and self._idle:
            request, intended = self._due.popleft()
            self._under_way += 1
            self._idle.pop().send(request, intended)

    def answered(self, connection: _Connection, status: int, latency: float) -> None:
        """Record an answer. The connection is free again."""
        self._under_way -= 1
        if 200 <= status < 300:
            self._latencies.append(latency)
        else:
            self._refused += 1
        self._idle.append(connection)
        self._send_due()
        self._check_through()

    def lost(self, connection: _Connection, error: Exception | None) -> None:
        """Record the end of a connection."""
        self._open.discard(connection)
        if not self._closing:
            self._error = error or LoadTestError("the server closed it")
            self._check_through()

"""A relay for TCP streams that behaves like a bad line: it delays, slows down, stalls and resets connections.

TCP hides loss and reordering from programs, which see only delays, stalls and resets. So the relay has the effect that
`tc netem` would have between two nodes, on every machine and without root.

    python -m tests.chaos.relay LISTEN TARGET SEED    then a line of JSON on standard input for each change of the `Quality`

If either side ends a connection, the other side is ended at once. The process ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import IO

import msgspec

from tests.chaos.errors import CommandFailedError

CHUNK = 16 * 1024
WAITING_MAX = 64
"""Chunks in flight in one direction. A sender with more is not read from."""

READY = "listens"
END_SECONDS = 5.0
ROOT = Path(__file__).resolve().parents[2]


class Quality(msgspec.Struct, frozen=True):
    """The quality of the line. Zeros mean a good line, as fast as the machine. Times are in seconds.

    Attributes:
        delay, jitter: each chunk is late by `delay` and at most `jitter` more. Chunks keep their order.
        rate: bytes a second in each direction of each connection.
        stall_every, stall: on average after `stall_every`, a connection stalls for at most `stall`.
        reset_every: on average after this time, a connection is reset.
        corrupt: one chunk in this many has an inverted bit.
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    stall_every: float = 0.0
    stall: float = 0.0
    reset_every: float = 0.0
    corrupt: int = 0


GOOD = Quality()


class Relay:
    """One listening address in front of one target."""

    def __init__(self, target: str, random: Random) -> None:
        self.quality = GOOD
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._random = random
        self._lines: dict[_Line, None] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends the connection."""
        try:
            inner_reader, inner_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(self, (writer, inner_writer))
        self._lines[line] = None
        try:
            await _first_ended(line.carry(reader, inner_writer), line.carry(inner_reader, writer))
        finally:
            del self._lines[line]
            line.reset()

    async def misbehave(self) -> None:
        """Stall and reset connections until cancelled."""
        while True:
            quality = self.quality
            pause = min((every for every in (quality.stall_every, quality.reset_every) if every), default=0.1)
            await asyncio.sleep(pause * self._random.uniform(0.2, 1.8))
            for every, act in ((quality.stall_every, self._stall_one), (quality.reset_every, self._reset_one)):
                if every and self._lines and self._random.random() < pause / every:
                    act(self._random.choice(list(self._lines)))

    def _stall_one(self, line: _Line) -> None:
        line.still_until = asyncio.get_running_loop().time() + self._random.uniform(0, self.quality.stall)

    def _reset_one(self, line: _Line) -> None:
        line.reset()

    def late(self, size: int) -> tuple[float, float]:
        """Return the seconds that a chunk takes to be sent and to arrive."""
        quality = self.quality
        return (size / quality.rate if quality.rate else 0.0), quality.delay + quality.jitter * self._random.random()

    def spoiled(self, data: bytes) -> bytes:
        """Return a chunk as it arrives."""
        if not self.quality.corrupt or self._random.randrange(self.quality.corrupt):
            return data
        at = self._random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self._random.randrange(8))]) + data[at + 1 :]


class _Line:
    """The two directions of a connection."""

    def __init__(self, relay: Relay, writers: tuple[asyncio.StreamWriter, ...]) -> None:
        self.still_until = 0.0
        self._relay = relay
        self._writers = writers

    def reset(self) -> None:
        """End both halves with RST."""
        for writer in self._writers:
            channel = writer.get_extra_info("socket")
            if not writer.is_closing() and channel is not None:
                with contextlib.suppress(OSError):
                    channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward chunks in order, each when it is due, until one side ends."""
        loop = asyncio.get_running_loop()
        way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_MAX)

        async def take() -> None:
            sent = 0.0
            while data := await reader.read(CHUNK):
                sending, travelling = self._relay.late(len(data))
                sent = max(sent, loop.time()) + sending
                await way.put((sent + travelling, self._relay.spoiled(data)))

        async def give() -> None:
            while True:
                due, data = await way.get()
                await asyncio.sleep(due - loop.time())
                await asyncio.sleep(self.still_until - loop.time())
                writer.write(data)
                await writer.drain()

        await _first_ended(take(), give())


async def _first_ended(*works: Coroutine[None, None, None]) -> None:
    """Run until the first one ends or its connection breaks."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
                raise outcome


class RelayProcess:
    """A relay in a separate process. `prefix`: a command that runs it, for example in another network namespace."""

    def __init__(self, listen: str, target: str, seed: int, prefix: Sequence[str] = ()) -> None:
        self._argv = [*prefix, sys.executable, "-m", "tests.chaos.relay", listen, target, str(seed)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process, and wait until it listens. Raises `CommandFailedError`."""
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        first_line = _pipe(self._process.stdout).readline()
        if first_line.strip() != READY:
            self.stop()
            raise CommandFailedError(f"{' '.join(self._argv)}: did not listen")

    def set(self, quality: Quality) -> None:
        """Change the quality of the line. Raises `CommandFailedError` if the process has ended."""
        assert self._process is not None, "start it first"
        try:
            pipe = _pipe(self._process.stdin)
            pipe.write(msgspec.json.encode(quality).decode() + "\n")
            pipe.flush()
        except BrokenPipeError as error:
            raise CommandFailedError(f"the relay has ended with code {self._process.poll()}") from error

    def stop(self) -> None:
        """End the process and its connections. A second call, or a call before `start`, has no effect."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            try:
                _pipe(process.stdin).close()
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None, "opened as a pipe"
    return stream


async def run(listen: str, target: str, seed: int) -> None:
    """Relay until standard input ends."""
    loop = asyncio.get_running_loop()
    relay = Relay(target, Random(f"relay:{seed}"))
    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(relay.serve, host, int(port))
    misbehaving = asyncio.create_task(relay.misbehave())
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    while line := await orders.readline():
        relay.quality = msgspec.json.decode(line, type=Quality)
    server.close()
    misbehaving.cancel()


def main(listen: str, target: str, seed: str) -> None:
    """Run the process."""
    asyncio.run(run(listen, target, int(seed)))


if __name__ == "__main__":
    main(*sys.argv[1:])

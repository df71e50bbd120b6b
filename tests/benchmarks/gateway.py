"""The cost of an order over HTTP in one gateway: CPU time of its process a request, without sockets, engine and client.

    python -m tests.benchmarks.gateway [--profile] [--orders N] [--connections N] [--only-native]

The requests are signed before the clock starts. The server's connections get them as from a transport, one for each
connection and turn. An engine in this process answers the frames to the engine; its time is subtracted. The figures are
those of the fastest of several rounds.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import statistics
import time
from typing import Any, cast

import click
import msgspec
import uvloop

from loadtest.compare.requests import http_orders
from loadtest.market import setup_commands, traders
from node.gateway.app import Application
from node.gateway.backend import NodeBackend
from node.gateway.gateway import build
from node.gateway.http.connection import Connection
from node.native.client import ClusterClient
from node.native.connection import NativeConnection
from node.native.framing import FrameSplitter, decode_request, pack
from node.native.protocol import PROTOCOL_VERSION, TRUE, Answer, FollowKeys, Hello, Query, Results, Submit, Welcome
from tests.unit.node.gateway.harness import FakeBackend, config

SEED = 1
PEOPLE = 64


class EngineTransport:
    """The engine's end of the gateway's native connection. `seconds`: the time that the engine has used."""

    def __init__(self, fake: FakeBackend) -> None:
        self.fake = fake
        self.seconds = 0.0
        self.owner: Any = None
        self._splitter = FrameSplitter()
        self._frames: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Take frames. They are answered in the next turn of the loop."""
        begun = time.process_time()
        self._frames += self._splitter.feed(data)
        asyncio.get_running_loop().call_soon(self._answer)
        self.seconds += time.process_time() - begun

    def _answer(self) -> None:
        begun = time.process_time()
        frames, self._frames = self._frames, []
        answers = []
        for body in frames:
            message = decode_request(body)
            match message:
                case Submit():
                    answers.append(pack(Results(message.request_id, self.fake.apply(*message.commands))))
                case Hello():
                    answers.append(pack(Welcome(PROTOCOL_VERSION, "n1", "c1", "0", "abi")))
                case FollowKeys():
                    answers.append(pack(Answer(message.request_id, TRUE)))
                case Query():
                    asyncio.get_running_loop().create_task(self._query(message))
        self.seconds += time.process_time() - begun
        if answers:
            self.owner._wire.data_received(b"".join(answers))

    async def _query(self, message: Query) -> None:
        found = await self.fake.query(message.query)
        body = msgspec.Raw(msgspec.msgpack.encode(found))
        self.owner._wire.data_received(pack(Answer(message.request_id, body)))

    def close(self) -> None:
        """Nothing to do."""

    abort = close

    def is_closing(self) -> bool:
        """Return False, because it is never closed."""
        return False


class ClientTransport:
    """A client's connection. It counts answers."""

    def __init__(self) -> None:
        self.answers = 0
        self.bad = 0

    def write(self, data: bytes) -> None:
        """Count an answer."""
        self.answers += 1
        self.bad += not data.startswith(b"HTTP/1.1 200")

    def get_extra_info(self, name: str) -> object:
        """Return the addresses of a connection on loopback."""
        return ("127.0.0.1", 50_000) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing to do."""

    def is_closing(self) -> bool:
        """Return False, because it is never closed."""
        return False

    def get_write_buffer_size(self) -> int:
        """Return 0, because nothing waits."""
        return 0


async def measure(orders: int, connections: int, rounds: int, profile: bool) -> None:
    """Print the CPU microseconds of a request."""
    fake = FakeBackend()
    people = traders(PEOPLE, SEED)
    for command in setup_commands(people):
        fake.apply(command)
    engine = EngineTransport(fake)

    async def connect(self: NativeConnection, address: str, tls: object) -> None:
        self._wire.transport = cast(Any, engine)
        engine.owner = self

    NativeConnection._connect = connect  # type: ignore[method-assign]
    backend = NodeBackend("none", ClusterClient({"n1": "unix:/none"}), 8.0)
    app = Application(build(config(), backend))
    await app.start("127.0.0.1", 0)
    assert app.server is not None
    profiler = cProfile.Profile() if profile else None
    found = []
    for number in range(rounds):
        requests = list(http_orders(people, f"r{number}", SEED, orders, "localhost"))
        clients = [(Connection(app.server), ClientTransport()) for _ in range(connections)]
        for connection, transport in clients:
            connection.connection_made(cast(Any, transport))
        engine.seconds = 0.0
        gc.collect()
        at = 0
        begun = time.process_time()
        if profiler is not None and number:
            profiler.enable()
        while at < len(requests):
            for connection, _ in clients:
                if at < len(requests):
                    connection.data_received(requests[at])
                    at += 1
            while sum(transport.answers for _, transport in clients) < at:  # noqa: ASYNC110 - turns of the loop are what is measured
                await asyncio.sleep(0)
        if profiler is not None:
            profiler.disable()
        spent = time.process_time() - begun - engine.seconds
        assert not sum(transport.bad for _, transport in clients), "orders were refused"
        found.append(spent / orders * 1e6)
        for connection, _ in clients:
            connection.connection_lost(None)
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
    print(f"{connections} connections: {min(found):.1f} us a request (median of {rounds} rounds {statistics.median(found):.1f})")
    await app.stop(0.1)


@click.command()
@click.option("--orders", default=6_000, help="Requests of a round.")
@click.option("--connections", default=64, help="Connections, each with one request under way.")
@click.option("--rounds", default=5)
@click.option("--profile", is_flag=True, help="Print where the time goes.")
def main(orders: int, connections: int, rounds: int, profile: bool) -> None:
    """Measure the CPU microseconds that an order costs a gateway."""
    uvloop.run(measure(orders, connections, rounds, profile))


if __name__ == "__main__":
    main()

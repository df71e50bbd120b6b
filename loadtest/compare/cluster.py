"""A new Quorumbook cluster on loopback, with fsync on, under the loads of the comparison."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from loadtest.access import ClusterAccess
from loadtest.compare import wrk
from loadtest.compare.requests import http_orders, native_frames
from loadtest.errors import LoadTestError, WrongAnswerError
from loadtest.ground import Ground, prepare
from loadtest.market import Trader, set_up, traders
from loadtest.recorder import percentile
from node.deployment.statuses import leader_of
from node.keys.credentials import Credentials
from node.native.connection import hello
from node.native.framing import RESPONSE_MAX, FrameSplitter
from node.native.protocol import Failed, Results, Welcome, frame, response_decoder
from node.system.processes import descendants, stat_fields
from node.system.sockets import host_and_port
from statemachine.events import Rejected
from statemachine.types import Reason

TRADERS = 64

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

EXPECTED = frozenset({Reason.UNKNOWN_ORDER, Reason.ORDER_ALREADY_DONE})
"""Expected reject reasons: a cancel may arrive after its order has traded."""

NATIVE_RATE_MAX = 90_000
"""Commands a second that are encoded beforehand for a native load; more than two cores apply."""


class Native(msgspec.Struct, frozen=True):
    """The result of a native load: acknowledged commands, seconds, and the latencies of requests in seconds."""

    commands: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Commands a second."""
        return self.commands / self.seconds


class LoadedCluster:
    """A running cluster that has a market. `start` makes it, `stop` ends it."""

    def __init__(self, ground: Ground, access: ClusterAccess, people: Sequence[Trader], seed: int) -> None:
        self._ground = ground
        self.start_cpu = cpu_seconds(self.pids()) / len(ground.cluster.node_ids)
        """CPU seconds of a node's start with an empty log, before the market exists."""
        self.access = access
        self.people = people
        self.seed = seed

    @classmethod
    async def start(cls, directory: Path, *, nodes: int = 3, seed: int = 1, **settings: str | int | float | bool) -> Self:
        """Return a fresh cluster in `directory`. Raises `LoadTestError`, `NodeStartError`, `SetupRefusedError`."""
        ground = prepare(directory, nodes=nodes, settings={"raft.archive_log": False, "raft.fsync": True, **settings})
        try:
            await ground.start()
            bench = cls(ground, ClusterAccess(ground.directory), traders(TRADERS, seed), seed)
            operator = bench.access.client()
            await set_up(operator, bench.people)
            await operator.close()
        except BaseException:
            await asyncio.to_thread(ground.stop)
            raise
        return bench

    async def stop(self) -> None:
        """Stop all nodes."""
        await asyncio.to_thread(self._ground.stop)

    @property
    def ground(self) -> Ground:
        """The directory and the nodes."""
        return self._ground

    def pids(self) -> list[int]:
        """Return every process of every node."""
        return [pid for node_id in self._ground.cluster.node_ids for pid in self.pids_of(node_id)]

    def pids_of(self, node_id: str) -> list[int]:
        """Return every process of one node, its supervisor first; none while it is down."""
        pid = self._ground.cluster.pid(node_id)
        return [] if pid is None else [pid, *descendants(pid)]

    def cpu(self) -> float:
        """Return the CPU seconds that all nodes have used."""
        return cpu_seconds(self.pids())

    def memory(self) -> int:
        """Return the resident bytes of all nodes."""
        return resident_bytes(self.pids())

    async def leader(self) -> str:
        """Return the leader's node id. Raises `LoadTestError` when there is none."""
        found = leader_of(await self._ground.cluster.status())
        if not found:
            raise LoadTestError("the cluster has no leader")
        return found

    async def term(self) -> int:
        """Return the newest term that a node knows; it rises with each election."""
        return max(status.term for status in (await self._ground.cluster.status()).values() if status is not None)

    async def http(self, directory: Path, run: str, *, connections: int, seconds: float, count: int) -> wrk.Load:
        """Return a load of signed orders over HTTP to the leader, one order a request."""
        url = self.access.https[await self.leader()]
        requests = directory / f"orders-{run}"
        host = url.partition("://")[2]
        await asyncio.to_thread(
            wrk.store, http_orders(self.people, run, self.seed, count, host), requests, wrk.threads_for(connections)
        )
        load = await asyncio.to_thread(wrk.run, f"{url}/orders", requests, connections=connections, seconds=seconds)
        if load.refused > load.answers // 100:
            raise WrongAnswerError(f"{load.refused} of {load.answers} orders were refused")
        return load

    async def native(self, run: str, *, seconds: float, connections: int = 12, in_flight: int = 3, commands: int = 64) -> Native:
        """Frames of `commands` commands to the leader, `in_flight` under way on each connection."""
        frames = int(NATIVE_RATE_MAX * seconds) // (connections * commands)
        address = self.access.natives[await self.leader()]
        flows = [
            native_frames(self.people[number], f"{run}{number}", self.seed, frames, commands) for number in range(connections)
        ]
        clients = [_FrameClient(flow, in_flight) for flow in flows]
        tls = self.access.tls()
        await asyncio.gather(*(client.greet(address, tls, person) for client, person in zip(clients, self.people, strict=False)))
        begin = time.perf_counter()
        for client in clients:
            client.begin(begin + seconds)
        await asyncio.gather(*(client.ended for client in clients))
        took = time.perf_counter() - begin
        acknowledged = sum(client.check() for client in clients)
        latencies = [latency for client in clients for latency in client.latencies]
        return Native(acknowledged, took, percentile(latencies, 50), percentile(latencies, 99))


class _FrameClient(asyncio.Protocol):
    """Sends frames that were encoded before, one for each answer. The answers are decoded and checked after the
    measurement.
    """

    def __init__(self, frames: Sequence[bytes], in_flight: int) -> None:
        self._frames = frames
        self._in_flight = in_flight
        self._next = 0
        self._answers: list[bytes] = []
        self._sent: list[float] = []
        self._until = 0.0
        self._splitter = FrameSplitter(RESPONSE_MAX)
        loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.latencies: list[float] = []
        self._transport: asyncio.Transport

    async def greet(self, address: str, tls: ssl.SSLContext, person: Trader) -> None:
        """Connect and exchange greetings."""
        host, port = host_and_port(address)
        loop = asyncio.get_running_loop()
        credentials = Credentials(person.key_id, person.secret, person.passphrase)
        await loop.create_connection(lambda: self, host, port, ssl=tls)
        self._transport.write(frame(hello(credentials, "compare", time.time())))
        await self._greeted

    def begin(self, until: float) -> None:
        """Start sending. Nothing is sent after `until` (`perf_counter` seconds)."""
        self._until = until
        for _ in range(self._in_flight):
            self._send()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        error = LoadTestError(f"the node closed the connection: {exc}")
        for future in (self._greeted, self.ended):
            if not future.done():
                future.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Note the latency of each answer, and send the next request."""
        for body in self._splitter.feed(data):
            if not self._greeted.done():
                welcome = response_decoder.decode(body)
                if isinstance(welcome, Welcome):
                    self._greeted.set_result(None)
                else:
                    self._greeted.set_exception(LoadTestError(f"greeting refused: {welcome}"))
                continue
            now = time.perf_counter()
            self.latencies.append(now - self._sent[len(self._answers)])
            self._answers.append(body)
            self._send()

    def _send(self) -> None:
        """Send the next frame, or end when all are answered."""
        now = time.perf_counter()
        if now < self._until and self._next < len(self._frames):
            self._sent.append(now)
            self._transport.write(self._frames[self._next])
            self._next += 1
        elif len(self._answers) == self._next and not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()

    def check(self) -> int:
        """Return the number of acknowledged commands.

        Raises:
            WrongAnswerError: a request failed, or more than one command in a hundred was rejected.
        """
        commands = rejected = 0
        for body in self._answers:
            answer = response_decoder.decode(body)
            if isinstance(answer, Failed) or not isinstance(answer, Results):
                raise WrongAnswerError(f"a request failed: {answer}")
            commands += len(answer.outcomes)
            rejected += sum(isinstance(outcome, Rejected) and outcome.reason not in EXPECTED for outcome in answer.outcomes)
        if rejected > commands // 100:
            raise WrongAnswerError(f"{rejected} of {commands} commands were rejected")
        return commands


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time that processes have used since they began, in seconds. Ended processes do not
    count.
    """
    return sum(int(fields[11]) + int(fields[12]) for pid in pids if (fields := stat_fields(pid))) / _TICKS


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of processes. Shared pages count once for each process."""
    return sum(int(fields[21]) for pid in pids if (fields := stat_fields(pid))) * _PAGE

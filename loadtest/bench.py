"""A short benchmark: the throughput and latency of a cluster of three nodes on this machine, with fsync on.

    python -m loadtest.bench [--seconds N] [--json]

All figures come from one run on one machine. Their ratios therefore mean more than their absolute values.
"""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import aiohttp
import click
import msgspec

from loadtest.access import ClusterAccess
from loadtest.errors import WrongAnswerError
from loadtest.flow import ClientFlow, FlowCommand
from loadtest.ground import prepare
from loadtest.market import PRODUCTS, Trader, set_up, setup_commands, traders
from loadtest.recorder import Recorder, percentile
from loadtest.rest import answer_fault, flow_request, signed_headers
from loadtest.trading import Desk
from node.diagnosis.doctor import sync_times
from statemachine.commands import Batch
from statemachine.engine import Engine

CLIENTS = 12
CHUNK = 50
IN_FLIGHT = 3
"""Native throughput: clients, commands in a request, and requests in flight of each client."""

HTTP_CONNECTIONS = 24
ENGINE_COMMANDS = 30_000
ENGINE_BATCH = 100
SYNCS = 300


class Figure(msgspec.Struct, frozen=True):
    """A line of the result: commands a second, and the latency of a request in seconds (0 if there is none)."""

    what: str
    rate: float
    p50: float = 0.0
    p99: float = 0.0


def engine_rate(seed: int) -> Figure:
    """Measure the engine alone, in one process, without network and log. The rate is in commands a second."""
    people = traders(CLIENTS, seed)
    engine = Engine()
    engine.apply(Batch(1, setup_commands(people)))
    flows = [ClientFlow(seed, person.account_id, "engine") for person in people]
    commands = [next(flows[number % CLIENTS]) for number in range(ENGINE_COMMANDS)]
    batches = [Batch(2, list(commands[start : start + ENGINE_BATCH])) for start in range(0, ENGINE_COMMANDS, ENGINE_BATCH)]
    begin = time.perf_counter()
    for batch in batches:
        engine.apply(batch)
    return Figure(f"engine alone, batches of {ENGINE_BATCH}", ENGINE_COMMANDS / (time.perf_counter() - begin))


def sync_rate(directory: Path) -> Figure:
    """Measure durable appends of 4 KiB a second on the file system of `directory`."""
    taken = sync_times(directory, SYNCS)
    return Figure("the disk alone: 4 KiB and fdatasync", SYNCS / sum(taken), percentile(taken, 50), percentile(taken, 99))


class Bench:
    """Measurements on a running cluster that has a market."""

    def __init__(self, access: ClusterAccess, people: Sequence[Trader], seed: int, seconds: float) -> None:
        self._access = access
        self._people = people
        self._seed = seed
        self._seconds = seconds

    async def native_rate(self) -> Figure:
        """Measure the native protocol with many requests in flight."""
        recorder = Recorder()
        desk = Desk(recorder)
        clients = [self._access.trader_client(person) for person in self._people]
        flows = [self._flow(person, f"n{slot}") for person in self._people for slot in range(IN_FLIGHT)]
        jobs = [desk.trade(clients[number // IN_FLIGHT], flow, CHUNK) for number, flow in enumerate(flows)]
        seconds = await self._for_a_while(desk, jobs)
        for client in clients:
            await client.close()
        _refuse(desk)
        latencies = recorder.latencies()
        what = f"native, {CLIENTS} clients with {IN_FLIGHT} requests of {CHUNK} in flight"
        return Figure(what, recorder.acknowledged / seconds, percentile(latencies, 50), percentile(latencies, 99))

    async def native_latency(self) -> Figure:
        """Measure the native protocol with one client and one order at a time."""
        recorder = Recorder()
        desk = Desk(recorder)
        client = self._access.trader_client(self._people[0])
        seconds = await self._for_a_while(desk, [desk.trade(client, self._flow(self._people[0], "s"))])
        await client.close()
        _refuse(desk)
        latencies = recorder.latencies()
        return Figure(
            "native, one at a time", recorder.acknowledged / seconds, percentile(latencies, 50), percentile(latencies, 99)
        )

    async def http_rate(self) -> Figure:
        """Measure HTTP over keep-alive connections with one request in flight on each."""
        return await self._http(HTTP_CONNECTIONS, f"HTTP, {HTTP_CONNECTIONS} kept connections", "h")

    async def http_latency(self) -> Figure:
        """Measure HTTP over one connection with one order at a time."""
        return await self._http(1, "HTTP, one at a time", "t")

    def _flow(self, person: Trader, run: str) -> Iterator[FlowCommand]:
        return ClientFlow(self._seed, person.account_id, run)

    async def _for_a_while(self, desk: Desk, jobs: Sequence[Awaitable[None]]) -> float:
        """Run jobs for the time of a line. Returns the seconds taken."""
        begin = time.perf_counter()
        tasks = [asyncio.ensure_future(job) for job in jobs]
        await asyncio.wait(tasks, timeout=self._seconds, return_when=asyncio.FIRST_EXCEPTION)
        desk.stopping.set()
        await asyncio.gather(*tasks)
        return time.perf_counter() - begin

    async def _http(self, connections: int, what: str, run: str) -> Figure:
        """Measure orders over HTTP."""
        latencies: list[float] = []
        leader = await self._leader_url()
        begin = time.perf_counter()
        end = begin + self._seconds
        async with aiohttp.ClientSession(leader, connector=aiohttp.TCPConnector(limit=0)) as session:
            people = [self._people[number % len(self._people)] for number in range(connections)]
            jobs = (
                _http_trader(session, person, self._flow(person, f"{run}{number}"), end, latencies.append)
                for number, person in enumerate(people)
            )
            await asyncio.gather(*jobs)
        seconds = time.perf_counter() - begin
        return Figure(what, len(latencies) / seconds, percentile(latencies, 50), percentile(latencies, 99))

    async def _leader_url(self) -> str:
        """Return the HTTPS address of the leader, which a first command finds."""
        client = self._access.client()
        try:
            await client.submit(list(islice(setup_commands(self._people), 1)))
            return self._access.https[client.leader_id]
        finally:
            await client.close()


async def _http_trader(
    session: aiohttp.ClientSession, person: Trader, flow: Iterator[FlowCommand], end: float, answered: Callable[[float], None]
) -> None:
    """Send orders over HTTP, one after the other."""
    while time.perf_counter() < end:
        command = next(flow)
        request = flow_request(command)
        headers = signed_headers(person.key_id, person.secret, person.passphrase, request)
        begin = time.perf_counter()
        async with session.request(request.method, request.target, data=request.body or None, headers=headers) as response:
            answer = msgspec.json.decode(await response.read())
        answered(time.perf_counter() - begin)
        fault = answer_fault(command, response.status, answer)
        if fault:
            raise WrongAnswerError(f"{request.method} {request.target}: {fault}")


def _refuse(desk: Desk) -> None:
    if desk.faults.count:
        raise WrongAnswerError(f"{desk.faults.count} wrong answers: {'; '.join(desk.faults.texts[:3])}")


async def measure(directory: Path, seed: int, seconds: float) -> list[Figure]:
    """Create a cluster in `directory`, measure all figures, and stop it."""
    figures = [engine_rate(seed), sync_rate(directory)]
    ground = prepare(directory / "cluster", settings={"raft.archive_log": False, "raft.fsync": True})
    try:
        await ground.start()
        access = ClusterAccess(ground.directory)
        people = traders(CLIENTS, seed)
        operator = access.client()
        await set_up(operator, people)
        await operator.close()
        bench = Bench(access, people, seed, seconds)
        jobs = (bench.native_latency, bench.http_latency, bench.native_rate, bench.http_rate)
        figures += [await job() for job in jobs]
    finally:
        await asyncio.to_thread(ground.stop)
    return figures


def markdown(figures: Sequence[Figure]) -> str:
    """Return the figures as a table. It shows each rate also as a percentage of the engine's rate."""
    engine = figures[0].rate
    lines = ["| what | commands/s | of the engine's own rate | p50 ms | p99 ms |", "|---|---:|---:|---:|---:|"]
    for figure in figures:
        share = f"{figure.rate / engine:.1%}" if "disk" not in figure.what else ""
        times = f"{figure.p50 * 1e3:.2f} | {figure.p99 * 1e3:.2f}" if figure.p50 else " | "
        lines.append(f"| {figure.what} | {figure.rate:,.0f} | {share} | {times} |")
    return "\n".join(lines)


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="How long each of the four measurements on the cluster lasts.")
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For a script.")
def main(seconds: float, seed: int, as_json: bool) -> None:
    """Measure a cluster of three nodes on this machine, with fsync on."""
    with tempfile.TemporaryDirectory(prefix="quorumbook-bench-") as name:
        figures = asyncio.run(measure(Path(name), seed, seconds))
    if as_json:
        click.echo(msgspec.json.encode(figures).decode())
        return
    click.echo(
        f"{len(PRODUCTS)} products, three nodes, fsync on; {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}\n"
    )
    click.echo(markdown(figures))


if __name__ == "__main__":
    main()

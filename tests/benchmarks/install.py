"""The effect on clients when a node comes back under full load and gets the whole state as a snapshot.

    python -m tests.benchmarks.install [--orders N] [--seconds N] [--requests N]

Three nodes run on this machine with fsync on, with a state of two rows an order. Clients send requests as fast as answers
arrive, and one more client sends one command at a time. A follower is killed and its disk deleted. It comes back with
`--rejoin`, receives a snapshot, verifies it, installs it and catches up. Times are from sending a request to its answer:
durable on a majority and applied. All figures are of one run, so their ratios mean more than their sizes. Nodes and
clients share the machine's cores.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from cluster.settings import CHUNK_BYTES
from loadtest.access import ClusterAccess
from loadtest.ground import READY_SECONDS, Ground, prepare
from loadtest.recorder import percentile
from loadtest.watch import Watcher
from node.native.protocol import ControlAction, NodeStatus
from statemachine.commands import AnyCommand, Deposit
from tests.benchmarks.snapshots import Market

BATCH = 500
"""Commands in a request when the state is put in."""

CHUNK = 50
"""Commands in a request of the load."""

INSTALL_SECONDS = 300.0
"""The longest that is waited for a node to come back."""

PHASES = ("before", "node away", "transfer", "check", "catching up", "after")
DURING = ("transfer", "check", "catching up")


class Times:
    """Answers by phase, in seconds: requests of the load, and commands sent one at a time."""

    def __init__(self) -> None:
        self.phase = ""
        self.loads: dict[str, list[float]] = {name: [] for name in PHASES}
        self.singles: dict[str, list[float]] = {name: [] for name in PHASES}
        self.lasted = dict.fromkeys(PHASES, 0.0)
        self._since = 0.0

    def enter(self, phase: str) -> None:
        """Begin a phase; further answers belong to it, or to none if it is empty."""
        now = time.monotonic()
        if self.phase:
            self.lasted[self.phase] += now - self._since
        self.phase, self._since = phase, now

    def took(self, kind: dict[str, list[float]], seconds: float) -> None:
        """Record an answer."""
        if self.phase:
            kind[self.phase].append(seconds)


class Bench:
    """A cluster with a state, under load."""

    def __init__(self, ground: Ground, orders: int) -> None:
        self.ground = ground
        self.access = ClusterAccess(ground.directory)
        self.watcher = Watcher(self.access)
        self.market = Market(orders)
        self.times = Times()
        self._orders = orders
        self._flow = self.market.trading()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def fill(self) -> None:
        """Create the state."""
        client = self.access.client(deadline=60.0)
        names = itertools.islice(itertools.cycle(self.market.accounts), self._orders)
        commands = itertools.chain(self.market.foundations(), map(self.market.place, names))
        while batch := list(itertools.islice(commands, BATCH)):
            await client.submit(batch)
        await client.close()

    def begin_load(self, requests: int) -> None:
        """Start the clients: `requests` in flight at any time, and one of a single command."""
        self._tasks = [asyncio.create_task(self._load()) for _ in range(requests)]
        self._tasks.append(asyncio.create_task(self._singles()))

    async def end_load(self) -> None:
        """Stop the clients. Raises the error of a client that failed."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        await self.watcher.close()

    async def _load(self) -> None:
        client = self.access.client(deadline=60.0)
        while not self._stopping.is_set():
            commands = list(itertools.islice(self._flow, CHUNK))
            sent = time.monotonic()
            await client.submit(commands)
            self.times.took(self.times.loads, time.monotonic() - sent)
        await client.close()

    async def _singles(self) -> None:
        client = self.access.client(deadline=60.0)
        for commands in self._deposits():
            if self._stopping.is_set():
                break
            sent = time.monotonic()
            await client.submit(commands)
            self.times.took(self.times.singles, time.monotonic() - sent)
        await client.close()

    def _deposits(self) -> Iterator[list[AnyCommand]]:
        for number in itertools.count():
            yield [Deposit(self.market.accounts[0], f"single-{number}", "USD", 1)]

    async def compacted(self) -> None:
        """Wait under load until the log no longer begins with the first entry. A node without a log then needs a
        snapshot.
        """
        leader = await self.watcher.wait_leader(READY_SECONDS)
        connection = await self.access.connect(leader)
        async with asyncio.timeout(INSTALL_SECONDS):
            while (status := await self.watcher.status(leader)) is None or status.first_log_index == 1:
                await connection.control(ControlAction.SNAPSHOT)
                await asyncio.sleep(1.0)
        await connection.close()

    async def lose_a_node(self) -> str:
        """Kill a follower and delete its disk. Returns its id."""
        leader = await self.watcher.wait_leader(READY_SECONDS)
        lost = next(name for name in self.access.natives if name != leader)
        await asyncio.to_thread(self.ground.cluster.kill, lost)
        shutil.rmtree(self.access.layout.configs[lost].data_path)
        return lost

    async def bring_back(self, node: str) -> int:
        """Start the node and follow it through the phases until it has caught up. Returns the bytes of the snapshot
        that it got.
        """
        await asyncio.to_thread(lambda: self.ground.cluster.start([node], rejoin=True))
        size = 0
        end = time.monotonic() + INSTALL_SECONDS
        while time.monotonic() < end:
            seen = await self.watcher.statuses()
            sent, whole = _progress(seen, node)
            size = max(size, whole)
            back = seen[node]
            if back is not None and back.ready and back.snapshot_index and self.times.phase in DURING:
                return size
            phase = _phase(self.times.phase, back, sent, whole)
            if phase != self.times.phase:
                self.times.enter(phase)
            await asyncio.sleep(0.02)
        raise TimeoutError(f"{node} is not back after {INSTALL_SECONDS:g} s")


def _progress(seen: dict[str, NodeStatus | None], node: str) -> tuple[int, int]:
    """Bytes of a snapshot on its way to the node, as its leader says: acknowledged, and in all."""
    members = [member for status in seen.values() if status is not None for member in status.members if member.node_id == node]
    return max(((member.snapshot_sent, member.snapshot_size) for member in members), key=lambda pair: pair[1], default=(0, 0))


def _phase(phase: str, back: NodeStatus | None, sent: int, whole: int) -> str:
    if back is not None and back.snapshot_index:
        return "catching up"
    if whole:
        return "check" if whole - sent <= CHUNK_BYTES else "transfer"
    return phase


async def measure(directory: Path, orders: int, seconds: float, requests: int) -> tuple[Times, int]:
    """Measure all phases in a new cluster in `directory`. Returns the bytes of the snapshot as well."""
    ground = prepare(directory / "cluster", settings={"raft.archive_log": False, "raft.fsync": True, "http.gateways": 0})
    try:
        await ground.start()
        bench = Bench(ground, orders)
        await bench.fill()
        await ground.cluster.wait_ready(READY_SECONDS)
        bench.begin_load(requests)
        await bench.compacted()
        bench.times.enter("before")
        await asyncio.sleep(seconds)
        bench.times.enter("")
        lost = await bench.lose_a_node()
        bench.times.enter("node away")
        await asyncio.sleep(seconds)
        size = await bench.bring_back(lost)
        bench.times.enter("after")
        await asyncio.sleep(seconds)
        bench.times.enter("")
        await bench.end_load()
    finally:
        await asyncio.to_thread(ground.stop)
    return bench.times, size


def _row(name: str, lasted: float, loads: list[float], singles: list[float]) -> str:
    ms = [f"{percentile(values, parts) * 1e3:.1f}" for values in (loads, singles) for parts in (50, 99, 100)]
    rate = len(loads) * CHUNK / lasted if lasted else 0.0
    return f"| {name} | {lasted:.1f} | {rate:,.0f} | " + " | ".join(ms) + " |"


def report(times: Times) -> Iterator[str]:
    """Return the figures as a table, and the ratio that matters."""
    yield "| phase | s | commands/s | load p50 ms | p99 | max | one at a time p50 ms | p99 | max |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name in PHASES:
        yield _row(name, times.lasted[name], times.loads[name], times.singles[name])
    during = [[value for name in DURING for value in kind[name]] for kind in (times.loads, times.singles)]
    yield _row("during, all three", sum(times.lasted[name] for name in DURING), during[0], during[1])
    for what, kind, values in (("load", times.loads, during[0]), ("one at a time", times.singles, during[1])):
        before = kind["before"]
        ratios = [percentile(values, parts) / percentile(before, parts) for parts in (50, 99)]
        yield f"\n{what}: during / before: p50 {ratios[0]:.2f}, p99 {ratios[1]:.2f}"


@click.command()
@click.option("--orders", default=150_000, show_default=True, help="Resting orders; the snapshot has two rows an order.")
@click.option(
    "--seconds", default=15.0, show_default=True, help="How long the load is watched before, without the node, and after."
)
@click.option("--requests", default=8, show_default=True, help=f"Requests of {CHUNK} commands under way at a time.")
def main(orders: int, seconds: float, requests: int) -> None:
    """Measure what the install of a snapshot costs a cluster under full load."""
    with tempfile.TemporaryDirectory(prefix="quorumbook-bench-") as name:
        times, size = asyncio.run(measure(Path(name), orders, seconds, requests))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    click.echo(f"{orders:,} orders, a snapshot of {size / 1e6:.1f} MB; {os.cpu_count()} cores, load average {load}\n")
    for line in report(times):
        click.echo(line)


if __name__ == "__main__":
    main()

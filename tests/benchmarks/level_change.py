"""The pause of a node with many resting orders at a change of the level, and the cost of preparing it.

    python -m tests.benchmarks.level_change [--orders N] [--rate N] [--without] [--back]

One process does what a node's engine process does to its state: it applies entries of the one level at a given rate,
prepares the state of the other level beside them, and then applies the entry. There is no network and no log.
`--without`: nothing is prepared, and the state is converted at the entry. `--back`: the way back to 0.2.0, whose pause
is that of the entry that checks the states and the one that changes the level (ADR 0060).
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from cluster.ports import CaptureState, LogEntry, SnapshotMark
from node.engine.feed import Feed
from node.engine.level_preparation import Preparation
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.snapshot_port import SnapshotPort
from snapshots.levels.level import OWN, SUPPORTED, V0_2_0, CheckLevel, Level, SetLevel, encode_level_entry, is_earlier
from snapshots.levels.states import empty, encoded
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand
from tests.benchmarks.snapshots import SWITCH_INTERVAL, Market, percentile

BATCHES_PER_SECOND = 100
BROUGHT_UP_SECONDS = 0.5
"""Seconds from then until the entry, in which slower members are brought up to date."""
CALM_SECONDS = 5.0
"""Seconds of trading before the preparation, and after it."""


class Node:
    """A node at one level that changes to the other, with the parts of Raft that a preparation needs."""

    def __init__(self, directory: Path, orders: int, rate: int, old: Level, to: Level) -> None:
        self.old, self.to = old, to
        self.market = Market(orders)
        self._flow = self.market.trading()
        self._size = max(rate // BATCHES_PER_SECOND, 1)
        self.machine = ReplicatedEngine(Feed(1_000), empty(old))
        store = SnapshotStore(directory, accepts=[level.abi for level in SUPPORTED])
        self.port = SnapshotPort(store, self.machine, software="benchmark")
        self.index, self._snapshot_index = 1, 0
        self.late: list[float] = []
        self.preparation = Preparation(self, self.machine, store, self.port)  # type: ignore[arg-type]  # as much of it as is used
        self.apply(self.market.foundations())
        for _ in range(orders // len(self.market.accounts)):
            self.apply([self.market.place(account) for account in self.market.accounts])

    def apply(self, commands: list[AnyCommand]) -> None:
        """Apply one entry."""
        self.index += 1
        self.machine.apply(self.index, encoded(self.machine.level.abi, self.index, commands))

    def change(self) -> tuple[float, float]:
        """Apply the entry that changes the level. Returns seconds on the clock, and of this thread's CPU."""
        begin, cpu = time.perf_counter(), time.thread_time()
        self.index += 2
        if is_earlier(self.to, self.old):
            assert self.machine.apply(self.index - 1, encode_level_entry(CheckLevel(self.old, self.to))) == []
        assert self.machine.apply(self.index, encode_level_entry(SetLevel(self.old, self.to))) is True
        return time.perf_counter() - begin, time.thread_time() - cpu

    async def trade(self) -> None:
        """Apply entries until cancelled. `late`: how late each was done."""
        due = time.perf_counter()
        while True:
            self.apply([next(self._flow) for _ in range(self._size)])
            now = time.perf_counter()
            self.late.append(now - due)
            due = max(due + 1 / BATCHES_PER_SECOND, now - 1.0)
            await asyncio.sleep(max(0.0, due - now))

    def take_late(self) -> list[float]:
        """Return how late the entries since the last call were."""
        late, self.late = self.late, []
        return late

    def status(self) -> Any:
        """See `cluster.raft.Raft`."""
        return SimpleNamespace(applied_index=self.index, snapshot_index=self._snapshot_index)

    def request_snapshot(self) -> None:
        """See `cluster.raft.Raft`."""
        index = self.index
        if index == self._snapshot_index:
            return
        self.port.capture(SnapshotMark(LogEntry(b"\0", index, 1), LogEntry(b"\0", index - 1, 1)))
        self._poll(index)

    def _poll(self, index: int) -> None:
        state = self.port.poll()
        if state is CaptureState.RUNNING:
            asyncio.get_running_loop().call_later(0.05, self._poll, index)
            return
        assert state is CaptureState.DONE
        self._snapshot_index = index


def memory() -> float:
    """Return the memory of this process in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e9


def _line(name: str, late: list[float]) -> str:
    ms = [percentile(late, percent) * 1e3 for percent in (50, 99, 100)]
    return f"| {name} | {len(late)} | " + " | ".join(f"{value:.1f}" for value in ms) + " |"


async def measure(node: Node, *, prepared: bool) -> None:
    """Measure all phases, one after the other."""
    before = memory()
    trading = asyncio.create_task(node.trade())
    await asyncio.sleep(CALM_SECONDS)
    phases = {f"at level {node.old.version}": node.take_late()}
    if prepared:
        began, cpu = time.perf_counter(), time.process_time()
        await node.preparation.prepare(node.to.abi)
        taken, used = time.perf_counter() - began, time.process_time() - cpu
        phases["while the other state is made"] = node.take_late()
        click.echo(f"prepared in {taken:.1f} s ({used:.1f} s of CPU, the trading included)")
        await asyncio.sleep(CALM_SECONDS)
        phases["while it is kept"] = node.take_late()
        if is_earlier(node.to, node.old):
            await node.preparation.prepare(node.to.abi)  # as the leader asks again, when all have prepared theirs
            await asyncio.sleep(BROUGHT_UP_SECONDS)
            phases["while it is brought up to date"] = node.take_late()
    click.echo(f"memory: {before:.2f} GB with one state, {memory():.2f} GB at the entry")
    clock, cpu = node.change()
    node.take_late()
    click.echo(f"the entry that changes the level: {clock * 1e3:.1f} ms on the clock, {cpu * 1e3:.1f} ms of CPU")
    await asyncio.sleep(CALM_SECONDS)
    phases["afterwards, while the old state is freed"] = node.take_late()
    trading.cancel()
    click.echo("\n| phase | entries | late p50 ms | p99 | max |\n|---|---:|---:|---:|---:|")
    for name, late in phases.items():
        click.echo(_line(name, late))


@click.command()
@click.option("--orders", default=1_000_000, show_default=True, help="Resting orders.")
@click.option("--rate", default=2_000, show_default=True, help="Commands a second.")
@click.option("--without", is_flag=True, help="Prepare nothing: the state is converted at the entry.")
@click.option("--back", is_flag=True, help="Measure the way back to 0.2.0.")
def main(orders: int, rate: int, without: bool, back: bool) -> None:
    """Measure the pause at a change of the level."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    old, to = (OWN, V0_2_0) if back else (V0_2_0, OWN)
    with tempfile.TemporaryDirectory(prefix="quorumbook-bench-") as name:
        node = Node(Path(name), orders, rate, old, to)
        gc.collect()
        gc.freeze()
        click.echo(
            f"{orders:,} orders of {len(node.market.accounts)} accounts at level {old.version}, {rate:,} commands a second"
        )
        asyncio.run(measure(node, prepared=not without))
        node.port.cancel()


if __name__ == "__main__":
    main()

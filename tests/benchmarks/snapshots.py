"""The cost of snapshots for an engine with many resting orders under load, and the time to load one.

    python -m tests.benchmarks.snapshots [--orders N] [--rate N] [--seconds N]

One process does what a node's engine process does to its state: it applies batches at a given rate, begins snapshots and
polls them, and the writer runs beside it. There is no network and no log. All figures are of one run, so their ratios mean
more than their sizes.
"""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from cluster.ports import CaptureState, LogEntry, SnapshotMark
from node.engine.feed import Feed
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.snapshot_port import SnapshotPort
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand, Batch, CancelOrder, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.limits import OPEN_ORDERS_PER_ACCOUNT, OPERATOR
from statemachine.types import OrderType, Side

PRODUCTS = 4
LEVELS = 2_000
TICK = 10_000
MID = 5_000_000
BATCHES_PER_SECOND = 100
SWITCH_INTERVAL = 0.0005
"""As the engine process sets it."""


class Market:
    """The commands of accounts that each keep their number of orders: one order is cancelled, one is placed, and
    sometimes one trades.
    """

    def __init__(self, orders: int) -> None:
        self.accounts = [f"account-{number}" for number in range(max(2 * orders // OPEN_ORDERS_PER_ACCOUNT, 4))]
        self._placed = dict.fromkeys(self.accounts, 0)
        self._cancelled = dict.fromkeys(self.accounts, 0)
        self._count = 0

    def foundations(self) -> list[AnyCommand]:
        """Return the commands for currencies, products, accounts and money."""
        return [
            PutCurrency(OPERATOR, "usd", "USD", 6),
            PutCurrency(OPERATOR, "btc", "BTC", 8),
            *(
                PutProduct(OPERATOR, f"p{number}", f"BTC-USD{number}", "BTC", "USD", TICK, TICK, TICK, 10**12, 1_000, 2_000)
                for number in range(PRODUCTS)
            ),
            *(OpenAccount(OPERATOR, f"open-{name}", name) for name in self.accounts),
            *(Deposit(name, f"deposit-{currency}", currency, 10**16) for name in self.accounts for currency in ("USD", "BTC")),
        ]

    def place(self, account: str) -> PlaceOrder:
        """Return an order that rests; each side's orders are on `LEVELS` price levels."""
        self._placed[account] += 1
        self._count += 1
        buys = self._count // len(self.accounts) % 2 == 0
        away = (100 + self._count * 7 % LEVELS) * (-1 if buys else 1)
        return PlaceOrder(
            account,
            f"place-{self._count}",
            f"BTC-USD{self._count % PRODUCTS}",
            Side.BUY if buys else Side.SELL,
            OrderType.LIMIT,
            (MID + away) * TICK,
            TICK * (1 + self._count % 50),
            client_oid=f"o{self._placed[account]}",
        )

    def take(self, account: str) -> PlaceOrder:
        """Return an order that trades with the best one of the other side."""
        self._count += 1
        side = Side.BUY if self._count % 2 else Side.SELL
        funds = 0 if side is Side.SELL else 10**12
        product = f"BTC-USD{self._count % PRODUCTS}"
        return PlaceOrder(account, f"take-{self._count}", product, side, OrderType.MARKET, 0, TICK * 20, funds)

    def trading(self) -> Iterator[AnyCommand]:
        """Yield a flow without end that keeps the number of resting orders about the same."""
        while True:
            for position, account in enumerate(self.accounts):
                self._cancelled[account] += 1
                yield CancelOrder(account, f"cancel-{self._cancelled[account]}", 0, f"o{self._cancelled[account]}")
                yield self.place(account)
                if position % 5 == 0:
                    yield self.take(account)


class Run:
    """The times of one phase, in seconds. `pauses` are on the clock and in CPU time."""

    def __init__(self) -> None:
        self.batches: list[float] = []
        self.pauses: list[tuple[float, float]] = []
        self.snapshots: list[float] = []
        self.rate = 0.0


class Bench:
    """An engine with its snapshots."""

    def __init__(self, directory: Path, orders: int) -> None:
        self.market = Market(orders)
        self.machine = ReplicatedEngine(Feed(1_000))
        self.port = SnapshotPort(SnapshotStore(directory), self.machine, software="benchmark")
        self._index = 10
        self._flow = self.market.trading()
        self.apply(self.market.foundations())
        for _ in range(orders // len(self.market.accounts)):
            self.apply([self.market.place(account) for account in self.market.accounts])

    def apply(self, commands: list[AnyCommand]) -> None:
        """Apply one batch."""
        self.machine.engine.apply(Batch(1, commands))

    def begin(self) -> tuple[float, float]:
        """Begin a snapshot. Returns how long the engine paused, on the clock and in CPU time."""
        self._index += 10
        begin, cpu = time.perf_counter(), time.thread_time()
        self.port.capture(SnapshotMark(LogEntry(b"\0", self._index, 1), LogEntry(b"\0", self._index - 1, 1)))
        return time.perf_counter() - begin, time.thread_time() - cpu

    def finish(self) -> float:
        """Wait for the snapshot in progress. Returns how long that took."""
        begin = time.perf_counter()
        while self.port.poll() is CaptureState.RUNNING:
            time.sleep(0.01)
        return time.perf_counter() - begin

    def trade(self, seconds: float, rate: int, *, snapshots: bool) -> Run:
        """Apply commands for a while, `rate` a second (0: as fast as possible), with one snapshot after the other or
        none.
        """
        run = Run()
        size = rate // BATCHES_PER_SECOND or 250
        batches = [[next(self._flow) for _ in range(size)] for _ in range(int(seconds * (rate or 120_000) / size))]
        begin = due = time.perf_counter()
        began = 0.0
        for commands in batches:
            if snapshots and self.port.poll() is not CaptureState.RUNNING:
                run.snapshots += [time.perf_counter() - began] if began else []
                began = time.perf_counter()
                run.pauses.append(self.begin())
            started = due if rate else time.perf_counter()
            self.apply(commands)
            run.batches.append(time.perf_counter() - started)
            if rate:
                due += size / rate
                time.sleep(max(0.0, due - time.perf_counter()))
            elif time.perf_counter() - begin > seconds:
                break
        run.rate = len(run.batches) * size / (time.perf_counter() - begin)
        return run


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that this many per cent do not exceed; 0 without any."""
    return sorted(values)[max(0, -(-len(values) * int(percent * 10) // 1000) - 1)] if values else 0.0


def restore_seconds(directory: Path, expected: bytes) -> tuple[float, float]:
    """Return how long a node takes to verify and load the newest snapshot: on the clock, and in CPU time."""
    machine = ReplicatedEngine(Feed(1_000))
    begin, cpu = time.perf_counter(), time.process_time()
    port = SnapshotPort(SnapshotStore(directory), machine, software="benchmark")
    mark = port.newest()
    assert mark is not None
    port.restore(mark)
    taken = time.perf_counter() - begin, time.process_time() - cpu
    assert machine.engine.full_hash() == expected, "another state came back"
    return taken


def _line(name: str, run: Run) -> str:
    ms = [percentile(run.batches, percent) * 1e3 for percent in (50, 99, 100)]
    return f"| {name} | {run.rate:,.0f} | " + " | ".join(f"{value:.1f}" for value in ms) + " |"


def _pause_text(pauses: list[tuple[float, float]]) -> str:
    clock, cpu = ([pause[kind] * 1e3 for pause in pauses] for kind in (0, 1))
    return f"pause p50 {percentile(clock, 50):.1f} ms, max {max(clock):.1f} ms (of CPU {percentile(cpu, 50):.1f} and {max(cpu):.1f} ms)"


@click.command()
@click.option("--orders", default=1_000_000, show_default=True, help="Resting orders.")
@click.option("--rate", default=25_000, show_default=True, help="Commands a second.")
@click.option("--seconds", default=10.0, show_default=True, help="How long each of the four phases lasts.")
def main(orders: int, rate: int, seconds: float) -> None:
    """Measure snapshots at a number of resting orders under load."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    with tempfile.TemporaryDirectory(prefix="quorumbook-bench-") as name:
        directory = Path(name)
        bench = Bench(directory, orders)
        gc.collect()
        gc.freeze()
        first = bench.begin(), bench.finish()
        engine: Engine = bench.machine.engine
        click.echo(f"{orders:,} orders placed, {len(bench.market.accounts)} accounts")
        click.echo(f"first snapshot, everything in it: {_pause_text([first[0]])}; on disk after {first[1]:.1f} s\n")
        runs = {
            f"{rate:,} a second, no snapshots": bench.trade(seconds, rate, snapshots=False),
            f"{rate:,} a second, snapshots without a break": bench.trade(seconds, rate, snapshots=True),
            "as fast as it goes, no snapshots": bench.trade(seconds, 0, snapshots=False),
            "as fast as it goes, snapshots without a break": bench.trade(seconds, 0, snapshots=True),
        }
        bench.finish()
        click.echo("| load | commands/s | batch p50 ms | p99 | max |\n|---|---:|---:|---:|---:|")
        for what, run in runs.items():
            click.echo(_line(what, run))
        rates = [run.rate for run in runs.values()]
        pauses = [pause for run in runs.values() for pause in run.pauses]
        times = [taken for run in runs.values() for taken in run.snapshots]
        click.echo(f"\nthroughput with snapshots / without: {rates[3] / rates[2]:.2f}")
        click.echo(f"{len(pauses)} snapshots: {_pause_text(pauses)}")
        click.echo(f"a snapshot is on disk after: p50 {percentile(times, 50):.1f} s, max {max(times, default=0.0):.1f} s")
        bench.begin()
        bench.finish()
        taken, cpu = restore_seconds(directory, engine.full_hash())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        click.echo(f"load it: {taken:.1f} s, {cpu:.1f} s of CPU; memory at most {peak:.1f} GB, two states and the rows included")


if __name__ == "__main__":
    main()

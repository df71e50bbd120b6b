"""The time that a node takes to verify and load a snapshot with many resting orders.

    python -m tests.benchmarks.loading [--orders N] [--times N]

Each measurement runs in a process of its own, like a node that starts: from an empty process to an engine that could
apply the next command. The stages are those of a node's start, measured on the clock and in CPU time of all threads.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from snapshots.store import SnapshotStore
from statemachine.engine import Engine
from tests.benchmarks.snapshots import Bench

Result = TypeVar("Result")


def timed(name: str, function: Callable[[], Result]) -> Result:
    """Print a line of the table."""
    begin, cpu = time.perf_counter(), time.process_time()
    result = function()
    click.echo(f"| {name} | {time.perf_counter() - begin:.2f} | {time.process_time() - cpu:.2f} |")
    return result


def load(directory: Path, *, apart: bool) -> Engine:
    """Load the newest snapshot as a node does, or the rows before the state is built from them."""
    store = SnapshotStore(directory)
    manifest = timed("compare the files with their digests", store.newest)
    assert manifest is not None
    restore = partial(Engine.restore, verified=True)
    if apart:
        rows = timed("read and hash the rows", lambda: store.load(manifest))
        engine = timed("rebuild the state and check it", lambda: restore(rows))
    else:
        engine = timed("read and hash the rows, rebuild the state and check it", lambda: store.build(manifest, restore))
    click.echo(f"{sum(manifest.row_counts.values()):,} rows: { {name: n for name, n in manifest.row_counts.items() if n} }")
    return engine


def make(directory: Path, orders: int) -> None:
    """Make a snapshot with resting orders, as many reply cache entries, and a few done orders."""
    bench = Bench(directory, orders)
    bench.trade(1.0, 0, snapshots=False)
    bench.begin()
    bench.finish()


@click.command()
@click.option("--orders", default=1_000_000, show_default=True, help="Resting orders.")
@click.option("--times", default=3, show_default=True, help="How often to load them.")
@click.option(
    "--directory", type=click.Path(path_type=Path), help="Load the newest snapshot of this directory, once, in this process."
)
@click.option("--apart", is_flag=True, help="Read all rows before the state is built, to see what each of both takes.")
def main(orders: int, times: int, directory: Path | None, *, apart: bool) -> None:
    """Measure how long loading a snapshot takes."""
    gc.disable()
    if directory is not None:
        timed("all of it", lambda: load(directory, apart=apart))
        return
    with tempfile.TemporaryDirectory(prefix="quorumbook-bench-") as name:
        make(Path(name), orders)
        for _ in range(times):
            click.echo(f"\nload average {os.getloadavg()[0]:.1f}\n| | s | s of CPU |\n|---|---:|---:|")
            argv = [sys.executable, "-m", "tests.benchmarks.loading", "--directory", name, *(["--apart"] if apart else [])]
            subprocess.run(argv, check=True)


if __name__ == "__main__":
    main()

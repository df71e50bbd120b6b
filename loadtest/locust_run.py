"""Locust against a cluster of its own that loses its leader in the middle, or against one that runs: `make loadtest`.

python -m loadtest.locust_run [--users N] [--minutes N] [--processes N] [--cluster DIR] [--no-kill]
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import click

from loadtest.errors import LoadTestError
from loadtest.ground import Ground, prepare
from node.errors import QuorumbookError

ROOT = Path(__file__).parents[1]


@click.command()
@click.option("--users", type=click.IntRange(1), default=50, show_default=True, help="Traders at a time.")
@click.option("--minutes", type=click.FloatRange(0.1), default=1.0, show_default=True, help="How long they trade.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes that send; a core each.")
@click.option(
    "--cluster", "directory", type=click.Path(path_type=Path), help="A cluster that runs. Default: one of the test's own."
)
@click.option("--kill/--no-kill", default=True, show_default=True, help="Kill the leader in the middle, of a cluster of its own.")
@click.option(
    "--report", type=click.Path(path_type=Path), default=Path("run/loadtest.html"), show_default=True, help="Locust's page."
)
def main(users: int, minutes: float, processes: int, directory: Path | None, kill: bool, report: Path) -> None:
    """Traders by HTTP, with a verdict at the end. Exit code 1 if nothing was sent, or an answer was wrong, or an order
    was lost.
    """
    if importlib.util.find_spec("locust") is None:
        raise click.UsageError("Locust is not installed: pip install 'quorumbook[loadtest]'")
    ground = None
    try:
        if directory is None:
            ground = prepare(Path("run/loadtest"))
            print("three nodes start ...", flush=True)
            asyncio.run(ground.start())
        code = _run(ground, ground.directory if ground else directory or Path(), users, minutes, processes, kill, report)
    except (LoadTestError, QuorumbookError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        code = 2
    finally:
        if ground is not None:
            ground.stop()
    sys.exit(code)


def _run(ground: Ground | None, directory: Path, users: int, minutes: float, processes: int, kill: bool, report: Path) -> int:
    report.parent.mkdir(parents=True, exist_ok=True)
    words = [
        "-u",
        str(users),
        "-r",
        str(min(users, 25)),
        "-t",
        f"{int(minutes * 60)}s",
        "--headless",
        "--only-summary",
        "--html",
        str(report),
    ]
    if processes > 1:
        words += ["--processes", str(processes)]
    locust = subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), *words],
        env={**os.environ, "QUORUMBOOK_CLUSTER": str(directory.resolve()), "PYTHONPATH": str(ROOT)},
    )
    try:
        if ground is not None and kill:
            _lose_the_leader(ground, locust, minutes * 60 / 2)
        return locust.wait()
    finally:
        locust.terminate()


def _lose_the_leader(ground: Ground, locust: subprocess.Popen[bytes], after: float) -> None:
    """After so many seconds kill the leader, and start it again a moment later."""
    end = time.monotonic() + after
    while time.monotonic() < end:
        if locust.poll() is not None:
            return
        time.sleep(0.2)
    leader = asyncio.run(ground.cluster.leader())
    if not leader:
        return
    print(f"{leader} leads and is killed", flush=True)
    ground.cluster.kill(leader)
    time.sleep(1.0)
    ground.cluster.start([leader])


if __name__ == "__main__":
    main()

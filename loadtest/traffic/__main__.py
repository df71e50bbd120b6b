"""A load test with Locust, on a cluster of its own or on one that runs: `make loadtest`.

    python -m loadtest.traffic [--users N] [--minutes N] [--kill-leader] [--arrivals N] [--processes N] [--cluster DIR]

Exit code 0: all holds. 1: nothing was sent, an answer was wrong or missing, or the verdict does not hold. 2: the test
could not be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console

from loadtest.errors import LoadTestError
from loadtest.ground import Ground, prepare
from loadtest.market import traders
from loadtest.scenario import Plan, Scenario
from loadtest.traffic.plots import Mark
from loadtest.traffic.report import RESULT_FILE, LoadResult, limit_line, protocol_lines, read, write
from loadtest.traffic.stub import READY
from loadtest.traffic.timeline import quantile
from loadtest.verdict import Verdict
from loadtest.watch import reached
from node.errors import QuorumbookError
from node.records.audit import AuditCheck

ROOT = Path(__file__).parents[2]
ACKNOWLEDGED = "acknowledged-*.jsonl"
"""Files of `ledger.Ledger`."""

LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"

LOG = "locust.log"

LIMIT_SECONDS = 5
"""Seconds for which the limit of the load generator is measured."""

SPAWN_RATE = 25
"""Users that begin in each second."""

START_SECONDS = 60.0
"""Seconds until Locust's users begin."""

DOWN_S = 1.0
"""Seconds for which a killed leader is down."""

ACCOUNTS = 50
SEED = 1
"""The seed of the users. The locustfile has the same value, because it runs in another process."""

SETTINGS = {"http.address_rate": 0.0, "http.key_rate": 0.0}
"""All users of a load test come from one address, so limits by address do not apply to them."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a test."""

    users: int
    minutes: float
    arrivals: float
    processes: int
    kill_leader: bool
    limit: bool
    results: Path


class Locust:
    """Runs Locust, in a number of processes."""

    def __init__(self, options: Options, directory: Path) -> None:
        self._options = options
        self._directory = directory

    async def run(self, seconds: float, results: Path, *words: str) -> int:
        """Run a test to its end. Returns Locust's exit code."""
        process = await self.start(seconds, results, *words)
        try:
            return await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    async def start(self, seconds: float, results: Path, *words: str) -> asyncio.subprocess.Process:
        """Start a test. Locust's own lines go to the file `locust.log`."""
        results.mkdir(parents=True, exist_ok=True)
        users = self._options.users
        command = [
            "-u",
            str(users),
            "-r",
            str(min(users, SPAWN_RATE)),
            "-t",
            f"{max(1, round(seconds))}s",
            "--headless",
            "--only-summary",
        ]
        command += ["--html", str(results / "locust.html"), "--csv", str(results / "locust"), *words]
        if self._options.processes > 1:
            command += ["--processes", str(self._options.processes)]
        environment = {
            "QUORUMBOOK_CLUSTER": str(self._directory.resolve()),
            "QUORUMBOOK_RESULTS": str(results.resolve()),
            "PYTHONPATH": str(ROOT),
        }
        with (results / LOG).open("wb") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "locust",
                "-f",
                str(LOCUSTFILE),
                *command,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )


async def measured_limit(locust: Locust, users: int, directory: Path, results: Path) -> tuple[float, float]:
    """Measure the limit of the load generator against a stub in another process: requests a second, and the p99 in
    seconds. All users begin at once.

    Raises:
        LoadTestError: it could not be measured.
    """
    async with _stub(directory):
        code = await locust.run(LIMIT_SECONDS, results / "limit", "--per-user", "0", "-r", str(users))
    if code:
        raise LoadTestError(
            f"the limit of the load generator could not be measured: exit code {code}, see {results / 'limit' / LOG}"
        )
    result = read(results / "limit")
    return result.rate, quantile(result.commands, 0.99)


@contextlib.asynccontextmanager
async def _stub(directory: Path) -> AsyncIterator[None]:
    """Run the stub in a process of its own during the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.traffic.stub", str(directory), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            first_line = (await process.stdout.readline()).decode().strip()
        if first_line != READY:
            raise LoadTestError("the stub did not start")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class OwnCluster:
    """A test on a new cluster, with the verdict of the demo."""

    def __init__(self, options: Options, ground: Ground, console: Console) -> None:
        self._options = options
        self._ground = ground
        self._console = console

    async def run(self) -> LoadResult:
        """Run the test from the start of the nodes to the verdict. Raises `LoadTestError`, `QuorumbookError`."""
        options, ground = self._options, self._ground
        locust = Locust(options, ground.directory)
        limit = (0.0, 0.0)
        if options.limit:
            self._say("measuring the load generator against an exchange that answers at once ...")
            limit = await measured_limit(locust, options.users, ground.directory, options.results)
        self._say("three nodes start ...")
        await ground.start()
        plan = Plan(seed=SEED, clients=0, run="loadtest", history=0)
        async with Scenario(ground.cluster, ground.directory, plan) as scenario:
            scenario.people = traders(ACCOUNTS, SEED, "locust")
            scenario.others = True
            leader = await scenario.watcher.wait_leader(30.0)
            await scenario.put_market()
            scenario.start_readers(leader)
            self._say(
                f"{options.users} users trade for {options.minutes * 60:.0f} s; Locust's lines are in {options.results / LOG}"
            )
            process = await locust.start(options.minutes * 60, options.results, *_pace(options))
            try:
                marks, code = await asyncio.gather(self._kill_in_the_middle(scenario, process), self._watched(process))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            self._say("waiting until all nodes have caught up, then reading their logs ...")
            verdict = await self._judge(scenario)
        result = _result_of(options, code, limit, marks)
        result.checks += verdict.checks
        return result

    async def _kill_in_the_middle(self, scenario: Scenario, process: asyncio.subprocess.Process) -> list[Mark]:
        """Kill the leader after half of the time, if the options say so, and start it again after `DOWN_S`."""
        if not self._options.kill_leader:
            return []
        await reached(lambda: any(self._options.results.glob(ACKNOWLEDGED)) or process.returncode is not None, START_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.minutes * 60 / 2):
                await process.wait()
        if process.returncode is not None:
            return []
        leader = await scenario.watcher.wait_leader(30.0)
        kill = await scenario.kill(leader)
        killed_at = time.time() - (time.monotonic() - kill.at)
        self._say(f"{leader}, the leader, was killed; {kill.new_leader} leads in term {kill.new_term}")
        await asyncio.sleep(DOWN_S)
        await scenario.restart(leader)
        return [Mark(killed_at, f"{leader} killed")]

    async def _watched(self, process: asyncio.subprocess.Process) -> int:
        """Wait for Locust's end, and show the time on a terminal. Returns its exit code."""
        begin = time.monotonic()
        with self._console.status("") as status:
            while True:
                status.update(f"{time.monotonic() - begin:.0f} of {self._options.minutes * 60:.0f} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        return await process.wait()

    async def _judge(self, scenario: Scenario) -> Verdict:
        """Return the verdict of the demo about the answers that Locust's users got."""
        statuses = await scenario.settle()
        scenario.recorder.close()
        with scenario.acks_path.open("ab") as file:
            for path in sorted(self._options.results.glob(ACKNOWLEDGED)):
                file.write(path.read_bytes())
        return await scenario.check(statuses, answers=False)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _pace(options: Options) -> Sequence[str]:
    """Return the arguments for Locust that set the pace of its users."""
    return ("--arrivals", str(options.arrivals)) if options.arrivals else ()


def _result_of(options: Options, code: int, limit: tuple[float, float], marks: Sequence[Mark]) -> LoadResult:
    """Return the result of Locust's processes. Raises `LoadTestError`."""
    try:
        result = read(options.results)
    except (OSError, msgspec.DecodeError) as error:
        raise LoadTestError(f"Locust ended with exit code {code} and wrote no result; see {options.results / LOG}") from error
    result.limit, result.limit_p99_s = limit
    result.marks = list(marks)
    loop = f"open loop, {options.arrivals:g} orders/s" if options.arrivals else "closed loop"
    processes = f", {options.processes} processes" if options.processes > 1 else ""
    claim = "no answer contradicts its request, and the feeds of the users have no gap"
    detail = f"{result.requests:,} answers, {result.failures:,} failures"
    result.checks = [AuditCheck(claim, result.requests > 0 and not result.failures, detail)]
    result.title = f"{options.users} users, {loop}{processes}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    return result


async def _on_running(options: Options, directory: Path) -> LoadResult:
    code = await Locust(options, directory).run(options.minutes * 60, options.results, *_pace(options))
    return _result_of(options, code, (0.0, 0.0), [])


def _clear(results: Path) -> None:
    """Delete the files of an earlier test."""
    for pattern in (ACKNOWLEDGED, f"limit/{ACKNOWLEDGED}", RESULT_FILE):
        for path in results.glob(pattern):
            path.unlink()


@click.command()
@click.option(
    "--users", type=click.IntRange(1), default=50, show_default=True, help="Concurrent users; three of them do not trade."
)
@click.option("--minutes", type=click.FloatRange(0.05), default=1.0, show_default=True, help="Minutes of trading.")
@click.option("--arrivals", type=click.FloatRange(0), default=0.0, help="Open loop: orders a second. Default: closed loop.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes that send.")
@click.option("--kill-leader/--no-kill-leader", default=False, show_default=True, help="Kill the leader in the middle.")
@click.option("--limit/--no-limit", default=True, show_default=True, help="Measure the load generator first.")
@click.option(
    "--cluster", "directory", type=click.Path(path_type=Path), help="A cluster that runs. Default: one of the test's own."
)
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("run/loadtest"), show_default=True, help="For the report."
)
def main(
    users: int,
    minutes: float,
    arrivals: float,
    processes: int,
    kill_leader: bool,
    limit: bool,
    directory: Path | None,
    results: Path,
) -> None:
    """Traders over HTTP, WebSocket and the native protocol, with a verdict at the end."""
    if importlib.util.find_spec("locust") is None:
        raise click.UsageError("Locust is not installed: pip install 'quorumbook[loadtest]'")
    console = Console(highlight=False)
    options = Options(
        users=users,
        minutes=minutes,
        arrivals=arrivals,
        processes=processes,
        kill_leader=kill_leader,
        limit=limit,
        results=results,
    )
    ground: Ground | None = None
    try:
        _clear(results)
        if directory is not None:
            result = asyncio.run(_on_running(options, directory))
        else:
            ground = prepare(results / "cluster", settings=SETTINGS)
            result = asyncio.run(OwnCluster(options, ground, console).run())
    except (LoadTestError, QuorumbookError) as error:
        console.print(f"loadtest: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    finally:
        if ground is not None:
            ground.stop()
    write(result, results)
    console.print("\n".join(protocol_lines(result)), markup=False)
    if result.checks:
        Verdict(result.checks).print(console)
    for fault in result.faults:
        console.print(f"FAILS: {fault}", style="red", markup=False, soft_wrap=True)
    console.print(limit_line(result), markup=False, soft_wrap=True)
    console.print(f"the report: {results / 'report.html'}", markup=False, soft_wrap=True)
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()

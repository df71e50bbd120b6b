"""An upgrade while the cluster trades: three nodes of the released version 0.2.0 are replaced one by one under load,
then the level changes.

    python -m loadtest.rolling [--former DIRECTORY] [--keep] [--rolls N [--out FILE]]

Exit code 0: the verdict holds. 1: it does not. 2: a run could not be made. Version 0.2.0 is installed beside this
tree, from the repository's history, unless `--former` names where it is. With `--rolls` each upgrade has a fresh
cluster, and a table has the p50, p90 and maximum of their gaps; `--out` has the table after each roll. SIGTERM and
Ctrl-C stop the nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import click
import msgspec

from loadtest.access import ClusterAccess
from loadtest.errors import LoadTestError
from loadtest.ground import MARK, place_for
from node.deployment.local_cluster import LocalCluster
from node.errors import QuorumbookError
from node.keys.credentials import Credentials
from node.native.client import ClusterClient
from node.native.protocol import NodeStatus
from node.records.audit import audit_directory
from statemachine.commands import AnyCommand, Deposit, NoteStream, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.events import AnyOutcome, Placed, Rejected
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Side

ROOT = Path(__file__).resolve().parent.parent
FORMER, PRESENT = "0.2.0", "0.3.0"
TRADERS = 6
PAUSE = 0.02
"""Seconds between two orders of a trader."""

READY_SECONDS = 40.0
BETWEEN_SECONDS = 1.0
"""Seconds of trading between two steps."""

ROLL_SECONDS = 300.0
"""Seconds for one roll. It takes about a minute on a busy machine."""

FAILURES_MAX = 3
"""Rolls in succession that could not be made, after which no further one is tried."""

GAP_MAX = 5.0
"""Seconds without an acknowledgement that no step may cause. A stopped cluster takes far longer, a transfer of
leadership on a busy machine less.
"""


class AcknowledgedOrder(msgspec.Struct, frozen=True):
    """An acknowledged order: the time (monotonic seconds), the command, and the order's id."""

    at: float
    command: PlaceOrder
    order_id: int


class Result(msgspec.Struct, kw_only=True):
    """The figures of a run, which took `seconds`. Gaps are the longest times without an acknowledgement, in seconds."""

    acknowledged: int
    roll_gap: float
    level_gap: float
    compared: int
    differing: int
    seconds: float
    faults: list[str]

    @property
    def holds(self) -> bool:
        """Whether no order was lost or applied twice, and all nodes are equal."""
        return not self.faults


def install_former(target: Path, *, root: Path = ROOT) -> Path:
    """Install the released version from the history of the repository at `root`. Returns the directory of its modules.

    Raises:
        LoadTestError: its commit is not in the history, or it cannot be installed.
    """
    commit = _output(
        ["git", "-C", str(root), "log", "-1", "--format=%H", f"--grep=^{FORMER.replace('.', '[.]')}: ", "--", "pyproject.toml"]
    )
    if not commit:
        raise LoadTestError(f"the commit of version {FORMER} is not in the history of {root}")
    source = target / "source"
    source.mkdir(parents=True)
    packed = target / "source.tar"
    _output(["git", "-C", str(root), "archive", "-o", str(packed), commit])
    _output(["tar", "-xf", str(packed), "-C", str(source)])
    packed.unlink()
    installed = target / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    _output([*pip, "--target", str(installed), str(source)])
    return installed


def _output(command: Sequence[str]) -> str:
    """Run a command. Returns its output. Raises LoadTestError."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadTestError(f"{' '.join(command)}: not done within {error.timeout:g} s") from error
    if done.returncode:
        raise LoadTestError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def command_of(modules: Path) -> tuple[str, ...]:
    """Return the command that runs a node of the version in `modules`, from any working directory."""
    return ("/usr/bin/env", f"PYTHONPATH={modules}", "PYTHONSAFEPATH=1", sys.executable, "-m", "node.supervisor")


def prepare_former(directory: Path, former: Path) -> LocalCluster:
    """Return a fresh cluster of the released version in `directory`, not started; `former`: where its modules are.

    Raises:
        LoadTestError: it cannot be made.
    """
    program = [*command_of(former)[:-2], "-c", "from node.cli import main; main()"]
    place_for(directory, lambda base: _output([*program, "init", str(directory), "--base-port", str(base), "--archive-log"]))
    (directory / MARK).touch()
    return LocalCluster(directory, command=command_of(former))


class Roll:
    """One cluster, and its upgrade from one version to the next.

    Args:
        directory: the directory of the cluster, which is created.
        former: where the modules of the released version are.
    """

    def __init__(self, directory: Path, former: Path) -> None:
        self.directory = directory
        self.former = prepare_former(directory, former)
        self.present = LocalCluster(directory, command=command_of(ROOT))
        self.access = ClusterAccess(directory)
        self.acknowledged: list[AcknowledgedOrder] = []
        self.refused: list[str] = []
        self._stop = asyncio.Event()

    # ------------------------------------------------------------------ the load

    @contextlib.asynccontextmanager
    async def trading(self) -> AsyncIterator[None]:
        """Place orders in the background."""
        self._stop.clear()
        client = self.access.client(deadline=30.0)
        tasks = [asyncio.create_task(self._trade(client, number)) for number in range(TRADERS)]
        try:
            yield
            await asyncio.sleep(BETWEEN_SECONDS)
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)
            await client.close()

    async def _trade(self, client: ClusterClient, trader: int) -> None:
        """Send orders as one trader until the run stops."""
        number = 0
        while not self._stop.is_set():
            number += 1
            command = order(trader, f"{time.time_ns()}-{number}", number)
            try:
                (outcome,) = await client.submit([command])
            except QuorumbookError as error:
                self.refused.append(str(error))
                continue
            if isinstance(outcome, Placed):
                self.acknowledged.append(AcknowledgedOrder(time.monotonic(), command, outcome.order.order_id))
            else:
                self.refused.append(repr(outcome))
            await asyncio.sleep(PAUSE)

    def gap(self, since: float) -> float:
        """Return the longest time without an acknowledgement since a moment, in seconds."""
        times = [since, *(each.at for each in self.acknowledged if each.at >= since)]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

    # ------------------------------------------------------------------ the steps

    async def begin(self) -> None:
        """Start the released version, and create the market."""
        await asyncio.to_thread(self.former.start)
        await self.former.wait_ready(READY_SECONDS)
        await self.submit(market())

    async def replace(self) -> None:
        """Replace every node by the present version, followers first. The first one goes back to the former version in
        between, which is possible until the level changes.
        """
        leader = await self.present.leader()
        first, *others = [*(each for each in self.present.node_ids if each != leader), leader]
        for version in (self.present, self.former, self.present):
            await self.change(first, version)
        for node_id in others:
            await self.change(node_id, self.present)

    async def change(self, node_id: str, version: LocalCluster) -> None:
        """Stop a node and start it as the other version."""
        await asyncio.to_thread(version.stop, [node_id])
        await asyncio.to_thread(version.start, [node_id])
        await version.wait_ready(READY_SECONDS)
        await asyncio.sleep(BETWEEN_SECONDS)

    async def change_level(self, version: str = PRESENT) -> int:
        """Change the level of the cluster to that of a version. Returns the index of the log entry that did it."""
        client = self.access.client(deadline=120.0)
        try:
            report = await client.change_level(version, check=True)
            if report.problems:
                raise LoadTestError("; ".join(report.problems))
            return (await client.change_level(version)).index
        finally:
            await client.close()

    async def way_back(self) -> list[str]:
        """Return what prevents the return to the level of the former version."""
        client = self.access.client(deadline=30.0)
        try:
            return (await client.change_level(FORMER, check=True)).problems
        finally:
            await client.close()

    async def submit(self, commands: Sequence[AnyCommand], credentials: Credentials | None = None) -> list[AnyOutcome]:
        """Apply commands.

        Raises:
            LoadTestError: a command was rejected.
        """
        client = self.access.client(credentials, deadline=30.0)
        try:
            outcomes = await client.submit(list(commands))
        finally:
            await client.close()
        for outcome in outcomes:
            if isinstance(outcome, Rejected):
                raise LoadTestError(f"rejected: {outcome}")
        return outcomes

    # ------------------------------------------------------------------ the verdict

    async def statuses(self) -> dict[str, NodeStatus]:
        """Return the nodes' statuses after all have applied the same entries.

        Raises:
            LoadTestError: they have not in time.
        """
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            found = {name: status for name, status in (await self.present.status()).items() if status is not None}
            if len(found) == len(self.present.node_ids) and len({each.applied_index for each in found.values()}) == 1:
                return found
            await asyncio.sleep(0.05)
        raise LoadTestError(f"the nodes have not applied the same entries within {READY_SECONDS:g} s")

    async def judge(self, statuses: dict[str, NodeStatus]) -> list[str]:
        """Return the claims that do not hold."""
        faults = []
        if len({status.state_hash for status in statuses.values()}) != 1:
            faults.append(f"the states differ: { {name: status.state_hash for name, status in statuses.items()} }")
        if any(status.counters.get("state_digests_differing") for status in statuses.values()):
            faults.append("digests differed")
        faults += [f"refused: {text}" for text in self.refused[:5]]
        ids = [each.order_id for each in self.acknowledged]
        if len(set(ids)) != len(ids):
            faults.append("two orders were acknowledged under one id")
        again = await self.submit([each.command for each in self.acknowledged[-500:]])
        for acknowledged, outcome in zip(self.acknowledged[-500:], again, strict=True):
            if not (isinstance(outcome, Placed) and outcome.duplicate and outcome.order.order_id == acknowledged.order_id):
                faults.append(f"{acknowledged.command.command_id} was acknowledged, but the exchange does not have it")
                break
        return faults


def order(trader: int, client_oid: str, number: int) -> PlaceOrder:
    """Return an order of a trader. Every other order trades with one of the other side."""
    side = Side.BUY if number % 2 else Side.SELL
    price = 10_000 + 100 * (number % 20 - 10) * (1 if side is Side.SELL else -1)
    return PlaceOrder(f"trader-{trader}", f"c:{client_oid}", "BTC-USD", side, OrderType.LIMIT, price, 1, client_oid=client_oid)


def market() -> list[AnyCommand]:
    """Return the commands that create a product, and traders with money."""
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "usd", "USD", 2),
        PutCurrency(OPERATOR, "btc", "BTC", 2),
        PutProduct(OPERATOR, "product", "BTC-USD", "BTC", "USD", 100, 1, 1, 1_000_000, 1_000, 2_000),
    ]
    for number in range(TRADERS):
        name = f"trader-{number}"
        commands.append(OpenAccount(OPERATOR, f"open-{number}", name))
        commands.append(Deposit(name, f"usd-{number}", "USD", 10**12))
        commands.append(Deposit(name, f"btc-{number}", "BTC", 10**9))
    return commands


def only_new() -> NoteStream:
    """Return a command that the present version has and the former one lacks."""
    return NoteStream("trader-0", "note-1", "demo/o", "demo", open=True)


async def run(directory: Path, former: Path) -> Result:
    """Make the whole run. Raises LoadTestError, QuorumbookError."""
    started = time.monotonic()
    roll = Roll(directory, former)
    try:
        await roll.begin()
        began = time.monotonic()
        async with roll.trading():
            await asyncio.sleep(BETWEEN_SECONDS)
            await roll.replace()
        roll_gap = roll.gap(began)
        refusal = await _refusal(roll)
        faults = [] if refusal else ["a command that the level does not know was not refused"]
        before = await roll.statuses()
        faults += [f"{name} is at level {status.level}" for name, status in before.items() if status.level != FORMER]
        began = time.monotonic()
        async with roll.trading():
            await asyncio.sleep(BETWEEN_SECONDS)
            await roll.change_level()
        level_gap = roll.gap(began)
        faults += [f"the way back is closed before anything new is in use: {text}" for text in await roll.way_back()]
        await roll.submit([only_new()])
        if not any("table stream" in text for text in await roll.way_back()):
            faults.append("the way back is open although a report stream is in use")
        after = await roll.statuses()
        faults += [f"{name} is at level {status.level}" for name, status in after.items() if status.level != PRESENT]
        faults += await roll.judge(after)
        await asyncio.to_thread(roll.present.stop)
        report = audit_directory(directory)
        faults += [f"audit: {check.claim}: {check.detail}" for check in report.checks if not check.holds]
        return Result(
            acknowledged=len(roll.acknowledged),
            roll_gap=roll_gap,
            level_gap=level_gap,
            compared=sum(status.counters.get("state_digests_compared", 0) for status in after.values()),
            differing=sum(status.counters.get("state_digests_differing", 0) for status in after.values()),
            seconds=time.monotonic() - started,
            faults=faults
            + ([f"no acknowledgement for {max(roll_gap, level_gap):.1f} s"] if max(roll_gap, level_gap) > GAP_MAX else []),
        )
    finally:
        await asyncio.to_thread(roll.present.stop)


async def _refusal(roll: Roll) -> str:
    """Return why a command of the present level is rejected."""
    try:
        await roll.submit([only_new()])
    except QuorumbookError as error:
        return str(error)
    return ""


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


def summary(results: Sequence[Result]) -> list[str]:
    """Return a table in Markdown about several runs: the number that hold, and the longest gap of each run."""
    first = (
        f"{sum(result.holds for result in results)} of {len(results)} rolls hold; {sum(result.acknowledged for result in results):,} "
        f"acknowledged orders; {sum(result.compared for result in results):,} digests compared, "
        f"{sum(result.differing for result in results):,} differing; {sum(result.seconds for result in results):,.0f} s"
    )
    lines = [
        first,
        "",
        "| longest gap in acknowledgements while | rolls | p50 | p90 | max |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, gaps in (
        ("nodes were replaced", sorted(result.roll_gap for result in results)),
        ("the level changed", sorted(result.level_gap for result in results)),
    ):
        middle, most = gaps[(len(gaps) - 1) // 2], gaps[(9 * len(gaps) - 1) // 10]
        lines.append(f"| {name} | {len(gaps)} | {_ms(middle)} | {_ms(most)} | {_ms(gaps[-1])} |")
    return lines


def _print_result(result: Result) -> None:
    """Print the figures and the verdict."""
    if result.holds:
        click.echo(f"acknowledged orders                     {result.acknowledged:,}, none lost, none doubled")
    click.echo(f"longest gap while nodes were replaced   {_ms(result.roll_gap)}")
    click.echo(f"longest gap while the level changed     {_ms(result.level_gap)}")
    click.echo(f"digests compared, differing             {result.compared:,}, {result.differing:,}")
    for fault in result.faults:
        click.echo(f"FAULT: {fault}")
    click.echo("the verdict holds" if result.holds else "the verdict does not hold")


def _print_progress(number: int, rolls: int, result: Result, began: float) -> None:
    """Print a line for a roll, with the time that the others will take."""
    left = (time.monotonic() - began) / number * (rolls - number)
    click.echo(
        f"{number}/{rolls}: {'holds' if result.holds else 'does not hold'}, gaps {_ms(result.roll_gap)} and {_ms(result.level_gap)}, "
        f"{result.acknowledged:,} orders, {result.seconds:.0f} s; {left / 60:.0f} min left"
    )
    for fault in result.faults:
        click.echo(f"  FAULT: {fault}")


def _rolled(directory: Path, former: Path) -> Result:
    """Return one roll, within its time. Its nodes have stopped when this returns or raises.

    Raises:
        LoadTestError, QuorumbookError, OSError: it could not be made.
    """

    async def bounded() -> Result:
        try:
            async with asyncio.timeout(ROLL_SECONDS):
                return await run(directory, former)
        except TimeoutError as error:
            raise LoadTestError(f"not done within {ROLL_SECONDS:g} s") from error

    return asyncio.run(bounded())


def _roll_often(place: Path, former: Path, rolls: int, *, keep: bool, out: Path | None) -> tuple[list[Result], int]:
    """Make rolls one after the other, each with a fresh cluster. A roll that could not be made is reported, and the
    next one follows; `FAILURES_MAX` in succession end it. Returns the results, and how many rolls could not be made.
    """
    results: list[Result] = []
    failed = in_succession = 0
    began = time.monotonic()
    for number in range(1, rolls + 1):
        directory = place / f"cluster-{number}"
        try:
            result = _rolled(directory, former)
        except (LoadTestError, QuorumbookError, OSError) as error:
            failed, in_succession = failed + 1, in_succession + 1
            click.echo(f"{number}/{rolls}: could not be made: {error}", err=True)
            if in_succession == FAILURES_MAX:
                click.echo(f"{FAILURES_MAX} rolls in succession could not be made: the others are left out", err=True)
                break
            continue
        in_succession = 0
        results.append(result)
        _print_progress(number, rolls, result, began)
        if out is not None:
            out.write_text("\n".join(summary(results)) + "\n")
        if result.holds and not keep:
            shutil.rmtree(directory, ignore_errors=True)
    return results, failed


@click.command()
@click.option("--former", type=click.Path(path_type=Path, exists=True), help=f"Where version {FORMER} is installed.")
@click.option("--keep", is_flag=True, help="Leave the clusters' directories.")
@click.option("--rolls", type=click.IntRange(1, 1000), default=1, show_default=True, help="Upgrades, each of a fresh cluster.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the table of several rolls.")
def main(former: Path | None, keep: bool, rolls: int, out: Path | None) -> None:
    """Upgrade three nodes of the released version while they trade."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the nodes are stopped
    place = Path(tempfile.mkdtemp(prefix="quorumbook-upgrade-"))
    results: list[Result] = []
    failed = 0
    try:
        modules = former or install_former(place / "former")
        if rolls == 1:
            results.append(_rolled(place / "cluster", modules))
            _print_result(results[0])
        else:
            results, failed = _roll_often(place, modules, rolls, keep=keep, out=out)
    except (LoadTestError, QuorumbookError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        failed += 1
    finally:
        signal.signal(signal.SIGTERM, before)
        if rolls > 1 and results:
            click.echo("\n".join(summary(results)))
        if keep:
            click.echo(f"the clusters are in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    sys.exit(2 if failed else 0 if all(result.holds for result in results) else 1)


if __name__ == "__main__":
    main()

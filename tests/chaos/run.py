"""Many kinds of faults against a real, loaded cluster, with a check of everything after each, and a table at the end.

    python -m tests.chaos.run [--minutes N] [--seed S] [--only fault,...] [--report docs/reliability.md]

In each round a new cluster gets every fault once, in random order. After each fault the nodes must catch up. Then the
clients' answers and the nodes' logs, hashes, money and feeds are judged. A fault that fails ends its round.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

import click
import msgspec
from rich.console import Console

from loadtest.errors import LoadTestError
from loadtest.recorder import percentile
from loadtest.rolling import install_former
from loadtest.scenario import Plan
from node.errors import QuorumbookError
from tests.chaos.errors import ChaosError, NotPossibleError
from tests.chaos.faults import Fault
from tests.chaos.kinds import FAULTS
from tests.chaos.network import Network, run_inside
from tests.chaos.stage import Stage, staged

GAP_SECONDS_MAX = 5.0
"""With a majority up, no client may wait longer for any answer."""

BETWEEN_ACKS = 200
"""Commands acknowledged before each fault."""

Say = Callable[[str], None]


class Strike(msgspec.Struct, kw_only=True):
    """The result of one fault. `gap`: the longest time without an answer, in seconds. `failure`: what did not hold, or ""."""

    fault: str
    nodes: list[str]
    gap: float = 0.0
    seconds: float = 0.0
    failure: str = ""
    skipped: bool = False


class ChaosPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run. `seconds`: the latest start of a fault. `rounds`: 0 for as many as fit."""

    seed: int = 1
    seconds: float = 300.0
    rounds: int = 0
    only: tuple[str, ...] = ()
    longest: float = 10.0
    """Seconds for which a fault lasts at most."""
    clients: int = 8
    chunk: int = 4
    rate: float = 800.0


class ChaosResult(msgspec.Struct, kw_only=True):
    """The strikes of a run, and the number of acknowledged commands."""

    strikes: list[Strike] = []
    acknowledged: int = 0
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether faults were injected and all were survived."""
        return any(not strike.skipped for strike in self.strikes) and not any(strike.failure for strike in self.strikes)


async def strike(stage: Stage, fault: Fault, longest: float) -> Strike:
    """Make one fault, end it, and check everything. A failure of the cluster is in the result and is not raised."""
    result = Strike(fault=fault.name, nodes=fault.nodes)
    begin = time.monotonic()
    try:
        await stage.traded(BETWEEN_ACKS)
        begin = time.monotonic()
        try:
            await fault.begin(stage)
            await asyncio.sleep(min(longest, stage.random.uniform(*fault.seconds)))
        finally:
            await fault.end(stage)
        await fault.repair(stage)
        await stage.all_vote()
        await stage.serving_since(time.monotonic())
        result.gap = stage.scenario.recorder.gap(begin, time.monotonic()).seconds
        verdict = await stage.check()
        failed = [f"{check.claim}: {check.detail}" for check in verdict.checks if not check.holds]
        if fault.quorum and result.gap > GAP_SECONDS_MAX:
            failed.append(f"no answer for {result.gap:.1f} s though a majority was up")
        result.failure = "; ".join(failed)
    except NotPossibleError as error:
        result.skipped, result.failure = True, ""
        result.nodes = [str(error)]
        return result
    except (ChaosError, LoadTestError, QuorumbookError, OSError) as error:
        result.failure = f"{type(error).__name__}: {error}"
    result.nodes = fault.nodes
    result.seconds = time.monotonic() - begin
    return result


class Chaos:
    """A run of rounds, each in its own directory under `home`. `kinds`: the faults by name."""

    def __init__(
        self,
        home: Path,
        plan: ChaosPlan,
        say: Say,
        network: Network | None = None,
        *,
        kinds: Mapping[str, type[Fault]] = FAULTS,
    ) -> None:
        self._kinds = kinds
        self._home = home
        self._network = network
        self._plan = plan
        self._say = say
        self._random = Random(f"chaos:{plan.seed}")
        self._impossible: set[str] = set()
        self.result = ChaosResult()

    async def run(self) -> ChaosResult:
        """Make all rounds. Raises `NodeStartError` if a new cluster does not start."""
        begin = time.monotonic()
        self._end = begin + self._plan.seconds
        number = 0
        while time.monotonic() < self._end and (not self._plan.rounds or number < self._plan.rounds):
            number += 1
            await self._round(number)
            if not self._chosen():
                break
        self.result.seconds = time.monotonic() - begin
        return self.result

    def _chosen(self) -> list[str]:
        return [name for name in self._plan.only or self._kinds if name not in self._impossible]

    async def _round(self, number: int) -> None:
        names = self._chosen()
        self._random.shuffle(names)
        usual = [name for name in names if not self._kinds[name].on_former]
        if usual:
            await self._stage(f"round{number}", number, usual, network=self._network)
        on_former = [name for name in names if self._kinds[name].on_former]
        if on_former and time.monotonic() < self._end:
            await self._former_round(number, on_former)

    async def _former_round(self, number: int, names: Sequence[str]) -> None:
        """Strike a cluster that begins as the released version; its nodes are on loopback."""
        modules = self._home / "former" / "installed"
        if not modules.exists():
            try:
                await asyncio.to_thread(install_former, self._home / "former")
            except LoadTestError as error:
                self._impossible.update(names)
                skipped = [Strike(fault=name, nodes=[str(error)], skipped=True) for name in names]
                self.result.strikes += skipped
                for each in skipped:
                    self._say(_line(each))
                return
        await self._stage(f"former{number}", number, names, former=modules)

    async def _stage(
        self, name: str, number: int, faults: Sequence[str], *, network: Network | None = None, former: Path | None = None
    ) -> None:
        plan = self._plan
        shape = Plan(seed=plan.seed + number, clients=plan.clients, chunk=plan.chunk, rate=plan.rate, run=f"chaos{number}")
        async with staged(self._home / name, shape, self._random, network=network, former=former) as stage:
            try:
                await self._strikes(stage, faults)
            finally:
                self.result.acknowledged += stage.scenario.recorder.distinct

    async def _strikes(self, stage: Stage, names: Sequence[str]) -> None:
        for name in names:
            if time.monotonic() > self._end:
                return
            done = await strike(stage, self._kinds[name](), self._plan.longest)
            self.result.strikes.append(done)
            self._say(_line(done))
            if done.skipped:
                self._impossible.add(name)
            elif done.failure:
                self._say(stage.log_ends())
                return


def _line(done: Strike) -> str:
    if done.skipped:
        return f"{done.fault}: skipped: {done.nodes[0]}"
    outcome = f"FAILS: {done.failure}" if done.failure else "survived"
    return f"{done.fault} on {', '.join(done.nodes)}: gap {done.gap * 1e3:.0f} ms, {done.seconds:.1f} s in all, {outcome}"


def table(result: ChaosResult) -> list[str]:
    """Return the table as lines of Markdown."""
    lines = ["| fault | times | survived | gap p50 | gap p99 | gap max |", "|---|---|---|---|---|---|"]
    for name in FAULTS:
        of_it = [each for each in result.strikes if each.fault == name]
        done = [each for each in of_it if not each.skipped]
        gaps = [each.gap for each in done if not each.failure]
        if done:
            figures = [
                f"{value * 1e3:,.0f} ms" if gaps else ""
                for value in (*(percentile(gaps, p) for p in (50, 99)), max(gaps, default=0))
            ]
            lines.append(f"| {name} | {len(done)} | {len(gaps)} | {' | '.join(figures)} |")
        elif of_it:
            lines.append(f"| {name} | skipped: {of_it[0].nodes[0]} | | | | |")
    return lines


def report(result: ChaosResult, plan: ChaosPlan) -> str:
    """Return a section for `docs/reliability.md`."""
    now = datetime.datetime.now(tz=datetime.UTC)
    failed = [f"- **FAILS**: {_line(each)}" for each in result.strikes if each.failure]
    lines = [
        f"## Chaos, {now:%Y-%m-%d %H:%M} UTC, seed {plan.seed}",
        "",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, three nodes, fsync on; {result.seconds:,.0f} s.",
        f"{result.acknowledged:,} commands acknowledged; after each fault all of them were looked for in the logs.",
        "",
        *table(result),
        "",
        *failed,
    ]
    return "\n".join(lines).rstrip() + "\n"


def _faults(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name for name in value.split(",") if name)
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise click.BadParameter(f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return names


@click.command()
@click.option("--minutes", default=5.0, show_default=True, help="After this time no further fault begins.")
@click.option("--seed", default=1, show_default=True, help="Of the choice, order and length of the faults.")
@click.option("--only", default="", callback=_faults, help="Names of faults, separated by commas; all unless given.")
@click.option("--report", "path", type=click.Path(dir_okay=False, path_type=Path), help="Append a section with the result here.")
@click.option("--inside", default="", hidden=True, help="The network that this process already is in.")
def main(minutes: float, seed: int, only: tuple[str, ...], path: Path | None, inside: str) -> None:
    """Inject faults into a loaded cluster. The exit code is 0 only if it survives all of them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    if not inside:
        try:
            sys.exit(run_inside(sys.argv[1:]))
        except NotPossibleError as error:
            console.print(f"nodes on loopback, no faults of the network: {error}", markup=False, soft_wrap=True)
    plan = ChaosPlan(seed=seed, seconds=minutes * 60, only=only)
    with tempfile.TemporaryDirectory(prefix="quorumbook-chaos-") as name:
        network = Network(inside) if inside else None
        chaos = Chaos(Path(name), plan, lambda text: console.print(text, markup=False, soft_wrap=True), network)
        try:
            result = asyncio.run(chaos.run())
        except (LoadTestError, QuorumbookError) as error:
            console.print(f"chaos: {error}", style="red", markup=False)
            sys.exit(1)
    console.print("\n".join(table(result)), markup=False, soft_wrap=True)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + report(result, plan))
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()

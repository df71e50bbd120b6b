"""A long run on a loaded cluster. Nodes are killed or stopped at random, one at a time, and started again. A verdict
follows at the end.

python -m loadtest.soak [--minutes N | --commands N] [--seed N] [--report docs/reliability.md]
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
from collections.abc import Callable
from pathlib import Path
from random import Random

import click
import msgspec
from rich.console import Console

from loadtest.errors import DeadlineError
from loadtest.ground import Ground, prepare
from loadtest.recorder import percentile
from loadtest.scenario import Plan, Scenario
from loadtest.verdict import Verdict

READY_SECONDS = 40.0
PAUSE_SECONDS = (0.5, 2.0)
"""Seconds between a node's return and the end of the next node."""

DOWN_SECONDS = (0.2, 2.0)
KILL_SHARE = 0.7
"""The share of kills among restarts; the others are stops in good order."""

SETTINGS = {"snapshot.every_commands": 400}
"""Frequent snapshots, so that nodes restart from them and fall behind the compacted log."""


class SoakPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run. It ends when `commands` are acknowledged and each node was restarted, or after `seconds`."""

    seed: int = 1
    commands: int = 100_000
    seconds: float = 90.0
    clients: int = 12
    chunk: int = 25
    rate: float = 2500.0


class SoakResult(msgspec.Struct, kw_only=True):
    """The result of a run. Times are in seconds."""

    acknowledged: int
    retried: int
    kills: dict[str, int]
    stops: dict[str, int]
    gaps: list[float]
    seconds: float
    verdict: Verdict


class Soak:
    """One run on a scenario whose market exists."""

    def __init__(self, plan: SoakPlan, scenario: Scenario, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._scenario = scenario
        self._say = say
        self._random = Random(f"soak:{plan.seed}")
        self._kills = dict.fromkeys(scenario.access.natives, 0)
        self._stops = dict.fromkeys(scenario.access.natives, 0)
        self._gaps: list[float] = []

    async def run(self) -> SoakResult:
        """Restart nodes while clients trade, then judge. Raises `DeadlineError` when a node does not come back."""
        scenario, begin = self._scenario, time.monotonic()
        leader = await scenario.watcher.wait_leader(READY_SECONDS)
        scenario.start_trading()
        scenario.start_readers(leader)
        while not self._finished(begin):
            await self._restart_one()
            scenario.check_tasks()
        await scenario.stop_trading()
        statuses = await scenario.settle()
        verdict = await scenario.judge(statuses)
        return SoakResult(
            acknowledged=scenario.recorder.distinct,
            retried=scenario.desk.retried,
            kills=self._kills,
            stops=self._stops,
            gaps=self._gaps,
            seconds=time.monotonic() - begin,
            verdict=verdict,
        )

    def _finished(self, begin: float) -> bool:
        """Return whether the time is over, or all commands are sent and each node was restarted."""
        if time.monotonic() - begin > self._plan.seconds:
            return True
        each_restarted = all(self._kills[name] + self._stops[name] for name in self._kills)
        return self._scenario.recorder.distinct >= self._plan.commands and each_restarted

    async def _restart_one(self) -> None:
        """Kill or stop a node, and start it again."""
        scenario = self._scenario
        await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        node_id = self._choose()
        if self._random.random() < KILL_SHARE:
            kill = await scenario.kill(node_id)
            self._kills[node_id] += 1
            await scenario.measure(kill)
            if kill.led:
                self._gaps.append(kill.gap)
            self._say(
                f"{node_id} killed{' as leader' if kill.led else ''}, gap {kill.gap * 1e3:.0f} ms, {scenario.recorder.distinct:,} acknowledged"
            )
        else:
            await asyncio.to_thread(scenario.cluster.stop, [node_id])
            self._stops[node_id] += 1
            self._say(f"{node_id} stopped, {scenario.recorder.distinct:,} acknowledged")
        await asyncio.sleep(self._random.uniform(*DOWN_SECONDS))
        await scenario.restart(node_id)
        await scenario.watcher.wait(
            lambda seen: all(status is not None and status.ready for status in seen.values()),
            f"return of {node_id}",
            READY_SECONDS,
        )

    def _choose(self) -> str:
        """Choose a random node. Nodes that were not restarted yet come first."""
        fresh = [name for name in self._kills if not self._kills[name] + self._stops[name]]
        return self._random.choice(fresh or sorted(self._kills))


async def soak(directory: Path, plan: SoakPlan, say: Callable[[str], None]) -> SoakResult:
    """Run on a new cluster in `directory`. Its nodes are stopped at the end in any case."""
    ground: Ground = prepare(directory, settings=SETTINGS)
    try:
        await ground.start()
        shape = Plan(seed=plan.seed, clients=plan.clients, chunk=plan.chunk, rate=plan.rate, run=f"soak{plan.seed}")
        async with Scenario(ground.cluster, directory, shape) as scenario:
            await scenario.put_market()
            return await Soak(plan, scenario, say).run()
    finally:
        await asyncio.to_thread(_end, ground)


def _end(ground: Ground) -> None:
    ground.stop()
    for node_id in ground.cluster.running():
        ground.cluster.kill(node_id, signal.SIGKILL)


def report(result: SoakResult, plan: SoakPlan) -> str:
    """Return a section for `docs/reliability.md`."""
    now = datetime.datetime.now(tz=datetime.UTC)
    gaps = result.gaps or [0.0]
    lines = [
        f"## {now:%Y-%m-%d %H:%M} UTC, seed {plan.seed}",
        "",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, three nodes, fsync on; {result.seconds:,.0f} s.",
        "",
        f"- {result.acknowledged:,} commands acknowledged, {result.retried:,} sent again after no answer came in time",
        f"- kills (SIGKILL): {_counts(result.kills)}; stops in good order: {_counts(result.stops)}",
        f"- gap in acknowledgements around the kill of a leader: p50 {percentile(gaps, 50) * 1e3:.0f} ms, max {max(gaps) * 1e3:.0f} ms",
        "",
        *(f"- {'holds' if check.holds else '**FAILS**'}: {check.claim} ({check.detail})" for check in result.verdict.checks),
        "",
    ]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="How long to trade.")
@click.option("--commands", default=0, help="End as soon as so many are acknowledged and each node was restarted.")
@click.option("--seed", default=1, show_default=True)
@click.option("--rate", default=2000.0, show_default=True, help="Commands a second over all clients.")
@click.option("--report", "path", type=click.Path(dir_okay=False, path_type=Path), help="Append a section with the result here.")
def main(minutes: float, commands: int, seed: int, rate: float, path: Path | None) -> None:
    """Kill and stop nodes of a loaded cluster at random; exit code 0 only if the verdict holds."""
    console = Console(highlight=False)
    plan = SoakPlan(seed=seed, commands=commands or sys.maxsize, seconds=minutes * 60, rate=rate)
    with tempfile.TemporaryDirectory(prefix="quorumbook-soak-") as name:
        try:
            result = asyncio.run(
                soak(Path(name) / "cluster", plan, lambda text: console.print(text, markup=False, soft_wrap=True))
            )
        except DeadlineError as error:
            console.print(f"soak: {error}", style="red", markup=False)
            sys.exit(1)
    result.verdict.print(console)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + report(result, plan))
    sys.exit(0 if result.verdict.holds else 1)


if __name__ == "__main__":
    main()

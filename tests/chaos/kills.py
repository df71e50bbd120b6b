"""Very many kills of the leader, one after the other. Each happens under load, and the node comes back after it. All of it is
measured and judged.

    python -m tests.chaos.kills [--kills N] [--seed S] [--report docs/reliability.md]

A kill is SIGKILL of every process of the leader. It is over when the node is back, has caught up and votes. After every
`JUDGED_EVERY` kills the clients pause, and everything that was ever acknowledged is looked for in the nodes' logs. After
every `KILLS_A_CLUSTER` kills a new cluster begins, which bounds the logs. The nodes run without gateways: the clients use
the native protocol.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import platform
import shutil
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

from loadtest.errors import DeadlineError, LoadTestError
from loadtest.scenario import Plan
from loadtest.watch import reached
from node.errors import QuorumbookError
from tests.chaos.errors import ChaosError, UnsafeError
from tests.chaos.phases import PHASES, Turn, figures, phases, turns, waits
from tests.chaos.stage import SETTINGS, Stage, staged

KILLS_A_CLUSTER = 100
JUDGED_EVERY = 25
SNAPSHOT_COMMANDS = 4000
"""Commands between two snapshots of a node: about ten seconds, so that some nodes come back from one. The 400 of the
chaos run keep three writers running all the time, which on two cores delays the election that is measured.
"""
BETWEEN_ACKS = 30
"""Commands acknowledged before each kill, and after it before its node is started again."""

FAILOVER_SECONDS = 20.0
SLOWEST = 10
"""The number of slowest kills whose phases the report shows."""

Say = Callable[[str], None]


class LeaderKill(msgspec.Struct, kw_only=True):
    """One kill. `at`, and `pause`, when the clients pause next for a check, are in monotonic seconds. The other values
    are durations in seconds. `gap`: the time in which no client got an answer. `wait`: the longest time in which one
    client got none. `back`: from the kill until the node votes again.
    """

    node_id: str
    at: float
    pause: float = float("inf")
    gap: float = 0.0
    wait: float = 0.0
    back: float = 0.0
    parts: dict[str, float] = {}


class KillsPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run. `rate`: commands a second of all clients together."""

    kills: int = 1000
    seed: int = 1
    a_cluster: int = KILLS_A_CLUSTER
    judged_every: int = JUDGED_EVERY
    clients: int = 8
    chunk: int = 2
    rate: float = 400.0


class KillsResult(msgspec.Struct, kw_only=True):
    """The kills of a run. `failure`: what did not hold, or ""."""

    kills: list[LeaderKill] = []
    acknowledged: int = 0
    judged: int = 0
    seconds: float = 0.0
    failure: str = ""


class Kills:
    """A run on clusters in directories under `home`."""

    def __init__(self, home: Path, plan: KillsPlan, say: Say) -> None:
        self._home = home
        self._plan = plan
        self._say = say
        self._random = Random(f"kills:{plan.seed}")
        self.result = KillsResult()

    async def run(self) -> KillsResult:
        """Kill until all kills are made or something fails. Raises `NodeStartError` if a new cluster does not start."""
        begin = time.monotonic()
        number = 0
        while len(self.result.kills) < self._plan.kills and not self.result.failure:
            number += 1
            await self._cluster(number)
        self.result.seconds = time.monotonic() - begin
        return self.result

    async def _cluster(self, number: int) -> None:
        plan, done = self._plan, len(self.result.kills)
        count = min(plan.a_cluster, plan.kills - done)
        shape = Plan(seed=plan.seed + number, clients=plan.clients, chunk=plan.chunk, rate=plan.rate, run=f"kills{number}")
        directory = self._home / f"cluster{number}"
        settings = {**SETTINGS, "snapshot.every_commands": SNAPSHOT_COMMANDS, "http.gateways": 0}
        async with staged(directory, shape, self._random, settings=settings) as stage:
            try:
                await self._series(stage, count)
            except (ChaosError, LoadTestError, QuorumbookError, OSError) as error:
                self.result.failure = f"kill {len(self.result.kills)}: {type(error).__name__}: {error}"
                self._say(f"{self.result.failure}\n{stage.log_ends()}")
            self.result.acknowledged += stage.scenario.recorder.distinct
            stage.scenario.recorder.flush()
        kills = self.result.kills[done:]
        windows = [(kill.at, kill.at + kill.back, kill.pause) for kill in kills]
        for kill, wait in zip(kills, waits(stage.scenario.acks_path, windows), strict=True):
            kill.wait = wait
        if not self.result.failure:
            shutil.rmtree(directory)
            self._say(f"{len(self.result.kills)} kills, {self.result.acknowledged:,} commands acknowledged; {summary(kills)}")

    async def _series(self, stage: Stage, count: int) -> None:
        for number in range(1, count + 1):
            self.result.kills.append(await kill_leader(stage))
            if number % self._plan.judged_every == 0 or number == count:
                self.result.kills[-1].pause = time.monotonic()
                verdict = await stage.check()
                failed = [f"{check.claim}: {check.detail}" for check in verdict.checks if not check.holds]
                if failed:
                    raise UnsafeError("; ".join(failed))
                self.result.judged += 1


async def kill_leader(stage: Stage) -> LeaderKill:
    """Kill the leader under load, wait until the others serve, start it again, and wait until it votes.

    Raises:
        DeadlineError: nobody serves, or the node does not come back.
    """
    await stage.traded(BETWEEN_ACKS)
    recorder = stage.scenario.recorder
    leader = await stage.leader()
    others = {
        name: log.stat().st_size
        for name in stage.cluster.node_ids
        if name != leader and (log := stage.scenario.access.layout.log_file(name)).exists()
    }
    kill = LeaderKill(node_id=leader, at=time.monotonic())
    epoch = time.time() - kill.at
    await stage.kill(leader)
    dead = time.monotonic()
    if not await reached(lambda: recorder.since(dead) >= BETWEEN_ACKS, FAILOVER_SECONDS):
        raise DeadlineError(f"no answers within {FAILOVER_SECONDS:g} s of the kill of {leader}")
    stage.scenario.check_tasks()
    failover = recorder.gap(kill.at, time.monotonic())
    await stage.start(leader)
    await stage.all_vote()
    kill.back = time.monotonic() - kill.at
    kill.gap = recorder.gap(kill.at, kill.at + kill.back).seconds
    kill.parts = phases(epoch + kill.at, _turns(stage, others), epoch + failover.end)
    return kill


def _turns(stage: Stage, sizes: dict[str, int]) -> list[Turn]:
    """Return the changes of role that nodes logged after these sizes of their log files."""
    found: list[Turn] = []
    for node_id, size in sizes.items():
        text = stage.scenario.access.layout.log_file(node_id).read_bytes()[size:].decode("utf-8", "replace")
        found += turns(text)
    return found


def summary(kills: list[LeaderKill]) -> str:
    """Return one line about the kills."""
    gaps = figures([kill.gap for kill in kills]).replace(" | ", ", ")
    return f"gap p50, p99, max: {gaps}; {sum(kill.back for kill in kills) / max(1, len(kills)):.2f} s until the node votes again"


def table(result: KillsResult) -> list[str]:
    """Return the figures as Markdown."""
    kills = result.kills
    rows = [
        ("gap: no answer to anybody", [kill.gap for kill in kills]),
        *((f"- {name}", [kill.parts[name] for kill in kills if name in kill.parts]) for name in PHASES),
        ("longest wait of one client", [kill.wait for kill in kills]),
        ("until the killed node votes again", [kill.back for kill in kills]),
    ]
    lines = ["| | p50 | p99 | max |", "|---|---:|---:|---:|", *(f"| {name} | {figures(values)} |" for name, values in rows)]
    slowest = sorted(kills, key=lambda kill: kill.gap)[-min(SLOWEST, len(kills)) :]
    lines += [
        "",
        f"The {len(slowest)} longest gaps, in ms, and their parts:",
        "",
        f"| gap | {' | '.join(PHASES)} |",
        "|---:" * 5 + "|",
    ]
    for kill in reversed(slowest):
        parts = " | ".join(f"{kill.parts[name] * 1e3:,.0f}" if name in kill.parts else "" for name in PHASES)
        lines.append(f"| {kill.gap * 1e3:,.0f} | {parts} |")
    return lines


def report(result: KillsResult, plan: KillsPlan) -> str:
    """Return a section for `docs/reliability.md`."""
    now = datetime.datetime.now(tz=datetime.UTC)
    failed = [f"- **FAILS**: {result.failure}"] if result.failure else []
    judged = "something is wrong" if result.failure else "none lost, none doubled"
    lines = [
        f"## {len(result.kills):,} kills of the leader, {now:%Y-%m-%d %H:%M} UTC, seed {plan.seed}",
        "",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, three nodes, fsync on; {result.seconds:,.0f} s.",
        f"Each node takes a snapshot every {SNAPSHOT_COMMANDS:,} commands.",
        f"{result.acknowledged:,} commands acknowledged to {plan.clients} clients at {plan.rate:g} a second.",
        f"All of them were looked for in the logs, {result.judged} times in all: {judged}.",
        "",
        *table(result),
        "",
        *failed,
    ]
    return "\n".join(lines).rstrip() + "\n"


@click.command()
@click.option("--kills", default=1000, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the clients' orders.")
@click.option("--report", "path", type=click.Path(dir_okay=False, path_type=Path), help="Append a section with the result here.")
def main(kills: int, seed: int, path: Path | None) -> None:
    """Kill the leader of a loaded cluster repeatedly. The exit code is 0 only if nothing was lost or applied twice."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    plan = KillsPlan(kills=kills, seed=seed)
    home = Path(tempfile.mkdtemp(prefix="quorumbook-kills-"))
    run = Kills(home, plan, lambda text: console.print(text, markup=False, soft_wrap=True))
    try:
        result = asyncio.run(run.run())
    except (LoadTestError, QuorumbookError) as error:
        console.print(f"kills: {error}", style="red", markup=False)
        sys.exit(1)
    console.print("\n".join(table(result)), markup=False, soft_wrap=True)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + report(result, plan))
    if result.failure:
        console.print(f"the cluster is left for inspection in {home}", markup=False, soft_wrap=True)
        sys.exit(1)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()

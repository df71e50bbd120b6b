"""`python -m tests.attack.run`: every attack in turn against a live cluster, and a table at the end. Exit code 1 if an
attack did harm.

All attacks run on one cluster, one at a time. After an attack that did harm, the next one begins on a new cluster.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from loadtest.access import ClusterAccess
from loadtest.ground import Ground, prepare
from loadtest.market import set_up
from tests.attack import processes
from tests.attack.honest import HonestTrader
from tests.attack.registry import Attack, load_attacks
from tests.attack.target import ATTACKERS, HONEST
from tests.attack.verdict import MEGABYTE, Verdict, judge

SECONDS = 15.0
READY_SECONDS = 60.0
RAMP_SECONDS = 1.0
"""Seconds for the attacker's start, which belongs to neither window."""

END_SECONDS = 10.0

SOFT_DESCRIPTORS = 1_024


class Arena:
    """A cluster with a market, an honest trader, and an attacker's accounts."""

    def __init__(self, directory: Path) -> None:
        self.ground: Ground = prepare(directory)
        self.access = ClusterAccess(directory)

    async def open(self) -> None:
        """Start the nodes and put the market."""
        await self.ground.start(READY_SECONDS)
        operator = self.access.client()
        try:
            await set_up(operator, [*HONEST, *ATTACKERS])
        finally:
            await operator.close()

    def close(self) -> None:
        """Stop every node, and kill those that do not stop."""
        try:
            self.ground.stop()
        finally:
            for node_id in self.ground.cluster.running():
                self.ground.cluster.kill(node_id, signal.SIGKILL)

    async def term(self) -> int:
        """Return the highest term of any node."""
        statuses = await self.ground.cluster.status()
        return max(status.term for status in statuses.values() if status is not None)

    def watched(self) -> dict[int, str]:
        """Return the engines and gateways by pid."""
        pids = [self.ground.cluster.pid(node_id) for node_id in self.ground.cluster.node_ids]
        return processes.of_nodes(pid for pid in pids if pid is not None)

    async def strike(self, attack: Attack, seconds: float) -> Verdict:
        """Measure a control window and a window under attack, and judge."""
        await self.ground.cluster.wait_ready(READY_SECONDS)
        if attack.prepare is not None:
            preparing = await self._attacker(attack.name, "--prepare")
            async with asyncio.timeout(attack.prepare_seconds):
                await preparing.wait()
        trader = HonestTrader(self.access)
        await trader.trade(RAMP_SECONDS)
        control = await trader.trade(seconds)
        watched = self.watched()
        before, term = processes.begin_peak(watched), await self.term()
        attacker = await self._attacker(attack.name)
        try:
            await asyncio.sleep(RAMP_SECONDS)
            attacked = await trader.trade(seconds)
        finally:
            output = await _end(attacker)
        peaks = processes.peaks(watched)
        await self.ground.cluster.wait_ready(READY_SECONDS)
        return judge(
            attack.name,
            control,
            attacked,
            elections=await self.term() - term,
            growth={what: max(0, peaks[pid] - before[pid]) for pid, what in watched.items() if peaks[pid]},
            gone=[what for pid, what in watched.items() if not peaks[pid]],
            growth_max=attack.growth_max,
            output=output,
        )

    async def _attacker(self, name: str, *more: str) -> asyncio.subprocess.Process:
        words = ("-m", "tests.attack.attacker", name, str(self.access.directory), *more)
        return await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)


async def _end(attacker: asyncio.subprocess.Process) -> list[str]:
    """End the attacker, and return its output. An attacker that ended early with an error did not attack."""
    ended_early = attacker.returncode
    if ended_early is None:
        attacker.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(END_SECONDS):
            output, _ = await attacker.communicate()
    except TimeoutError:
        attacker.kill()
        output, _ = await attacker.communicate()
    if ended_early:
        raise RuntimeError(f"the attacker ended with {ended_early}")
    return output.decode(errors="replace").splitlines()


async def strike_all(chosen: list[Attack], seconds: float, home: Path, console: Console) -> list[Verdict]:
    """Make every attack in turn."""
    verdicts: list[Verdict] = []
    arena: Arena | None = None
    try:
        for number, attack in enumerate(chosen):
            if arena is None:
                arena = Arena(home / f"cluster{number}")
                await arena.open()
            console.print(f"[bold]{attack.name}[/bold]: {attack.what}")
            begun = time.monotonic()
            verdict = await arena.strike(attack, seconds)
            verdicts.append(verdict)
            for line in [*verdict.output, *verdict.faults]:
                console.print(f"   {line}", highlight=False)
            console.print(f"   {'holds' if verdict.holds else 'HARM'}, {time.monotonic() - begun:.0f} s", highlight=False)
            if not verdict.holds:
                arena.close()
                arena = None
    finally:
        if arena is not None:
            arena.close()
    return verdicts


def table(verdicts: list[Verdict]) -> Table:
    """Return a table of all verdicts."""
    found = Table("attack", "control p50/p99 ms", "attacked p50/p99 ms", "elections", "growth MB", "verdict")
    for each in verdicts:
        found.add_row(
            each.name,
            f"{each.control.p50 * 1000:.0f} / {each.control.p99 * 1000:.0f}",
            f"{each.attacked.p50 * 1000:.0f} / {each.attacked.p99 * 1000:.0f}",
            str(each.elections),
            f"{max(each.growth.values(), default=0) / MEGABYTE:.0f}",
            "holds" if each.holds else "; ".join(each.faults),
        )
    return found


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="This attack only; may be given several times.")
@click.option("--seconds", default=SECONDS, show_default=True, help="Length of each window.")
@click.option("--list", "listed", is_flag=True, help="Name the attacks.")
def main(only: tuple[str, ...], seconds: float, listed: bool) -> None:
    """Attack a live cluster, and judge the effect on an honest trader."""
    known = load_attacks()
    if unknown := sorted(set(only) - set(known)):
        raise click.BadParameter(f"{', '.join(unknown)}; known are {', '.join(known)}", param_hint="--only")
    _as_in_a_shell()
    console = Console()
    if listed:
        for each in known.values():
            console.print(f"{each.name}: {each.what}", highlight=False)
        return
    chosen = [known[name] for name in only] or list(known.values())
    with tempfile.TemporaryDirectory(prefix="quorumbook-attack-") as home:
        verdicts = asyncio.run(strike_all(chosen, seconds, Path(home), console))
    console.print(table(verdicts))
    sys.exit(0 if all(verdict.holds for verdict in verdicts) else 1)


def _as_in_a_shell() -> None:
    """Set the soft limit of descriptors that a shell usually has, so that nodes begin with it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_DESCRIPTORS, hard))


if __name__ == "__main__":
    main()

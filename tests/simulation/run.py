"""`python -m tests.simulation.run [--seed S] [--runs N] [--nodes 3|5] [--exchange] [--members] [--levels] [--lose-disks]
[--jobs J]`: many seeds, or one again.

A seed that fails is printed with the one command that replays it, and with a shorter list of faults under which it
still fails; with `--trace` every fault and election is printed as well.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.simulation.exchange import ExchangeFaults, ExchangeWorld
from tests.simulation.exchange_membership import ExchangeMembershipWorld
from tests.simulation.incidents import Incident, parse, shrink
from tests.simulation.levels import LevelWorld
from tests.simulation.membership import MembershipWorld
from tests.simulation.world import Faults, ViolationError, World

CHUNK = 8
"""Seeds that a process takes at a time."""

STEPS = 2000
"""The number of steps, of 5 ms each, in which there are faults."""

SHRINK_RUNS = 60
"""How often a failed seed is run again to find fewer faults with which it fails."""


@dataclass(frozen=True)
class Setting:
    """The parameters of runs. `exchange`: the whole exchange, and not a toy machine; `members`: nodes are added and
    removed; `levels`: nodes begin with version 0.2.0, and the level changes; `faults`: the only ones that happen, as in
    `incidents`; `steps`: the length of the time with faults; `everything`: clients send all kinds of orders, and
    operators set controls and fees.
    """

    nodes: int = 3
    lose_disks: bool = False
    exchange: bool = False
    trace: bool = False
    faults: str | None = None
    members: bool = False
    levels: bool = False
    steps: int = STEPS
    everything: bool = False

    def command(self, seed: int, runs: int = 1) -> str:
        """Return the command that runs a seed with these parameters."""
        named = (
            ("EXCHANGE", self.exchange),
            ("MEMBERS", self.members),
            ("LEVELS", self.levels),
            ("DISKS", self.lose_disks),
            ("EVERYTHING", self.everything),
        )
        flags = "".join(f" {name}=1" for name, on in named if on) + (f" STEPS={self.steps}" if self.steps != STEPS else "")
        only = f" FAULTS='{self.faults}'" if self.faults is not None else ""
        return f"make simulate SEED={seed} RUNS={runs} NODES={self.nodes}{flags}{only}"


@dataclass(frozen=True)
class Outcome:
    """The result of one seed. `violation` is empty if every guarantee was kept; `events` as in `World.events`."""

    seed: int
    acknowledged: int
    events: int
    recovered_in: float
    violation: str = ""
    faults: tuple[Incident, ...] = ()


def world_of(seed: int, setting: Setting) -> World:
    """Return the world of a seed. A lost disk loses what it acknowledged, so no earlier message may count for it later.
    Therefore such worlds have no late copies.
    """
    incidents = parse(setting.faults) if setting.faults is not None else None
    if setting.levels:
        chances = ExchangeFaults(lose_disk=0.001) if setting.lose_disks else ExchangeFaults()
        return LevelWorld(seed, setting.nodes, faults=chances, incidents=incidents)
    if setting.exchange:
        chances = ExchangeFaults(lose_disk=0.001, flip=0.003, copies=0.0) if setting.lose_disks else ExchangeFaults()
        exchange = ExchangeMembershipWorld if setting.members else ExchangeWorld
        world = exchange(seed, setting.nodes, faults=chances, trace=setting.trace, incidents=incidents)
        for client in world.clients:
            client.everything = setting.everything
        return world
    # A node without a vote beside one whose clock is far behind leaves no majority that takes entries; so does a
    # membership of two.
    clock = 0.0 if setting.members else 0.002
    faults = Faults(lose_disk=0.002, harm_log=0.001, copies=0.0) if setting.lose_disks else Faults(clock=clock)
    kind = MembershipWorld if setting.members else World
    return kind(seed, setting.nodes, faults=faults, trace=setting.trace, incidents=incidents)


def run_seed(seed: int, nodes: int, *, lose_disks: bool = False) -> World:
    """Run one seed from beginning to end. Raises ViolationError."""
    world = world_of(seed, Setting(nodes, lose_disks))
    world.run()
    return world


def outcome_of(seed: int, setting: Setting) -> Outcome:
    """Run one seed, also in a separate process."""
    logging.disable(logging.CRITICAL)
    world = world_of(seed, setting)
    violation = ""
    try:
        world.run(setting.steps)
    except ViolationError as error:
        violation = str(error)
    for line in world.trace or ():
        print(line)
    return Outcome(seed, len(world.acknowledged), world.events, world.recovered_in, violation, tuple(world.script.happened))


def outcomes(seeds: range, setting: Setting, jobs: int) -> Iterator[Outcome]:
    """Yield the results of all seeds in order, from `jobs` processes, or from this one if `jobs` is 1."""
    run = partial(outcome_of, setting=setting)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, seeds, chunksize=CHUNK)


def shrunk(failed: Outcome, setting: Setting) -> list[Incident]:
    """Return fewer faults with which the seed still fails."""
    quiet = replace(setting, trace=False)

    def fails(part: list[Incident]) -> bool:
        return bool(outcome_of(failed.seed, replace(quiet, faults="; ".join(map(str, part)))).violation)

    return shrink(failed.faults, fails, runs_max=SHRINK_RUNS)


def report_violation(failed: Outcome, setting: Setting) -> None:
    """Print what was violated, and how to reproduce it."""
    print(f"violation: {failed.violation}\nreplay: {setting.command(failed.seed)} TRACE=1", flush=True)
    few = shrunk(failed, setting)
    shorter = replace(setting, faults="; ".join(map(str, few)))
    print(f"of {len(failed.faults)} faults these {len(few)} are enough: {shorter.command(failed.seed)}", flush=True)


def summary(found: Sequence[Outcome], seconds: float) -> str:
    """Return the totals in one line."""
    failed = sum(bool(one.violation) for one in found)
    kept = [one for one in found if not one.violation]
    fewest = min((one.events for one in kept), default=0)
    slowest = max((one.recovered_in for one in kept), default=0.0)
    return (
        f"{len(found):,} seeds, {failed} violations; {sum(one.events for one in kept):,} events, at least {fewest:,} a seed; "
        f"{sum(one.acknowledged for one in kept):,} acknowledged commands; recovered in at most {slowest:.2f} virtual seconds; "
        f"{seconds:.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds from there")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help="how long there are faults, in steps of 5 ms")
    parser.add_argument("--exchange", action="store_true", help="the whole exchange with clients, not consensus alone")
    parser.add_argument("--everything", action="store_true", help="with --exchange: all kinds of orders, controls and fees")
    parser.add_argument("--members", action="store_true", help="nodes are added, removed and replaced")
    parser.add_argument("--levels", action="store_true", help="two versions: nodes are upgraded and go back, the level changes")
    parser.add_argument("--lose-disks", action="store_true", help="nodes lose their disks and rejoin; bits of snapshots flip")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; as many as there are processors")
    parser.add_argument("--trace", action="store_true", help="print what happened; in one process")
    parser.add_argument("--faults", help="the only faults that may happen: '412 kill n1; 430 start n1'")
    parser.add_argument("--report", type=Path, help="append the totals to this file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds and print the totals; exit code 1 if any failed."""
    options = _parser().parse_args(arguments)
    setting = Setting(
        options.nodes,
        options.lose_disks,
        options.exchange,
        options.trace,
        options.faults,
        options.members,
        options.levels,
        options.steps,
        options.everything,
    )
    jobs = 1 if options.trace or options.runs == 1 else options.jobs
    found: list[Outcome] = []
    began = time.monotonic()
    for one in outcomes(range(options.seed, options.seed + options.runs), setting, jobs):
        found.append(one)
        if one.violation:
            report_violation(one, setting)
    line = summary(found, time.monotonic() - began)
    print(line)
    if options.report is not None:
        with options.report.open("a", encoding="utf-8") as file:
            command = setting.command(options.seed, options.runs)
            file.write(f"- {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, `{command}`: {line}\n")
    return int(any(one.violation for one in found))


if __name__ == "__main__":
    sys.exit(main())

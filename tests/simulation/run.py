"""`python -m tests.simulation.run [--seed S] [--runs N] [--nodes 3|5] [--lose-disks] [--jobs J]`: many seeds, or one again.

A seed that fails is printed with the one command that replays it; with `--trace` every fault and election is printed as well.
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.simulation.world import Faults, ViolationError, World

CHUNK = 8
"""Seeds that a process takes at a time."""


@dataclass(frozen=True)
class Outcome:
    """What became of one seed. `violation` is empty when every promise was kept; `events` as in `World.events`."""

    seed: int
    acknowledged: int
    events: int
    recovered_in: float
    violation: str = ""


def faults_of(*, lose_disks: bool) -> Faults:
    """The faults of a run. A disk is lost together with what it acknowledged, so nothing may speak for it later: no late copies then."""
    return Faults(lose_disk=0.002, copies=0.0) if lose_disks else Faults()


def run_seed(seed: int, nodes: int, *, lose_disks: bool = False, trace: bool = False) -> World:
    """One seed from beginning to end. Raises ViolationError."""
    world = World(seed, nodes, faults=faults_of(lose_disks=lose_disks), trace=trace)
    try:
        world.run()
    finally:
        for line in world.trace or ():
            print(line)
    return world


def outcome_of(seed: int, nodes: int, *, lose_disks: bool, trace: bool) -> Outcome:
    """One seed, for a process of its own as well."""
    logging.disable(logging.CRITICAL)
    try:
        world = run_seed(seed, nodes, lose_disks=lose_disks, trace=trace)
    except ViolationError as error:
        return Outcome(seed, 0, 0, 0.0, str(error))
    return Outcome(seed, len(world.acknowledged), world.events, world.recovered_in)


def outcomes(seeds: range, nodes: int, *, lose_disks: bool, trace: bool, jobs: int) -> Iterator[Outcome]:
    """All seeds in order, in `jobs` processes; in this one if `jobs` is 1."""
    run = partial(outcome_of, nodes=nodes, lose_disks=lose_disks, trace=trace)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, seeds, chunksize=CHUNK)


def summary(found: Sequence[Outcome], seconds: float) -> str:
    """The totals in a line."""
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
    parser.add_argument("--lose-disks", action="store_true", help="nodes lose their disks and rejoin")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; as many as there are processors")
    parser.add_argument("--trace", action="store_true", help="print what happened; in one process")
    parser.add_argument("--report", type=Path, help="append the totals to this file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds and print the totals; exit code 1 if any failed."""
    options = _parser().parse_args(arguments)
    disks = " DISKS=1" if options.lose_disks else ""
    jobs = 1 if options.trace or options.runs == 1 else options.jobs
    seeds = range(options.seed, options.seed + options.runs)
    found: list[Outcome] = []
    began = time.monotonic()
    for one in outcomes(seeds, options.nodes, lose_disks=options.lose_disks, trace=options.trace, jobs=jobs):
        found.append(one)
        if one.violation:
            replay = f"make simulate SEED={one.seed} RUNS=1 NODES={options.nodes}{disks} TRACE=1"
            print(f"violation: {one.violation}\nreplay: {replay}", flush=True)
    line = summary(found, time.monotonic() - began)
    print(line)
    if options.report is not None:
        command = f"make simulate SEED={options.seed} RUNS={options.runs} NODES={options.nodes}{disks}"
        with options.report.open("a", encoding="utf-8") as file:
            file.write(f"- {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, `{command}`: {line}\n")
    return int(any(one.violation for one in found))


if __name__ == "__main__":
    sys.exit(main())

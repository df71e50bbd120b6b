"""`python -m tests.simulation.run [--seed S] [--runs N] [--nodes 3|5] [--lose-disks] [--trace]`: many seeds, or one again.

A seed that fails is printed with the one command that replays it; with `--trace` every fault and election is printed as well.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

from tests.simulation.world import Faults, ViolationError, World


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 at the first seed that fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds from there")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--lose-disks", action="store_true", help="nodes lose their disks and rejoin")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    acknowledged = 0
    for seed in range(options.seed, options.seed + options.runs):
        try:
            world = run_seed(seed, options.nodes, lose_disks=options.lose_disks, trace=options.trace)
        except ViolationError as error:
            more = " DISKS=1" if options.lose_disks else ""
            print(f"violation: {error}\nreplay: make simulate SEED={seed} RUNS=1 NODES={options.nodes}{more} TRACE=1")
            return 1
        acknowledged += len(world.acknowledged)
    print(
        f"{options.runs} seeds from {options.seed}, {options.nodes} nodes: {acknowledged} acknowledged commands, no violation, "
        f"{time.monotonic() - began:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The cost of levels while nothing changes: the part of an engine's CPU time that is spent on looking for entries about
the level.

    python -m tests.benchmarks.level_cost [--turns N] [--entries N]

For each log entry a leader asks twice at which level the log ends, the log asks which level the entry sets, Raft asks
whether it may be applied, and the state machine looks at its first byte, for a conversion and for a prepared state. The
script times these steps alone, and the whole entry: encoded, appended in memory, applied and published. Both are CPU
time, in turns, and the smallest turn counts, because other work on the machine can only make a turn longer.

The second table is about a node of this software at level 0.2.0, which applies each entry with the frozen core of
0.2.0: the CPU time of the frozen core alone, and that of the node.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import islice

import click

from node.engine.entries import Entries
from node.engine.feed import Feed
from node.engine.replicated_engine import ReplicatedEngine
from snapshots.levels.level import ENTRY_MARK, V0_2_0, abi_behind
from snapshots.levels.states import empty, encoded
from statemachine import CORE
from statemachine.commands import AnyCommand, Batch, encode_batch
from tests.benchmarks.snapshots import Market

from snapshots.levels.released.core_0_2_0 import commands as core_commands  # type: ignore[import-not-found]  # isort: skip  # in the archive
from snapshots.levels.released.core_0_2_0 import engine as core_engine  # isort: skip

ORDERS = 2_000
"""Resting orders."""


class Node:
    """The state machine of a node at this software's level, and the parts that make and apply an entry."""

    def __init__(self) -> None:
        self.market = Market(ORDERS)
        self.flow = self.market.trading()
        self.machine = ReplicatedEngine(Feed(1_000), empty())
        self.machine.beside = lambda work: work()
        self.entries = Entries(lambda: self.machine.level.abi)
        self.index = 0
        self.apply(self.market.foundations())
        for _ in range(ORDERS // len(self.market.accounts)):
            self.apply([self.market.place(account) for account in self.market.accounts])

    def apply(self, commands: list[AnyCommand]) -> None:
        """Make and apply an entry, with the checks that levels add."""
        self.index += 1
        self.entries.check(commands)
        payload = self.entries.encode(self.index, commands)
        abi_behind(payload)
        if self.machine.may_apply(payload):
            self.machine.apply(self.index, payload)

    def look(self, commands: list[AnyCommand], payload: bytes) -> None:
        """Do only what the levels add."""
        machine = self.machine
        self.entries.check(commands)
        assert machine.level.abi
        abi_behind(payload)
        machine.may_apply(payload)
        assert payload[:1] != ENTRY_MARK
        assert machine.shadow is None


class FormerNode:
    """The state machine of a node at level 0.2.0, and the frozen core on its own, which apply the same entries."""

    def __init__(self) -> None:
        self.machine = ReplicatedEngine(Feed(1_000), empty(V0_2_0))
        self.core = core_engine.Engine()
        self.market = Market(ORDERS)
        self.flow = self.market.trading()
        self.both(encoded(V0_2_0.abi, 1, self.market.foundations()))
        for _ in range(ORDERS // len(self.market.accounts)):
            self.both(encoded(V0_2_0.abi, 1, [self.market.place(account) for account in self.market.accounts]))

    def both(self, payload: bytes) -> None:
        """Apply an entry to both."""
        self.machine.apply(1, payload)
        self.core.apply(core_commands.decode_batch(payload))

    def measure(self, size: int, entries: int, turns: int) -> tuple[float, float]:
        """Return microseconds of CPU for each entry of `size` commands: of the frozen core, and of the node."""
        core, node = [], []
        for _ in range(turns):
            payloads = [encoded(V0_2_0.abi, 1, list(islice(self.flow, size))) for _ in range(entries)]
            begun = time.thread_time()
            for payload in payloads:
                self.core.apply(core_commands.decode_batch(payload))
            between = time.thread_time()
            for payload in payloads:
                self.machine.apply(1, payload)
            core.append(between - begun)
            node.append(time.thread_time() - between)
        return min(core) / entries * 1e6, min(node) / entries * 1e6


def smallest(turns: int, work: Callable[[], object]) -> float:
    """Return the CPU seconds of the smallest turn."""
    found = []
    for _ in range(turns):
        begun = time.thread_time()
        work()
        found.append(time.thread_time() - begun)
    return min(found)


def measure(node: Node, size: int, entries: int, turns: int) -> tuple[float, float]:
    """Return the CPU microseconds of an entry of `size` commands: in all, and for what the levels add."""
    commands = [next(node.flow) for _ in range(size)]
    payload = encode_batch(Batch(1, commands))

    def whole() -> None:
        for _ in range(entries):
            node.apply(list(islice(node.flow, size)))

    def added() -> None:
        for _ in range(entries):
            node.look(commands, payload)

    return smallest(turns, whole) / entries * 1e6, smallest(turns, added) / entries * 1e6


@click.command(help=__doc__)
@click.option("--turns", default=9, show_default=True)
@click.option("--entries", default=500, show_default=True, help="Log entries in a turn.")
def main(turns: int, entries: int) -> None:
    """Measure the cost of levels."""
    node = Node()
    click.echo(f"core: {CORE}; the smallest of {turns} turns of {entries} entries")
    click.echo("| commands in an entry | us of CPU an entry | us for the levels | share |")
    click.echo("|---|---|---|---|")
    for size in (1, 20, 100):
        whole, added = measure(node, size, entries, turns)
        click.echo(f"| {size} | {whole:.1f} | {added:.2f} | {added / whole:.1%} |")
    former = FormerNode()
    click.echo("\n| commands in an entry | us of CPU of the core of 0.2.0 | us of a node at its level | ratio |")
    click.echo("|---|---|---|---|")
    for size in (1, 20, 100):
        core, whole = former.measure(size, entries, turns)
        click.echo(f"| {size} | {core:.1f} | {whole:.1f} | {whole / core:.2f} |")


if __name__ == "__main__":
    sys.exit(main())

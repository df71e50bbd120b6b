"""Measurements of the engine in one process: compared with `matching-engine` and a plain price-time book, by stage, its
memory, and the time of a replay.

    python -m loadtest.core [--json] [--rounds N] [--operations N]

All times are CPU times. A round measures both sides one after the other, so a change of the machine's speed affects
both. A measurement that is not possible here (no wheel, no workload) is left out, with a line on stderr.

With --json: {"core": [[ours, theirs], ...], "flash": [[ours, theirs], ...], "memory": [[bytes, 0]], ...}, a pair a
round. `core` are commands a second of this exchange and of matching-engine 0.1.1 on the flow of `peer_flow`; `flash`
messages a second of this exchange and of a plain book on the public workload; `memory` bytes of a resting order,
without the reply cache. As text, also the CPU seconds of 1,000,000 commands from log entries, and the
stages: microseconds a command.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

import statemachine
from loadtest import flash, peer_flow
from loadtest.bench import CLIENTS, ENGINE_BATCH
from loadtest.flow import ClientFlow
from loadtest.market import setup_commands, traders, unit_market
from statemachine.commands import AnyCommand, Batch, PlaceOrder, decode_batch, encode_batch
from statemachine.engine import Engine
from statemachine.types import OrderType, Side

Pairs = list[tuple[float, float]]

SEED = 1
MEMORY_ORDERS = 1_000_000
MEMORY_ACCOUNTS = 200


def cpu(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call. Garbage is collected before it and not during it."""
    gc.collect()
    gc.disable()
    begin = time.process_time()
    run()
    taken = time.process_time() - begin
    gc.enable()
    return taken


def replay(ground: Sequence[AnyCommand], entries: Sequence[bytes]) -> float:
    """Return the CPU seconds in which a new engine applies log entries."""
    engine = Engine()
    engine.apply(Batch(1, list(ground)))

    def run() -> None:
        for entry in entries:
            engine.apply_entry(entry)

    return cpu(run)


def own_entries(count: int) -> tuple[list[AnyCommand], list[bytes]]:
    """Return log entries with the flow of the demo and of the benchmark of three nodes."""
    people = traders(CLIENTS, SEED)
    flows = [ClientFlow(SEED, person.account_id, "engine") for person in people]
    commands = [next(flows[number % CLIENTS]) for number in range(count)]
    starts = range(0, count, ENGINE_BATCH)
    return setup_commands(people), [encode_batch(Batch(2, list(commands[start : start + ENGINE_BATCH]))) for start in starts]


def beside_peer(operations: int, rounds: int) -> Pairs:
    """Measure commands a second of this engine and of matching-engine. The result is empty if that cannot be installed."""
    place = peer_flow.fetch_peer()
    if place is None:
        print(f"core: left out, because {peer_flow.PEER} cannot be downloaded", file=sys.stderr)
        return []
    flow = peer_flow.draw(operations, 7)
    ground, entries = peer_flow.ground(), peer_flow.entries(flow)
    pairs = []
    for _ in range(rounds):
        own_seconds = replay(ground, entries)
        peer_seconds = cpu(peer_flow.peer_run(flow, place))
        pairs.append((operations / own_seconds, operations / peer_seconds))
    return pairs


def beside_book(messages: int, rounds: int) -> Pairs:
    """Measure messages a second of this engine and of the plain book on the public workload. The result is empty without it."""
    if not flash.workload().exists():
        print(f"flash: left out, because there is no {flash.workload()}; QUORUMBOOK_DATA may name the directory", file=sys.stderr)
        return []
    found = flash.read(flash.workload(), messages)
    entries = flash.entries(found)

    def plain() -> None:
        book = flash.PlainBook()
        for message in found:
            book.apply(message)

    pairs = []
    for _ in range(rounds):
        ours = replay(flash.ground(), entries)
        pairs.append((len(found) / ours, len(found) / cpu(plain)))
    return pairs


def stages(count: int) -> dict[str, float]:
    """Measure microseconds a command: of the whole, and of each stage alone."""
    ground, entries = own_entries(count)
    engine = Engine()
    engine.apply(Batch(1, ground))
    encode = msgspec.msgpack.Encoder().encode
    batches = [decode_batch(entry) for entry in entries]
    applied = [engine.apply_entry(entry) for entry in entries]
    results = [b"".join((*each.encoded_outcomes, *each.encoded_events)) for each in applied]
    works: dict[str, Callable[[], object]] = {
        "decode to structs": lambda: [decode_batch(entry) for entry in entries],
        "encode structs": lambda: [encode(batch) for batch in batches],
        "hash entry, outcomes and events": lambda: [
            hashlib.sha256(b"".join(pair)).digest() for pair in zip(entries, results, strict=True)
        ],
        "outcomes and events as structs": lambda: [(each.outcomes, each.events) for each in applied],
    }
    found = {"apply, all of it": replay(ground, entries)}
    found |= {name: cpu(work) for name, work in works.items()}
    return {name: seconds / count * 1e6 for name, seconds in found.items()}


def memory(orders: int = MEMORY_ORDERS) -> float:
    """Measure the bytes of a resting order, in a separate process, without the reply cache."""
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.core", "--memory", str(orders)], capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_memory(orders: int) -> float:
    """Measure the growth of this process with the given number of orders at 2,000 prices, each with a client order id
    of 36 characters, less the reply cache.
    """
    engine = Engine()
    deposits = [(f"account-{number}", currency) for number in range(MEMORY_ACCOUNTS) for currency in ("BASE", "QUOTE")]
    engine.apply(Batch(1, unit_market("ONE", deposits, 10**15)))
    before = _resident()
    for start in range(0, orders, 1_000):
        commands: list[AnyCommand] = []
        for number in range(start, min(start + 1_000, orders)):
            oid = f"{number:08d}-0000-4000-8000-000000000000"
            price, side = (1_000 + number % 1_000, Side.BUY) if number % 2 else (3_000 + number % 1_000, Side.SELL)
            account = f"account-{number % MEMORY_ACCOUNTS}"
            commands.append(PlaceOrder(account, f"c:{oid}", "ONE", side, OrderType.LIMIT, price, 5, client_oid=oid))
        engine.apply(Batch(2, commands))
    gc.collect()
    assert len(engine._state.orders) == orders, "every order rests"
    remembered = sum(account.replies.memory() for account in engine._state.accounts.values())
    return (_resident() - before - remembered) / orders


def figures_text(pairs_by_name: dict[str, Pairs], parts: dict[str, float]) -> str:
    """Return the figures as text."""
    lines = [f"{statemachine.CORE} core, Python {sys.version.split()[0]}, CPU time"]
    for name, pairs in pairs_by_name.items():
        for ours, theirs in pairs:
            beside = f" beside {theirs:,.0f}: {ours / theirs:.2f}" if theirs else ""
            lines.append(f"{name:10} {ours:>12,.1f}{beside}")
    lines += [f"{name:32} {taken:6.2f} us a command" for name, taken in parts.items()]
    return "\n".join(lines)


@click.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--operations", default=100_000, show_default=True)
@click.option("--memory", "orders", type=int, hidden=True)
def main(as_json: bool, rounds: int, operations: int, orders: int | None) -> None:
    """Measure the engine in one process."""
    if orders is not None:
        print(measure_memory(orders))
        return
    found: dict[str, Pairs] = {"core": beside_peer(operations, rounds), "flash": beside_book(2 * operations, rounds)}
    found["memory"] = [(memory(), 0.0)]
    found = {name: pairs for name, pairs in found.items() if pairs}
    if as_json:
        print(json.dumps(found))
    else:
        ground, entries = own_entries(operations)
        found["replay 1 M"] = [(replay(ground, entries) * 1_000_000 / operations, 0.0)]
        print(figures_text(found, stages(min(operations, 30_000))))


if __name__ == "__main__":
    main()

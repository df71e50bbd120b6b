"""Many random commands through both cores: equal outcomes, events, hashes and tables, and valid states all the time.

    python -m tests.property.soak [--commands 5000000] [--seed 1]

The commands are those of `flows` and `operators`: what traders and operators send, anything that decodes, and amounts
near the largest numbers. They run in rounds of `ROUND` commands, each from an empty exchange and with a seed of its own,
in one process for each core. After every `STEP` commands all invariants are checked, and the engine is restored from its
tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from hashlib import sha256
from random import Random

import statemachine
from statemachine.commands import AnyCommand, Batch, encode_batch
from statemachine.engine import Engine
from tests.cores import both
from tests.property.flows import anything, fortune, fortunes
from tests.property.operators import access_command, calendar_command, contest, operators, sent
from tests.property.worlds import SECOND, auction_command, busy_command, control_command, foundations, options_command

ROUND = 50_000
STEP = 5_000
TRADERS = (busy_command, busy_command, options_command, auction_command, anything, fortune)
OPERATORS = (control_command, control_command, calendar_command, access_command, contest)


def round_of(seed: int, count: int) -> dict[str, object]:
    """Apply a round of commands. Returns digests of all results."""
    random, engine, digest = Random(seed), Engine(), sha256()
    engine.apply(Batch(1, [*foundations((1_000, 3_000), 50_000), *fortunes(), *operators()]))
    now, number, checked = 1, 0, 0
    while number < count:
        now += random.choice((0, 1, SECOND, 40 * SECOND)) if random.random() < 0.999 else 86_400 * SECOND
        commands: list[AnyCommand] = []
        for _ in range(random.choice((0, 1, 5, 30, 100))):
            number += 1
            make = random.choice(TRADERS if random.random() < 0.8 else OPERATORS)
            commands.append(sent(random, make(random, number)))
        applied = engine.apply_entry(encode_batch(Batch(now, commands)))
        for part in (*applied.encoded_outcomes, *applied.encoded_events):
            digest.update(part)
        if number - checked >= STEP:
            checked = number
            engine.check()
            tables = dict(engine.tables())
            digest.update(b"".join(key + row for rows in tables.values() for key, row in rows))
            engine = Engine.restore(tables)
    engine.check()
    return {"core": statemachine.CORE, "sequence": engine.sequence, "hash": engine.state_hash.hex(), "digest": digest.hexdigest()}


def main() -> None:
    """Run rounds until this many commands were applied, and stop at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--commands", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int, default=0, help="internal: apply one round of so many commands in this process")
    options = parser.parse_args()
    if options.round:
        print(json.dumps(round_of(options.seed, options.round)))
        return
    begun, applied, seed = time.monotonic(), 0, options.seed
    while applied < options.commands:
        size = min(ROUND, options.commands - applied)
        plain, compiled = both("-m", "tests.property.soak", "--seed", str(seed), "--round", str(size), timeout=3_600)
        cores = plain.pop("core"), compiled.pop("core")
        if cores != ("plain", "compiled"):
            sys.exit("the compiled core is missing: make core")
        if plain != compiled:
            sys.exit(f"the cores differ with seed {seed}: {plain} and {compiled}")
        applied, seed = applied + size, seed + 1
        print(f"{applied:,} commands, seeds {options.seed} to {seed - 1}, {time.monotonic() - begun:,.0f} s: equal", flush=True)


if __name__ == "__main__":
    main()

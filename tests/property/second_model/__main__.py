"""Compare the engine with the second model over many seeds.

python -m tests.property.second_model [--seed 0] [--runs 1000] [--entries 150]

Each seed runs four times: with traders alone, in a venue with all its rules, and both of them hurried (`judge.run`).
"""

from __future__ import annotations

import argparse
import time

import statemachine
from tests.property.second_model.judge import run

WAYS = [(venue, hurried) for venue in (False, True) for hurried in (False, True)]


def main() -> None:
    """Stop at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--entries", type=int, default=150)
    options = parser.parse_args()
    begun, orders, trades = time.monotonic(), 0, 0
    for seed in range(options.seed, options.seed + options.runs):
        try:
            models = [run(seed, options.entries, venue=venue, hurried=hurried) for venue, hurried in WAYS]
        except BaseException:
            print(f"seed {seed}", flush=True)
            raise
        orders += sum(model.last_id for model in models)
        trades += sum(each.trades for model in models for each in model.products.values())
    elapsed = time.monotonic() - begun
    print(f"{options.runs:,} seeds, {statemachine.CORE} core: {orders:,} orders, {trades:,} trades, {elapsed:,.0f} s: equal")


if __name__ == "__main__":
    main()

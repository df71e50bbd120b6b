"""Every process computes the same bytes, whatever the hash seed and the history of its dicts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

RUN = """
from random import Random
from statemachine.commands import Batch
from statemachine.engine import Engine
from tests.property.worlds import SECOND, busy_command, foundations

engine, random = Engine(), Random(7)
engine.apply(Batch(1, foundations((1_000, 3_000), 5_000)))
for time in range(2, 42):
    if time == 20:
        engine = Engine.restore({name: rows[::-1] for name, rows in engine.tables()})
    engine.apply(Batch(time * SECOND, [busy_command(random, time * 10 + n) for n in range(10)]))
engine.check()
print(engine.sequence, engine.state_hash.hex(), engine.full_hash().hex())
"""


def test_the_hash_seed_of_the_process_makes_no_difference() -> None:
    printed = []
    for seed in ("0", "1", "4242", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", RUN], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        printed.append(done.stdout)
    assert printed[0].startswith("418 ")
    assert len(set(printed)) == 1

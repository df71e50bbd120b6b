"""The exchange: a pure, deterministic, single-threaded state machine.

`engine.Engine.apply(batch) -> Applied` is the only way to change it. The same batches give the same bytes on every node
and in every process. All numbers are integers in smallest units. The package has no clock, randomness, I/O, thread or
float; `tests/unit/statemachine/test_purity.py` checks the syntax trees.

It may import the pure parts of the standard library, sortedcontainers and msgspec, and no other package of this
repository.
"""

from __future__ import annotations

from statemachine.core import choose

CORE = choose(__path__)
"""Which core runs: "compiled" or "plain"; see `core`."""

"""The exchange itself: a pure, deterministic, single-threaded state machine.

One door: `engine.Engine.apply(batch) -> Applied`. The same batches give the same bytes on every node, in every process.
Everything is a whole number in smallest units; there is no clock, randomness, I/O, thread or float in here
(`tests/unit/statemachine/test_purity.py` walks the syntax trees and refuses them).

May import: the standard library's pure parts, sortedcontainers, msgspec. Nothing of ours.
"""

from __future__ import annotations

from statemachine.core import choose

CORE = choose(__path__)
"""Which core runs: "compiled" or "plain"; see `core`."""

"""What this version keeps otherwise than version 0.2.0: done once, by the engine, before it applies the first entry that this version wrote.

Not by the migration of the data: entries of 0.2.0 that lie behind a node's snapshot are applied after it, by the rules of 0.2.0, and must find what
0.2.0 had. All nodes come to the first entry of this version with the same state, and so leave it with the same.
"""

from __future__ import annotations

from statemachine.state import State


def upgrade(state: State) -> None:
    """Bring a state of version 0.2.0 to the rules of this one. O(everything)."""
    for product in state.products.values():
        product.version = max(product.version, 1)

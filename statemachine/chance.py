"""Chance that all nodes agree on: drawn from the running hash, which nobody can foretell who does not know every
command before.
"""

from __future__ import annotations

from hashlib import blake2b

from statemachine.state import State


def draw(state: State, what: str, most: int) -> int:
    """A number from 0 to `most`, by the running hash behind the last log entry. `what` tells draws of one entry apart."""
    if most <= 0:
        return 0
    digest = blake2b(state.hash + what.encode(), digest_size=16, person=b"quorumbook.draw").digest()
    return int.from_bytes(digest, "big") % (most + 1)

"""Pseudo-random numbers that are equal on all nodes. They are drawn from the running hash, which cannot be predicted
without every earlier command.
"""

from __future__ import annotations

from hashlib import blake2b

from statemachine.state import State


def draw(state: State, what: str, most: int) -> int:
    """Return a number from 0 to `most`, drawn from the running hash after the last log entry. `what` distinguishes the
    draws of one entry.
    """
    if most <= 0:
        return 0
    digest = blake2b(state.hash + what.encode(), digest_size=16, person=b"quorumbook.draw").digest()
    return int.from_bytes(digest, "big") % (most + 1)

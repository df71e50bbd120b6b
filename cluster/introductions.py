"""What nodes say of themselves first on each connection, before anything else counts: where their log ends, and what
their owner wants known.

The cluster layer carries the owner's bytes and asks it for a verdict. A peer that gets an objection to what it has said
of itself decides by its own knowledge whether that is right; nobody is stopped by another node's word alone.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Claim(NamedTuple):
    """What a peer said. `acknowledged`: up to where it has acknowledged this leader's log in this term; 0 where that is
    not known, or does not bind it: this node does not lead, the peer knows a later term, or has lost its disk."""

    body: bytes
    last_index: int
    acknowledged: int


class Introductions(Protocol):
    """The owner's side."""

    def own(self) -> bytes:
        """What this node says of itself."""

    def heard(self, peer: str, claim: Claim) -> bytes | None:
        """A peer has introduced itself; an objection for it to hear, or None.

        Raises:
            RaftFatalError: by that this node knows that it must stop itself.
        """

    def objected(self, peer: str, body: bytes) -> None:
        """A peer objects to what this node said.

        Raises:
            RaftFatalError: it is right: this node must stop.
        """

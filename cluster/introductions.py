"""Introductions: the first message of a node on each connection. It says where the node's log ends, and contains bytes
of the node's owner.

The cluster layer carries the owner's bytes and asks the owner to check those of a peer. A peer that gets an objection
decides by its own knowledge whether the objection is right. No node is stopped by the message of another node alone.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Claim(NamedTuple):
    """The introduction of a peer. `acknowledged`: up to where the peer has acknowledged this leader's log in this term.
    It is 0 if this node does not lead, the peer knows a later term, or the peer lost its disk.
    """

    body: bytes
    last_index: int
    acknowledged: int


class Introductions(Protocol):
    """The owner's part of introductions."""

    def own(self) -> bytes:
        """Return the bytes of the owner in this node's introduction."""

    def heard(self, peer: str, claim: Claim) -> bytes | None:
        """Check the introduction of a peer. Returns the objection to send to it, or None.

        Raises:
            RaftFatalError: the introduction shows that this node must stop.
        """

    def objected(self, peer: str, body: bytes) -> None:
        """Handle a peer's objection to this node's introduction.

        Raises:
            RaftFatalError: the objection is right, and this node must stop.
        """

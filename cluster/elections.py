"""Pre-vote: a node raises its term only after a majority says that it would vote for the node.

If two nodes with equal logs ask at the same time, the one with the greater id campaigns first, and the other waits. So
they do not both campaign, split the votes, and wait for another timeout.

Without pre-vote a node behind a partition would return with a higher term and depose a leader that all others can reach
(Ongaro's thesis, section 9.6).
"""

from __future__ import annotations

from cluster.ports import Clock
from cluster.seams import Randomness
from cluster.settings import RaftSettings


class PreVoting:
    """This node's pre-vote rounds, and what it knows of the leader when other nodes ask."""

    def __init__(self, settings: RaftSettings, clock: Clock, randomness: Randomness) -> None:
        self._settings = settings
        self._clock = clock
        self._randomness = randomness
        self._leader_heard = -1e9
        self._round_term = 0
        self._round_ends = -1e9
        self._granted: set[str] = set()
        self._yields_until = -1e9

    def heard_leader(self) -> None:
        """Record a message of the current leader."""
        self._leader_heard = self._clock()

    def leader_lost(self) -> None:
        """Record that the connection to the leader broke, so that other nodes may campaign."""
        self._leader_heard = -1e9

    def leader_is_fresh(self) -> bool:
        """Return whether a message of the leader arrived within the shortest election timeout."""
        return self._clock() - self._leader_heard < self._settings.election_timeout_min

    def short_delay(self) -> float:
        """Return the seconds to wait before campaigning after the leader's connection broke. They are random, so that
        two nodes seldom collide.
        """
        return self._settings.heartbeat * (0.2 + 1.8 * self._randomness.random())

    def round_due(self, term: int) -> bool:
        """Return whether a (new) round for `term` is due. If so, it begins."""
        now = self._clock()
        if self._round_term == term and now < self._round_ends:
            return False
        self._round_term = term
        self._round_ends = now + self._settings.election_timeout_min / 2
        self._granted = set()
        return True

    def round_is_open(self) -> bool:
        """Return whether a pre-vote round of this node is open."""
        return self._round_term != 0 and self._clock() < self._round_ends

    def defer(self) -> None:
        """Record that another node got this node's pre-vote. This node does not campaign while that one may."""
        self._round_term = 0
        self._yields_until = self._clock() + self._settings.election_timeout_min / 2

    def defers(self) -> bool:
        """Return whether this node waits for another one to campaign."""
        return self._clock() < self._yields_until

    def granted(self, peer: str, term: int) -> None:
        """Record that a peer grants its pre-vote for `term`."""
        if term == self._round_term:
            self._granted.add(peer)

    def won(self, term: int, majority: int) -> bool:
        """Return whether `majority` peers would vote in `term`. A won round is used once."""
        if self._round_term != term or self._clock() >= self._round_ends or len(self._granted) < majority:
            return False
        self._round_term = 0
        return True

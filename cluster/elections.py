"""Pre-vote: nobody raises its term before a majority says that it would vote for it.

Of two nodes that ask at the same time with equal logs, the one with the greater id goes first and the other gives way,
so that they do not both stand, each with its own vote, and wait for another timeout.

A node behind a cut would else come back with a higher term and depose a leader that everybody else can reach (Ongaro's
thesis, section 9.6).
"""

from __future__ import annotations

from cluster.ports import Clock
from cluster.seams import Randomness
from cluster.settings import RaftSettings


class PreVoting:
    """This node's rounds of asking, and what it knows of the leader when others ask."""

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
        """A message of the current leader came in."""
        self._leader_heard = self._clock()

    def leader_lost(self) -> None:
        """The connection to the leader broke: others may stand."""
        self._leader_heard = -1e9

    def leader_is_fresh(self) -> bool:
        """Whether the leader was heard of within the shortest election timeout."""
        return self._clock() - self._leader_heard < self._settings.election_timeout_min

    def short_delay(self) -> float:
        """Seconds to wait before standing when the leader's connection broke: random, so that two nodes seldom collide."""
        return self._settings.heartbeat * (0.2 + 1.8 * self._randomness.random())

    def round_due(self, term: int) -> bool:
        """Whether to ask (again) for `term`; begins the round."""
        now = self._clock()
        if self._round_term == term and now < self._round_ends:
            return False
        self._round_term = term
        self._round_ends = now + self._settings.election_timeout_min / 2
        self._granted = set()
        return True

    def round_is_open(self) -> bool:
        """Whether this node is asking at the moment."""
        return self._round_term != 0 and self._clock() < self._round_ends

    def defer(self) -> None:
        """Another node was told that it would get this one's vote: let it stand, and ask for nothing meanwhile."""
        self._round_term = 0
        self._yields_until = self._clock() + self._settings.election_timeout_min / 2

    def defers(self) -> bool:
        """Whether another node is being let stand."""
        return self._clock() < self._yields_until

    def granted(self, peer: str, term: int) -> None:
        """A peer would vote."""
        if term == self._round_term:
            self._granted.add(peer)

    def won(self, term: int, majority: int) -> bool:
        """Whether `majority` peers would vote in `term`; a won round is spent."""
        if self._round_term != term or self._clock() >= self._round_ends or len(self._granted) < majority:
            return False
        self._round_term = 0
        return True

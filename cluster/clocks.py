"""Wall clocks of the nodes. Entries stamped too far in the future are not appended, and the skew between nodes is
measured.

The leader stamps entries with its clock, and time in the state machine never runs backwards. So the effect of one entry
stamped in a distant future would be permanent. The rules:

- A follower does not append an entry that is stamped more than `AHEAD_MAX` ahead of its own clock. To refuse to append
  is always safe: to Raft it is a message that was lost. It never refuses what is committed, nor a stamp that the state
  has reached already.
- So an entry from the future is committed only if a majority of the clocks allows it. A leader whose entries are
  refused by so many voters that no majority is left steps down, and does not campaign for `BENCHED` seconds.
- No node grants a pre-vote to a candidate whose clock is that far ahead of its own.
- A follower whose own clock is wrong appends an entry when the others have committed it. The leader names this follower
  in its status and its log.

Clocks travel in messages. A message takes time, so a clock that arrives looks slow: of the last `SAMPLES` the fastest
one counts.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence

from cluster.membership import Membership
from cluster.messages import COMMAND
from cluster.ports import Clock, LogEntry, Timekeeper

log = logging.getLogger(__name__)

AHEAD_MAX = 5.0
"""Seconds that an entry's stamp may be ahead of a follower's clock. Clocks that are kept by NTP differ by milliseconds;
five seconds leave room for a node that has just started and whose clock is still being set."""

BENCHED = 5.0
"""Seconds for which a leader whose entries were refused does not campaign: the others elect a leader within two
election timeouts.
"""

SKEW_WARNING = AHEAD_MAX / 2
"""Seconds of skew from which on a warning is logged."""

SKEW_LASTS = 5.0
"""Seconds that the skew must last, because a node that was paused reads old messages for a moment."""

REFUSAL_LOGGED_EVERY = 60.0
"""Seconds between two lines about refused entries of one peer."""

SAMPLES = 20
STAMP_BYTES = 16
"""Leading bytes of a command that contain its stamp."""


class Clocks:
    """This node's knowledge of its own clock and of the clocks of other nodes.

    Attributes:
        refused: the number of entries that this node did not append because of their stamps.
        benched_until: the time before which this node does not campaign.
    """

    def __init__(self, node_id: str, timekeeper: Timekeeper, clock: Clock) -> None:
        self._node_id = node_id
        self._time = timekeeper
        self._clock = clock
        self._samples: dict[str, deque[float]] = {}
        self._skewed_since: dict[str, float] = {}
        self._warned: set[str] = set()
        self._refusers: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self.refused = 0
        self.benched_until = -1e9

    def now(self) -> int:
        """Return this node's wall clock, in nanoseconds since the Unix epoch."""
        return self._time.now()

    # ------------------------------------------------------------------ skew

    def heard(self, peer: str, their_now: int) -> None:
        """Record the clock in a peer's message; 0 if the message has none."""
        if their_now:
            samples = self._samples.setdefault(peer, deque(maxlen=SAMPLES))
            samples.append((their_now - self._time.now()) / 1e9)
            self._judge(peer, max(samples))

    def skew(self, peer: str) -> float | None:
        """Return the seconds by which the peer's clock is ahead of this node's, negative if behind; None if it is unknown."""
        samples = self._samples.get(peer)
        return max(samples) if samples else None

    def forget(self, peer: str) -> None:
        """Drop the samples of a peer whose connection broke."""
        self._samples.pop(peer, None)
        self._skewed_since.pop(peer, None)
        self._refusers.pop(peer, None)

    def _judge(self, peer: str, skew: float) -> None:
        """Log once that the clocks of two nodes have differed for a while, and once that they agree again."""
        if abs(skew) < SKEW_WARNING:
            self._skewed_since.pop(peer, None)
            if peer in self._warned:
                self._warned.discard(peer)
                log.info("the clocks of %s and %s agree again: they differ by %.3f s", peer, self._node_id, abs(skew))
        elif peer not in self._warned:
            since = self._skewed_since.setdefault(peer, self._clock())
            if self._clock() - since >= SKEW_LASTS:
                self._warned.add(peer)
                log.warning(
                    "the clock of %s is %.1f s %s that of %s. Entries stamped more than %.0f s ahead of a node's clock are refused: "
                    "check the time synchronization of both",
                    peer, abs(skew), "ahead of" if skew > 0 else "behind", self._node_id, AHEAD_MAX,
                )  # fmt: skip

    # ------------------------------------------------------------------ follower

    def allowed(self, leader: str, entries: Sequence[LogEntry], committed: int) -> int:
        """Return how many of the first `entries` may be appended. `committed` is the leader's commit index."""
        limit = -1
        for position, entry in enumerate(entries):
            if entry.index <= committed or entry.payload[0] != COMMAND:
                continue
            stamp = self._time.stamp(entry.payload[1 : 1 + STAMP_BYTES])
            if limit < 0:
                limit = max(self._time.now() + round(AHEAD_MAX * 1e9), self._time.reached())
            if stamp > limit:
                self._note_refusal(leader, entry, stamp)
                return position
        return len(entries)

    def _note_refusal(self, leader: str, entry: LogEntry, stamp: int) -> None:
        """Count an entry that is not taken because of its timestamp, and log it, at most once a minute for each leader."""
        self.refused += 1
        if self._is_logged(leader):
            log.warning(
                "entry %d of the leader %s is stamped %.1f s ahead of this node's clock (%.0f s are allowed): it is not taken until a "
                "majority has it. The clock of %s or of %s is wrong",
                entry.index, leader, (stamp - self._time.now()) / 1e9, AHEAD_MAX, leader, self._node_id,
            )  # fmt: skip

    def _is_logged(self, peer: str) -> bool:
        """Return whether to log a refusal between this node and a peer. Repeated refusals are logged at intervals."""
        now = self._clock()
        due = now - self._told_at.get(peer, -REFUSAL_LOGGED_EVERY) >= REFUSAL_LOGGED_EVERY
        if due:
            self._told_at[peer] = now
        return due

    def far_ahead(self, their_now: int) -> bool:
        """Return whether a clock is so far ahead of this node's clock that this node would refuse its entries."""
        return their_now > self._time.now() + round(AHEAD_MAX * 1e9)

    # ------------------------------------------------------------------ leader

    def refused_by(self, peer: str, index: int) -> None:
        """Note that a follower did not append entry `index` of this leader because of its stamp."""
        self._refusers[peer] = index
        if self._is_logged(peer):
            log.warning("%s refuses entry %d of this leader: it is stamped too far ahead of the clock of %s", peer, index, peer)

    def accepted_by(self, peer: str, next_index: int) -> None:
        """Record that a follower has everything below `next_index`, which may include an entry that it refused before."""
        if next_index > self._refusers.get(peer, next_index):
            del self._refusers[peer]

    @property
    def refusers(self) -> frozenset[str]:
        """The followers that do not append this leader's entries because of their stamps."""
        return frozenset(self._refusers)

    def no_longer_leads(self) -> None:
        """Drop the refusals of followers at the end of a leadership."""
        self._refusers.clear()

    def loses_lead(self, members: Membership) -> bool:
        """Return whether so many voters refuse this leader's entries that nothing can be committed. If so, this node is
        benched.
        """
        if not self._refusers:
            return False
        refusers = [voter for voter in members.voters if voter in self._refusers]
        if len(members.voters) - len(refusers) >= members.majority:
            return False
        self.benched_until = self._clock() + BENCHED
        log.warning(
            "the voters %s refuse entries with this leader's stamps: its clock is wrong. It gives up the lead", _listed(refusers)
        )
        return True

    @property
    def benched(self) -> bool:
        """Whether this node stepped down a moment ago because of its clock."""
        return self._clock() < self.benched_until


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

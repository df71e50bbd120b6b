"""What a node knows of its peers: one record each, as etcd's `tracker.Progress`.

Only a leader learns how far its peers are. Everything else about a peer stands in the same record, so that a connection
that breaks, a new term or a change of the membership is one method here and not one in each place that remembers
something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from cluster.ports import Clock, SnapshotSource

FIRST_SENT = 2
"""The first entry that is ever sent: every log begins with the same entry 1."""


class Flow(Enum):
    """What the leader sends to a peer."""

    PROBE = "probe"
    """The peer has acknowledged nothing in this term: `next_index` is a guess."""
    REPLICATE = "replicate"
    """The peer's log is known up to `match_index`; entries are sent without waiting for answers."""
    SNAPSHOT = "snapshot"
    """A snapshot is on its way. No entries are sent."""


@dataclass(slots=True)
class Sending:
    """A snapshot on its way to a peer. Times are those of the node's clock, in seconds; the rest counts bytes."""

    source: SnapshotSource
    term: int
    heard: float
    begun: float
    sent: int = 0
    acknowledged: int = 0


@dataclass(slots=True)
class Delivered:
    """The snapshot that a peer got whole last."""

    index: int
    at: float
    not_taken: bool = False


@dataclass(slots=True)
class Progress:
    """One peer.

    Attributes:
        votes: whether it is a voter. What a learner acknowledges counts for nothing.
        match_index: up to where its log is known to be equal and durable; 0 while it is recovering.
        next_index: the next entry to send. Invariant: 0 <= match_index < next_index.
        answered_at: when it last answered this leader.
        recovery_index: it has lost its disk, and votes again when it holds a log up to this entry that a majority of
            others committed; 0 for a peer that has not. Invariant: a peer that recovers has match_index 0.
        round: of a learner: the end of the log when it began to copy it, and when that was.
        sending, delivered: the snapshot on its way to it, and the one that it got whole last.
    """

    node_id: str
    votes: bool
    next_index: int
    match_index: int = 0
    answered_at: float = -1e9
    recovery_index: int = 0
    round: tuple[int, float] | None = None
    sending: Sending | None = None
    delivered: Delivered | None = None

    @property
    def flow(self) -> Flow:
        """What is sent to it."""
        if self.sending is not None:
            return Flow.SNAPSHOT
        return Flow.REPLICATE if self.match_index else Flow.PROBE

    @property
    def recovering(self) -> bool:
        """Whether it has lost its disk and may not vote yet."""
        return self.recovery_index > 0

    def begin(self, next_index: int, now: float) -> None:
        """This node begins to lead, or the peer is new: nothing is known of it."""
        self.match_index, self.next_index, self.answered_at = 0, next_index, now
        self.recovery_index, self.round = 0, None

    def reconnected(self, last_index: int) -> None:
        """What was on its way is lost. A peer that has acknowledged nothing is asked where it is, as by a new leader."""
        self.next_index = (self.match_index or last_index) + 1

    def disconnected(self) -> None:
        """The peer may lose its disk, and what it got, before it is back."""
        self.recovery_index = 0
        self.delivered = None
        self.stop_sending()

    def acknowledged(self, next_index: int) -> bool:
        """Everything below `next_index` is durable there. Returns whether that is news. What was sent since then stays
        sent.
        """
        assert not self.recovering, f"{self.node_id} acknowledges while it is recovering"
        if next_index - 1 <= self.match_index:
            return False
        self.match_index = next_index - 1
        self.next_index = max(self.next_index, next_index)
        return True

    def go_back(self, next_index: int) -> None:
        """Send from `next_index` again, but nothing that was acknowledged."""
        self.next_index = max(self.match_index + 1, FIRST_SENT, next_index)

    def recovers(self, recovery_index: int) -> None:
        """The peer has lost its disk: whatever it acknowledged before counts no more."""
        self.recovery_index, self.match_index = recovery_index, 0

    def stop_sending(self) -> None:
        """Give up the snapshot on its way."""
        sending, self.sending = self.sending, None
        if sending is not None:
            sending.source.close()

    def check(self, last_index: int) -> None:
        """The invariants. They hold between two messages, and are checked in production."""
        assert 0 <= self.match_index < self.next_index <= last_index + 1, (
            f"{self.node_id}: match {self.match_index}, next {self.next_index}, the log ends at {last_index}"
        )
        assert not (self.recovering and self.match_index), f"{self.node_id} is recovering and counted up to {self.match_index}"


class Peers:
    """The other members, by id.

    Attributes:
        connected: the nodes with a connection. They may be none of the members: a node that was just removed, or is not
            one yet.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_id: dict[str, Progress] = {}
        self.connected: set[str] = set()

    def __iter__(self) -> Iterator[Progress]:
        return iter(self._by_id.values())

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._by_id

    def get(self, node_id: str) -> Progress | None:
        """The record of a member; None for any other node."""
        return self._by_id.get(node_id)

    def __getitem__(self, node_id: str) -> Progress:
        return self._by_id[node_id]

    @property
    def recovering(self) -> set[str]:
        """Those that have lost their disks."""
        return {peer.node_id for peer in self if peer.recovering}

    def set_members(self, voters: Iterable[str], others: Iterable[str], last_index: int) -> None:
        """Who the other members are. What is known of those that stay, stays."""
        roles = {**dict.fromkeys(others, False), **dict.fromkeys(voters, True)}
        for node_id in self._by_id.keys() - roles.keys():
            self._by_id[node_id].stop_sending()
        former, self._by_id = self._by_id, {}
        for node_id in sorted(roles):
            peer = former.get(node_id)
            if peer is None:
                peer = Progress(node_id, roles[node_id], last_index + 1, answered_at=self._clock())
            peer.votes = roles[node_id]
            self._by_id[node_id] = peer

    def begin_term(self, last_index: int) -> None:
        """This node begins to lead, with a log that ends at `last_index`."""
        for peer in self:
            peer.begin(last_index + 1, self._clock())

    def voters_since(self, moment: float) -> int:
        """How many voters have answered since then."""
        return sum(peer.votes and peer.answered_at > moment for peer in self)

    def committed_index(self, own_index: int) -> int:
        """Up to where a majority of the voters has the log, this node up to `own_index`."""
        held = sorted((own_index, *(peer.match_index for peer in self if peer.votes)))
        return held[(len(held) - 1) // 2]

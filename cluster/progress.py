"""What a node knows of its peers: one record per peer, like etcd's `tracker.Progress`.

Only a leader knows how far its peers are. The same record has all other facts about a peer, so that a broken
connection, a new term or a change of the membership is handled by one method here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from cluster.ports import Clock, SnapshotSource

FIRST_SENT = 2
"""The index of the first entry that is ever sent, because every log begins with the same entry 1."""


class Flow(Enum):
    """What the leader sends to a peer."""

    PROBE = "probe"
    """The peer has acknowledged nothing in this term: `next_index` is a guess."""
    REPLICATE = "replicate"
    """The peer's log is known up to `match_index`; entries are sent without waiting for answers."""
    SNAPSHOT = "snapshot"
    """A snapshot is being sent. No entries are sent."""


@dataclass(slots=True)
class Sending:
    """The transfer of a snapshot to a peer. Times are those of the node's clock, in seconds; the other numbers are
    bytes.
    """

    source: SnapshotSource
    term: int
    heard: float
    begun: float
    sent: int = 0
    acknowledged: int = 0


@dataclass(slots=True)
class Delivered:
    """The last snapshot that a peer received completely."""

    index: int
    at: float
    not_taken: bool = False


@dataclass(slots=True)
class Progress:
    """What this node knows of one peer.

    Attributes:
        votes: whether the peer is a voter. A learner's acknowledgements do not count.
        match_index: the index up to which its log is known to be equal and durable; 0 while it is recovering.
        next_index: the next entry to send. Invariant: 0 <= match_index < next_index.
        answered_at: when it last answered this leader.
        answered: whether it has answered this leader on the present connection. Before that it is unknown whether it
            has its disk.
        recovery_index: for a peer that has lost its disk, the entry with which it may vote again; a majority of the
            others committed it. Otherwise 0. Invariant: a recovering peer has match_index 0.
        round: for a learner, the end of the log when it began to copy it, and the time of that.
        sending, delivered: the snapshot that is being sent to it, and the last one that it received completely.
    """

    node_id: str
    votes: bool
    next_index: int
    match_index: int = 0
    answered_at: float = -1e9
    answered: bool = False
    recovery_index: int = 0
    round: tuple[int, float] | None = None
    sending: Sending | None = None
    delivered: Delivered | None = None

    @property
    def flow(self) -> Flow:
        """The replication state of the peer."""
        if self.sending is not None:
            return Flow.SNAPSHOT
        return Flow.REPLICATE if self.match_index else Flow.PROBE

    @property
    def recovering(self) -> bool:
        """Whether it has lost its disk and may not vote yet."""
        return self.recovery_index > 0

    def begin(self, next_index: int, now: float) -> None:
        """Reset the record, because this node became leader or the peer is new."""
        self.match_index, self.next_index, self.answered_at = 0, next_index, now
        self.answered, self.recovery_index, self.round = False, 0, None

    def reconnected(self, last_index: int) -> None:
        """Record that messages in flight are lost. A peer that has acknowledged nothing is probed, as by a new leader."""
        self.next_index = (self.match_index or last_index) + 1

    def disconnected(self) -> None:
        """Record a broken connection: the peer may lose its disk, and what it received, before it reconnects."""
        self.answered, self.recovery_index = False, 0
        self.delivered = None
        self.stop_sending()

    def acknowledged(self, next_index: int) -> bool:
        """Record that everything below `next_index` is durable on the peer. Returns whether that is new. Entries that
        were sent after it are not sent again.
        """
        assert not self.recovering, f"{self.node_id} acknowledges while it is recovering"
        if next_index - 1 <= self.match_index:
            return False
        self.match_index = next_index - 1
        self.next_index = max(self.next_index, next_index)
        return True

    def go_back(self, next_index: int) -> None:
        """Send again from `next_index`, but nothing that was acknowledged."""
        self.next_index = max(self.match_index + 1, FIRST_SENT, next_index)

    def recovers(self, recovery_index: int) -> None:
        """Record that the peer has lost its disk, so that its earlier acknowledgements do not count."""
        self.recovery_index, self.match_index = recovery_index, 0

    def stop_sending(self) -> None:
        """Abort the transfer of a snapshot."""
        sending, self.sending = self.sending, None
        if sending is not None:
            sending.source.close()

    def check(self, last_index: int) -> None:
        """Check the invariants. They hold between two messages, and are checked in production."""
        assert 0 <= self.match_index < self.next_index <= last_index + 1, (
            f"{self.node_id}: match {self.match_index}, next {self.next_index}, the log ends at {last_index}"
        )
        assert not (self.recovering and self.match_index), f"{self.node_id} is recovering and counted up to {self.match_index}"


class Peers:
    """The other members, by id.

    Attributes:
        connected: the nodes with a connection. A node may be connected that was just removed, or is not a member yet.
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
        """Return the record of a member; None for any other node."""
        return self._by_id.get(node_id)

    def __getitem__(self, node_id: str) -> Progress:
        return self._by_id[node_id]

    @property
    def acknowledging(self) -> set[str]:
        """The ids of the connected peers that have answered on this connection and have their disks."""
        return {peer.node_id for peer in self if peer.answered and not peer.recovering} & self.connected

    def set_members(self, voters: Iterable[str], others: Iterable[str], last_index: int) -> None:
        """Set the other members. Members that stay keep their records."""
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
        """Reset all records, because this node became leader with a log that ends at `last_index`."""
        for peer in self:
            peer.begin(last_index + 1, self._clock())

    def voters_since(self, moment: float) -> int:
        """Return the number of voters that have answered since that time."""
        return sum(peer.votes and peer.answered_at > moment for peer in self)

    def committed_index(self, own_index: int) -> int:
        """Return the index up to which a majority of the voters has the log; this node has it up to `own_index`."""
        held = [peer.match_index for peer in self._by_id.values() if peer.votes]
        held.append(own_index)
        held.sort()
        return held[(len(held) - 1) // 2]

"""The settings of one node's Raft, checked by whoever reads the configuration file."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cluster.log import SEGMENT_BYTES
from cluster.membership import Member, Membership, Role

ENTRY_BYTES_MAX = 512 * 1024
"""Bytes of one proposal. Below what PySyncObj sends whole: longer entries take a path that the guard refuses."""

APPEND_BYTES_MAX = 1024 * 1024
"""Bytes of entries after which PySyncObj ends an AppendEntries message."""

TRAILING_ENTRIES = 1_000
"""Entries kept behind a snapshot, so that a node that was away for a moment needs no snapshot."""

CHUNK_BYTES = 256 * 1024
"""Bytes of one piece of a snapshot on its way to a peer."""

CHUNKS_IN_FLIGHT = 4
"""Pieces under way at a time: enough to keep a link busy, too few to delay heartbeats."""

TRANSFER_BYTES_PER_SECOND = 16 * 1024 * 1024
"""How fast a snapshot goes to a peer. As fast as it can, it takes link, disk and processor from the commits: the peer
will be loading it for longer than it takes to send it at this rate."""

SNAPSHOT_ENTRIES = 20_000
"""Log entries after which a snapshot is taken, whatever is in them: all entries behind the newest snapshot are in
memory.
"""

APPLY_SLICE = 256
"""Entries applied in one tick at most; `seams.SLICE_SECONDS` ends a slice before that if they are long."""

DIGEST_INTERVAL = 64
"""Log indexes in a block; nodes compare the digests of their states once a block (`divergence.py`)."""

TRANSFER_TIMEOUT = 5.0
"""Seconds without an answer after which a snapshot's transfer begins anew."""

TAKING_TIMEOUT = 2.0
"""Seconds after which a peer that got a snapshot whole and still asks for what is in it has not taken it: putting it in
place takes less.
"""

OFFER_AGAIN = 30.0
"""Seconds until a snapshot that a peer did not take is sent to it again, if there is no newer one; it may refuse the
schema. Also those between two looks whether the newest snapshot is damaged, and so the least between two snapshots that
are taken because one was."""

assert ENTRY_BYTES_MAX < APPEND_BYTES_MAX


@dataclass(frozen=True)
class RaftSettings:
    """Times are seconds.

    `peers` are the other nodes' ids and `members` all nodes with their addresses, both as configured: they say who
    belongs to the cluster until the log does (`membership.py`). Without `members` all are voters, and have no
    addresses.

    `rejoin`: the disk was lost, see `docs/raft.md`. `join`: this node is added to a running cluster. It begins without
    a log, has no vote, and waits until a leader speaks to it; the configuration names the members it can reach.
    """

    node_id: str
    peers: tuple[str, ...]
    abi: str = ""
    heartbeat: float = 0.05
    election_timeout_min: float = 0.3
    election_timeout_max: float = 0.6
    leader_fallback: float = 0.8
    snapshot_entries: int = SNAPSHOT_ENTRIES
    snapshot_bytes: int = 64 * 1024 * 1024
    trailing_entries: int = TRAILING_ENTRIES
    rejoin: bool = False
    join: bool = False
    members: tuple[Member, ...] = ()
    digest_interval: int = DIGEST_INTERVAL
    segment_bytes: int = SEGMENT_BYTES
    apply_slice: int = APPLY_SLICE

    @property
    def first_membership(self) -> Membership:
        """Who belongs to the cluster as long as no log entry says so."""
        members = self.members or tuple(Member(node_id, Role.VOTER) for node_id in (self.node_id, *self.peers))
        if self.join:
            members = tuple(
                msgspec.structs.replace(member, role=Role.LEARNER) if member.node_id == self.node_id else member
                for member in members
            )
        return Membership(members)

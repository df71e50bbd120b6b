"""The settings of one node's Raft. The reader of the configuration file checks them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cluster.log import SEGMENT_BYTES
from cluster.membership import Member, Membership, Role

ENTRY_BYTES_MAX = 512 * 1024
"""Bytes of one proposal. This is below the size that PySyncObj sends whole: longer entries take a path that the guard
refuses.
"""

APPEND_BYTES_MAX = 1024 * 1024
"""Bytes of entries after which PySyncObj ends an AppendEntries message."""

TRAILING_ENTRIES = 1_000
"""Entries before a snapshot that the log keeps, so that a node that was away for a moment needs no snapshot."""

CHUNK_BYTES = 256 * 1024
"""Bytes of one chunk of a snapshot that is sent to a peer."""

CHUNKS_IN_FLIGHT = 4
"""Chunks in flight: enough to keep a link busy, too few to delay heartbeats."""

TRANSFER_BYTES_PER_SECOND = 16 * 1024 * 1024
"""Bytes a second of a snapshot that is sent to a peer. Without this limit, sending it starves commits of network, disk
and CPU. At this rate, loading the snapshot still takes the peer longer than receiving it.
"""

SNAPSHOT_ENTRIES = 20_000
"""Log entries after which a snapshot is taken, because all entries after the newest snapshot are in memory."""

APPLY_SLICE = 256
"""Entries that are applied in one tick, at most; `seams.SLICE_SECONDS` ends a slice before that if they take long."""

DIGEST_INTERVAL = 64
"""Log indexes in a block; nodes compare their running hashes once per block (`divergence.py`)."""

TRANSFER_TIMEOUT = 5.0
"""Seconds without an answer after which sending a snapshot starts again."""

TAKING_TIMEOUT = 2.0
"""Seconds after which a peer that received a complete snapshot and still asks for its entries counts as not having
installed it. Installing it takes less time.
"""

OFFER_AGAIN = 30.0
"""Seconds until a snapshot that a peer did not install is sent to it again, if there is no newer one; the peer may
refuse the schema. Also the seconds between two checks of the newest snapshot for damage, and so the least time between
two snapshots that replace damaged ones.
"""

assert ENTRY_BYTES_MAX < APPEND_BYTES_MAX


@dataclass(frozen=True)
class RaftSettings:
    """The settings of a node's Raft part. Times are in seconds.

    `peers` are the other nodes' ids and `members` all nodes with their addresses, both as configured: they are the
    membership until the log has one (`membership.py`). Without `members` all nodes are voters, and have no addresses.

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
        """The membership of the cluster while the log has none."""
        members = self.members or tuple(Member(node_id, Role.VOTER) for node_id in (self.node_id, *self.peers))
        if self.join:
            members = tuple(
                msgspec.structs.replace(member, role=Role.LEARNER) if member.node_id == self.node_id else member
                for member in members
            )
        return Membership(members)

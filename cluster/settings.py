"""The settings of one node's Raft, checked by whoever reads the configuration file."""

from __future__ import annotations

from dataclasses import dataclass

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

DIGEST_INTERVAL = 64
"""Log indexes in a block; nodes compare the digests of their states once a block (`divergence.py`)."""

TRANSFER_TIMEOUT = 5.0
"""Seconds without an answer after which a snapshot's transfer begins anew."""

assert ENTRY_BYTES_MAX < APPEND_BYTES_MAX


@dataclass(frozen=True)
class RaftSettings:
    """Times are seconds. `peers` are the other nodes' ids. `rejoin`: the disk was lost, see `docs/raft.md`."""

    node_id: str
    peers: tuple[str, ...]
    abi: str = ""
    heartbeat: float = 0.05
    election_timeout_min: float = 0.3
    election_timeout_max: float = 0.6
    leader_fallback: float = 0.8
    snapshot_entries: int = 20_000
    snapshot_bytes: int = 64 * 1024 * 1024
    trailing_entries: int = TRAILING_ENTRIES
    rejoin: bool = False
    digest_interval: int = DIGEST_INTERVAL

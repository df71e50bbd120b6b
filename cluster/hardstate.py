"""Term, vote, commit index and the right to vote: what a node must not forget besides its log (Raft paper, figure 2).

One small file, replaced atomically and synced before any message that reflects it leaves (`raft_log.RaftLog.sync`).
"""

from __future__ import annotations

import zlib

import msgspec

from cluster.errors import LogDamagedError
from cluster.ports import Disk

FILE = "hardstate"


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """`commit_index` is a hint that may be old. `recovering`: the node forgot what it acknowledged and must not vote
    yet. `node_id`: whose it is; "" where an earlier version wrote it."""

    term: int = 0
    voted_for: str | None = None
    commit_index: int = 1
    recovering: bool = False
    node_id: str = ""


def load(disk: Disk) -> HardState | None:
    """The stored state; None on a disk that never had one.

    Raises:
        LogDamagedError: the file is there and does not check.
    """
    try:
        data = disk.read(FILE)
    except FileNotFoundError:
        return None
    if len(data) < 4 or int.from_bytes(data[:4], "little") != zlib.crc32(data[4:]):
        raise LogDamagedError(
            f"{FILE}: offset 0: does not match its checksum. This node no longer knows whom it voted for: "
            "give it a new data directory and start it with --rejoin"
        )
    return msgspec.msgpack.decode(data[4:], type=HardState)


def store(disk: Disk, state: HardState) -> None:
    """Write the state, durable on return."""
    body = msgspec.msgpack.encode(state)
    disk.replace(FILE, zlib.crc32(body).to_bytes(4, "little") + body)

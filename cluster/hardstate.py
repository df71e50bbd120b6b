"""The hard state: term, vote, commit index and the right to vote, which a node must keep besides its log (Raft paper,
figure 2).

It is one small file, which is replaced atomically and synced before any message that depends on it is sent
(`raft_log.RaftLog.sync`).
"""

from __future__ import annotations

import zlib

import msgspec

from cluster.errors import LogDamagedError
from cluster.ports import Disk

FILE = "hardstate"


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """`commit_index` is a hint that may be old. `recovering`: the node lost entries that it may have acknowledged, and
    must not vote yet. `node_id`: the node that wrote it; "" if an earlier version wrote it.
    """

    term: int = 0
    voted_for: str | None = None
    commit_index: int = 1
    recovering: bool = False
    node_id: str = ""


def load(disk: Disk) -> HardState | None:
    """Return the stored hard state; None on a disk that never had one.

    Raises:
        LogDamagedError: the file exists, and its checksum is wrong.
    """
    try:
        data = disk.read(FILE)
    except FileNotFoundError:
        return None
    # Without a body the checksum of a file of zeros is right.
    if len(data) <= 4 or int.from_bytes(data[:4], "little") != zlib.crc32(data[4:]):
        raise LogDamagedError(
            f"{FILE}: offset 0: does not match its checksum. This node no longer knows whom it voted for: "
            "give it a new data directory and start it with --rejoin"
        )
    return msgspec.msgpack.decode(data[4:], type=HardState)


def store(disk: Disk, state: HardState) -> None:
    """Write the hard state. It is durable on return."""
    body = msgspec.msgpack.encode(state)
    disk.replace(FILE, zlib.crc32(body).to_bytes(4, "little") + body)

"""The mark of Raft that a snapshot's manifest carries: bytes to the snapshots, which know nothing of Raft."""

from __future__ import annotations

import msgspec

from cluster.ports import SnapshotMark
from snapshots.manifest import Manifest

_decoder = msgspec.msgpack.Decoder(SnapshotMark)

encode_mark = msgspec.msgpack.Encoder().encode
"""The bytes for a manifest."""


def mark_of(manifest: Manifest) -> SnapshotMark:
    """The point of the log that a snapshot stands for."""
    return _decoder.decode(manifest.mark)

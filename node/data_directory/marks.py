"""The Raft position in a snapshot's manifest. Snapshots store it as bytes, because they know nothing of Raft."""

from __future__ import annotations

import msgspec

from cluster.ports import SnapshotMark
from snapshots.manifest import Manifest

_decoder = msgspec.msgpack.Decoder(SnapshotMark)

encode_mark = msgspec.msgpack.Encoder().encode
"""Encode a position for a manifest."""


def mark_of(manifest: Manifest) -> SnapshotMark:
    """Return the log position that a snapshot covers."""
    return _decoder.decode(manifest.mark)

"""Encodes requests for a node of an earlier version.

A node refuses unknown fields. Messages are append-only: a later version adds fields with defaults at the end. A request
that does not use new fields is sent without them. A request that uses them is refused here before it is sent.
"""

from __future__ import annotations

import msgspec

from node.errors import RequestFailed
from node.native.protocol import AnyRequest, FailCode, Submit
from snapshots.levels.level import OWN, V0_2_0

REQUESTS = {1: 7, 2: 3, 3: 4, 4: 4, 5: 3, 6: 3, 7: 7, 8: 4, 9: 2}
QUERIES = {1: 1, 2: 1, 3: 1, 4: 2, 5: 4, 6: 7, 7: 3, 8: 2, 9: 3, 13: 2, 10: 3, 12: 3}
"""Messages of version 0.2.0 by tag, with their number of elements, including the tag."""

_QUERY = 3
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def is_former(abi: str) -> bool:
    """Return whether a node with this ABI has a native protocol that is narrower than the present one."""
    return abi == V0_2_0.abi != OWN.abi


def narrowed(message: AnyRequest) -> msgspec.Raw:
    """Return the message as version 0.2.0 reads it, encoded.

    Raises:
        RequestFailed: BAD_REQUEST: the request needs a later version.
    """
    if isinstance(message, Submit):
        # Not at the top: the states of all levels are a quarter of what a client would import.
        from snapshots.levels.narrowing import NotAtLevelError
        from snapshots.levels.states import narrow_commands

        try:
            commands = narrow_commands(V0_2_0.abi, message.commands)
        except NotAtLevelError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, f"{error}. Nothing was sent") from error
        return msgspec.Raw(_encode([2, message.request_id, commands]))
    parts = _decode(_encode(message))
    if parts[0] == _QUERY:
        parts[2] = _cut(parts[2], QUERIES, type(getattr(message, "query", message)).__name__)
    return msgspec.Raw(_encode(_cut(parts, REQUESTS, type(message).__name__)))


def _cut(parts: list[object], lengths: dict[int, int], name: str) -> list[object]:
    """Return the fields that version 0.2.0 has. Raises RequestFailed if another one is set."""
    tag = parts[0]
    length = lengths.get(tag) if isinstance(tag, int) else None
    added = [] if length is None else parts[length:]
    if length is None or any(added):
        raise RequestFailed(
            FailCode.BAD_REQUEST,
            f"{name}: the node runs version {V0_2_0.version}, which cannot do this: ask a node of a later version, or install one there",
        )
    return parts[:length]

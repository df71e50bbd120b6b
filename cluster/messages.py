"""What nodes say to each other: typed msgpack frames, never a pickle.

PySyncObj hands dictionaries to its transport and expects dictionaries back; `guard.py` translates. Each message carries
the sender's term. Decoding checks types; `check_entries` checks what types cannot say. Section numbers are those of the
Raft paper (extended version).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cluster.errors import WireRefusedError
from cluster.membership import decode_members
from cluster.ports import LogEntry

COMMAND = 0
"""First payload byte of an entry that carries a command (PySyncObj's REGULAR)."""
NO_OP = 1
"""First payload byte of the entry a new leader begins its term with."""
MEMBERS = 4
"""First payload byte of the entry that says who belongs to the cluster (`membership.py`). PySyncObj, which knows 0 to
3, passes it over.
"""

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Terms, indexes and byte counts. The bound keeps sums of them within what is written to disk."""


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    term: Natural


class AppendEntries(_Message, frozen=True, tag=1):
    """Section 5.3. `prev_index` is 0 where the leader has no entry before the next one; the follower then says where it
    is.

    `clock` here and below: the sender's wall clock, in nanoseconds since the Unix epoch; 0 says nothing (`clocks.py`).
    """

    commit_index: Natural
    prev_index: Natural
    prev_term: Natural
    entries: list[LogEntry]
    clock: Natural = 0
    quiet: bool = False


class Heartbeat(_Message, frozen=True, tag=2):
    """The leader lives; nothing is said of the log. Sent while a snapshot is under way to this follower."""

    clock: Natural = 0


class AppendReply(_Message, frozen=True, tag=3):
    """`success`: everything below `next_index` is durable here. `reset`: send from `next_index`.

    `voter` is False while the sender has lost its disk and must not be counted. `from_future`: the entry at
    `next_index` was not appended, because it is stamped too far ahead of the sender's clock.
    """

    next_index: Natural
    reset: bool
    success: bool
    voter: bool
    clock: Natural = 0
    from_future: bool = False


class RequestVote(_Message, frozen=True, tag=4):
    """Section 5.2."""

    last_index: Natural
    last_term: Natural


class Vote(_Message, frozen=True, tag=5):
    """Yes, in this term."""


class PreVote(_Message, frozen=True, tag=6):
    """Would you vote for me in `term`? (Section 9.6 of Ongaro's thesis.) Changes nothing at either end."""

    last_index: Natural
    last_term: Natural
    clock: Natural = 0


class PreVoteReply(_Message, frozen=True, tag=7):
    """`term` is the one asked about; `own_term` the term of the node that answers."""

    granted: bool
    own_term: Natural


class TimeoutNow(_Message, frozen=True, tag=8):
    """Stand for election at once: the leader is leaving (section 3.10 of the thesis)."""


class SnapshotChunk(_Message, frozen=True, tag=9):
    """Section 7. `size` bytes in all make the snapshot of the state at `index`; these begin at `offset`."""

    index: Natural
    index_term: Natural
    size: Natural
    offset: Natural
    data: bytes


class SnapshotAck(_Message, frozen=True, tag=10):
    """`received` bytes of the snapshot at `index` are here in one piece."""

    index: Natural
    received: Natural


class Recovered(_Message, frozen=True, tag=11):
    """A node that lost its disk holds everything up to `index` and may vote again; `docs/raft.md` has the argument."""

    index: Natural


class StaleTerm(_Message, frozen=True, tag=12):
    """Your term is over; mine is `term` (section 5.1)."""


class Removed(_Message, frozen=True, tag=14):
    """You were removed from the cluster, by the entry at `index` or before; that is committed. The last message on a
    connection.
    """

    index: Natural


class StateDigest(_Message, frozen=True, tag=13):
    """The state of `node` after the entry at `index` has this digest. Said by the node itself, or passed on
    (`divergence.py`).
    """

    index: Natural
    node: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    digest: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]


class Introduction(_Message, frozen=True, tag=15):
    """The first message on a connection. `last_index`: where the sender's log ends; `voter` as in AppendReply; `body`
    is its owner's.
    """

    last_index: Natural
    voter: bool
    body: Annotated[bytes, msgspec.Meta(max_length=4096)]


class Objection(_Message, frozen=True, tag=16):
    """What you said of yourself cannot be; `body` is for your owner to judge."""

    body: Annotated[bytes, msgspec.Meta(max_length=4096)]


AnyMessage = (
    AppendEntries
    | Heartbeat
    | AppendReply
    | RequestVote
    | Vote
    | PreVote
    | PreVoteReply
    | TimeoutNow
    | SnapshotChunk
    | SnapshotAck
    | Recovered
    | StaleTerm
    | Removed
    | StateDigest
    | Introduction
    | Objection
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """The message in `data`.

    Raises:
        WireRefusedError: it is none, or says what no honest node says.
    """
    try:
        message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireRefusedError("malformed", f"not a message of this protocol: {error}") from None
    if isinstance(message, AppendEntries):
        check_entries(message)
    if isinstance(message, SnapshotChunk) and not 0 < len(message.data) <= message.size - message.offset:
        raise WireRefusedError("malformed", f"{len(message.data)} bytes at {message.offset} are no piece of {message.size}")
    return message


FORMER_LENGTHS = {1: 6, 2: 2, 3: 6, 4: 4, 5: 2, 6: 4, 7: 4, 8: 2, 9: 7, 10: 4, 11: 3, 12: 2, 13: 5, 14: 3}
"""Protocol 1, that of version 0.2.0: its messages by tag, and how many elements they have, the tag included."""

_raw = msgspec.msgpack.Decoder(list[msgspec.Raw])


def narrowed(data: bytes) -> bytes | None:
    """An encoded message as protocol 1 writes it; None for one that it does not have. What it lacks says nothing that a
    node depends on: clocks, and what nodes tell of themselves."""
    parts = _raw.decode(data)
    length = FORMER_LENGTHS.get(msgspec.msgpack.decode(parts[0]))
    if length is None:
        return None
    return data if length == len(parts) else _encoder.encode(parts[:length])


def check_entries(message: AppendEntries) -> None:
    """Entries follow each other from `prev_index` + 1, terms do not fall, payloads are commands, no-ops or memberships.

    Raises:
        WireRefusedError: they do not.
    """
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        index += 1
        if entry.index != index:
            raise WireRefusedError("malformed", f"entry {entry.index} stands where {index} belongs")
        if not term <= entry.term <= message.term:
            raise WireRefusedError("malformed", f"entry {index} is of term {entry.term}, between {term} and {message.term}")
        term = entry.term
        if not entry.payload or entry.payload[0] not in (COMMAND, NO_OP, MEMBERS):
            raise WireRefusedError("malformed", f"entry {index} is neither a command nor a no-op nor a membership")
        if entry.payload[0] == MEMBERS:
            _check_members(entry)


def _check_members(entry: LogEntry) -> None:
    try:
        decode_members(entry.payload[1:], entry.index)
    except ValueError as error:
        raise WireRefusedError("malformed", f"entry {entry.index} is no possible membership: {error}") from None

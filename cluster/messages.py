"""The messages between nodes: typed msgpack frames, never a pickle.

PySyncObj hands dictionaries to its transport and expects dictionaries back; `guard.py` translates. Each message carries
the sender's term. Decoding checks types; `check_entries` checks all other rules. Section numbers are those of the Raft
paper (extended version).
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
"""First payload byte of the entry with which a new leader begins its term."""
MEMBERS = 4
"""First payload byte of an entry with a membership (`membership.py`). PySyncObj, which knows 0 to 3, skips it."""

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""The type of terms, indexes and byte counts. The bound keeps their sums within the integers that are written to disk.
"""


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A message of the protocol, with the term of its sender."""

    term: Natural


class AppendEntries(_Message, frozen=True, tag=1):
    """Section 5.3. `prev_index` is 0 if the leader has no entry before the next one; the follower then answers with the
    end of its log.

    `clock` here and below: the sender's wall clock, in nanoseconds since the Unix epoch; 0 if it is not sent
    (`clocks.py`).
    """

    commit_index: Natural
    prev_index: Natural
    prev_term: Natural
    entries: list[LogEntry]
    clock: Natural = 0
    quiet: bool = False


class Heartbeat(_Message, frozen=True, tag=2):
    """A heartbeat that says nothing of the log. It is sent during the transfer of a snapshot to this follower."""

    clock: Natural = 0


class AppendReply(_Message, frozen=True, tag=3):
    """`success`: everything below `next_index` is durable on the sender. `reset`: send from `next_index`.

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
    """A candidate asks for a vote (section 5.2)."""

    last_index: Natural
    last_term: Natural


class Vote(_Message, frozen=True, tag=5):
    """The sender votes for the receiver in this term."""


class PreVote(_Message, frozen=True, tag=6):
    """A pre-vote: would the receiver vote for the sender in `term`? (Section 9.6 of Ongaro's thesis.) It changes no
    state.
    """

    last_index: Natural
    last_term: Natural
    clock: Natural = 0


class PreVoteReply(_Message, frozen=True, tag=7):
    """`term` is the one asked about; `own_term` the term of the node that answers."""

    granted: bool
    own_term: Natural


class TimeoutNow(_Message, frozen=True, tag=8):
    """Campaign at once, because the leader transfers leadership (section 3.10 of the thesis)."""


class SnapshotChunk(_Message, frozen=True, tag=9):
    """Section 7. A chunk of the snapshot at `index`, which has `size` bytes; the chunk begins at `offset`."""

    index: Natural
    index_term: Natural
    size: Natural
    offset: Natural
    data: bytes


class SnapshotAck(_Message, frozen=True, tag=10):
    """The sender has the first `received` bytes of the snapshot at `index`."""

    index: Natural
    received: Natural


class Recovered(_Message, frozen=True, tag=11):
    """The receiver, which lost its disk, has everything up to `index` and may vote again; `docs/raft.md` has the
    argument.
    """

    index: Natural


class StaleTerm(_Message, frozen=True, tag=12):
    """The sender knows a newer `term` than the receiver (section 5.1)."""


class Removed(_Message, frozen=True, tag=14):
    """The receiver was removed from the cluster, by the entry at `index` or an earlier one, which is committed. It is
    the last message on a connection.
    """

    index: Natural


class StateDigest(_Message, frozen=True, tag=13):
    """The running hash of the state of `node` after the entry at `index`. It is sent by the node itself, or forwarded
    (`divergence.py`).
    """

    index: Natural
    node: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    digest: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]


class Introduction(_Message, frozen=True, tag=15):
    """The first message on a connection. `last_index`: where the sender's log ends; `voter` as in AppendReply; `body`
    is opaque here: the module that introduces the node defines it.
    """

    last_index: Natural
    voter: bool
    body: Annotated[bytes, msgspec.Meta(max_length=4096)]


class Objection(_Message, frozen=True, tag=16):
    """An objection to the receiver's introduction; the receiver's owner checks `body`."""

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
    """Return a message as bytes."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """Return the message in `data`.

    Raises:
        WireRefusedError: the bytes are not a message, or no correct node sends it.
    """
    try:
        message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireRefusedError("malformed", f"not a message of this protocol: {error}") from None
    if isinstance(message, AppendEntries):
        check_entries(message)
    if isinstance(message, SnapshotChunk) and not 0 < len(message.data) <= message.size - message.offset:
        raise WireRefusedError("malformed", f"{len(message.data)} bytes at {message.offset} are no chunk of {message.size}")
    return message


FORMER_LENGTHS = {1: 6, 2: 2, 3: 6, 4: 4, 5: 2, 6: 4, 7: 4, 8: 2, 9: 7, 10: 4, 11: 3, 12: 2, 13: 5, 14: 3}
"""Protocol 1, that of version 0.2.0: its messages by tag, and how many elements they have, the tag included."""

_raw = msgspec.msgpack.Decoder(list[msgspec.Raw])


def narrowed(data: bytes) -> bytes | None:
    """Return an encoded message in protocol 1; None for one that protocol 1 does not have. It lacks only fields on
    which no node depends: clocks and introductions.
    """
    parts = _raw.decode(data)
    length = FORMER_LENGTHS.get(msgspec.msgpack.decode(parts[0]))
    if length is None:
        return None
    return data if length == len(parts) else _encoder.encode(parts[:length])


def check_entries(message: AppendEntries) -> None:
    """Entries follow each other from `prev_index` + 1, terms do not fall, payloads are commands, no-ops or memberships.

    Raises:
        WireRefusedError: one of these rules is broken.
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

"""Report streams: the reports of an account's orders, numbered for one reader.

A session, such as a FIX session, numbers its messages, and after a node fails it continues on another node with the
next number. So the numbers are part of the state. An account has named streams. Every event of one of its orders is
also reported in each of its active streams (`emit`). All other messages of a session are written into the stream before
they are sent (`commands.NoteStream`). The feed stores and serves a stream like the events of a product: all nodes have
the same reports under the same numbers.

- A stream's numbers only grow. Its client may restart its own numbering: `base` is the stream's number before the
  client's first.
- `taken` counts the client's messages that need not be sent again. It is a lower bound: a message that is sent again
  has the same command id.
- An account has at most `limits.STREAMS_ACTIVE` active streams; opening a further one deactivates one whose key is
  revoked, else the one of its kind that was opened first, and another kind only if there is none. So drop copies, which
  a user who may only view the account can open, do not end its order entry. An inactive stream gets no reports, and its
  client must restart its numbering.
- The number of streams is limited, for an account and for all. A further one ends a stream whose key is revoked, else
  the inactive one that was opened first: its client must restart its numbering anyway. An active stream of a valid key
  never ends.
- Numbers never restart, also under a name that is used again. A new stream begins after the highest number of all
  streams, and streams end only where a new one begins, so no stream ever had a higher number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from statemachine import emit
from statemachine.limits import NAME_MAX, NOTE_MAX, STREAMS, STREAMS_ACTIVE, STREAMS_PER_ACCOUNT
from statemachine.reject import Reject
from statemachine.tables import StreamRow
from statemachine.types import Reason

if TYPE_CHECKING:
    from statemachine.commands import NoteStream
    from statemachine.entities import Account
from statemachine.state import State

_name = re.compile(f"[A-Za-z0-9_.:-]{{1,{NAME_MAX}}}/[a-z]{{1,8}}").fullmatch

TAKEN_MAX = 2**62
"""The largest number of a client's message."""


class Stream:
    """A report stream; the attributes are those of `tables.StreamRow`."""

    __slots__ = ("account_id", "active", "base", "opened", "sequence", "stream_id", "taken")

    def __init__(self, row: StreamRow) -> None:
        self.stream_id = row.stream_id
        self.account_id = row.account_id
        self.sequence = row.sequence
        self.base = row.base
        self.taken = row.taken
        self.opened = row.opened
        self.active = row.active

    def row(self) -> StreamRow:
        """Return the row of its table."""
        return StreamRow(self.stream_id, self.account_id, self.sequence, self.base, self.taken, self.opened, self.active)


def add(state: State, stream: Stream) -> None:
    """Add a stream."""
    state.streams[stream.stream_id] = stream
    if stream.active:
        _list(state.accounts[stream.account_id], stream)


def _list(account: Account, stream: Stream) -> None:
    account.streams = sorted([*(account.streams or ()), stream], key=lambda each: each.stream_id)


def _rest(account: Account, stream: Stream) -> None:
    """Make a stream inactive."""
    stream.active = False
    account.streams = [each for each in account.streams or () if each is not stream] or None


def validate(state: State, account: Account, command: NoteStream) -> Reject | None:
    """Return the reject of an invalid command, or None."""
    if _name(command.stream_id) is None:
        return Reject(Reason.INVALID_STREAM, "stream_id", "expected a name, a slash and a kind of 1 to 8 small letters")
    if len(command.text) > NOTE_MAX:
        return Reject(Reason.INVALID_STREAM, "text", f"at most {NOTE_MAX} characters")
    if len(command.origin) > NAME_MAX:
        return Reject(Reason.INVALID_STREAM, "origin", f"at most {NAME_MAX} characters")
    if not 0 <= command.taken <= TAKEN_MAX:
        return Reject(Reason.INVALID_STREAM, "taken", f"expected 0 to {TAKEN_MAX}")
    stream = state.streams.get(command.stream_id)
    if stream is None:
        return _validate_new(state, account, command)
    if stream.account_id != account.account_id:
        if command.open and command.reset and _is_left(state, stream):
            return None  # the key belongs to another account now
        return Reject(Reason.INVALID_STREAM, "stream_id", "it is another account's")
    if not stream.active and not (command.open and command.reset):
        return Reject(Reason.INVALID_STREAM, "reset", "the stream rests: its client has to count anew")
    return None


def _validate_new(state: State, account: Account, command: NoteStream) -> Reject | None:
    """Check that a new report stream may be created."""
    if not command.open:
        return Reject(Reason.INVALID_STREAM, "open", "there is no such stream")
    crowd = _crowd(state, account)
    if crowd and _to_end(state, crowd) is None:
        text = f"at most {STREAMS_PER_ACCOUNT} of an account, {STREAMS} in all, and all of them are active"
        return Reject(Reason.TOO_MANY_STREAMS, "stream_id", text)
    return None


def note(state: State, account: Account, command: NoteStream) -> Stream:
    """Execute a valid command. O(streams)."""
    stream = state.streams.get(command.stream_id)
    if stream is None or stream.account_id != account.account_id:
        stream = _begin(state, account, command.stream_id)
    if command.open:
        stream.opened = state.sequence
        if not stream.active:
            _wake(state, account, stream)
    if command.reset:
        stream.base, stream.taken = stream.sequence, 0
    if command.taken > stream.taken:
        stream.taken = command.taken
    if command.text:
        emit.stream_noted(state, stream, command.origin, command.text)
    if command.close:
        _rest(account, stream)
    return stream


def _begin(state: State, account: Account, stream_id: str) -> Stream:
    """Create a stream, in place of one that another account left under this name, or of one that the limits end."""
    before = max((each.sequence for each in state.streams.values()), default=0)
    if stream_id in state.streams:
        _end(state, state.streams[stream_id])
    elif crowd := _crowd(state, account):
        ends = _to_end(state, crowd)
        assert ends is not None, "validated"
        _end(state, ends)
    stream = Stream(StreamRow(stream_id, account.account_id, before, before, 0, 0, False))
    state.streams[stream_id] = stream
    return stream


def _crowd(state: State, account: Account) -> list[Stream]:
    """Return the streams of which one must end before the account can have another one, or nothing."""
    own = [stream for stream in state.streams.values() if stream.account_id == account.account_id]
    if len(own) >= STREAMS_PER_ACCOUNT:
        return own
    return list(state.streams.values()) if len(state.streams) >= STREAMS else []


def _to_end(state: State, crowd: list[Stream]) -> Stream | None:
    """Return the stream that ends first, or None if all are active and have a valid key."""
    found = [(not left, each.opened, each.stream_id) for each in crowd if (left := _is_left(state, each)) or not each.active]
    return state.streams[min(found)[2]] if found else None


def _end(state: State, stream: Stream) -> None:
    """Delete a stream."""
    if stream.active:
        _rest(state.accounts[stream.account_id], stream)
    del state.streams[stream.stream_id]


def _is_left(state: State, stream: Stream) -> bool:
    """Return whether no valid key can open the stream any more. Its name is the id of a key of its account, or the
    account, a colon and the id of a user's key (`node.fix.logon.Terms.stream_id`).
    """
    name, account_id = stream.stream_id.rpartition("/")[0], stream.account_id
    own = state.api_keys.get(name)
    if own is not None and own.permissions and own.owner_id == account_id:
        return False
    of_user = state.api_keys.get(name.removeprefix(f"{account_id}:")) if name.startswith(f"{account_id}:") else None
    return of_user is None or not of_user.permissions


def _wake(state: State, account: Account, stream: Stream) -> None:
    """Make a stream active; this may deactivate another one, of the same kind if there is one."""
    active = account.streams or []
    if len(active) >= STREAMS_ACTIVE:
        _rest(account, min(active, key=lambda each: (not _is_left(state, each), _kind(each) != _kind(stream), each.opened)))
    stream.active = True
    _list(account, stream)


def _kind(stream: Stream) -> str:
    """Return the kind of a stream, the part of its name behind the slash."""
    return stream.stream_id.rpartition("/")[2]

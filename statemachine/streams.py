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
- An account has at most `limits.STREAMS_ACTIVE` active streams; opening a further one deactivates the one of its kind
  that was opened first, and another kind only if there is none. So drop copies, which a user who may only view the
  account can open, do not end its order entry. An inactive stream gets no reports, and its client must restart its
  numbering.
- A stream is never deleted, so that its numbers never restart.
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
        return Reject(Reason.INVALID_STREAM, "stream_id", "it is another account's")
    if not stream.active and not (command.open and command.reset):
        return Reject(Reason.INVALID_STREAM, "reset", "the stream rests: its client has to count anew")
    return None


def _validate_new(state: State, account: Account, command: NoteStream) -> Reject | None:
    """Check that a new report stream may be created."""
    if not command.open:
        return Reject(Reason.INVALID_STREAM, "open", "there is no such stream")
    own = sum(1 for stream in state.streams.values() if stream.account_id == account.account_id)
    if len(state.streams) >= STREAMS or own >= STREAMS_PER_ACCOUNT:
        text = f"at most {STREAMS_PER_ACCOUNT} of an account, {STREAMS} in all"
        return Reject(Reason.TOO_MANY_STREAMS, "stream_id", text)
    return None


def note(state: State, account: Account, command: NoteStream) -> Stream:
    """Execute a valid command. O(streams of the account)."""
    stream = state.streams.get(command.stream_id)
    if stream is None:
        stream = Stream(StreamRow(command.stream_id, account.account_id, 0, 0, 0, 0, False))
        state.streams[command.stream_id] = stream
    if command.open:
        stream.opened = state.sequence
        if not stream.active:
            _wake(account, stream)
    if command.reset:
        stream.base, stream.taken = stream.sequence, 0
    if command.taken > stream.taken:
        stream.taken = command.taken
    if command.text:
        emit.stream_noted(state, stream, command.origin, command.text)
    if command.close:
        _rest(account, stream)
    return stream


def _wake(account: Account, stream: Stream) -> None:
    """Make a stream active; this may deactivate another one, of the same kind if there is one."""
    active = account.streams or []
    if len(active) >= STREAMS_ACTIVE:
        same = [each for each in active if _kind(each) == _kind(stream)]
        _rest(account, min(same or active, key=lambda each: each.opened))
    stream.active = True
    _list(account, stream)


def _kind(stream: Stream) -> str:
    """Return the kind of a stream, the part of its name behind the slash."""
    return stream.stream_id.rpartition("/")[2]

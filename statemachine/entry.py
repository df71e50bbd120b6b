"""A log entry, read command by command.

This is the plain form, which decodes the whole entry. The compiled core uses `entry.pyx` instead, with the same
attributes, methods and functions. That module reads the fields in place, and decodes only entries that differ from the
output of `encode_batch`.
"""

from __future__ import annotations

import re
from typing import get_args

import msgspec

from statemachine.commands import AnyCommand, CancelOrder, Command, PlaceOrder, decode_batch, encode_batch
from statemachine.entities import Cancelling, Placing
from statemachine.limits import COMMAND_ID_MAX, NAME_MAX
from statemachine.writer import Writer

PLACE, CANCEL, OTHER = 7, 8, 0
"""The kind of an entry's next command: one of the two most frequent ones, or another."""

FINGERPRINT_PRIME = 2**64 - 59

_TAGS: dict[type[Command], int] = {kind: kind.__struct_config__.tag for kind in get_args(AnyCommand)}
_encode = msgspec.msgpack.Encoder().encode
_ALPHABET = "[A-Za-z0-9_.:-]"
_name = re.compile(f"{_ALPHABET}{{1,{NAME_MAX}}}").fullmatch
_command_id = re.compile(f"{_ALPHABET}{{1,{COMMAND_ID_MAX}}}").fullmatch


def is_name(text: str) -> bool:
    """Return whether a text is 1 to `limits.NAME_MAX` characters of A-Z a-z 0-9 _ . : -"""
    return _name(text) is not None


def is_command_id(text: str) -> bool:
    """Return whether a text is 1 to `limits.COMMAND_ID_MAX` characters of A-Z a-z 0-9 _ . : -"""
    return _command_id(text) is not None


def fingerprint(encoded: bytes) -> bytes:
    """Return eight bytes that detect other contents under the same command id: the remainder of the command's bytes,
    read as one number.

    It is never `reply_cache.ANY_CONTENTS`. It protects a client from its own mistakes. It need not resist an attack,
    because a client chooses its own command ids.
    """
    return (int.from_bytes(encoded, "big") % FINGERPRINT_PRIME or 1).to_bytes(8, "big")


class EntryReader:
    """The commands of a batch, one after the other.

    Attributes:
        payload: the batch as `encode_batch` writes it.
        time: `Batch.time`.
        count: how many commands there are.
        kind: `PLACE`, `CANCEL` or `OTHER`, of the current command.
        tag: the tag of the current command's struct.
        account_id, command_id: of the current command.

    Raises:
        msgspec.DecodeError: not a batch of this schema.
    """

    def __init__(self, payload: bytes) -> None:
        batch = decode_batch(payload)
        self.payload = encode_batch(batch)
        self.time = batch.time
        self._commands = batch.commands
        self.count = len(batch.commands)
        self._next = 0
        self._command: AnyCommand | None = None
        self.kind = OTHER
        self.tag = 0
        self.account_id = ""
        self.command_id = ""

    def advance(self) -> None:
        """Advance to the next command."""
        command = self._command = self._commands[self._next]
        self._next += 1
        kind = type(command)
        self.tag = _TAGS[kind]
        self.kind = CANCEL if kind is CancelOrder else OTHER
        if isinstance(command, PlaceOrder) and command.options is None:
            self.kind = PLACE
        self.account_id, self.command_id = command.account_id, command.command_id

    def fingerprint(self) -> bytes:
        """Return the fingerprint of the current command."""
        return fingerprint(_encode(self._command))

    def write_fingerprint(self, into: Writer) -> None:
        """Append the fingerprint of the current command."""
        into.raw(self.fingerprint())

    def placing(self, into: Placing) -> None:
        """Read the current command, a `PlaceOrder`."""
        assert isinstance(self._command, PlaceOrder)
        into.take(self._command)

    def cancelling(self, into: Cancelling) -> None:
        """Read the current command, a `CancelOrder`."""
        assert isinstance(self._command, CancelOrder)
        into.take(self._command)

    def command(self) -> AnyCommand:
        """Return the current command."""
        assert self._command is not None
        return self._command

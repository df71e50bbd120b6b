"""A log entry, read command by command.

This is the plain form, which decodes the entry whole. The compiled core has `entry.pyx` in its place, with the same attributes and methods: it reads
the fields where they lie.
"""

from __future__ import annotations

import msgspec

from statemachine.commands import AnyCommand, Batch, CancelOrder, PlaceOrder
from statemachine.entities import Cancelling, Placing

PLACE, CANCEL, OTHER = 7, 8, 0
"""What an entry's next command is: the two kinds that come most, or another."""

_encode = msgspec.msgpack.Encoder().encode


class EntryReader:
    """The commands of a batch, one after the other.

    Attributes:
        count: how many commands there are.
        kind: `PLACE`, `CANCEL` or `OTHER`, of the current command.
        account_id, command_id: of the current command.
        encoded: the current command as msgpack.
    """

    def __init__(self, batch: Batch) -> None:
        self._commands = batch.commands
        self.count = len(batch.commands)
        self._next = 0
        self._command: AnyCommand | None = None
        self.kind = OTHER
        self.account_id = ""
        self.command_id = ""
        self.encoded = b""

    def advance(self) -> None:
        """Go to the next command."""
        command = self._command = self._commands[self._next]
        self._next += 1
        kind = type(command)
        self.kind = PLACE if kind is PlaceOrder else CANCEL if kind is CancelOrder else OTHER
        self.account_id, self.command_id = command.account_id, command.command_id
        self.encoded = _encode(command)

    def placing(self, into: Placing) -> None:
        """The current command, a `PlaceOrder`."""
        assert isinstance(self._command, PlaceOrder)
        into.take(self._command)

    def cancelling(self, into: Cancelling) -> None:
        """The current command, a `CancelOrder`."""
        assert isinstance(self._command, CancelOrder)
        into.take(self._command)

    def command(self) -> AnyCommand:
        """The current command."""
        assert self._command is not None
        return self._command

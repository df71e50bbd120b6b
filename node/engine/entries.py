"""Encodes commands for the log. The level of an entry is the level at the end of the log, not the level of the process.

A leader that has not applied all of its log may hold an entry that changes the level. Commands that it proposes come
behind that entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node.errors import RequestFailed
from node.native.protocol import FailCode
from snapshots.abi import ABI
from snapshots.levels.narrowing import NotAtLevelError
from snapshots.levels.states import check_commands, encoded
from statemachine.commands import AnyCommand

Encode = Callable[[int, Sequence[AnyCommand]], bytes]
"""Makes the log entry for commands and a time (nanoseconds since the epoch)."""


class Entries:
    """Makes log entries.

    Args:
        abi_at_end: the ABI in which the next entry must be.
    """

    def __init__(self, abi_at_end: Callable[[], str] = lambda: ABI) -> None:
        self._abi = abi_at_end

    def check(self, commands: Sequence[AnyCommand]) -> None:
        """Check that the commands can be encoded at the level.

        Raises:
            RequestFailed: BAD_REQUEST, naming the command, the field and the level. No command was proposed.
        """
        abi = self._abi()
        if abi == ABI:
            return
        try:
            check_commands(abi, commands)
        except NotAtLevelError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, str(error)) from error

    def encode(self, time_ns: int, commands: Sequence[AnyCommand]) -> bytes:
        """Return the log entry. The commands must have passed `check` at this level."""
        return encoded(self._abi(), time_ns, commands)

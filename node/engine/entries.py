"""How this node writes commands into the log: at the level of the entry, which is the one at the end of the log and not
that of the process.

A leader that has not applied all of its log yet may have an entry in it that changes the level. What it proposes stands
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
"""Makes the log entry of commands that are stamped with a time (nanoseconds since the epoch)."""


class Entries:
    """Makes log entries.

    Args:
        abi_at_end: the ABI in which the next entry must be.
    """

    def __init__(self, abi_at_end: Callable[[], str] = lambda: ABI) -> None:
        self._abi = abi_at_end

    def check(self, commands: Sequence[AnyCommand]) -> None:
        """Refuse commands that cannot be said at the level.

        Raises:
            RequestFailed: BAD_REQUEST, naming the command, the field and the level. Nothing was done.
        """
        try:
            check_commands(self._abi(), commands)
        except NotAtLevelError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, str(error)) from error

    def encode(self, time_ns: int, commands: Sequence[AnyCommand]) -> bytes:
        """The log entry. The commands must have passed `check` at this level."""
        return encoded(self._abi(), time_ns, commands)

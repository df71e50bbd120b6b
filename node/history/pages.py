"""What a reader asks of a history. This module imports no library of a database, so that a gateway without a history
starts without one.
"""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[int, int]
"""The place of a row among an account's rows: the sequence of its command, and the trade's id or the entry's position
under it.
"""


class PageRequest(NamedTuple):
    """A request for at most `limit` rows, older than the row at `after` and newer than the row at `before`. Times are
    nanoseconds since the epoch, `end` excluded.
    """

    limit: int = 100
    after: Place | None = None
    before: Place | None = None
    start: int | None = None
    end: int | None = None


class TransferKind(NamedTuple):
    """A kind of transfer: `incoming` is into the account, `internal` is between two accounts of the exchange."""

    incoming: bool
    internal: bool

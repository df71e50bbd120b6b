"""Which rows are wanted."""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[int, int]
"""A row's place among an account's: its command's sequence, and the id of the trade or the position of the entry under
it.
"""


class Page(NamedTuple):
    """At most `limit` rows, older than the one at `after`, newer than the one at `before`. Times are nanoseconds since
    the epoch, `end` excluded.
    """

    limit: int = 100
    after: Place | None = None
    before: Place | None = None
    start: int | None = None
    end: int | None = None


class TransferKind(NamedTuple):
    """Transfers into an account or out of it, from and to another account (`internal`) or the world outside."""

    incoming: bool
    internal: bool

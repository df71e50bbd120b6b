"""Which rows of a list are wanted."""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[int, int]
"""A row's place among an account's: its command's sequence, and the id of the trade or the position of the entry under it."""


class Page(NamedTuple):
    """At most `limit` rows, older than the one at `after`, newer than the one at `before`. Times are nanoseconds since the epoch, `end` excluded."""

    limit: int = 100
    after: Place | None = None
    before: Place | None = None
    start: int | None = None
    end: int | None = None

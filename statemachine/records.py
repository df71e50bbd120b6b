"""Tables whose rows are kept in memory as they are stored: by key, with what changed since the last freeze.

Rows are frozen structs. A change replaces a row by another one, so whoever got a row may keep it, even in another
thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec

from statemachine.tables import Table

Key = tuple[Any, ...]
"""The fields of a row that its table's key names, in that order."""

R = TypeVar("R", bound=msgspec.Struct)


class Records(Generic[R]):
    """The rows of one table, by key. All O(1) but `in_order`.

    Change:   `put`, `remove`
    Look:     `get`, `len`, iteration over the rows, `in_order`
    A snapshot takes: `take_changes`; `changes` only looks

    Attributes:
        rows: by key. Change them by `put` and `remove` only.
    """

    __slots__ = ("_changed", "_key_of", "rows", "table")

    def __init__(self, table: Table) -> None:
        assert table.kept, f"the rows of table {table.name} are not kept"
        self.table = table
        self.rows: dict[Key, R] = {}
        self._changed: dict[Key, bool] = {}
        """Keys of rows that were added, changed or removed since the last freeze; the value says whether a row existed
        at that time."""
        fields = attrgetter(*table.key)
        self._key_of = fields if len(table.key) > 1 else lambda row: (fields(row),)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows.values())

    def __contains__(self, key: Key) -> bool:
        return key in self.rows

    def get(self, *key: Any) -> R | None:
        """Return the row with these key fields."""
        return self.rows.get(key)

    def in_order(self) -> list[R]:
        """Return the rows by key. O(n log n)."""
        return [self.rows[key] for key in sorted(self.rows)]

    def key_of(self, row: R) -> Key:
        """Return the key of a row."""
        key: Key = self._key_of(row)
        return key

    def put(self, row: R) -> bool:
        """Add a row, or replace the one with its key. Returns whether that changed anything."""
        key = self.key_of(row)
        known = self.rows.get(key)
        if known == row:
            return False
        self._changed.setdefault(key, known is not None)
        self.rows[key] = row
        return True

    def remove(self, *key: Any) -> R | None:
        """Remove a row. Returns that row, or None if there was none."""
        known = self.rows.pop(key, None)
        if known is not None:
            self._changed.setdefault(key, True)
        return known

    def fill(self, rows: list[R]) -> None:
        """Add the rows of a restored table. They do not count as changes. O(n)."""
        self.rows = {self.key_of(row): row for row in rows}

    def take_changes(self, *, whole: bool) -> tuple[list[R], list[Key]]:
        """`changes`, which are counted anew from here on. O(changes).

        Args:
            whole: every row counts as changed. O(rows).
        """
        rows, removed = (list(self.rows.values()), []) if whole else self.changes()
        self._changed = {}
        return rows, removed

    def changes(self) -> tuple[list[R], list[Key]]:
        """Return the rows that were added or changed since the last freeze, and the keys of the removed rows. O(changes)."""
        changed = self._changed
        rows = [self.rows[key] for key in changed if key in self.rows]
        return rows, [key for key, known in changed.items() if known and key not in self.rows]

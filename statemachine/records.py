"""Tables whose rows are kept in memory as they are stored: by key, with what changed since the last freeze.

Rows are frozen structs. A change replaces a row by another one, so whoever got a row may keep it, even in another
thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec
from sortedcontainers import SortedList

from statemachine.tables import Table

Key = tuple[Any, ...]
"""The fields of a row that its table's key names, in that order."""

R = TypeVar("R", bound=msgspec.Struct)


class Records(Generic[R]):
    """The rows of one table, by key. All O(1) but the reads in order.

    Change:   `put`, `remove`
    Look:     `get`, `len`, iteration over the rows; in order: `in_order`, `page`, `beginning`,
              `behind`, `having`
    A snapshot takes: `take_changes`; `changes` only looks

    Attributes:
        rows: by key. Change them by `put` and `remove` only.
    """

    __slots__ = ("_by", "_changed", "_key_of", "_sorted", "rows", "table")

    def __init__(self, table: Table) -> None:
        assert table.kept, f"the rows of table {table.name} are not kept"
        self.table = table
        self.rows: dict[Key, R] = {}
        self._sorted: SortedList | None = None
        """The keys in order. It exists from the first read in order on, and is then kept up to date."""
        self._by: dict[str, dict[object, dict[Key, None]]] = {}
        """By field and its value, the keys of the rows. A field is here from the first read by it on."""
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

    def page(self, first: int, limit: int) -> list[R]:
        """Return up to `limit` rows by key, after the first `first` ones. O(limit), and once O(n log n)."""
        return [self.rows[key] for key in self._in_order().islice(first, first + limit)]

    def beginning(self, *key: Any) -> list[R]:
        """Return the rows by key whose keys begin with these fields. O(log n + rows), and once O(n log n)."""
        return [self.rows[each] for each in takewhile(lambda each: each[: len(key)] == key, self._in_order().irange(key))]

    def behind(self, *key: Any) -> Iterator[R]:
        """Return the rows by key whose keys are greater. O(log n), and once O(n log n). The table may not change before
        the last row is taken.
        """
        return (self.rows[each] for each in self._in_order().irange(key, inclusive=(False, True)))

    def having(self, field: str, value: object) -> list[R]:
        """Return the rows by key whose field has this value. O(rows log rows), and once O(n)."""
        index = self._by.get(field)
        if index is None:
            index = self._by[field] = {}
            for key, row in self.rows.items():
                index.setdefault(getattr(row, field), {})[key] = None
        return [self.rows[key] for key in sorted(index.get(value, ()))]

    def _index(self, key: Key, known: R | None, row: R | None) -> None:
        """Note in the indexes that a row takes the place of another one."""
        for field, index in self._by.items():
            if known is not None:
                keys = index[getattr(known, field)]
                del keys[key]
                if not keys:
                    del index[getattr(known, field)]
            if row is not None:
                index.setdefault(getattr(row, field), {})[key] = None

    def _in_order(self) -> SortedList:
        if self._sorted is None:
            self._sorted = SortedList(self.rows)
        return self._sorted

    @property
    def parts(self) -> list[dict[Any, Any] | SortedList]:
        """The containers that grow with the table."""
        return [self.rows, *self._by.values(), *([] if self._sorted is None else [self._sorted])]

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
        if known is None and self._sorted is not None:
            self._sorted.add(key)
        if self._by:
            self._index(key, known, row)
        return True

    def remove(self, *key: Any) -> R | None:
        """Remove a row. Returns that row, or None if there was none."""
        known = self.rows.pop(key, None)
        if known is not None:
            self._changed.setdefault(key, True)
            if self._sorted is not None:
                self._sorted.remove(key)
            self._index(key, known, None)
        return known

    def fill(self, rows: list[R]) -> None:
        """Add the rows of a restored table. They do not count as changes. O(n)."""
        self.rows = {self.key_of(row): row for row in rows}
        self._sorted = None
        self._by = {}

    def take_changes(self, *, whole: bool) -> tuple[list[R], list[Key]]:
        """Return `changes`, and count changes from here on. O(changes).

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

"""The changes that a migration makes in the tables, for a person to judge: columns that come or go, and rows that differ
in the columns that stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from snapshots import tsv
from snapshots.migration.codec import Row
from snapshots.migration.report import StepReport

SAMPLES = 3
"""The most values of a column that are shown, the most frequent first."""


class Column(msgspec.Struct, frozen=True):
    """An added or removed column: the number of different values, some of them as in TSV, and the number of rows with the
    first.
    """

    name: str
    values: int
    samples: list[str]
    most: int


class TableDifference(msgspec.Struct, frozen=True):
    """One table. `table` is its name before, "" if it was added. `becomes` is the name afterwards, "" if it was removed.

    Rows are compared by their keys, in the columns that exist before and after. `same`, `changed`, `gone`, `came` are
    numbers of rows. `columns_changed` has the number of changed rows for each column. A new part of an outcome, or of
    another value of several parts, is not a difference. `lines` are TSV: the headers, then the old form of removed and
    changed rows ("-"), and the new form of added and changed rows ("+").
    """

    table: str
    becomes: str
    columns_added: list[Column]
    columns_removed: list[Column]
    columns_changed: dict[str, int]
    same: int
    changed: int
    gone: int
    came: int
    lines: list[str]

    @property
    def is_any(self) -> bool:
        """Whether the table differs."""
        return bool(self.columns_added or self.columns_removed or self.changed or self.gone or self.came)


Cells = list[str]
Key = tuple[Any, ...]


class _Side:
    """A table before or after, as cells of text by column."""

    def __init__(self, name: str, rows: Mapping[str, list[Row]], schema: tsv.TsvSchema) -> None:
        lines = tsv.TableLines(rows, schema)
        self.name = name
        self.header = lines.header(name) if name else ""
        self.places = {column: place for place, column in enumerate(self.header.split("\t"))} if name else {}
        self.rows = [line.split("\t") for line in lines.of(name, rows[name])] if name else []
        self.key = schema.keys[name] if name else ()

    def keyed(self) -> dict[Key, Cells]:
        """Return the rows by key."""
        return {tuple([self._part(cells, part) for part in self.key]): cells for cells in self.rows}

    def _part(self, cells: Cells, part: str) -> Any:
        """Return a column, or its part at a path of names."""
        column, *path = [part] if part in self.places else part.split(".")
        value: Any = cells[self.places[column]]
        for place, name in enumerate(path):
            value = (value if place else msgspec.json.decode(value))[name]
        return value

    def column(self, name: str) -> Column:
        """Return the values of a column."""
        counts = Counter(cells[self.places[name]] for cells in self.rows).most_common()
        return Column(name, len(counts), [value for value, _ in counts[:SAMPLES]], counts[0][1] if counts else 0)


def new_names(tables: Iterable[str], steps: Iterable[StepReport]) -> dict[str, str]:
    """Return the name of each table after all steps; "" for a removed table."""
    names = {table: table for table in tables}
    for step in steps:
        becomes = {count.table: count.new_table for count in step.tables}
        names = {table: becomes.get(name, name) for table, name in names.items()}
    return names


def differences(
    before: Mapping[str, list[Row]],
    old: tsv.TsvSchema,
    after: Mapping[str, list[Row]],
    new: tsv.TsvSchema,
    names: Mapping[str, str],
) -> Iterator[TableDifference]:
    """Return the tables whose columns or rows differ, in the order of the old schema, then added tables. O(everything)."""
    pairs = [(table, names[table]) for table in before] + [("", table) for table in after if table not in names.values()]
    for was, now in pairs:
        found = _compared(_Side(was, before, old), _Side(now, after, new))
        if found.is_any:
            yield found


def _compared(was: _Side, now: _Side) -> TableDifference:
    """Compare two states of a table, by key where both have the same key."""
    # A key of other columns does not show which new row an old row has become.
    pairs = was.keyed() if was.key == now.key else {}
    common = [(name, was.places[name], place) for name, place in now.places.items() if name in was.places]
    lines, changed, columns = [], 0, Counter[str]()
    gone = [] if pairs else list(was.rows)
    came: list[Cells] = []
    for key, cells in now.keyed().items():
        former = pairs.pop(key, None)
        if former is None:
            came.append(cells)
            continue
        differing = [name for name, old, new in common if former[old] != cells[new] and not _extends(former[old], cells[new])]
        if differing:
            changed += 1
            columns.update(differing)
            lines += [_line("-", former), _line("+", cells)]
    gone += pairs.values()
    lines = [*(_line("-", cells) for cells in gone), *lines, *(_line("+", cells) for cells in came)]
    headers = [f"{sign}{side.header}" for sign, side in (("-", was), ("+", now)) if lines and side.header]
    return TableDifference(
        was.name,
        now.name,
        [now.column(name) for name in now.places if was.name and name not in was.places],
        [was.column(name) for name in was.places if now.name and name not in now.places],
        dict(columns),
        len(now.rows) - changed - len(came),
        changed,
        len(gone),
        len(came),
        [*headers, *lines],
    )


def _line(sign: str, cells: Cells) -> str:
    return sign + "\t".join(cells)


def _extends(was: str, now: str) -> bool:
    """Return whether a cell with a value of several parts has all that it had."""
    if was[:1] not in ("{", "["):
        return False
    try:
        return _has(msgspec.json.decode(now), msgspec.json.decode(was))
    except msgspec.DecodeError:
        return False


def _has(now: Any, was: Any) -> bool:
    """Return whether a new value contains everything that the old one has."""
    if isinstance(was, dict) and isinstance(now, dict):
        return all(name in now and _has(now[name], value) for name, value in was.items())
    if isinstance(was, list) and isinstance(now, list):
        return len(now) == len(was) and all(map(_has, now, was))
    return bool(now == was)

"""Migrates a copy of the data, and reports the steps of a start, its needs, and the changes. The source is only read.

The changes in the tables are for a person to judge: columns that come or go, and rows that differ in the columns that
stay.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from node.config.file import load
from node.config.settings import NodeConfig
from node.errors import DirectoryError
from node.migration.contents import LOG, SNAPSHOTS, Found, check_known, look
from node.migration.conversion import Builder, Built, Progress
from node.migration.start import SCRIPTS
from node.system import software
from snapshots import tsv
from snapshots.levels.level import ACCEPTED, BROUGHT_TO
from snapshots.migration.chain import Chains
from snapshots.migration.codec import Row
from snapshots.migration.report import StepReport
from snapshots.migration.run import Counted, uncounted
from snapshots.migration.scripts import tsv_schema

SAMPLES = 3
"""The most values of a column that are shown, the most frequent first."""


class Column(msgspec.Struct, frozen=True):
    """An added or removed column: the number of different values, some of them as in TSV, and the number of rows with
    the first.
    """

    name: str
    values: int
    samples: list[str]
    most: int


class TableDifference(msgspec.Struct, frozen=True):
    """One table. `table` is its name before, "" if it was added. `becomes` is the name afterwards, "" if it was
    removed.

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
        found = _compare_table(_Side(was, before, old), _Side(now, after, new))
        if found.is_any:
            yield found


def _compare_table(was: _Side, now: _Side) -> TableDifference:
    """Compare two states of a table, by key where both have the same key."""
    # A key of other columns does not show which new row an old row has become.
    pairs = was.keyed() if was.key == now.key else {}
    common = [(name, was.places[name], place) for name, place in now.places.items() if name in was.places]
    lines, changed, columns = [], 0, Counter[str]()
    removed = [] if pairs else list(was.rows)
    added: list[Cells] = []
    for key, cells in now.keyed().items():
        former = pairs.pop(key, None)
        if former is None:
            added.append(cells)
            continue
        differing = [name for name, old, new in common if former[old] != cells[new] and not _extends(former[old], cells[new])]
        if differing:
            changed += 1
            columns.update(differing)
            lines += [_line("-", former), _line("+", cells)]
    removed += pairs.values()
    lines = [*(_line("-", cells) for cells in removed), *lines, *(_line("+", cells) for cells in added)]
    headers = [f"{sign}{side.header}" for sign, side in (("-", was), ("+", now)) if lines and side.header]
    return TableDifference(
        was.name,
        now.name,
        [now.column(name) for name in now.places if was.name and name not in was.places],
        [was.column(name) for name in was.places if now.name and name not in now.places],
        dict(columns),
        len(now.rows) - changed - len(added),
        changed,
        len(removed),
        len(added),
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


@dataclass(frozen=True)
class NodeData:
    """A node's data, with its configuration if that is there too."""

    node_id: str
    data: Path
    scripts: Path
    config: NodeConfig | None


def places(directory: Path) -> list[NodeData]:
    """Return the data in a directory: that of a cluster, of a node, or a data directory itself.

    Raises:
        DirectoryError: the directory belongs to neither a cluster nor a node, and is not a data directory.
        ConfigError: a node's configuration is invalid.
    """
    paths = [directory / "node.toml"] if (directory / "node.toml").is_file() else sorted(directory.glob("*/node.toml"))
    if paths:
        configs = map(load, paths)
        return [NodeData(config.node_id, config.data_path, Path(config.directory) / SCRIPTS, config) for config in configs]
    if (directory / SNAPSHOTS).is_dir() or (directory / LOG).is_dir():
        return [NodeData("", directory, directory.resolve().parent / SCRIPTS, None)]
    raise DirectoryError(
        f"{directory}: neither a cluster's, nor a node's, nor a data directory (no node.toml, no {SNAPSHOTS}, no {LOG})"
    )


@dataclass(frozen=True)
class Rehearsal:
    """The result of a rehearsal. `built` is None if the data already has the wanted ABI, or nothing was stored yet."""

    place: NodeData
    found: Found
    target: str
    built: Built | None
    chains: Chains

    def differences(self) -> Iterator[TableDifference]:
        """Return the changes by table."""
        built = self.built
        if built is None or self.found.abi is None:
            return
        old, new = (tsv_schema(self.chains.releases.schema(abi)) for abi in (self.found.abi, self.target))
        yield from differences(built.before, old, built.after, new, new_names(built.before, built.report.steps))


def rehearse(
    place: NodeData,
    target: str | None = None,
    *,
    known: Chains | None = None,
    progress: Progress = lambda _line: None,
    counted: Counted = uncounted,
) -> Rehearsal:
    """Run the steps of a start, or those to another ABI, on a copy in a temporary directory.

    Args:
        progress, counted: see `Builder`.

    Raises:
        UnknownAbiError, MigrationError: the migration would fail, for this reason.
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data is damaged or inconsistent.
        OSError: the disk is full, or cannot be read or written.
    """
    known = known or Chains(scripts=place.scripts)
    target_abi = known.releases.schema(target or BROUGHT_TO.abi).abi
    found = look(place.data)
    if target is None and found.abi in ACCEPTED:
        return Rehearsal(place, found, target_abi, None, known)
    check_known(found, known.releases, software.version())
    steps = known.find(found.abi, target_abi) if found.abi is not None else []
    if not steps:
        return Rehearsal(place, found, target_abi, None, known)
    with tempfile.TemporaryDirectory(prefix="quorumbook-rehearsal-") as name:
        built = Builder(found, Path(name) / "data", steps, known.releases, place.node_id, progress, counted).build()
    return Rehearsal(place, found, target_abi, built, known)

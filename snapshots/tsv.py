"""Tables as text that a person can read, compare, edit and load again.

    # table = Product
    product_id	base	quote	tick	...
    BTC-USD	BTC	USD	0.01	...

A file holds one table, `Product.tsv`, or several, each after a line `# table = Name`. A header names the columns. A
reader accepts them in any order, and without those that have a default. It ignores empty lines and other lines that
begin with `#`. `tsv_values` defines how values are written.

The written form is canonical: every table, the columns in the order of the schema, the rows in the order of their
keys. So the same state gives the same bytes, and writing, reading and writing again changes no byte.

`TsvSchema` names the tables: those of this software, of another version of it, or the few of a dataset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from snapshots.errors import TsvError, TsvFault
from snapshots.manifest import Row
from snapshots.tsv_values import (
    UNITS,
    UNSCALED,
    Codecs,
    Scales,
    StructCodec,
    Unit,
    ValueFault,
    as_first,
    from_cell,
    shown,
    to_cell,
)
from statemachine.tables import KEYS, REFERENCES, TABLES, Reference

SUFFIX = ".tsv"

PROGRESS_EVERY = 5_000
"""Rows between two calls of a progress."""

_TITLE_LINE = re.compile(r"#\s*table\s*=\s*(\S+)\s*")
_encode = msgspec.msgpack.Encoder().encode
_decode_key = msgspec.msgpack.Decoder(list[Any]).decode


class TsvSchema(msgspec.Struct, frozen=True):
    """Tables that can be written as text.

    Attributes:
        tables: row type by table name.
        keys: the parts of each table's key, as in `statemachine.tables.KEYS`.
        references: which rows refer to which.
        scaled: whether amounts are decimals. Otherwise they are whole numbers in smallest units, and the digits of
            currencies and products are not needed.
    """

    tables: Mapping[str, type[msgspec.Struct]]
    keys: Mapping[str, tuple[str, ...]]
    references: Sequence[Reference] = ()
    scaled: bool = True

    @property
    def units(self) -> Mapping[str, Unit]:
        """The unit of each number, by the field's name."""
        return UNITS if self.scaled else UNSCALED


SCHEMA = TsvSchema(TABLES, KEYS, REFERENCES)
"""The tables of this software."""


def title(table: str) -> str:
    """Return a table's name in files: `api_key` is `ApiKey`."""
    return "".join(part.capitalize() for part in table.split("_"))


# ---------------------------------------------------------------------- writing


def write_tables(
    directory: Path,
    tables: Mapping[str, Iterable[Row]],
    schema: TsvSchema = SCHEMA,
    *,
    progress: Callable[[int], None] = lambda _rows: None,
) -> dict[str, int]:
    """Write one file for each table into `directory`. The directory is created if it does not exist. Only its owner can
    read the files, because API keys are in them.

    Args:
        progress: called with the rows written so far, every `PROGRESS_EVERY` rows and at the end of each table.

    Returns:
        The number of rows of each table.

    Raises:
        OSError: a file cannot be written.
        TsvError: a row names a currency or product that is in no table.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    rows = {name: list(tables[name]) for name in schema.tables}
    lines = TableLines(rows, schema)
    written = 0
    for name, content in rows.items():
        path = directory / f"{title(name)}{SUFFIX}"
        with open(path, "w", encoding="utf-8", newline="\n", opener=_private) as file:
            file.write(f"# table = {title(name)}\n{lines.header(name)}\n")
            for at in range(0, len(content), PROGRESS_EVERY):
                file.writelines(f"{line}\n" for line in lines.of(name, content[at : at + PROGRESS_EVERY], at + 1))
                progress(written + min(at + PROGRESS_EVERY, len(content)))
        written += len(content)
    return {name: len(content) for name, content in rows.items()}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class TableLines:
    """The lines of tables.

    Args:
        tables: at least those with currencies and products, for the digits of amounts.
    """

    def __init__(self, tables: Mapping[str, Iterable[Row]], schema: TsvSchema = SCHEMA) -> None:
        self._schema = schema
        decoded = {
            name: [msgspec.msgpack.decode(row, type=schema.tables[name]) for _, row in tables.get(name, ())]
            for name in ("currency", "product")
            if name in schema.tables and schema.scaled
        }
        currencies = {row.currency: row.scale for row in map(_loose, decoded.get("currency", []))}
        products = {row.product_id: (row.base, row.quote) for row in map(_loose, decoded.get("product", []))}
        self._columns = {
            name: Columns(schema, name, Codecs(Scales(currencies, products), schema.units)) for name in schema.tables
        }

    def header(self, table: str) -> str:
        """Return the line with the names of the columns."""
        return "\t".join(self._columns[table].names)

    def of(self, table: str, rows: Iterable[Row], first: int = 1) -> Iterator[str]:
        """Yield one line for each row, without its end. `first`: the first row's number, for errors.

        Raises:
            TsvError: a row names a currency or product that is not there.
        """
        columns = self._columns[table]
        decoder = msgspec.msgpack.Decoder(self._schema.tables[table])
        for number, (key, row) in enumerate(rows, first):
            try:
                yield columns.line(key, decoder.decode(row))
            except ValueFault as fault:
                raise TsvError([TsvFault(f"table {title(table)}, row {number}", 0, 0, fault.field, fault.expected)]) from None


def _loose(row: msgspec.Struct) -> Any:
    """Return a row of any version's struct. Its attributes are read by name."""
    return row


class Columns:
    """A table's columns: numbers that only the key has, then the row's fields.

    Attributes:
        names: in order.
        required: those without a default.
    """

    def __init__(self, schema: TsvSchema, table: str, codecs: Codecs) -> None:
        self._codec: StructCodec = codecs.struct(schema.tables[table])
        self._key = schema.keys[table]
        self._only_key = [part for part in self._key if part.partition(".")[0] not in self._codec.fields]
        self.names = [*self._only_key, *self._codec.fields]
        self.required = [*self._only_key, *self._codec.required]

    def line(self, key: bytes, row: msgspec.Struct) -> str:
        """Return a row as a line. Raises ValueFault."""
        cells = [str(number) for part, number in zip(self._key, _decode_key(key), strict=True) if part in self._only_key]
        record = self._codec.encode(row)
        cells += [to_cell(record[name], codec.kind) for name, codec in self._codec.fields.items()]
        return "\t".join([as_first(cells[0]), *cells[1:]])

    def kind(self, name: str) -> str:
        """Return how a column's cells are written; see `tsv_values.from_cell`."""
        return "int" if name in self._only_key else self._codec.fields[name].kind

    def value(self, name: str, record: Mapping[str, Any]) -> Any:
        """Return the value of a column. Raises ValueFault."""
        return record[name] if name in self._only_key else self._codec.value(name, record)

    def row(self, values: Mapping[str, Any]) -> tuple[list[Any], msgspec.Struct]:
        """Return key and row from the values of all columns."""
        row = self._codec.make({name: value for name, value in values.items() if name not in self._only_key})
        return [values[part] if part in self._only_key else _value_at(row, part) for part in self._key], row


def _value_at(row: msgspec.Struct, path: str) -> Any:
    """Return the value of a field, or of a field of a nested struct."""
    value: Any = row
    for name in path.split("."):
        value = getattr(value, name)
    return value


# ---------------------------------------------------------------------- reading


class Line(msgspec.Struct, frozen=True):
    """A line with a row, and where it is. `record` has the plain value of each cell that could be read."""

    file: str
    number: int
    columns: tuple[str, ...]
    record: dict[str, Any]

    def fault(self, name: str, expected: str, inside: str = "") -> TsvFault:
        """Return a fault of one of its cells."""
        column = self.columns.index(name) + 1 if name in self.columns else 0
        return TsvFault(self.file, self.number, column, f"{name}.{inside}" if inside else name, expected)


class ParsedRow(msgspec.Struct, frozen=True):
    """A row that was read: the parts of its key, the row, and its place in the files."""

    key: list[Any]
    row: msgspec.Struct
    line: Line


def tsv_files(directory: Path) -> list[Path]:
    """Return the TSV files of a directory, sorted by name.

    Raises:
        TsvError: there are no TSV files, or no such directory.
    """
    paths = sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else []
    if not paths:
        raise TsvError([TsvFault(str(directory), 0, 0, "", f"expected a directory with files such as Product{SUFFIX}")])
    return paths


def read_tables(directory: Path, schema: TsvSchema = SCHEMA) -> dict[str, list[Row]]:
    """Return every table in the order of the schema, rows sorted by the key's bytes: the input of `Engine.restore`.

    Raises:
        TsvError: as `parse` does, or a table is missing.
        OSError: a file cannot be read.
    """
    parsed = parse(tsv_files(directory), schema)
    missing = [title(name) for name in schema.tables if name not in parsed]
    if missing:
        raise TsvError([TsvFault(str(directory), 0, 0, "", f"expected every table; there is no {', no '.join(missing)}")])
    return {name: sorted((_encode(each.key), _encode(each.row)) for each in parsed[name]) for name in schema.tables}


def parse(paths: Iterable[Path], schema: TsvSchema = SCHEMA) -> dict[str, list[ParsedRow]]:
    """Return the rows of the tables in some files. A table that no file has is not in the result.

    Everything is checked before anything is returned: cells, columns, duplicate keys, and references to missing rows.

    Raises:
        TsvError: with all faults that were found.
        OSError: a file cannot be read.
    """
    faults: list[TsvFault] = []
    shapes = {name: Columns(schema, name, Codecs(Scales({}, {}), schema.units)) for name in schema.tables}
    lines: dict[str, list[Line]] = {}
    for path in paths:
        _read_file(path, shapes, lines, faults)
    codecs = Codecs(_scales_of(lines), schema.units)
    parsed = {name: _parse_table(Columns(schema, name, codecs), lines[name], faults) for name in schema.tables if name in lines}
    if not faults:
        faults += _dangling(parsed, schema)
    if faults:
        raise TsvError(faults)
    return parsed


def _read_file(path: Path, shapes: Mapping[str, Columns], lines: dict[str, list[Line]], faults: list[TsvFault]) -> None:
    """Add the lines of a file to those of their tables."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(TsvFault(str(path), error.object[: error.start].count(b"\n") + 1, 0, "", "expected UTF-8 text"))
        return
    tables = {title(name): name for name in shapes}
    name = path.stem
    header: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        titled = _TITLE_LINE.fullmatch(line)
        if titled is not None:
            name, header = titled[1], ()
        elif not line or line.startswith("#"):
            continue
        elif name not in tables:
            faults.append(TsvFault(str(path), number, 0, "", f"no table {name!r}; expected one of {', '.join(tables)}"))
            return
        elif not header:
            header = tuple(line.split("\t"))
            lines.setdefault(tables[name], [])
            wrong = _header_faults(str(path), number, header, shapes[tables[name]])
            if wrong:
                faults += wrong
                return
        else:
            _read_line(Line(str(path), number, header, {}), line, shapes[tables[name]], lines[tables[name]], faults)


def _header_faults(file: str, number: int, header: Sequence[str], shape: Columns) -> list[TsvFault]:
    """Return the faults of a header: unknown, repeated and missing columns."""
    found = [
        TsvFault(file, number, column, name, f"unknown column; expected some of {', '.join(shape.names)}")
        for column, name in enumerate(header, 1)
        if name not in shape.names
    ]
    twice = [name for position, name in enumerate(header) if name in header[:position]]
    missing = [name for name in shape.required if name not in header]
    found += [TsvFault(file, number, 0, name, "this column comes twice") for name in twice]
    found += [TsvFault(file, number, 0, name, "this column is missing") for name in missing]
    return found


def _read_line(place: Line, text: str, shape: Columns, lines: list[Line], faults: list[TsvFault]) -> None:
    """Split a line into cells and convert them. Adds it to `lines`, or what is wrong to `faults`."""
    cells = text.split("\t")
    if len(cells) != len(place.columns):
        expected = f"expected {len(place.columns)} cells with tabs between them, as the header has, not {len(cells)}"
        faults.append(TsvFault(place.file, place.number, 0, "", expected))
        return
    for name, cell in zip(place.columns, cells, strict=True):
        try:
            place.record[name] = from_cell(cell, shape.kind(name))
        except ValueFault as fault:
            faults.append(place.fault(name, fault.expected))
    if len(place.record) == len(place.columns):
        lines.append(place)


def _scales_of(lines: Mapping[str, list[Line]]) -> Scales:
    """Return the digits in the tables of currencies and products, as far as they can be read. Parsing these tables
    finds their faults.
    """
    currencies: dict[str, int] = {}
    products: dict[str, tuple[str, str]] = {}
    for line in lines.get("currency", []):
        name, scale = line.record.get("currency"), line.record.get("scale")
        if isinstance(name, str) and isinstance(scale, int) and 0 <= scale <= 64:
            currencies[name] = scale
    for line in lines.get("product", []):
        record = line.record
        if {"product_id", "base", "quote"} <= set(record):
            products[record["product_id"]] = (record["base"], record["quote"])
    return Scales(currencies, products)


def _parse_table(columns: Columns, lines: Iterable[Line], faults: list[TsvFault]) -> list[ParsedRow]:
    """Convert lines to rows. Adds invalid values and repeated keys to `faults`."""
    rows: list[ParsedRow] = []
    known: dict[bytes, Line] = {}
    for line in lines:
        values: dict[str, Any] = {}
        for name in line.columns:
            try:
                values[name] = columns.value(name, line.record)
            except ValueFault as fault:
                faults.append(line.fault(name, fault.expected, fault.field))
        if len(values) < len(line.columns):
            continue
        key, row = columns.row(values)
        packed = _encode(key)
        first = known.setdefault(packed, line)
        if first is not line:
            what = f"the key {', '.join(map(shown, key))} comes twice; first in {first.file}, line {first.number}"
            faults.append(TsvFault(line.file, line.number, 0, "", what))
        rows.append(ParsedRow(key, row, line))
    return rows


def _dangling(parsed: Mapping[str, list[ParsedRow]], schema: TsvSchema) -> Iterator[TsvFault]:
    """Yield a fault for each row that refers to a missing row."""
    keys = {name: {each.key[0] for each in rows} for name, rows in parsed.items() if len(schema.keys[name]) == 1}
    for reference in schema.references:
        there = keys.get(reference.target, set()) | set(reference.others)
        for each in parsed.get(reference.table, []):
            value = getattr(each.row, reference.field)
            if value not in there:
                yield each.line.fault(reference.field, f"expected a row of {title(reference.target)}; there is no {value!r}")

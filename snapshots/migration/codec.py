"""Conversion of rows and log entries of any schema to plain values and back, by the schema's description alone.

A struct is a dict of its fields, and of "type" with its name where it has a tag; an enumeration's value is its member's
name; lists are lists; numbers, texts and bytes are themselves. A part of a key that the row does not have is here a
value of the row, under its name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import msgspec

from snapshots.abi.inspection import LOG_ENTRY
from snapshots.abi.schema import Schema, StructType, TableType, TypeNode, parse_type

Values = dict[str, Any]
"""A row, a struct or a command as plain values."""

Row = tuple[bytes, bytes]
Reader = Callable[[Any], Any]

TYPE = "type"
"""The key of a tagged struct's name."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_PYTHON = {"int": int, "float": float, "str": str, "bytes": bytes, "bool": bool, "none": type(None)}
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}


class CodecError(ValueError):
    """A value does not have its type. `path` locates it."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}" if path else what)
        self.path = path
        self.what = what

    def within(self, name: str) -> CodecError:
        """Return the same error, with the name of an enclosing value before its path."""
        inner = f"{name}.{self.path}" if self.path and not self.path.startswith("[") else f"{name}{self.path}"
        return CodecError(inner, self.what)


class Codec:
    """Reads and writes the values of a schema. Readers and writers are made once per type."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._own: dict[str, list[str]] = {}
        self._readers: dict[str, Reader] = {}
        self._writers: dict[str, Reader] = {}

    def read_row(self, table: str, row: Row) -> Values:
        """Return a row as plain values.

        Raises:
            CodecError: the row does not have the table's type, or its key does not match it.
        """
        kind = self.schema.table(table)
        assert kind is not None, f"no table {table}"
        values: Values = self._reader(parse_type(kind.row))(_unpacked(row[1]))
        key = _unpacked(row[0])
        if not isinstance(key, list) or len(key) != len(kind.key):
            raise CodecError("key", f"expected {len(kind.key)} parts, not {key!r}")
        own = self._key_only(kind)
        values.update((part, value) for part, value in zip(kind.key, key, strict=True) if part in own)
        if _pack(self._key(kind.key, values)) != row[0]:
            raise CodecError("key", f"{key!r} is not that of its row")
        return values

    def write_row(self, table: str, values: Values) -> Row:
        """Return a row from plain values.

        Raises:
            CodecError: a field is missing, unknown or of another type.
        """
        kind = self.schema.table(table)
        assert kind is not None, f"no table {table}"
        own = self._key_only(kind)
        key = self._key(kind.key, values)
        payload = {name: value for name, value in values.items() if name not in own} if own else values
        return _pack(key), _pack(self._writer(parse_type(kind.row))(payload))

    def _key_only(self, table: TableType) -> list[str]:
        if table.name not in self._own:
            self._own[table.name] = self.schema.key_only(table)
        return self._own[table.name]

    @staticmethod
    def _key(parts: list[str], values: Values) -> list[Any]:
        """Return the values of a row's key. Raises CodecError."""
        key = []
        for part in parts:
            value: Any = values
            for name in part.split("."):
                if not isinstance(value, dict) or name not in value:
                    raise CodecError(part, "is part of the key and missing")
                value = value[name]
            key.append(value)
        return key

    def read_entry(self, payload: bytes) -> Values:
        """Return a log entry (a batch of commands) as plain values. Raises CodecError."""
        values: Values = self._reader(parse_type(self.schema.messages[LOG_ENTRY]))(_unpacked(payload))
        return values

    def write_entry(self, values: Values) -> bytes:
        """Return a log entry from plain values. Raises CodecError."""
        return _pack(self._writer(parse_type(self.schema.messages[LOG_ENTRY]))(values))

    def _reader(self, node: TypeNode) -> Reader:
        if node.kind == "ref":
            return self._named(node.name, self._readers, self._struct_reader, self._enum_reader)
        return self._other(node, self._reader, self._union_reader)

    def _writer(self, node: TypeNode) -> Reader:
        if node.kind == "ref":
            return self._named(node.name, self._writers, self._struct_writer, self._enum_writer)
        return self._other(node, self._writer, self._union_writer)

    def _named(
        self,
        name: str,
        known: dict[str, Reader],
        of_struct: Callable[[str, StructType], Reader],
        of_enum: Callable[[str, dict[str, int | str]], Reader],
    ) -> Reader:
        """Return the reader or writer of a struct or enumeration; each is made once."""
        if name not in known:
            struct = self.schema.structs.get(name)
            known[name] = of_struct(name, struct) if struct is not None else of_enum(name, self.schema.enums[name])
        return known[name]

    def _other(self, node: TypeNode, of: Callable[[TypeNode], Reader], of_union: Callable[[TypeNode], Reader]) -> Reader:
        """Return the reader or writer of a type without a name."""
        match node.kind:
            case "union":
                return of_union(node)
            case "list" | "vartuple":
                return _list_of(of(node.parts[0]))
            case "tuple":
                return _tuple_of([of(part) for part in node.parts])
            case "dict":
                return _dict_of(of(node.parts[0]), of(node.parts[1]))
            case "any" | "raw":
                return lambda value: value
        return _plain(node)

    def _struct_reader(self, name: str, struct: StructType) -> Reader:
        """Return a function that makes a dict of an encoded struct."""
        if struct.form != "array":
            raise CodecError(name, "is a map; only structs that are arrays can be migrated")
        fields = [(field.name, self._reader(parse_type(field.type)), field.default) for field in struct.fields]
        tag, first = struct.tag, 0 if struct.tag is None else 1

        def read(raw: Any) -> Values:
            if not isinstance(raw, list) or len(raw) - first > len(fields) or (first and (not raw or raw[0] != tag)):
                raise CodecError("", f"expected {name}, not {raw!r}"[:200])
            values: Values = {} if tag is None else {TYPE: name}
            for position, (field, reader, default) in enumerate(fields, first):
                if position < len(raw):
                    try:
                        values[field] = reader(raw[position])
                    except CodecError as error:
                        raise error.within(field) from None
                elif default is msgspec.UNSET:
                    raise CodecError(field, f"is missing in {name}")
                else:
                    values[field] = default
            return values

        return read

    def _struct_writer(self, name: str, struct: StructType) -> Reader:
        """Return a function that encodes a dict as a struct."""
        if struct.form != "array":
            raise CodecError(name, "is a map; only structs that are arrays can be migrated")
        fields = [(field.name, self._writer(parse_type(field.type)), field.default) for field in struct.fields]
        allowed = {field.name for field in struct.fields} | ({TYPE} if struct.tag is not None else set())

        def write(values: Any) -> list[Any]:
            if not isinstance(values, dict):
                raise CodecError("", f"expected {name} as a dict, not {values!r}"[:200])
            if not values.keys() <= allowed:
                raise CodecError(min(values.keys() - allowed), f"is not a field of {name}")
            raw: list[Any] = [] if struct.tag is None else [struct.tag]
            for field, writer, default in fields:
                value = values.get(field, default)
                if value is msgspec.UNSET:
                    raise CodecError(field, f"is missing in {name}")
                try:
                    raw.append(writer(value))
                except CodecError as error:
                    raise error.within(field) from None
            return raw

        return write

    @staticmethod
    def _enum_reader(name: str, members: dict[str, int | str]) -> Reader:
        """Return a function from a value of an enumeration to its name."""
        names = {value: member for member, value in members.items()}

        def read(raw: Any) -> str:
            if type(raw) not in (int, str) or raw not in names:
                raise CodecError("", f"expected a value of {name} ({', '.join(map(str, names))}), not {raw!r}")
            return names[raw]

        return read

    @staticmethod
    def _enum_writer(name: str, members: dict[str, int | str]) -> Reader:
        """Return a function from a name of an enumeration to its value."""

        def write(value: Any) -> int | str:
            if not isinstance(value, str) or value not in members:
                raise CodecError("", f"expected one of {name} ({', '.join(members)}), not {value!r}")
            return members[value]

        return write

    def _union_reader(self, node: TypeNode) -> Reader:
        """Return the reader of a union: by the tag of a struct, or the first type that fits."""
        structs = {self._tag(part): self._reader(part) for part in node.parts if self._tag(part) is not None}
        others = [self._reader(part) for part in node.parts if self._tag(part) is None]

        def read(raw: Any) -> Any:
            if isinstance(raw, list) and raw and type(raw[0]) in (int, str) and raw[0] in structs:
                return structs[raw[0]](raw)
            return _first_fit(others, raw)

        return read

    def _union_writer(self, node: TypeNode) -> Reader:
        """Return the writer of a union: by the name of a struct, or the first type that fits."""
        structs = {part.name: self._writer(part) for part in node.parts if self._tag(part) is not None}
        others = [self._writer(part) for part in node.parts if self._tag(part) is None]

        def write(value: Any) -> Any:
            if isinstance(value, dict) and value.get(TYPE) in structs:
                return structs[value[TYPE]](value)
            return _first_fit(others, value)

        return write

    def _tag(self, node: TypeNode) -> int | str | None:
        struct = self.schema.structs.get(node.name) if node.kind == "ref" else None
        return None if struct is None else struct.tag


def _unpacked(data: bytes) -> Any:
    try:
        return _unpack(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError("", f"not msgpack: {error}") from None


def _first_fit(readers: list[Reader], value: Any) -> Any:
    """Return the result of the first reader that accepts the value. Raises CodecError."""
    for reader in readers:
        try:
            return reader(value)
        except CodecError:
            continue
    shown = value.get(TYPE, value) if isinstance(value, dict) else value
    raise CodecError("", f"fits none of the choices: {shown!r}"[:200])


def _plain(node: TypeNode) -> Reader:
    """Return a function that checks a plain value and its bounds."""
    wanted = _PYTHON[node.kind]
    bounds = [(name, _BOUNDS[name], bound) for name, bound in node.bounds if name in _BOUNDS]

    def check(value: Any) -> Any:
        if type(value) is not wanted:
            raise CodecError("", f"expected {node.kind}, not {value!r}"[:200])
        for name, holds, bound in bounds:
            if not holds(value, bound):
                raise CodecError("", f"expected {node.kind} {name} {bound}, not {value!r}")
        return value

    return check


def _list_of(item: Reader) -> Reader:
    """Return the reader or writer of a list."""

    def each(raw: Any) -> list[Any]:
        if not isinstance(raw, list):
            raise CodecError("", f"expected a list, not {raw!r}"[:200])
        done = []
        for position, value in enumerate(raw):
            try:
                done.append(item(value))
            except CodecError as error:
                raise error.within(f"[{position}]") from None
        return done

    return each


def _tuple_of(items: list[Reader]) -> Reader:
    """Return the reader or writer of a tuple."""

    def each(raw: Any) -> list[Any]:
        if not isinstance(raw, list) or len(raw) != len(items):
            raise CodecError("", f"expected {len(items)} values, not {raw!r}"[:200])
        return [item(value) for item, value in zip(items, raw, strict=True)]

    return each


def _dict_of(key: Reader, value: Reader) -> Reader:
    """Return the reader or writer of a mapping."""

    def each(raw: Any) -> dict[Any, Any]:
        if not isinstance(raw, dict):
            raise CodecError("", f"expected a mapping, not {raw!r}"[:200])
        return {key(name): value(item) for name, item in raw.items()}

    return each

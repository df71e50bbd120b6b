"""msgspec types made from a description, so that code that works with types, such as the TSV format, can read tables of
any known schema.
"""

from __future__ import annotations

import functools
import operator
from enum import Enum, IntEnum
from typing import Any

import msgspec

from snapshots.abi.schema import Schema, StructType, TypeNode, parse_type

_PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "bool": bool,
    "none": None,
    "any": Any,
    "raw": Any,
}


class Types:
    """The structs and enumerations of a schema as types, each made on first use."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._made: dict[str, Any] = {}

    def tables(self) -> dict[str, type[msgspec.Struct]]:
        """Return the row types by table name."""
        return {table.name: self._named_type(table.row) for table in self._schema.tables}

    def _named_type(self, name: str) -> Any:
        if name not in self._made:
            struct = self._schema.structs.get(name)
            self._made[name] = self._enum(name) if struct is None else self._struct(name, struct)
        return self._made[name]

    def _enum(self, name: str) -> Any:
        members = self._schema.enums[name]
        whole = all(isinstance(value, int) for value in members.values())
        return IntEnum(name, members) if whole else Enum(name, members)

    def _struct(self, name: str, struct: StructType) -> type[msgspec.Struct]:
        """Return the class of a struct of a schema."""
        fields: list[Any] = []
        for field in struct.fields:
            kind = self._type(parse_type(field.type))
            if field.default is msgspec.UNSET:
                fields.append((field.name, kind))
            else:
                is_member = isinstance(kind, type) and issubclass(kind, Enum)
                fields.append((field.name, kind, kind[field.default] if is_member else field.default))
        options: dict[str, Any] = {
            "array_like": struct.form == "array",
            "tag": struct.tag,
            "forbid_unknown_fields": struct.closed,
        }
        return msgspec.defstruct(name, fields, frozen=True, **options)

    def _type(self, node: TypeNode) -> Any:
        """Return the Python type of a type of a schema."""
        match node.kind:
            case "ref":
                return self._named_type(node.name)
            case "union":
                return functools.reduce(operator.or_, (self._type(part) for part in node.parts))
            case "list":
                return list[self._type(node.parts[0])]  # type: ignore[misc] # made at run time
            case "vartuple":
                return tuple[self._type(node.parts[0]), ...]  # type: ignore[misc] # made at run time
            case "tuple":
                return tuple[tuple(map(self._type, node.parts))]  # type: ignore[misc] # made at run time
            case "dict":
                return dict[self._type(node.parts[0]), self._type(node.parts[1])]  # type: ignore[misc] # made at run time
        return _PLAIN[node.kind]

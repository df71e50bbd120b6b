"""The schema of this software, from its types."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

from snapshots.abi.schema import FORMAT, FieldType, Schema, StructType, TableType
from statemachine.commands import Batch
from statemachine.events import Applied
from statemachine.rules import RULES
from statemachine.tables import KEYS, TABLES
from statemachine.types import Permission, Switch

LOG_ENTRY = "log entry"
MESSAGES: Mapping[str, Any] = {LOG_ENTRY: Batch, "applied": Applied, "permission bit": Permission, "switch bit": Switch}
"""The other written types: log entries with their commands, their outcomes and events, and the bits of permissions and
switches.
"""

_PLAIN = {
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "str",
    inspect.BytesType: "bytes",
    inspect.BoolType: "bool",
    inspect.NoneType: "none",
    inspect.AnyType: "any",
    inspect.RawType: "raw",
}


class _Inspector:
    """Collects the structs and enumerations that it meets."""

    def __init__(self) -> None:
        self.structs: dict[type, StructType | None] = {}
        self.enums: dict[type, dict[str, int | str]] = {}

    def text(self, info: inspect.Type) -> str:
        """Return the text of a type, and keep the structs and enumerations in it."""
        plain = _PLAIN.get(type(info))
        if plain is not None:
            bounds = [f"{name}={value!r}" for name, value in _constraints(info)]
            return f"{plain}({', '.join(bounds)})" if bounds else plain
        match info:
            case inspect.StructType():
                return self._struct(info)
            case inspect.EnumType(cls=cls):
                self.enums[cls] = {name: member.value for name, member in cls.__members__.items()}
                return cls.__name__
            case inspect.UnionType(types=types):
                return " | ".join(map(self.text, types))
            case inspect.ListType(item_type=item):
                return f"list[{self.text(item)}]"
            case inspect.VarTupleType(item_type=item):
                return f"tuple[{self.text(item)}, ...]"
            case inspect.TupleType(item_types=items):
                return f"tuple[{', '.join(map(self.text, items))}]"
            case inspect.DictType(key_type=key, value_type=value):
                return f"dict[{self.text(key)}, {self.text(value)}]"
        raise TypeError(f"the schema uses {info!r}, which has no canonical text yet")

    def _struct(self, info: inspect.StructType) -> str:
        """Record a struct and the types of its fields. Returns its name."""
        if info.cls not in self.structs:
            self.structs[info.cls] = None
            form = "array" if info.array_like else "map"
            fields = [FieldType(field.encode_name, self.text(field.type), _default(field)) for field in info.fields]
            self.structs[info.cls] = StructType(form, info.tag, info.forbid_unknown_fields, fields)
        return info.cls.__name__


def _constraints(info: inspect.Type) -> list[tuple[str, Any]]:
    """Return the constraints of a plain type, such as a largest value. Encodings of bytes in JSON do not count."""
    found = [(name, getattr(info, name)) for name in type(info).__struct_fields__ if name != "encoding"]
    return [(name, value) for name, value in found if value is not None]


def _default(field: inspect.Field) -> Any:
    """Return the default of a field; UNSET if it has none."""
    if field.required:
        return msgspec.UNSET
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    default = field.default
    return default.name if isinstance(default, enum.Enum) else default


def schema_of(tables: Mapping[str, Any] = TABLES, messages: Mapping[str, Any] = MESSAGES) -> Schema:
    """Return the schema with these tables and messages. The default of an enumeration is written as the member's name.

    Raises:
        TypeError: a type has no canonical text.
    """
    inspector = _Inspector()
    # One call for all types: each call resolves the annotations of every struct that it reaches.
    infos = iter(inspect.multi_type_info([*tables.values(), *messages.values()]))
    rows = {name: inspector.text(next(infos)) for name in tables}
    other = {name: inspector.text(next(infos)) for name in messages}
    names = [kind.__name__ for kind in (*inspector.structs, *inspector.enums)]
    assert len(set(names)) == len(names), "two types of the schema have one name"
    structs = {kind.__name__: struct for kind, struct in inspector.structs.items() if struct is not None}
    enums = {kind.__name__: members for kind, members in inspector.enums.items()}
    return Schema(
        FORMAT,
        [TableType(name, row, list(KEYS.get(name, ()))) for name, row in rows.items()],
        other,
        dict(sorted(structs.items())),
        dict(sorted(enums.items())),
        RULES,
    )

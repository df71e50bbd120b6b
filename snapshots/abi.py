"""The schema's checksum: two programs with the same ABI write and read the same bytes.

The ABI is the SHA-1, in hex, of `describe()`: a canonical text with every persistent table, command, outcome, event and enumeration that is
reachable from them, with their names, orders, types, tags, defaults and values. Docstrings, comments and the order of modules do not
matter. SHA-1 is a name here, not a protection.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

from statemachine.commands import Batch
from statemachine.events import Applied
from statemachine.tables import TABLES
from statemachine.types import Permission

MESSAGES: Mapping[str, Any] = {"log entry": Batch, "applied": Applied, "permission bit": Permission}
"""What else is written: log entries with their commands, what applying them gives, and the bits of a key's permissions."""

_DESCRIPTION_VERSION = 1

Described = dict[type, list[str]]
"""Structs and enumerations met so far, and their lines."""

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


def describe(tables: Mapping[str, Any] = TABLES, messages: Mapping[str, Any] = MESSAGES) -> str:
    """The canonical text: tables and messages in their order, then every struct and enumeration that they use, by name."""
    lines = [f"schema description {_DESCRIPTION_VERSION}"]
    described: Described = {}
    for title, roots in (("table", tables), ("message", messages)):
        for name, root in roots.items():
            lines.append(f"{title} {name}: {_type_text(inspect.type_info(root), described)}")
    names = [kind.__name__ for kind in described]
    assert len(set(names)) == len(names), "two types of the schema have one name"
    for kind in sorted(described, key=lambda kind: kind.__name__):
        lines.extend(described[kind])
    return "\n".join(lines) + "\n"


def abi(tables: Mapping[str, Any] = TABLES, messages: Mapping[str, Any] = MESSAGES) -> str:
    """The checksum of a schema, 40 hex digits."""
    return hashlib.sha1(describe(tables, messages).encode("utf-8"), usedforsecurity=False).hexdigest()


def _type_text(info: inspect.Type, described: Described) -> str:
    """How a type is named in the text; structs and enumerations on the way are added to `described`."""
    plain = _PLAIN.get(type(info))
    if plain is not None:
        bounds = [f"{name}={value!r}" for name, value in _attributes(info) if value is not None]
        return f"{plain}({', '.join(bounds)})" if bounds else plain
    match info:
        case inspect.StructType():
            return _struct_text(info, described)
        case inspect.EnumType(cls=cls):
            return _enum_text(cls, described)
        case inspect.UnionType(types=types):
            return " | ".join(_type_text(each, described) for each in types)
        case inspect.ListType(item_type=item):
            return f"list[{_type_text(item, described)}]"
        case inspect.VarTupleType(item_type=item):
            return f"tuple[{_type_text(item, described)}, ...]"
        case inspect.TupleType(item_types=items):
            return f"tuple[{', '.join(_type_text(each, described) for each in items)}]"
        case inspect.DictType(key_type=key, value_type=value):
            return f"dict[{_type_text(key, described)}, {_type_text(value, described)}]"
    raise TypeError(f"the schema uses {info!r}, which has no canonical text yet")


def _attributes(info: inspect.Type) -> list[tuple[str, Any]]:
    """Constraints of a plain type, such as a largest value; encodings that bytes may have only in JSON are none."""
    return [(field.name, getattr(info, field.name)) for field in msgspec.structs.fields(type(info)) if field.name != "encoding"]


def _struct_text(info: inspect.StructType, described: Described) -> str:
    if info.cls not in described:
        described[info.cls] = []
        form = "array" if info.array_like else "map"
        tag = "" if info.tag is None else f" tag {info.tag!r}"
        closed = " closed" if info.forbid_unknown_fields else ""
        lines = [f"struct {info.cls.__name__}: {form}{tag}{closed}"]
        lines.extend(f"  {field.encode_name}: {_type_text(field.type, described)}{_default_text(field)}" for field in info.fields)
        described[info.cls] = lines
    return info.cls.__name__


def _default_text(field: inspect.Field) -> str:
    if field.required:
        return ""
    if field.default_factory is not msgspec.NODEFAULT:
        return f" = {field.default_factory.__name__}()"
    default = field.default
    return f" = {default.value!r}" if isinstance(default, enum.Enum) else f" = {default!r}"


def _enum_text(cls: type[enum.Enum], described: Described) -> str:
    lines = [f"enum {cls.__name__}"]
    lines.extend(f"  {name} = {member.value!r}" for name, member in cls.__members__.items())
    described[cls] = lines
    return cls.__name__


ABI = abi()
"""The ABI of this software."""

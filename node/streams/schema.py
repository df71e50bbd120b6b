"""The JSON Schema of the records. It is generated from the same structs as the records, so it cannot differ from them.

python -m node.streams.schema
"""

from __future__ import annotations

import json
import sys
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from node.streams.records import CUT, FORMATS, HIDDEN, SCHEMA, UNPUBLISHED, kind_of
from statemachine.commands import AnyCommand
from statemachine.events import AnyEvent, AnyOutcome

_INTEGER_TEXT = {"type": "string", "pattern": "^-?[0-9]+$"}
_HEX = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}


def schema(form: str) -> dict[str, Any]:
    """Return the schema of all records, for the form "json", or for decoded "msgpack"."""
    made = _Schemas(form == "json")
    events = [kind for kind in get_args(AnyEvent) if kind not in UNPUBLISHED]
    records = [made.event(kind) for kind in events] + [made.command(kind) for kind in get_args(AnyCommand)]
    records += [made.balances(), made.cut()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Records of Quorumbook's streams, {form}",
        "oneOf": records,
        "$defs": {"outcome": {"oneOf": [made.outcome(kind) for kind in get_args(AnyOutcome)]}, **made.structs},
    }


class _Schemas:
    """Makes the JSON schemas of records. `text`: numbers are texts."""

    def __init__(self, text: bool) -> None:
        self._text = text
        self._integer: dict[str, Any] = _INTEGER_TEXT if text else {"type": "integer"}
        self.structs: dict[str, Any] = {}

    def event(self, kind: type[msgspec.Struct]) -> dict[str, Any]:
        fields = self._fields(kind)
        fields["time_ns"] = fields.pop("time")
        return self._object(kind_of(kind), {"schema": {"const": SCHEMA}, **fields})

    def command(self, kind: type[msgspec.Struct]) -> dict[str, Any]:
        """Return the schema of a record of a command. The field `cut` is there if the record was too large."""
        found = self._object(
            kind_of(kind),
            {
                "schema": {"const": SCHEMA},
                "sequence": self._integer,
                "time_ns": self._integer,
                "command": _closed(self._fields(kind)),
                "outcome": {"anyOf": [{"$ref": "#/$defs/outcome"}, {"type": "null"}]},
            },
        )
        found["properties"]["cut"] = {"const": True}
        return found

    def outcome(self, kind: type[msgspec.Struct]) -> dict[str, Any]:
        return self._object(kind_of(kind), self._fields(kind))

    def balances(self) -> dict[str, Any]:
        balance = _closed({"currency": {"type": "string"}, "available": self._integer, "hold": self._integer})
        fields = {"account_id": {"type": "string"}, "sequence": self._integer, "time_ns": self._integer}
        return self._object("balances", {"schema": {"const": SCHEMA}, **fields, "balances": {"type": "array", "items": balance}})

    def cut(self) -> dict[str, Any]:
        products = {"type": "object", "additionalProperties": self._integer}
        fields = dict.fromkeys(("log_index", "sequence", "time_ns"), self._integer)
        return self._object(CUT, {"schema": {"const": SCHEMA}, **fields, "products": products})

    def _object(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        return _closed({"type": {"const": kind}, **fields}, title=kind)

    def _fields(self, kind: type[msgspec.Struct]) -> dict[str, Any]:
        hidden = HIDDEN.get(kind, frozenset())
        hints = get_type_hints(kind)
        return {name: self._value(hints[name]) for name in kind.__struct_fields__ if name not in hidden}

    def _value(self, hint: Any) -> dict[str, Any]:
        """Return the schema of what `records._plain` makes of a value of this type."""
        if get_origin(hint) in (Union, UnionType):
            return {"anyOf": [self._value(each) for each in get_args(hint)]}
        if get_origin(hint) in (list, tuple):
            return self._items(hint)
        if get_origin(hint) is dict:
            return {"type": "object", "additionalProperties": self._value(get_args(hint)[1])}
        if hint is NoneType:
            return {"type": "null"}
        if issubclass(hint, Enum):
            return {"enum": [member.name.lower() for member in hint]}
        if issubclass(hint, msgspec.Struct):
            if hint.__name__ not in self.structs:
                self.structs[hint.__name__] = {}
                self.structs[hint.__name__] = _closed(self._fields(hint), title=hint.__name__)
            return {"$ref": f"#/$defs/{hint.__name__}"}
        if issubclass(hint, bool):
            return {"type": "boolean"}
        if issubclass(hint, int):
            return self._integer
        if issubclass(hint, bytes):
            return _HEX if self._text else {}
        assert issubclass(hint, str), f"{hint} is in no record so far"
        return {"type": "string"}

    def _items(self, hint: Any) -> dict[str, Any]:
        parts = get_args(hint)
        if get_origin(hint) is tuple and Ellipsis not in parts:
            return {"type": "array", "prefixItems": [self._value(part) for part in parts], "items": False}
        return {"type": "array", "items": self._value(parts[0])}


def _closed(fields: dict[str, Any], title: str = "") -> dict[str, Any]:
    """Return the schema of an object with these fields. Later versions may add fields."""
    found = {"type": "object", "required": list(fields), "properties": fields}
    return {"title": title, **found} if title else found


def text() -> str:
    """Return both schemas as JSON text, by the name of the form."""
    return json.dumps({form: schema(form) for form in FORMATS}, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())

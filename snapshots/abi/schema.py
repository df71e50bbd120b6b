"""A schema as data: tables, messages, structs, enumerations. The ABI is the checksum of its canonical JSON.

Types are texts in Python's own notation (`int`, `list[OrderState]`, `Rejected | Done`, `int(ge=0)`); `parse_type`
parses them. The parts of a table's key are paths into its row (`outcome.sequence`). A part that names no field of the
row is a number that only the key has.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

FORMAT = 2


class FieldType(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field of a struct. A field without `default` is required."""

    name: str
    type: str
    default: Any = msgspec.UNSET


class StructType(msgspec.Struct, frozen=True):
    """A struct. `form` is "array" or "map"; a `closed` struct refuses unknown fields."""

    form: str
    tag: int | str | None
    closed: bool
    fields: list[FieldType]

    def field(self, name: str) -> FieldType | None:
        """Return a field by name."""
        return next((field for field in self.fields if field.name == name), None)


class TableType(msgspec.Struct, frozen=True):
    """A table: name, type of its rows, key."""

    name: str
    row: str
    key: list[str]


class Schema(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that is stored or sent. Tables in the order of restoring; all else by name. `rules`: the rules number,
    so that two versions that behave differently have two ABIs, whatever they store; 0 in descriptions before 0.3.0,
    which had none.
    """

    format: int
    tables: list[TableType]
    messages: dict[str, str]
    structs: dict[str, StructType]
    enums: dict[str, dict[str, int | str]]
    rules: int = 0

    def table(self, name: str) -> TableType | None:
        """Return a table by name."""
        return next((table for table in self.tables if table.name == name), None)

    def key_only(self, table: TableType) -> list[str]:
        """Return the parts of a table's key that are not fields of its rows."""
        fields = {field.name for field in self.structs[table.row].fields}
        return [part for part in table.key if part.partition(".")[0] not in fields]

    def encode(self) -> bytes:
        """Return the canonical JSON: the same bytes for the same schema."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @property
    def abi(self) -> str:
        """The SHA-1 of the canonical JSON, 40 hex digits. A name, not a protection."""
        return hashlib.sha1(self.encode(), usedforsecurity=False).hexdigest()


def decode_schema(data: bytes) -> Schema:
    """Return the schema in a description.

    Raises:
        ValueError: it is not a description, or of another format.
    """
    try:
        schema = msgspec.json.decode(data, type=Schema)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not the description of a schema: {error}") from error
    if schema.format != FORMAT:
        raise ValueError(f"a description of format {schema.format}; expected {FORMAT}")
    return schema


def describe(schema: Schema) -> str:
    """Return the schema as lines of text, for a person."""
    return "\n".join(_lines(schema)) + "\n"


def _lines(schema: Schema) -> Iterator[str]:
    """Yield the lines of the description that the ABI is the checksum of."""
    if schema.rules:
        yield f"rules {schema.rules}"
    for table in schema.tables:
        yield f"table {table.name}: {table.row}, key [{', '.join(table.key)}]"
    for name, kind in schema.messages.items():
        yield f"message {name}: {kind}"
    for name, struct in schema.structs.items():
        tag = "" if struct.tag is None else f" tag {struct.tag!r}"
        yield f"struct {name}: {struct.form}{tag}{' closed' if struct.closed else ''}"
        yield from (f"  {field_text(field)}" for field in struct.fields)
    for name, members in schema.enums.items():
        yield f"enum {name}"
        yield from (f"  {member} = {value!r}" for member, value in members.items())


def field_text(field: FieldType) -> str:
    """Return `name: type = default`."""
    return f"{field.name}: {field.type}" + ("" if field.default is msgspec.UNSET else f" = {field.default!r}")


class TypeNode(msgspec.Struct, frozen=True):
    """A parsed type. `kind` is int, float, str, bytes, bool, none, any, raw, ref, list, tuple, vartuple, dict or
    union.

    `name` is the struct or enumeration of a ref. `parts` are the types in it. `bounds` constrain a plain type.
    """

    kind: str
    name: str = ""
    parts: tuple[TypeNode, ...] = ()
    bounds: tuple[tuple[str, Any], ...] = ()


PLAIN = frozenset({"int", "float", "str", "bytes", "bool", "none", "any", "raw"})


@functools.cache
def parse_type(text: str) -> TypeNode:
    """Parse the text of a type.

    Raises:
        ValueError: it is not a type.
    """
    try:
        return _node(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not a type") from error


def _node(tree: ast.expr) -> TypeNode:
    """Return the type that a syntax tree describes."""
    match tree:
        case ast.Name(id=name):
            return TypeNode(name) if name in PLAIN else TypeNode("ref", name)
        case ast.Call(func=ast.Name(id=name), keywords=keywords):
            bounds = tuple((str(word.arg), ast.literal_eval(word.value)) for word in keywords)
            return TypeNode(name, bounds=bounds)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return TypeNode("union", parts=(*_options(left), *_options(right)))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[item, ast.Constant(value=value)])) if value is ...:
            return TypeNode("vartuple", parts=(_node(item),))
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Tuple(elts=items)):
            return TypeNode(name, parts=tuple(map(_node, items)))
        case ast.Subscript(value=ast.Name(id=name), slice=item):
            return TypeNode(name, parts=(_node(item),))
    raise ValueError(f"{ast.unparse(tree)!r} is not a type")


def _options(tree: ast.expr) -> tuple[TypeNode, ...]:
    node = _node(tree)
    return node.parts if node.kind == "union" else (node,)


def references(schema: Schema, text: str) -> list[str]:
    """Return the structs and enumerations that a type uses, directly or indirectly, each once, in order of appearance."""
    found: dict[str, None] = {}
    _collect(schema, parse_type(text), found)
    return list(found)


def _collect(schema: Schema, node: TypeNode, found: dict[str, None]) -> None:
    """Collect the names of all types to which a type refers."""
    if node.kind == "ref" and node.name not in found:
        found[node.name] = None
        struct = schema.structs.get(node.name)
        for field in struct.fields if struct is not None else ():
            _collect(schema, parse_type(field.type), found)
    for part in node.parts:
        _collect(schema, part, found)


def same_type(source: Schema, target: Schema, text: str) -> bool:
    """Return whether a type's text means the same bytes in both schemas."""
    names = references(source, text)
    return names == references(target, text) and all(
        source.structs.get(name) == target.structs.get(name) and source.enums.get(name) == target.enums.get(name)
        for name in names
    )

"""The differences between two schemas, in words, and whether data can be converted without code.

These need no code: fields added with a default, types widened, enumeration values added or renumbered, commands and
tables added, anything reordered. All others need a migration that defines how the data is converted. A removed field
needs one, because it may be a renamed or a moved one.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from snapshots.abi.inspection import LOG_ENTRY
from snapshots.abi.schema import FieldType, Schema, StructType, TableType, TypeNode, field_text, parse_type, references

_UNBOUNDED = {"ge", "gt", "le", "lt", "min_length", "max_length"}


class Change(msgspec.Struct, frozen=True):
    """A difference. `place` is the table, struct or enumeration; `automatic`: data of the old schema is converted
    without code.
    """

    place: str
    text: str
    automatic: bool


def difference(source: Schema, target: Schema) -> list[Change]:
    """Return the changes from `source` to `target` of stored types: tables and log entries, and the types that they use."""
    changes = list(_tables(source, target))
    old, new = stored_types(source), stored_types(target)
    for name in old:
        if name in new:
            changes.extend(_struct_or_enum(source, target, name))
        else:
            changes.append(Change(_title(source, name), "removed", _unused_is_fine(source, name)))
    changes.extend(Change(_title(target, name), "added", True) for name in new if name not in old)
    if not changes and source.abi != target.abi:
        changes.append(Change("schema", "only what is sent and never stored differs", True))
    return changes


def stored_types(schema: Schema) -> list[str]:
    """Return the names of the structs and enumerations that tables and log entries use."""
    roots = [table.row for table in schema.tables] + [schema.messages[name] for name in (LOG_ENTRY,) if name in schema.messages]
    return sorted({name for root in roots for name in references(schema, root)})


def _unused_is_fine(schema: Schema, name: str) -> bool:
    """Return whether the removal of a type needs no change of its own: the fields of a plain struct show it, an option
    of a choice does not.
    """
    return name in schema.structs and schema.structs[name].tag is None


def _title(schema: Schema, name: str) -> str:
    return f"struct {name}" if name in schema.structs else f"enum {name}"


def _tables(source: Schema, target: Schema) -> Iterator[Change]:
    """Yield the changes of tables."""
    for table in source.tables:
        other = target.table(table.name)
        if other is None:
            yield Change(f"table {table.name}", "removed", False)
        else:
            yield from _table(table, other)
    for table in target.tables:
        if source.table(table.name) is None:
            yield Change(f"table {table.name}", "added", True)
    kept = [table.name for table in source.tables if target.table(table.name)]
    if kept != [table.name for table in target.tables if source.table(table.name)]:
        yield Change("tables", "in another order", True)


def _table(old: TableType, new: TableType) -> Iterator[Change]:
    if old.key != new.key:
        yield Change(f"table {old.name}", f"its key is [{', '.join(new.key)}], was [{', '.join(old.key)}]", False)
    if old.row != new.row:
        yield Change(f"table {old.name}", f"its rows are {new.row}, were {old.row}", False)


def _struct_or_enum(source: Schema, target: Schema, name: str) -> Iterator[Change]:
    """Yield the changes of a type that both schemas have under one name."""
    if name in source.structs and name in target.structs:
        yield from _struct(name, source.structs[name], target.structs[name])
    elif name in source.enums and name in target.enums:
        yield from _enum(name, source.enums[name], target.enums[name])
    else:
        yield Change(_title(source, name), f"is now {_title(target, name).split()[0]}", False)


def _struct(name: str, old: StructType, new: StructType) -> Iterator[Change]:
    """Yield the changes of the fields of a struct."""
    place = f"struct {name}"
    for field in old.fields:
        other = new.field(field.name)
        if other is None:
            yield Change(place, f"field {field.name} removed", False)
        else:
            yield from _field(place, field, other)
    for field in new.fields:
        if old.field(field.name) is None:
            has_default = field.default is not msgspec.UNSET
            yield Change(place, f"field added: {field_text(field)}" + ("" if has_default else ", without a default"), has_default)
    kept = [field.name for field in old.fields if new.field(field.name)]
    if kept != [field.name for field in new.fields if old.field(field.name)]:
        yield Change(place, "fields in another order", True)
    if (old.form, old.tag, old.closed) != (new.form, new.tag, new.closed):
        yield Change(place, "another encoding (form, tag, or whether unknown fields are refused)", True)


def _field(place: str, old: FieldType, new: FieldType) -> Iterator[Change]:
    """Yield the changes of the type and the default of a field."""
    if old.type != new.type:
        wider = widens(parse_type(old.type), parse_type(new.type))
        yield Change(place, f"field {old.name}{_brief(new.type, old.type)}", wider)
    if old.default != new.default:
        yield Change(place, f"field {old.name}: another default", True)


def _brief(new: str, old: str) -> str:
    """Describe how a type changed. For a choice the text names only the options that were added and removed."""
    options, before = _option_names(new), _option_names(old)
    changed = [f"choice {name} removed" for name in before if name not in options]
    changed += [f"choice {name} added" for name in options if name not in before]
    return f": {', '.join(changed)}" if len(options) > 1 and len(before) > 1 and changed else f" is {new}, was {old}"


def _option_names(text: str) -> list[str]:
    node = parse_type(text)
    if node.kind == "list":
        node = node.parts[0]
    return [part.name or part.kind for part in node.parts] if node.kind == "union" else []


def _enum(name: str, old: dict[str, int | str], new: dict[str, int | str]) -> Iterator[Change]:
    """Yield the changes of the values of an enumeration."""
    for member, value in old.items():
        if member not in new:
            yield Change(f"enum {name}", f"value {member} removed", False)
        elif new[member] != value:
            yield Change(f"enum {name}", f"value {member} is {new[member]!r}, was {value!r}", True)
    for member, value in new.items():
        if member not in old:
            yield Change(f"enum {name}", f"value added: {member} = {value!r}", True)


def widens(old: TypeNode, new: TypeNode) -> bool:
    """Return whether every value of the old type is one of the new type. Changes of a struct or an enumeration are separate."""
    if new.kind == "any":
        return True
    if new.kind == "union":
        options = old.parts if old.kind == "union" else (old,)
        return all(any(widens(option, wanted) for wanted in new.parts) for option in options)
    if old.kind == "int" and new.kind == "float":
        return not new.bounds
    if (old.kind, old.name, len(old.parts)) != (new.kind, new.name, len(new.parts)):
        return False
    return _looser(old, new) and all(widens(a, b) for a, b in zip(old.parts, new.parts, strict=True))


def _looser(old: TypeNode, new: TypeNode) -> bool:
    """Return whether the new bounds allow every value that the old ones allow."""
    before = dict(old.bounds)
    for name, bound in new.bounds:
        if name not in _UNBOUNDED or name not in before:
            return False
        if bound > before[name] if name in ("ge", "gt", "min_length") else bound < before[name]:
            return False
    return True

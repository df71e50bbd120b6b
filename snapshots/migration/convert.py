"""One step: it converts every value of one schema to the next, automatically or with the author's functions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from snapshots.abi.difference import widens
from snapshots.abi.inspection import LOG_ENTRY
from snapshots.abi.schema import Schema, StructType, TypeNode, parse_type, references, same_type
from snapshots.migration.codec import TYPE, Codec, CodecError, Values
from snapshots.migration.losses import renamed_fields
from snapshots.migration.plan import Drop, Migration, ValueFunction

Convert = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


class Converter:
    """Converts values from `source` to `target` as `migration` says. One per step."""

    def __init__(self, source: Schema, target: Schema, migration: Migration) -> None:
        self.source = Codec(source)
        self.target = Codec(target)
        self.migration = migration
        self._structs: dict[str, Convert] = {}
        self._rows: dict[str, Callable[[Values], Values | Drop]] = {}

    def new_table(self, table: str) -> str | None:
        """Return the target's name of a table of the source; None if the table is removed."""
        name = self.migration.renamed_tables.get(table, table)
        return None if table in self.migration.removed_tables else name

    def is_unchanged(self, table: str) -> bool:
        """Return whether the rows' bytes stay the same, so that they need not be decoded."""
        source, target = self.source.schema, self.target.schema
        old, new = source.table(table), target.table(self.new_table(table) or "")
        if old is None or new is None or table in self.migration.rows or (old.row, old.key) != (new.row, new.key):
            return False
        touched = {*self.migration.structs, *self.migration.enums, *self.migration.renamed_structs}
        return same_type(source, target, old.row) and not touched.intersection(references(source, old.row))

    def row(self, table: str, values: Values) -> Values | Drop:
        """Return a row of a source table as a row of the target's.

        Raises:
            CodecError: the author's function left out a field.
        """
        if table not in self._rows:
            self._rows[table] = self._row(table)
        return self._rows[table](values)

    def _row(self, table: str) -> Callable[[Values], Values | Drop]:
        """Return the function that converts the rows of a table."""
        source, target = self.source.schema.table(table), self.target.schema.table(self.new_table(table) or "")
        assert source is not None
        assert target is not None
        convert = self._open_struct(source.row, table)
        key_only = self.source.schema.key_only(source)
        allowed = self._allowed(target.row).union(self.target.schema.key_only(target))
        function = self.migration.rows.get(table)

        def row(values: Values) -> Values | Drop:
            converted = {**convert(values), **{part: values[part] for part in key_only}}
            done = function(converted) if function is not None else converted
            return done if isinstance(done, Drop) else _only(done, allowed, values)

        return row

    def entry(self, values: Values) -> Values:
        """Convert a log entry. Raises CodecError."""
        old, new = (codec.schema.messages[LOG_ENTRY] for codec in (self.source, self.target))
        converted: Values = self._value(parse_type(old), parse_type(new))({**values, "commands": []})
        commands = []
        for position, command in enumerate(values["commands"]):
            try:
                commands.append(self._command(command))
            except CodecError as error:
                raise error.within(f"commands[{position}]") from None
        return {**converted, "commands": commands}

    def _command(self, command: Values) -> Values:
        """Convert a command of the log."""
        name = command[TYPE]
        converted: Values = self._struct(name)(command) if self._new_struct(name) is not None else command
        function = self.migration.commands.get(name)
        if function is not None:
            converted = function({**command, **converted})
            allowed = self._allowed(converted.get(TYPE, "")) | {TYPE}
            return _only(converted, allowed, command)
        if self._new_struct(name) is None:
            raise CodecError("", f"{name} is no longer a command, and the migration has no function for it")
        return converted

    def _new_struct(self, name: str) -> StructType | None:
        return self.target.schema.structs.get(self.migration.renamed_structs.get(name, name))

    def _allowed(self, struct: str) -> set[str]:
        found = self.target.schema.structs.get(struct)
        return set() if found is None else {field.name for field in found.fields} | ({TYPE} if found.tag is not None else set())

    def _value(self, old: TypeNode, new: TypeNode) -> Convert:
        """Return the conversion from one type to another."""
        match old.kind:
            case "ref" if old.name in self.source.schema.structs:
                return self._struct(old.name)
            case "ref":
                return self._enum(old.name)
            case "union":
                return self._union(old)
            case "list" | "vartuple":
                item = self._value(old.parts[0], new.parts[0] if new.parts else old.parts[0])
                return lambda values: [item(value) for value in values]
            case "dict":
                inner = self._value(old.parts[1], new.parts[1])
                return lambda values: {key: inner(value) for key, value in values.items()}
            case "tuple":
                items = [self._value(a, b) for a, b in zip(old.parts, new.parts, strict=True)]
                return lambda values: [item(value) for item, value in zip(items, values, strict=True)]
            case "int" if new.kind == "float":
                return float
        return _same

    def _union(self, old: TypeNode) -> Convert:
        """Return the function that converts a value of a union."""
        enums = [self._enum(part.name) for part in old.parts if part.kind == "ref" and part.name in self.source.schema.enums]

        def convert(value: Any) -> Any:
            if isinstance(value, dict) and TYPE in value:
                return self._struct(value[TYPE])(value)
            if isinstance(value, str) and enums:
                return enums[0](value)
            return value

        return convert

    def _enum(self, name: str) -> Convert:
        """Return the function that converts a value of an enumeration."""
        members = self.target.schema.enums.get(name, {})
        moved = self.migration.enums.get(name, {})

        def convert(value: str) -> str:
            found = moved.get(value, value)
            if members and found not in members:
                raise CodecError("", f"{name} no longer has {found}, and the migration does not declare its new value")
            return found

        return convert

    def _struct(self, name: str) -> Convert:
        """Return the conversion of a struct of the source to one of the target, with only the target's fields."""
        if name not in self._structs:
            opened, allowed = self._open_struct(name), self._allowed(self.migration.renamed_structs.get(name, name))
            self._structs[name] = lambda values: _only(opened(values), allowed, values)
        return self._structs[name]

    def _open_struct(self, name: str, table: str = "") -> Convert:
        """Like `_struct`, with the old fields kept. `table`: the table of the row, which may have its own renamed
        fields.
        """
        old, new = self.source.schema.structs[name], self._new_struct(name)
        moved = renamed_fields(self.migration, name, table)
        if new is None:
            return lambda values: {**values, **{now: values[was] for was, now in moved.items()}}
        fields, defaults = self._fields(old, new, moved)
        function: ValueFunction = self.migration.structs.get(name, _same)
        renamed = self.migration.renamed_structs.get(name, name) if new.tag is not None else None

        def convert(values: Values) -> Values:
            done = dict(values)
            for field, new_name, conversion in fields:
                try:
                    done[new_name] = conversion(values[field])
                except CodecError as error:
                    raise error.within(field) from None
            for field, default in defaults.items():
                done[field] = copy.copy(default)
            if renamed is not None:
                done[TYPE] = renamed
            return function(done)

        return convert

    def _fields(
        self, old: StructType, new: StructType, moved: Mapping[str, str]
    ) -> tuple[list[tuple[str, str, Convert]], dict[str, Any]]:
        """Return how kept fields are converted (name, new name, conversion), and the defaults of new ones.

        A value whose type cannot be converted stays; a function of the author sets it.
        """
        fields: list[tuple[str, str, Convert]] = []
        for field in old.fields:
            name = moved.get(field.name, field.name)
            other = new.field(name)
            if other is None:
                continue
            types = parse_type(field.type), parse_type(other.type)
            convert = self._value(*types) if self._follows(*types) else _same
            if convert is not _same or name != field.name:
                fields.append((field.name, name, convert))
        had = {moved.get(field.name, field.name) for field in old.fields}
        added = [field for field in new.fields if field.name not in had and field.default is not msgspec.UNSET]
        return fields, {field.name: field.default for field in added}

    def _follows(self, old: TypeNode, new: TypeNode) -> bool:
        """Return whether values can be converted from one type to the other part by part. An option that a choice no
        longer has is an error of the value that has it.
        """
        if old.kind == "union" or new.kind == "union":
            return True
        if old.kind == new.kind == "ref":
            return self.migration.renamed_structs.get(old.name, old.name) == new.name
        if old.kind == new.kind and len(old.parts) == len(new.parts):
            return all(self._follows(a, b) for a, b in zip(old.parts, new.parts, strict=True))
        return widens(old, new)


def _only(values: Any, allowed: set[str], before: Values) -> Values:
    """Remove the old fields that the new schema does not have. A field that is neither old nor known stays, and the
    codec refuses it.
    """
    if not isinstance(values, dict):
        raise CodecError("", f"the migration's function returned {values!r}; expected a dict"[:200])
    if values.keys() <= allowed:
        return values
    return {name: value for name, value in values.items() if name in allowed or name not in before}

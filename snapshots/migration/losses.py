"""Losses of a step: stored fields and tables that the next schema does not have, and whose removal the migration does
not declare.

A field that is renamed, or moved to another table, looks like a removed field and an added one; the schemas alone do
not distinguish these cases. So no step drops anything silently. The migration renames the field (`renamed_fields`), or
gives the reason of its removal (`removed`, `removed_tables`).

A loss has the name that an author writes: `table.column` where only rows of that table have the field, `Struct.field`
where the struct is also part of other values (outcomes in the reply cache, commands of the log), the table's name
where the table is removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from snapshots.abi.difference import stored_types
from snapshots.abi.inspection import LOG_ENTRY
from snapshots.abi.schema import Schema, StructType, TableType, references
from snapshots.errors import MigrationError
from snapshots.migration.plan import Migration

CHECK = "every removed value has a reason"
MODULE_ADVICE = (
    "Renamed: renamed_fields={old: new name}. Moved: a function or `whole` puts the values where they belong. Moved or not needed any more: "
    "removed={name: reason}, for a table removed_tables"
)
SCRIPT_ADVICE = (
    "Expected there a line for each, with the reason, or with the place to which the executable moves it, under [removed], "
    "for a table under [removed_tables]"
)


class Loss(msgspec.Struct, frozen=True):
    """A stored field or table that the next schema does not have. `names`: any of them in the migration declares the
    removal; messages show the first.
    """

    names: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        """The name for a person."""
        return self.names[0]


def losses(source: Schema, target: Schema, migration: Migration) -> list[Loss]:
    """Return all losses of the step, declared or not. Renamed fields, tables and structs are not losses."""
    return [*_table_losses(source, target, migration), *_struct_losses(source, target, migration)]


def check(source: Schema, target: Schema, migration: Migration, script: Path | None = None) -> None:
    """Check that every loss has a reason, and that every name in the migration is that of a removed or renamed field or
    table.

    Args:
        script: the executable of the step, if it has one.

    Raises:
        MigrationError: the text names all undeclared losses, or a name that matches nothing.
    """
    where = f"{script}.toml" if script is not None else f"the migration from {migration.source[:12]}"
    found = losses(source, target, migration)
    reasons = {name: why for name, why in {**migration.removed, **migration.removed_tables}.items() if why.strip()}
    silent = [loss for loss in found if not reasons.keys() & set(loss.names)]
    if silent:
        listed = "; ".join(f"{loss.name} ({loss.text})" for loss in silent)
        advice = MODULE_ADVICE if script is None else SCRIPT_ADVICE
        raise MigrationError(CHECK, "", f"these would be lost, and {where} gives no reason: {listed}. {advice}")
    known = {name for loss in found for name in loss.names}
    for name in (*migration.removed, *migration.removed_tables):
        if name not in known:
            raise MigrationError(CHECK, name, f"{where} says that it is removed, and nothing of that name is")
    _check_renamed(source, target, migration, where)


def _check_renamed(source: Schema, target: Schema, migration: Migration, where: str) -> None:
    """Check that every renamed field existed, has a free name in the new struct, and has one new name only."""
    for name, new in migration.renamed_fields.items():
        holder, _, old = name.rpartition(".")
        was, now = _holder(source, target, migration, holder)
        fault = ""
        if was is None or was.field(old) is None:
            fault = "there is no such field"
        elif now is None or now.field(new) is None:
            fault = f"the new schema has no field {new} there"
        elif was.field(new) is not None or now.field(old) is not None:
            fault = f"both fields are in one of the schemas: {old} was not renamed to {new}"
        if fault:
            raise MigrationError(CHECK, name, f"{where}: renamed_fields: {fault}")


def _holder(source: Schema, target: Schema, migration: Migration, name: str) -> tuple[StructType | None, StructType | None]:
    """Return the struct of a table's rows, or a struct by its own name, before and after."""
    table = source.table(name)
    if table is not None:
        other = target.table(migration.renamed_tables.get(name, name))
        return source.structs[table.row], target.structs.get(other.row) if other is not None else None
    return source.structs.get(name), target.structs.get(migration.renamed_structs.get(name, name))


def _table_losses(source: Schema, target: Schema, migration: Migration) -> Iterator[Loss]:
    """Yield the tables and columns that the new schema does not have and the migration does not declare."""
    nested = _nested(source)
    for table in source.tables:
        other = target.table(migration.renamed_tables.get(table.name, table.name))
        if other is None or table.name in migration.removed_tables:
            yield Loss((table.name,), f"the table, with {len(source.structs[table.row].fields)} columns")
            continue
        columns = _columns(target, other)
        renamed = _renamed(migration, table.name, table.row)
        for column in _columns(source, table):
            if renamed.get(column, column) in columns or (table.row in nested and column not in source.key_only(table)):
                continue
            names = (f"{table.name}.{column}", f"{table.row}.{column}")
            yield Loss(names, f"a column of the table {table.name}")


def _columns(schema: Schema, table: TableType) -> list[str]:
    return [*(field.name for field in schema.structs[table.row].fields), *schema.key_only(table)]


def _renamed(migration: Migration, *holders: str) -> dict[str, str]:
    """Return the new names of fields by the old ones, of a struct or of its table."""
    return {
        field: new
        for holder, field, new in ((*name.rpartition(".")[::2], new) for name, new in migration.renamed_fields.items())
        if holder in holders
    }


def _struct_losses(source: Schema, target: Schema, migration: Migration) -> Iterator[Loss]:
    """Return losses of structs that are part of others or of log entries. A removed struct is a loss of the field that
    had it.
    """
    nested = _nested(source)
    for name in stored_types(source):
        old, new = source.structs.get(name), target.structs.get(migration.renamed_structs.get(name, name))
        if name not in nested or old is None or new is None:
            continue
        renamed = _renamed(migration, name)
        for field in old.fields:
            if new.field(renamed.get(field.name, field.name)) is None:
                yield Loss((f"{name}.{field.name}",), f"a field of {name}, {_where(source, name)}")


def _nested(schema: Schema) -> set[str]:
    """Return structs and enumerations that are part of others or of log entries, and not only rows of a table."""
    roots = [field.type for table in schema.tables for field in schema.structs[table.row].fields]
    roots += [schema.messages[LOG_ENTRY]] if LOG_ENTRY in schema.messages else []
    return {name for root in roots for name in references(schema, root)}


def _where(schema: Schema, struct: str) -> str:
    places = [f"table {table.name}" for table in schema.tables if struct in references(schema, table.row)]
    if LOG_ENTRY in schema.messages and struct in references(schema, schema.messages[LOG_ENTRY]):
        places.append("the log's commands")
    return f"in {', '.join(places)}"


def renamed_fields(migration: Migration, struct: str, table: str) -> Mapping[str, str]:
    """Return the new names of a struct's fields by the old ones: of the struct, and with `table` of that table's rows."""
    return _renamed(migration, struct, *((table,) if table else ()))

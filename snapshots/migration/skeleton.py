"""The first form of a migration's module, from the difference between two schemas."""

from __future__ import annotations

from snapshots.abi.difference import difference
from snapshots.abi.inspection import LOG_ENTRY
from snapshots.abi.schema import Schema, references

_HEAD = '''"""From ABI {source}
to ABI {target}.

{changes}
"""

from __future__ import annotations

from snapshots.migration.codec import Values
from snapshots.migration.plan import {names}
'''

_STRUCT = '''

def {function}(values: Values) -> Values:
    """{struct}, wherever it stands{where}: {changes}."""
    raise NotImplementedError
'''

_ROW = '''

def {function}(row: Values) -> Values | Drop:
    """Each row of the table {table}: {changes}."""
    raise NotImplementedError
'''

_MIGRATION = """

MIGRATION = Migration(
    source="{source}",
    target="{target}",
{parts})
"""


def module_name(source: str) -> str:
    """The file name of the module that migrates from an ABI."""
    return f"from_{source[:12]}.py"


def skeleton(source: Schema, target: Schema) -> str:
    """The module's text: a function for each struct and table that does not follow by itself, and a hint for all else."""
    needed: dict[str, list[str]] = {}
    for change in difference(source, target):
        if not change.automatic:
            needed.setdefault(change.place, []).append(change.text)
    functions, structs, rows, enums, tables = "", "", "", "", ""
    for place, changes in needed.items():
        kind, _, name = place.partition(" ")
        what = "; ".join(changes).replace('"', "'")
        if kind == "struct":
            functions += _STRUCT.format(function=_function(name), struct=name, where=_where(source, name), changes=what)
            structs += f'        "{name}": {_function(name)},\n'
        elif kind == "enum":
            gone = [change.split()[1] for change in changes if change.endswith("removed")]
            enums += f'        "{name}": {{' + ", ".join(f'"{member}": "..."' for member in gone) + "},\n"
        elif changes == ["removed"]:
            tables += f'        "{name}": "...",\n'
        else:
            functions += _ROW.format(function=f"{name}_row", table=name, changes=what)
            rows += f'        "{name}": {name}_row,\n'
    parts = "".join(
        f"    {part}={{\n{lines}    }},\n"
        for part, lines in (("structs", structs), ("rows", rows), ("enums", enums), ("removed_tables", tables))
        if lines
    )
    listed = "\n".join(f"- {place}: {'; '.join(changes)}" for place, changes in needed.items()) or "Everything follows by itself."
    names = "Drop, Migration" if rows else "Migration"
    head = _HEAD.format(source=source.abi, target=target.abi, changes=listed, names=names)
    if not functions:
        head = head.replace("from snapshots.migration.codec import Values\n", "")
    return head + functions + _MIGRATION.format(source=source.abi, target=target.abi, parts=parts)


def _function(struct: str) -> str:
    """`OrderState` is `order_state`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in struct).removeprefix("_")


def _where(schema: Schema, struct: str) -> str:
    tables = [table.name for table in schema.tables if struct in references(schema, table.row)]
    in_log = [LOG_ENTRY] if LOG_ENTRY in schema.messages and struct in references(schema, schema.messages[LOG_ENTRY]) else []
    return f" ({', '.join([*(f'table {name}' for name in tables), *in_log])})" if tables or in_log else ""

"""The draft of a migration's module, from the difference between two schemas."""

from __future__ import annotations

from snapshots.abi.difference import Change, difference
from snapshots.abi.inspection import LOG_ENTRY
from snapshots.abi.schema import Schema, references
from snapshots.migration.losses import Loss, losses
from snapshots.migration.plan import Migration

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


_ASK = """    # These vanish. Renamed: take the line out, and write renamed_fields={"holder.old": "new"} or renamed_tables={"old": "new"}.
    # Moved: a function above, or whole=, puts the values where they belong; then say where. An empty reason is refused.
"""


def module_name(source: str) -> str:
    """Return the file name of the module that migrates from an ABI."""
    return f"from_{source[:12]}.py"


def skeleton(source: Schema, target: Schema) -> str:
    """Return the module's text: a function for each struct and table that is not converted automatically, the name of
    everything that would be dropped, and a hint for all else."""
    changes = [change for change in difference(source, target) if not change.automatic]
    listed = "\n".join(f"- {change.place}: {change.text}" for change in changes) or "Everything is converted automatically."
    functions, maps = _functions(source, changes)
    names = "Drop, Migration" if "-> Values | Drop" in functions else "Migration"
    head = _HEAD.format(source=source.abi, target=target.abi, changes=listed, names=names)
    if not functions:
        head = head.replace("from snapshots.migration.codec import Values\n", "")
    parts = "".join(f"    {part}={{\n{lines}    }},\n" for part, lines in maps.items() if lines)
    return head + functions + _MIGRATION.format(source=source.abi, target=target.abi, parts=parts + _vanishing(source, target))


def _functions(source: Schema, changes: list[Change]) -> tuple[str, dict[str, str]]:
    """Return the functions, and the parts of the migration that name them, for everything that is not simply dropped."""
    needed: dict[str, list[str]] = {}
    for change in changes:
        if not change.text.endswith("removed") or change.place.startswith("enum ") or ": choice " in change.text:
            needed.setdefault(change.place, []).append(change.text)
    functions, structs, rows, enums = "", "", "", ""
    for place, texts in needed.items():
        kind, _, name = place.partition(" ")
        description = "; ".join(texts).replace('"', "'")
        if kind == "struct":
            functions += _STRUCT.format(function=_function(name), struct=name, where=_where(source, name), changes=description)
            structs += f'        "{name}": {_function(name)},\n'
        elif kind == "enum":
            removed = [text.split()[1] for text in texts if text.endswith("removed")]
            enums += f'        "{name}": {{' + ", ".join(f'"{member}": "..."' for member in removed) + "},\n"
        else:
            functions += _ROW.format(function=f"{name}_row", table=name, changes=description)
            rows += f'        "{name}": {name}_row,\n'
    return functions, {"structs": structs, "rows": rows, "enums": enums}


def _vanishing(source: Schema, target: Schema) -> str:
    """Return `removed` and `removed_tables` with all that would be dropped. The author writes the reasons."""
    gone = losses(source, target, Migration(source.abi, target.abi))
    parts = ""
    for part, is_table in (("removed", False), ("removed_tables", True)):
        lines = "".join(_vanishes(source, target, loss) for loss in gone if ("." not in loss.name) is is_table)
        parts += f"    {part}={{\n{lines}    }},\n" if lines else ""
    return f"{_ASK}{parts}" if parts else ""


def _vanishes(source: Schema, target: Schema, loss: Loss) -> str:
    """Return one line of it, with the fields that were added in the same place: one may be the new name."""
    holder = loss.name.rpartition(".")[0]
    if not holder:
        came = [table.name for table in target.tables if source.table(table.name) is None]
    else:
        table, other = source.table(holder), target.table(holder)
        old = source.structs[table.row if table is not None else holder]
        new = target.structs[other.row] if other is not None else target.structs[holder]
        came = [each.name for each in new.fields if old.field(each.name) is None]
    return (
        f'        "{loss.name}": "",' + (f"  # {loss.text}; new there: {', '.join(came)}" if came else f"  # {loss.text}") + "\n"
    )


def _function(struct: str) -> str:
    """Return the name of the function: `OrderState` is `order_state`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in struct).removeprefix("_")


def _where(schema: Schema, struct: str) -> str:
    tables = [table.name for table in schema.tables if struct in references(schema, table.row)]
    in_log = [LOG_ENTRY] if LOG_ENTRY in schema.messages and struct in references(schema, schema.messages[LOG_ENTRY]) else []
    return f" ({', '.join([*(f'table {name}' for name in tables), *in_log])})" if tables or in_log else ""

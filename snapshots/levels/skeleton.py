"""The first form of the modules that run a released level: `quorumbook migrate new-level VERSION`.

The frozen core of a release from 0.3.0 on has the interface of the present engine, so most of its module passes calls
on. What the author has to decide raises NotImplementedError: how rows that differ are converted, in both directions.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence

from snapshots.abi.difference import difference
from snapshots.abi.schema import Schema, TableType, references
from snapshots.levels.freezing import PACKAGE, package_name
from statemachine.engine import Engine

_ENGINE = '''"""The exchange of version {version}: its frozen core behind the interface of the present engine.

The frozen core makes everything that is in the log, in a snapshot or in the result of an entry.
"""

from __future__ import annotations

from typing import Any

from statemachine.engine import Engine
from statemachine.errors import StateError

from {package} import engine as core_engine  # type: ignore[import-not-found]  # isort: skip  # in the archive
from {package} import errors as core_errors  # isort: skip


class FormerEngine(Engine):
    """See `Engine`."""

    def __init__(self, core: Any = None) -> None:
        super().__init__()
        self._core = core if core is not None else core_engine.Engine()

    @classmethod
    def restore(cls, tables: Any, *, verified: bool = False) -> FormerEngine:
        """See `Engine`."""
        try:
            return cls(core_engine.Engine.restore(tables, verified=verified))
        except core_errors.StateError as error:
            raise StateError(str(error)) from error

    @property
    def core_state(self) -> Any:
        """The state of the frozen core. For reading."""
        return self._core._state
'''

_PROPERTY = '''
    @property
    def {name}(self) -> Any:
        """See `Engine`."""
        return self._core.{name}
'''

_METHOD = '''
    def {name}{signature}:
        """See `Engine`."""
        return self._core.{name}({arguments})
'''

_ROWS = '''"""What the version after {version} stores otherwise than {version}, row by row.

{changes}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Row = tuple[bytes, bytes]


def converted(rows: Mapping[str, Iterable[Row]], first_hash: bytes) -> dict[str, list[Row]]:
    """All tables of a state of {version}, as this version has them, sorted by key. The one row of `counter` has the running
    hash `first_hash`, with which the level begins. See `v0_2_0_rows` for an example.
    """
    raise NotImplementedError
'''

_BACK = '''"""Rows of the version after {version} as {version} stores them: the way back of `{rows}`, for a state in which
nothing is in use that {version} lacks.

{obstacles}

The author decides what a row may lose or what is converted, for each column below, and gives the reason here. A column
without a decision stays an obstacle while it is in use. The schemas do not show what a value means: what `{rows}` converts
by a rule of its own needs the reverse rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from snapshots.levels.obstacles import Narrow, Obstacles, Row, named
from statemachine.tables import TABLES

from {package} import tables as core_tables  # type: ignore[import-not-found]  # isort: skip  # in the archive

{functions}
CONVERT: dict[str, Callable[[Any], Any]] = {{
{entries}}}
"""What each table's rows lose or change. A table that is not here is the same in both versions."""


def lowered(rows: Mapping[str, Iterable[Row]], first_hash: bytes, obstacles: Obstacles) -> dict[str, list[Row]]:
    """All tables as {version} has them. They are of no use if obstacles were noted. O(everything).

    Args:
        first_hash: the running hash with which the level begins.
    """
    made: dict[str, list[Row]] = {{}}
    for name, found in rows.items():
        if name not in core_tables.TABLES:
            for key, _ in found:
                obstacles.add(name, "{version} has no such table", named(key))
            continue
        narrow = Narrow("{version}", name, core_tables.TABLES[name], obstacles)
        decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(TABLES[name]).decode
        convert = CONVERT.get(name, lambda row: row)
        made[name] = []
        for key, payload in found:
            row = convert(decode(payload))
            if name == "counter":
                row = msgspec.structs.replace(row, state_hash=first_hash)
            made[name].append(narrow(key, msgspec.msgpack.encode(row)))
    return made
'''

_BACK_TABLE = '''
def _{table}(row: Any) -> Any:
    """A row of the table {table}. {version} lacks these, or has them in another form:

{changes}

    Return the row with a field at the value that {version} takes for granted, if the field may be dropped. Return the row
    as it is, if the way back is to be closed while the field is in use.
    """
    raise NotImplementedError("decide what a row of the table {table} loses")
'''

_ADDED, _VALUE = "field added: ", "value added: "
"""How texts of `difference` begin."""

_WIDTH = 112
"""Of a line with a change. Longer ones go on in the next."""

_OWN = {"restore", "patch", "apply"}
"""Written by hand above, or not a part of a former engine."""


def module_names(version: str) -> tuple[str, str, str]:
    """Return the file names of the three modules."""
    name = f"v{version.replace('.', '_')}"
    return f"{name}.py", f"{name}_rows.py", f"{name}_back.py"


def modules(version: str, source: Schema, target: Schema) -> dict[str, str]:
    """Return the texts of the modules with which a version with the schema `target` runs at the level of the released
    `version` with the schema `source`, by file name.
    """
    texts = engine_module(version), rows_module(version, source, target), back_module(version, source, target)
    return dict(zip(module_names(version), texts, strict=True))


def engine_module(version: str) -> str:
    """Return the text of the module with the engine: each public method and property of the present engine, passed on."""
    text = _ENGINE.format(version=version, package=f"{PACKAGE}.{package_name(version)}")
    for name, value in vars(Engine).items():
        if name.startswith("_") or name in _OWN:
            continue
        if isinstance(value, property):
            text += _PROPERTY.format(name=name)
        elif callable(value):
            text += _method(name, inspect.signature(value))
    return text


def _method(name: str, signature: inspect.Signature) -> str:
    """Return the text of a method that passes its call on."""
    parameters = [each.replace(annotation="Any") for each in signature.parameters.values()]
    parameters[0] = parameters[0].replace(annotation=inspect.Parameter.empty)
    passed = [f"{each.name}={each.name}" if each.kind is inspect.Parameter.KEYWORD_ONLY else each.name for each in parameters[1:]]
    shown = str(signature.replace(parameters=parameters, return_annotation="Any")).replace("'Any'", "Any")
    return _METHOD.format(name=name, signature=shown, arguments=", ".join(passed))


def rows_module(version: str, source: Schema, target: Schema) -> str:
    """Return the text of the module with the rows, with what changed between the schemas."""
    changes = "\n".join(
        f"- {change.place}: {change.text}" + ("" if change.automatic else " (needs code)")
        for change in difference(source, target)
    )
    return _ROWS.format(version=version, changes=changes or "The schemas are the same.")


def back_module(version: str, source: Schema, target: Schema) -> str:
    """Return the text of the module with the way back, with what the author decides for each table and column."""
    tables = _changes_by_table(source, target)
    functions = [_back_table(version, table, found) for table, found in tables.items()]
    new = ", ".join(table.name for table in target.tables if source.table(table.name) is None)
    obstacles = (
        f"A row is converted if {version} stores all of it. Every other row is an obstacle automatically, and so is every row "
        f"of a table that {version} does not have{': ' + new if new else ''}."
    )
    return _BACK.format(
        version=version,
        rows=module_names(version)[1].removesuffix(".py"),
        package=f"{PACKAGE}.{package_name(version)}",
        obstacles=textwrap.fill(obstacles, _WIDTH),
        functions="\n".join(functions) + "\n" if functions else "",
        entries="".join(f'    "{table}": _{table},\n' for table in tables),
    )


def _back_table(version: str, table: str, changes: Sequence[str]) -> str:
    lines = [textwrap.fill(text, _WIDTH, initial_indent="    - ", subsequent_indent="      ") for text in changes]
    return _BACK_TABLE.format(version=version, table=table, changes="\n".join(lines))


def _changes_by_table(source: Schema, target: Schema) -> dict[str, list[str]]:
    """Return for each table of both schemas that differs: the columns, fields of structs in columns, and values that
    the earlier one lacks or stores in another form.
    """
    changes = difference(source, target)
    found: dict[str, list[str]] = {}
    for table in target.tables:
        if source.table(table.name) is None:
            continue
        for place, prefix in _places(target, table):
            texts = [change.text for change in changes if change.place == place and change.text != "added"]
            values = [text.removeprefix(_VALUE) for text in texts if text.startswith(_VALUE)]
            lines = [prefix + text.removeprefix(_ADDED).removeprefix("field ") for text in texts if not text.startswith(_VALUE)]
            lines += [f"{prefix.rstrip('.')}, values added: {', '.join(values)}"] if values else []
            if lines:
                found.setdefault(table.name, []).extend(lines)
    return found


def _places(schema: Schema, table: TableType) -> Iterator[tuple[str, str]]:
    """Yield where `difference` says what changed in a table's rows, and how a text about it begins."""
    yield f"table {table.name}", ""
    yield f"struct {table.row}", ""
    for name in references(schema, table.row):
        if name != table.row:
            yield f"{'struct' if name in schema.structs else 'enum'} {name}", f"{name}."

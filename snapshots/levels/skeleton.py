"""The first form of the modules that run a released level: `quorumbook migrate new-level VERSION`.

The frozen core of a release from 0.3.0 on has the interface of the present engine, so most of its module passes calls
on. What the author has to think about raises NotImplementedError: rows that differ, and commands that are new.
"""

from __future__ import annotations

import inspect

from snapshots.abi.difference import difference
from snapshots.abi.schema import Schema
from snapshots.levels.freezing import PACKAGE, package_name
from statemachine.engine import Engine

_ENGINE = '''"""The exchange of version {version}: its frozen core behind the interface of the present engine.

Everything that goes into the log, comes out of an entry or lies in a snapshot is made by the frozen core.
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

_OWN = {"restore", "patch", "apply"}
"""Written by hand above, or not a part of a former engine."""


def module_names(version: str) -> tuple[str, str]:
    """The file names of the two modules."""
    name = f"v{version.replace('.', '_')}"
    return f"{name}.py", f"{name}_rows.py"


def engine_module(version: str) -> str:
    """The text of the module with the engine: each public method and property of the present engine, passed on."""
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
    parameters = [each.replace(annotation="Any") for each in signature.parameters.values()]
    parameters[0] = parameters[0].replace(annotation=inspect.Parameter.empty)
    passed = [f"{each.name}={each.name}" if each.kind is inspect.Parameter.KEYWORD_ONLY else each.name for each in parameters[1:]]
    shown = str(signature.replace(parameters=parameters, return_annotation="Any")).replace("'Any'", "Any")
    return _METHOD.format(name=name, signature=shown, arguments=", ".join(passed))


def rows_module(version: str, source: Schema, target: Schema) -> str:
    """The text of the module with the rows, with what changed between the schemas."""
    changes = "\n".join(
        f"- {change.place}: {change.text}" + ("" if change.automatic else " (needs code)")
        for change in difference(source, target)
    )
    return _ROWS.format(version=version, changes=changes or "The schemas are the same.")

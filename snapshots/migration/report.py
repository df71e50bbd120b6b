"""The report of a migration, in figures."""

from __future__ import annotations

import msgspec


class TableCount(msgspec.Struct):
    """The rows of a table before and after a step. A table that was added has the name "" before, one that was removed
    after.

    `reasons` explain the difference: why, and how many rows.
    """

    table: str
    new_table: str
    rows_in: int
    rows_out: int
    reasons: dict[str, int]


class StepReport(msgspec.Struct):
    """One step: how it was made, what changed between the schemas, each table's count, and the seconds it took."""

    source: str
    target: str
    how: str
    changes: list[str]
    tables: list[TableCount]
    seconds: float = 0.0


class CheckReport(msgspec.Struct):
    """A check that the result passed, and what was compared."""

    name: str
    detail: str


class MigrationReport(msgspec.Struct):
    """All of it. `entries` of the log were converted, with so many `commands`."""

    source: str
    target: str
    steps: list[StepReport]
    checks: list[CheckReport]
    entries: int = 0
    commands: int = 0

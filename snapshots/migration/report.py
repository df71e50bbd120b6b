"""The report of a migration, in figures."""

from __future__ import annotations

import msgspec


class TableCount(msgspec.Struct):
    """The number of rows of a table before and after a step. An added table has the name "" before, a removed table
    after.

    `reasons` explain the difference: each reason with its number of rows.
    """

    table: str
    new_table: str
    rows_in: int
    rows_out: int
    reasons: dict[str, int]


class StepReport(msgspec.Struct):
    """One step: its kind, the changes between the schemas, each table's count, and the seconds that it took."""

    source: str
    target: str
    how: str
    changes: list[str]
    tables: list[TableCount]
    seconds: float = 0.0


class CheckReport(msgspec.Struct):
    """A check that the result passed, with its figures."""

    name: str
    detail: str


class MigrationReport(msgspec.Struct):
    """The whole report. `entries` of the log were converted, with `commands` commands."""

    source: str
    target: str
    steps: list[StepReport]
    checks: list[CheckReport]
    entries: int = 0
    commands: int = 0

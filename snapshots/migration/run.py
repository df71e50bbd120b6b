"""Running a migration: converts a state, and the log after it, by a chain of steps. This module writes nothing: it
takes rows and returns rows.

The result is checked, see `checks`. Every failure is a `MigrationError` that names the check and the row.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from snapshots.abi.difference import difference
from snapshots.abi.schema import Schema
from snapshots.errors import MigrationError
from snapshots.levels.states import commands_of
from snapshots.migration import checks, scripts
from snapshots.migration.chain import Step
from snapshots.migration.codec import Codec, CodecError, Row, Values
from snapshots.migration.convert import Converter
from snapshots.migration.plan import Drop, Facts, Tables, facts_of
from snapshots.migration.report import MigrationReport, StepReport, TableCount
from statemachine.engine import Engine

Rows = dict[str, list[Row]]
Counted = Callable[[int, int], None]
"""Takes the number of steps done in the present stage, and of all its steps."""

COUNTED_EVERY = 1_000
"""Rows between two calls of `Counted`."""


_FACT_TABLES = ("currency", "balance", "order")


def uncounted(done: int, total: int) -> None:
    """Ignore the steps."""


class PlainTables(Tables):
    """Tables as plain values. Each is read on first access."""

    def __init__(self, rows: Mapping[str, list[Row]], codec: Codec) -> None:
        super().__init__()
        self._rows = rows
        self._codec = codec

    def __missing__(self, table: str) -> list[Values]:
        if table not in self._rows:
            raise KeyError(table)
        self[table] = [read_row(self._codec, table, row) for row in self._rows[table]]
        return self[table]


def read_row(codec: Codec, table: str, row: Row) -> Values:
    """Return a row as plain values.

    Raises:
        MigrationError: it is not of the codec's schema.
    """
    try:
        return codec.read_row(table, row)
    except CodecError as error:
        raise MigrationError("rows are of their schema", f"table {table}, key {row[0].hex()}", str(error)) from error


class StateMigration:
    """Converts a snapshot's tables through all steps.

    Args:
        progress: called with the name of each step that begins.
        counted: called with the rows that a step has converted, and all its rows.

    Attributes:
        report: the report so far.
        engine: has the state once `run` has ended in the schema of a level.
    """

    def __init__(
        self, steps: list[Step], progress: Callable[[str], None] = lambda _line: None, counted: Counted = uncounted
    ) -> None:
        assert steps
        self._steps = steps
        self._progress = progress
        self._counted = counted
        self.report = MigrationReport(steps[0].source.abi, steps[-1].target.abi, [], [])
        self.engine: Engine | None = None

    def run(self, rows: Rows, current: Schema) -> Rows:
        """Return the rows in the last step's schema. If it is `current`, the schema of a supported level, an engine
        loads the rows, and every check is made.

        Raises:
            MigrationError: a step or a check failed.
        """
        for step in self._steps:
            started = time.monotonic()
            rows, report = _StepRun(step, rows, self._counted).run(self._progress)
            report.seconds = time.monotonic() - started
            self.report.steps.append(report)
        target = self._steps[-1].target
        if target.abi != current.abi:
            return rows
        self._progress("checking the result")
        codec = Codec(target)
        rows = checks.finish(rows, codec)
        tables = PlainTables(rows, codec)
        checks.check_references(tables, rows.keys())
        facts = facts_of(tables)
        self.engine = checks.check_engine(rows, facts, current.abi)
        self.report.checks = checks.summary(facts, self.engine)
        return rows


class _StepRun:
    """The execution of one step of a migration."""

    def __init__(self, step: Step, rows: Rows, counted: Counted) -> None:
        self._step = step
        self._rows = rows
        self._counted = counted
        self._total = sum(map(len, rows.values()))
        self._done = 0
        self._converter = Converter(step.source, step.target, step.migration)
        self._dropped_orders: set[int] = set()
        changes = [f"{change.place}: {change.text}" for change in difference(step.source, step.target)]
        self._report = StepReport(step.source.abi, step.target.abi, step.how, changes, [])

    def run(self, progress: Callable[[str], None]) -> tuple[Rows, StepReport]:
        """Return the rows in the step's target schema."""
        progress(f"{self._step.how}: {self._step.source.abi} to {self._step.target.abi}")
        before = self._facts_before()
        rows = self._by_script(progress) if self._step.script is not None else self._by_rows()
        if self._step.migration.whole is not None:
            rows = self._whole(rows)
        for table, found in rows.items():
            found.sort()
            checks.check_keys(table, found, self._converter.target)
        if before is not None:
            after = self._facts(self._step.migration.facts_after, PlainTables(rows, self._converter.target))
            checks.compare(before, after, self._dropped_orders)
        return rows, self._report

    def _facts_before(self) -> Facts | None:
        """Return the facts, or None if the step changes no table from which they are read."""
        migration = self._step.migration
        standard = migration.facts_before is facts_of and migration.facts_after is facts_of and migration.whole is None
        if standard and self._step.script is None and all(map(self._converter.is_unchanged, _FACT_TABLES)):
            return None
        return self._facts(migration.facts_before, PlainTables(self._rows, self._converter.source))

    @staticmethod
    def _facts(read: Callable[[Tables], Facts], tables: PlainTables) -> Facts:
        """Read the facts about a state that the checks compare. Raises MigrationError."""
        try:
            return read(tables)
        except KeyError as error:
            raise MigrationError(
                checks.MONEY,
                "",
                f"there is no table or field {error}; the migration's facts_before or facts_after must say where it is",
            ) from error

    def _by_rows(self) -> Rows:
        """Convert all rows, table by table."""
        rows: Rows = {table.name: [] for table in self._step.target.tables}
        for table in self._step.source.tables:
            name = self._converter.new_table(table.name)
            found = self._rows[table.name]
            if name is None:
                reason = self._step.migration.removed_tables[table.name]
                self._count(table.name, "", len(found), 0, {reason: len(found)} if found else {})
                continue
            if name not in rows:
                raise MigrationError(
                    checks.ROWS, f"table {table.name}", "is not in the new schema, and the migration does not say why"
                )
            if self._converter.is_unchanged(table.name):
                converted, reasons = list(found), dict[str, int]()
            else:
                converted, reasons = self._convert(table.name, name)
            rows[name].extend(converted)
            self._done += len(found)
            self._counted(self._done, self._total)
            self._count(table.name, name, len(found), len(converted), reasons)
        self._count_added(rows)
        return rows

    def _count_added(self, rows: Rows) -> None:
        counted = {count.new_table for count in self._report.tables}
        for name, found in rows.items():
            if name not in counted:
                self._count("", name, 0, len(found), {})

    def _convert(self, table: str, name: str) -> tuple[list[Row], dict[str, int]]:
        """Convert the rows of a table. Returns them, and the number of dropped rows by reason."""
        converted: list[Row] = []
        reasons: dict[str, int] = {}
        for number, row in enumerate(self._rows[table]):
            if number % COUNTED_EVERY == 0:
                self._counted(self._done + number, self._total)
            values = read_row(self._converter.source, table, row)
            try:
                done = self._converter.row(table, values)
                if not isinstance(done, Drop):
                    converted.append(self._converter.target.write_row(name, done))
                    continue
            except Exception as error:  # whatever the author's function raises: nothing is changed, and the row is named
                raise MigrationError("rows are converted", f"table {table}, row {values!r}"[:300], explained(error)) from error
            reasons[done.reason] = reasons.get(done.reason, 0) + 1
            if "order_id" in values:
                self._dropped_orders.add(values["order_id"])
        return converted, reasons

    def _whole(self, rows: Rows) -> Rows:
        """Apply the migration's function for whole tables."""
        whole = self._step.migration.whole
        assert whole is not None
        codec = self._converter.target
        before = PlainTables(self._rows, self._converter.source)
        tables: Tables = {table: [read_row(codec, table, row) for row in found] for table, found in rows.items()}
        try:
            reasons = whole(before, tables)
            done = {table: [codec.write_row(table, values) for values in tables[table]] for table in rows}
        except Exception as error:  # as in `_convert`
            raise MigrationError("`whole` converts the tables", "", explained(error)) from error
        for table, found in done.items():
            difference_in_rows = len(found) - len(rows[table])
            if difference_in_rows == 0:
                continue
            if table not in reasons:
                raise MigrationError(
                    checks.ROWS, f"table {table}", f"`whole` changed {len(rows[table])} rows to {len(found)} and gave no reason"
                )
            count = next(count for count in self._report.tables if count.new_table == table)
            count.rows_out += difference_in_rows
            count.reasons[reasons[table]] = abs(difference_in_rows)
        return done

    def _by_script(self, progress: Callable[[str], None]) -> Rows:
        """Convert all rows by the operator's executable."""
        assert self._step.script is not None
        rows = scripts.run(self._step.script, self._rows, self._step.source, self._step.target, progress)
        for table in self._step.source.tables:
            count, was = len(rows.get(table.name, [])), len(self._rows[table.name])
            reasons = {"the executable": abs(count - was)} if count != was else {}
            self._count(table.name, table.name if table.name in rows else "", was, count, reasons)
        self._count_added(rows)
        before, after = (
            {values["order_id"] for name in ("order",) if name in found for values in PlainTables(found, codec)[name]}
            for found, codec in ((self._rows, self._converter.source), (rows, self._converter.target))
        )
        self._dropped_orders.update(before - after)
        return rows

    def _count(self, table: str, new_table: str, rows_in: int, rows_out: int, reasons: dict[str, int]) -> None:
        self._report.tables.append(TableCount(table, new_table, rows_in, rows_out, reasons))


class LogMigration:
    """Converts log entries through all steps, one by one."""

    def __init__(self, steps: list[Step], current: Schema) -> None:
        self._first = Codec(steps[0].source)
        self._last = Codec(steps[-1].target)
        self._converters = [Converter(step.source, step.target, step.migration) for step in steps]
        self._abi = current.abi
        self._is_current = steps[-1].target.abi == current.abi
        self.entries = 0
        self.commands = 0

    def convert(self, payload: bytes) -> bytes:
        """Return a batch of commands in the last step's schema, marked as migrated.

        Raises:
            MigrationError: a command could not be converted.
        """
        place = f"log entry {self.entries + 1} of those with commands"
        try:
            values = self._first.read_entry(payload)
            for converter in self._converters:
                values = converter.entry(values)
            if self._is_current:
                values["migrated"] = True
            converted = self._last.write_entry(values)
            if self._is_current:
                commands_of(self._abi, converted)
        except Exception as error:  # as in `_StepRun._convert`
            raise MigrationError("commands are converted", place, f"{explained(error)}. {ADVICE}") from error
        self.entries += 1
        self.commands += len(values["commands"])
        return converted


ADVICE = "A node that the previous version stopped gracefully has no commands after its snapshot that would have to be converted"


def explained(error: Exception) -> str:
    """Return the error of an author's function as text, with its line."""
    if isinstance(error, CodecError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {frame.line})"

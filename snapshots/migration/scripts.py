"""A step that is an external executable: `<executable> <tsv directory> <out directory>`, named after the source ABI.

The first directory has every table of the source schema as TSV (see `tsv`), the second one, empty at first, must have
every table of the target's when the executable ends with exit code 0. Amounts are whole numbers in smallest units. It
does not get the commands in the log: they are converted automatically, or the migration fails.

Beside it, `<executable>.toml` names the fields and tables that the new schema lacks, with the reasons (see `losses`):

    [removed]
    "product.last_price" = "is last_trade_price now"

    [removed_tables]
    "profile" = "its rows are in the table account"
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec

from snapshots import tsv
from snapshots.abi.schema import Schema
from snapshots.errors import MigrationError, TsvError
from snapshots.migration.codec import Row
from snapshots.migration.plan import Migration
from snapshots.migration.types import Types
from statemachine.tables import REFERENCES

TIMEOUT = 3600.0
"""The time limit in seconds. A longer migration cannot be part of a node's start."""

_OUTPUT = 2_000


def tsv_schema(schema: Schema) -> tsv.TsvSchema:
    """Return a described schema for the TSV format. A reader checks the references that the schema still has."""
    types = Types(schema).tables()
    references = [
        each
        for each in REFERENCES
        if each.table in types and each.target in types and each.field in types[each.table].__struct_fields__
    ]
    return tsv.TsvSchema(types, {table.name: tuple(table.key) for table in schema.tables}, references, scaled=False)


def migration_of(script: Path, source: str, target: str) -> Migration:
    """Return the declarations of removed fields and tables beside an executable.

    Raises:
        MigrationError: the file beside it is not of this form.
    """
    path = script.with_name(script.name + ".toml")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Migration(source, target)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MigrationError("the executable's declarations can be read", str(path), str(error)) from error
    try:
        declared = msgspec.convert(table, _Declarations)
        return Migration(source, target, removed=declared.removed, removed_tables=declared.removed_tables)
    except msgspec.ValidationError as error:
        raise MigrationError("the executable's declarations can be read", str(path), str(error)) from error


class _Declarations(msgspec.Struct, forbid_unknown_fields=True):
    """What an executable declares to drop, each with its reason."""

    removed: dict[str, str] = {}
    removed_tables: dict[str, str] = {}


def run(
    script: Path, rows: dict[str, list[Row]], source: Schema, target: Schema, progress: Callable[[str], None] = lambda _line: None
) -> dict[str, list[Row]]:
    """Return the rows that an executable makes of `rows`. `progress` gets its output, line by line.

    Raises:
        MigrationError: it cannot be run, fails, or writes rows that are not of the target schema.
    """
    if not os.access(script, os.X_OK):
        raise MigrationError("the executable runs", str(script), f"is not executable: chmod +x {shlex.quote(str(script))}")
    with tempfile.TemporaryDirectory(prefix="quorumbook-migration-") as name:
        before, after = Path(name, "in"), Path(name, "out")
        after.mkdir()
        try:
            tsv.write_tables(before, rows, tsv_schema(source))
            done = subprocess.run(
                [script, before, after], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False
            )
        except (OSError, TsvError, subprocess.TimeoutExpired) as error:
            raise MigrationError("the executable runs", str(script), _why(error)) from error
        output = done.stdout.decode("utf-8", "replace").strip()[-_OUTPUT:]
        if done.returncode != 0:
            raise MigrationError(
                "the executable runs", str(script), f"exit code {done.returncode}: {output or 'it wrote nothing'}"
            )
        for line in output.splitlines():
            progress(f"{script.name[:12]}: {line}")
        try:
            return tsv.read_tables(after, tsv_schema(target))
        except (TsvError, OSError) as error:
            raise MigrationError("the executable's tables can be read", str(script), str(error)) from error


def _why(error: Exception) -> str:
    """Return why an executable could not be run, with the remedy if the system's text does not name it."""
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return f"{error}: expected a program, or a script whose first line names its interpreter (#!/usr/bin/env python3)"
    if isinstance(error, FileNotFoundError):
        return f"{error}: the interpreter in its first line is not on this machine"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it has not ended after {TIMEOUT:.0f} s"
    return str(error)

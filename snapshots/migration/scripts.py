"""A step that is an external executable: `<executable> <tsv directory> <out directory>`, named after the source ABI.

The first directory has every table of the source schema as TSV (see `tsv`), the second one, empty at first, must have every table of the
target's when the executable ends with exit code 0. Amounts are whole numbers in smallest
units. Commands in the log are not given to it: they follow by themselves or not at all.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from snapshots import tsv
from snapshots.abi.schema import Schema
from snapshots.errors import MigrationError, TsvError
from snapshots.migration.codec import Row
from snapshots.migration.types import Types
from statemachine.relations import REFERENCES

TIMEOUT = 3600.0
"""Seconds. A migration that takes longer is part of no start."""

_OUTPUT = 2_000


def tsv_schema(schema: Schema) -> tsv.Schema:
    """A described schema as the TSV format takes it. References that the schema still has are checked when it is read."""
    types = Types(schema).tables()
    references = [
        each
        for each in REFERENCES
        if each.table in types and each.target in types and each.field in types[each.table].__struct_fields__
    ]
    return tsv.Schema(types, {table.name: tuple(table.key) for table in schema.tables}, references, scaled=False)


def run(script: Path, rows: dict[str, list[Row]], source: Schema, target: Schema) -> dict[str, list[Row]]:
    """The rows that an executable makes of `rows`.

    Raises:
        MigrationError: it cannot be run, fails, or what it wrote is not of the target schema.
    """
    with tempfile.TemporaryDirectory(prefix="quorumbook-migration-") as name:
        before, after = Path(name, "in"), Path(name, "out")
        after.mkdir()
        try:
            tsv.write_tables(before, rows, tsv_schema(source))
            done = subprocess.run(
                [script, before, after], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False
            )
        except (OSError, TsvError, subprocess.TimeoutExpired) as error:
            raise MigrationError("the executable runs", str(script), str(error)) from error
        if done.returncode != 0:
            said = done.stdout.decode("utf-8", "replace").strip()[-_OUTPUT:]
            raise MigrationError("the executable runs", str(script), f"exit code {done.returncode}: {said}")
        try:
            return tsv.read_tables(after, tsv_schema(target))
        except (TsvError, OSError) as error:
            raise MigrationError("the executable's tables can be read", str(script), str(error)) from error

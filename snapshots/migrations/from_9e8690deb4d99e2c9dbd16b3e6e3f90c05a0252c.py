"""From version 0.2.0 to version 0.3.0. Rows are converted automatically.

Data of 0.2.0 is not migrated: a node runs at its level, and the level changes by an entry (`snapshots/levels`). This
step names the new place of each field, for code that converts rows or commands one by one.
"""

from __future__ import annotations

from snapshots.abi import ABI
from snapshots.migration.plan import Migration

MIGRATION = Migration(
    source="9e8690deb4d99e2c9dbd16b3e6e3f90c05a0252c",
    target=ABI,
    removed={"Batch.migrated": "entries of other versions are applied by the core of their own level"},
)

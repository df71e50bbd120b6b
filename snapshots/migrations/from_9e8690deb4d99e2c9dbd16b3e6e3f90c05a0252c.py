"""From version 0.2.0 to version 0.3.0. Rows follow by themselves; log entries say which version wrote them, since its rules hold for them.

What 0.3.0 keeps in other places than 0.2.0 (booked transfers, fee credits) is moved by the engine, before the first entry of 0.3.0 itself: entries
of 0.2.0 that are applied after the migration must still find it where 0.2.0 kept it.
"""

from __future__ import annotations

from snapshots.abi import ABI
from snapshots.migration.codec import Values
from snapshots.migration.plan import Migration


def batch(values: Values) -> Values:
    """An entry that 0.2.0 wrote, or one of 0.1.0 that was converted for it."""
    return {**values, "former": 1 if values["migrated"] else 2}


MIGRATION = Migration(
    source="9e8690deb4d99e2c9dbd16b3e6e3f90c05a0252c",
    target=ABI,
    structs={"Batch": batch},
)

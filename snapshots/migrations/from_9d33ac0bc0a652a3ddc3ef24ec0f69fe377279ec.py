"""From version 0.1.0 to version 0.2.0. Everything is converted automatically. Log entries are marked, so that 0.2.0 and
later apply them as 0.1.0 did.
"""

from __future__ import annotations

from snapshots.migration.codec import Values
from snapshots.migration.plan import Migration


def batch(values: Values) -> Values:
    """Return an entry that 0.1.0 wrote."""
    return {**values, "migrated": True}


MIGRATION = Migration(
    source="9d33ac0bc0a652a3ddc3ef24ec0f69fe377279ec",
    target="9e8690deb4d99e2c9dbd16b3e6e3f90c05a0252c",
    structs={"Batch": batch},
)

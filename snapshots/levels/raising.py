"""Conversion of a state to the next level, at the entry that changes the level.

Every node converts its own state at the same entry. The result depends on the state alone, so equal states stay equal.
The running hash continues from that of the old level, so nodes that differed before differ after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from snapshots.abi import ABI, SCHEMA
from snapshots.levels.level import Level
from statemachine.engine import Engine
from statemachine.reply_cache import ANY_CONTENTS
from statemachine.state import MIGRATED_HASH
from statemachine.tables import TABLES, CounterRow, OutcomeRow

if TYPE_CHECKING:
    from snapshots.migration.chain import Step

Row = tuple[bytes, bytes]
_encode = msgspec.msgpack.Encoder().encode
_OF_COMMANDS = {"Batch"}
"""Structs that stand in log entries alone: a step that changes nothing else leaves rows as they are, but for new
fields.
"""


def raised(engine: Engine, old: Level, to: Level) -> Engine:
    """The engine's state at the level of this software. O(everything); `engine` is not changed.

    Raises:
        MigrationError, StateError: the state cannot be converted.
    """
    # Clients and gateways need levels, and none of this.
    from snapshots.migration.chain import Chains
    from snapshots.migration.run import StateMigration

    assert to.abi == ABI, "a state is raised to the level of this software"
    rows = dict(engine.tables())
    steps = Chains().find(old.abi, to.abi)
    if all(map(_follows_by_itself, steps)):
        made = Engine.restore(widened(rows), verified=True)
    else:
        migration = StateMigration(steps)
        migration.run({name: list(found) for name, found in rows.items()}, SCHEMA)
        assert migration.engine is not None
        made = migration.engine
    made.begin_level(first_hash(engine.state_hash, to))
    return made


def first_hash(before: bytes, to: Level) -> bytes:
    """The running hash with which a level begins."""
    return blake2b(before + f" {to.abi} {to.rules}".encode(), digest_size=16).digest()


def _follows_by_itself(step: Step) -> bool:
    """Whether the rows of a step are as they were, but for fields and tables that came."""
    plan = step.migration
    touched = (
        plan.rows,
        plan.enums,
        plan.renamed_structs,
        plan.renamed_tables,
        plan.renamed_fields,
        plan.removed,
        plan.removed_tables,
    )
    return step.script is None and plan.whole is None and not any(touched) and _OF_COMMANDS.issuperset(plan.structs)


def widened(rows: Mapping[str, Iterable[Row]]) -> dict[str, list[Row]]:
    """Rows of an earlier version as the present one writes them: fields that came have their defaults, fingerprints of
    remembered commands cannot be compared any more, and the running hash says that the state is another version's. The
    same as `StateMigration` makes, without its checks."""
    made: dict[str, list[Row]] = {name: [] for name in TABLES}
    for name, found in rows.items():
        decode = msgspec.msgpack.Decoder(TABLES[name]).decode
        made[name] = [(key, _encode(_present(decode(payload)))) for key, payload in found]
    return made


def _present(row: msgspec.Struct) -> msgspec.Struct:
    if isinstance(row, OutcomeRow):
        return msgspec.structs.replace(row, fingerprint=ANY_CONTENTS)
    if isinstance(row, CounterRow):
        return msgspec.structs.replace(row, state_hash=MIGRATED_HASH)
    return row

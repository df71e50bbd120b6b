"""Conversion of a state to the next level, at the entry that changes the level.

Every node converts its own state at the same entry. The result depends on the state alone, so equal states stay equal.
The running hash continues from that of the old level, so nodes that differed before differ after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import msgspec

from snapshots.abi import ABI
from snapshots.levels import v0_2_0_rows
from snapshots.levels.level import Level
from statemachine.engine import Engine
from statemachine.tables import TABLES

Row = tuple[bytes, bytes]
_encode = msgspec.msgpack.Encoder().encode

converted = v0_2_0_rows.converted
"""All tables of a state of the level before, as this software's level has them."""


def raised(engine: Engine, _old: Level, to: Level) -> Engine:
    """Return the engine's state at the level of this software. O(everything); `engine` is not changed.

    Raises:
        StateError: the state cannot be converted.
    """
    assert to.abi == ABI, "a state is raised to the level of this software"
    return Engine.restore(converted(dict(engine.tables()), first_hash(engine.state_hash, to)), verified=True)


def first_hash(before: bytes, to: Level) -> bytes:
    """Return the running hash with which a level begins."""
    return blake2b(before + f" {to.abi} {to.rules}".encode(), digest_size=16).digest()


def widened(rows: Mapping[str, Iterable[Row]]) -> dict[str, list[Row]]:
    """Return the rows of an earlier version in the present structs, for reading. Fields and tables that were added have
    their defaults. Nothing else is converted.
    """
    made: dict[str, list[Row]] = {name: [] for name in TABLES}
    for name, found in rows.items():
        decode = msgspec.msgpack.Decoder(TABLES[name]).decode
        made[name] = [(key, _encode(decode(payload))) for key, payload in found]
    return made

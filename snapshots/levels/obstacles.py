"""Finds what prevents the return of a state to an earlier version: rows of which that version does not store
everything.

Each step back (`v<N>_back`) uses this. It needs no list of what is new: a row that the earlier version's struct stores
completely returns, and every other row is an obstacle.
"""

from __future__ import annotations

from typing import Any

import msgspec

from statemachine.tables import TABLES

Row = tuple[bytes, bytes]

_encode = msgspec.msgpack.Encoder().encode
_raw = msgspec.msgpack.Decoder().decode


class Obstacles:
    """The obstacles: for each table and field that the earlier version lacks, the number of rows that use it, and the
    first of them."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, table: str, what: str, row: object) -> None:
        """Record that a row of a table uses `what`."""
        found = self._found.setdefault((table, what), [0, row])
        found[0] += 1

    def texts(self) -> list[str]:
        """Return a text for each table and field, in the order in which they were found."""
        return [
            f"table {table}: {what} ({count:,} row{'s' if count > 1 else ''}, the first is {row})"
            for (table, what), (count, row) in self._found.items()
        ]


class Narrow:
    """Encodes the rows of one table as an earlier version does, and notes those of which something would be lost.

    Args:
        version: the earlier one, for texts.
        table: its name.
        former: the earlier version's struct of its rows.
    """

    def __init__(self, version: str, table: str, former: type[msgspec.Struct], obstacles: Obstacles) -> None:
        self._version = version
        self._table = table
        self._obstacles = obstacles
        self._fields = TABLES[table].__struct_fields__
        self._former = msgspec.msgpack.Decoder(former).decode
        self._present = msgspec.msgpack.Decoder(TABLES[table]).decode

    def __call__(self, key: bytes, payload: bytes) -> Row:
        """Return the row. It is valid only if no obstacle was recorded."""
        try:
            former = _encode(self._former(payload))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._obstacles.add(self._table, f"a value that {self._version} does not know: {error}", named(key))
            return key, payload
        again = _encode(self._present(former))
        if again != payload:
            for field, value, converted in zip(self._fields, _raw(payload), _raw(again), strict=True):
                if value != converted:
                    self._obstacles.add(self._table, f"{field} is in use, which {self._version} does not have", named(key))
        return key, former


def named(key: bytes) -> str:
    """Return a row's key for a person."""
    return " ".join(str(part) for part in _raw(key)) or "the only one"

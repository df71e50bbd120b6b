"""The manifest: the description of a snapshot.

It is stored in the snapshot's RocksDB, in a separate column family that is written last, and also in the file SEAL
(`seal`), where it can be read without opening the database. Both are compared at every load.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from itertools import chain

import msgspec

FORMAT = 1

Row = tuple[bytes, bytes]
"""A row of a table: key and value, both as msgpack."""

_encode = msgspec.msgpack.Encoder().encode


class SnapshotFields(msgspec.Struct, frozen=True, array_like=True):
    """The fields of the manifest that the engine process knows.

    `index` and `term` are those of the last log entry in it; `mark` is the Raft position of that entry, as bytes that
    this package does not read. `sequence` counts the commands applied. `created_at` is nanoseconds since the epoch. A
    non-empty `full_hash` is compared with the rows.
    """

    index: int
    term: int
    mark: bytes
    sequence: int
    software: str
    created_at: int
    full_hash: bytes = b""


class TableSummary(msgspec.Struct, frozen=True, array_like=True):
    """A table's name, its number of rows, and the hash over them."""

    name: str
    rows: int
    hash: bytes


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot's description. Fields up to `created_at` as in `SnapshotFields`.

    `full_hash` is `Engine.full_hash()`: 32 bytes over all tables in their order.
    """

    format: int
    abi: str
    index: int
    term: int
    mark: bytes
    sequence: int
    software: str
    created_at: int
    tables: list[TableSummary]
    full_hash: bytes

    @property
    def row_counts(self) -> dict[str, int]:
        """The number of rows by table."""
        return {table.name: table.rows for table in self.tables}


manifest_decoder = msgspec.msgpack.Decoder(Manifest)


def make_manifest(fields: SnapshotFields, abi: str, tables: list[TableSummary], full_hash: bytes) -> Manifest:
    """Return the manifest of a snapshot with the counts and hashes of its rows."""
    return Manifest(
        FORMAT,
        abi,
        fields.index,
        fields.term,
        fields.mark,
        fields.sequence,
        fields.software,
        fields.created_at,
        tables,
        full_hash,
    )


class RowHasher:
    """Hashes tables incrementally: one hash per table, and the engine's full hash over all of them.

    Call it for the tables in their order: `begin` with a table's name and number of rows, then all its rows, in chunks
    of any size.

    Args:
        by_table: False: only the full hash is computed. It covers every row; the hashes of the tables say which one
            differs.
    """

    def __init__(self, *, by_table: bool = True) -> None:
        self._by_table = by_table
        self._full = blake2b(digest_size=32)
        self._table = blake2b(digest_size=32)
        self._name = ""
        self._announced = 0
        self._seen = 0
        self._done: list[TableSummary] = []

    def begin(self, name: str, rows: int) -> None:
        """Begin a table. Raises ValueError if the previous one had another number of rows than announced."""
        self._close()
        self._name, self._announced, self._seen = name, rows, 0
        heading = _encode([name, rows])
        self._table = blake2b(heading, digest_size=32)
        self._full.update(heading)

    def rows(self, rows: Collection[Row]) -> None:
        """Add rows of the current table."""
        self.hash(self.joined(rows))

    def joined(self, rows: Collection[Row]) -> bytes:
        """Return the bytes of rows of the current table. `hash` hashes them next."""
        self._seen += len(rows)
        return b"".join(chain.from_iterable(rows))

    def hash(self, joined: bytes) -> None:
        """Hash what `joined` gave. With many rows, other threads can run meanwhile."""
        if self._by_table:
            self._table.update(joined)
        self._full.update(joined)

    def finish(self) -> tuple[list[TableSummary], bytes]:
        """Return the summaries of all tables, and the full hash. Raises ValueError as `begin` does."""
        self._close()
        return self._done, self._full.digest()

    def _close(self) -> None:
        """Finish the summary of the current table. Raises ValueError if it has another number of rows than announced."""
        if self._seen != self._announced:
            raise ValueError(f"table {self._name}: {self._announced} rows were announced and {self._seen} came")
        if self._name:
            self._done.append(TableSummary(self._name, self._seen, self._table.digest()))
        self._name, self._announced, self._seen = "", 0, 0

"""A snapshot's RocksDB: written once, a column family a table, and read whole. The only file that knows rocksdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
from rocksdict import AccessType, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from snapshots.errors import SnapshotDamagedError
from snapshots.manifest import Manifest, Row, RowHasher, manifest_decoder

MANIFEST_FAMILY = "_manifest"
"""The column family with the manifest; no table begins with an underscore."""

_MANIFEST_KEY = b"manifest"
_DEFAULT_FAMILY = "default"
_TRANSIENT = ("LOCK", "LOG")
"""Files that say nothing of the contents; RocksDB makes them anew."""

WRITE_BUFFER_BYTES = 32 * 1024 * 1024
PIECE_ROWS = 1_000


def _options() -> Any:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    # Everything is written once, in order, and read once: there is nothing to compact.
    options.set_disable_auto_compactions(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_keep_log_file_num(1)
    return options


def _families(tables: Iterable[str]) -> dict[str, Any]:
    return {name: _options() for name in (_DEFAULT_FAMILY, MANIFEST_FAMILY, *tables)}


class RocksWriter:
    """Writes a snapshot's database: `add` rows table by table, then `close` with the manifest.

    There is no write-ahead log: a snapshot that was not closed is thrown away.
    """

    def __init__(self, directory: Path, tables: Iterable[str]) -> None:
        self._directory = directory
        self._names = list(tables)
        self._database = Rdict(str(directory), _options(), column_families=_families(self._names))
        # A property, which rocksdict's stub declares as a method; hence the cast.
        self._write_options = cast(Any, WriteOptions())
        self._write_options.disable_wal = True

    def add(self, table: str, rows: Iterable[Row]) -> None:
        """Write rows of a table."""
        self._put(table, rows)

    def _put(self, family: str, rows: Iterable[Row]) -> None:
        handle = self._database.get_column_family_handle(family)
        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            batch.put(key, value, handle)
        self._database.write(batch, self._write_options)

    def close(self, manifest: Manifest | None) -> None:
        """Flush the tables, then the manifest, and close; without a manifest just close."""
        if manifest is not None:
            for name in self._names:
                self._database.get_column_family(name).flush(True)
            self._put(MANIFEST_FAMILY, [(_MANIFEST_KEY, msgspec.msgpack.encode(manifest))])
            self._database.get_column_family(MANIFEST_FAMILY).flush(True)
        self._database.close()
        for name in _TRANSIENT:
            (self._directory / name).unlink(missing_ok=True)


def read_tables(directory: Path, manifest: Manifest, keep: Callable[[str, list[Row]], None] | None = None) -> None:
    """Read every table, and compare row counts, hashes and the stored manifest with `manifest`.

    Args:
        keep: takes the rows, in pieces; without it they are only checked.

    Raises:
        SnapshotDamagedError: something differs or cannot be read; what `keep` was given before must not be used then.
    """
    names = list(manifest.row_counts)
    try:
        _check_families(directory, names)
        database = Rdict(str(directory), _options(), column_families=_families(names), access_type=AccessType.read_only())
    except Exception as error:  # rocksdict raises bare Exception
        raise _damaged(directory, error) from error
    try:
        _read_open(directory, database, manifest, keep)
    finally:
        database.close()
        for name in _TRANSIENT:
            (directory / name).unlink(missing_ok=True)


def _check_families(directory: Path, names: list[str]) -> None:
    found = set(Rdict.list_cf(str(directory), _options()))
    expected = {_DEFAULT_FAMILY, MANIFEST_FAMILY, *names}
    if found != expected:
        raise SnapshotDamagedError(str(directory), f"its column families are {sorted(found)}, not {sorted(expected)}")


def _read_open(directory: Path, database: Any, manifest: Manifest, keep: Callable[[str, list[Row]], None] | None) -> None:
    hasher = RowHasher()
    try:
        stored = database.get_column_family(MANIFEST_FAMILY).get(_MANIFEST_KEY)
        if stored is None or manifest_decoder.decode(stored) != manifest:
            raise SnapshotDamagedError(f"{directory}: manifest", "the database's is not that of the seal")
        for table in manifest.tables:
            hasher.begin(table.name, table.rows)
            for piece in _pieces(database.get_column_family(table.name)):
                hasher.rows(piece)
                if keep is not None:
                    keep(table.name, piece)
        summaries, full_hash = hasher.finish()
    except SnapshotDamagedError:
        raise
    except Exception as error:  # rocksdict raises bare Exception
        raise _damaged(directory, error) from error
    for found, table in zip(summaries, manifest.tables, strict=True):
        if found != table:
            raise SnapshotDamagedError(f"{directory}: table {table.name}", "its rows are not those that were written")
    if full_hash != manifest.full_hash:
        raise SnapshotDamagedError(str(directory), "the hash over all tables differs")


def _pieces(family: Any) -> Iterator[list[Row]]:
    piece: list[Row] = []
    for row in family.items():
        piece.append(row)
        if len(piece) == PIECE_ROWS:
            yield piece
            piece = []
    if piece:
        yield piece


def _damaged(directory: Path, error: Exception) -> SnapshotDamagedError:
    if isinstance(error, SnapshotDamagedError):
        return error
    return SnapshotDamagedError(str(directory), f"the database cannot be read: {error}")

"""A snapshot's RocksDB: one column family per table, written as changes to the previous snapshot, and read completely.
This is the only file that uses rocksdict.

RocksDB stores rows in files (SST) that never change once written; newer rows are in newer files. So the next snapshot
shares the files of the previous one, as hard links (`writer.share_files`), and adds one for each table that changed.
Compaction rewrites a table without the deleted rows.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from snapshots.errors import SnapshotDamagedError
from snapshots.manifest import Manifest, Row, RowHasher, TableSummary, manifest_decoder

MANIFEST_FAMILY = "_manifest"
"""The column family with the manifest; no table begins with an underscore."""

_MANIFEST_KEY = b"manifest"
_DEFAULT_FAMILY = "default"
_ENTRIES = re.compile("# entries=([0-9]+)")
_TRANSIENT = ("LOCK", "LOG")
"""Files without contents of the tables; RocksDB creates them again."""

WRITE_BUFFER_BYTES = 32 * 1024 * 1024
READ_ROWS = 2_000
"""Rows in a chunk that is read at a time, about 2 ms, during which no other thread runs. Another thread hashes the
previous chunk at the same time, almost without the interpreter lock.
"""

GARBAGE_RATIO = 2
GARBAGE_ROWS = 1_000
"""A table is rewritten if its files have more entries than this multiple of its rows, and this many more."""

FILES_MAX = 24
"""A table in more files than this is rewritten too, because each file is searched for each row."""

TABLE_FILE = ".sst"
"""The suffix of files that never change."""

Made = TypeVar("Made")

Keep = Callable[[str, list[Row]], None]
"""Takes a table's rows, in chunks."""


def _options() -> Any:
    """Return the options with which a snapshot is written."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    # `RocksWriter.settle` decides when to compact. A compaction at another moment is wasted work.
    options.set_disable_auto_compactions(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_keep_log_file_num(1)
    return options


def _reading_options() -> Any:
    """Return options for reading every row once: no block is read again, so none is kept in a cache."""
    options, blocks = _options(), BlockBasedOptions()
    blocks.disable_cache()
    options.set_block_based_table_factory(blocks)
    return options


def _compact(family: Any) -> None:
    """Rewrite all rows of a table. It is forced, because RocksDB may otherwise only move the files."""
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    family.compact_range(None, None, options)


def _families(tables: Iterable[str]) -> dict[str, Any]:
    return {name: _options() for name in (_DEFAULT_FAMILY, MANIFEST_FAMILY, *tables)}


class RocksWriter:
    """Writes a snapshot's database: changes in any order, then `settle`, `read`, and `close` with the manifest.

    There is no write-ahead log: a snapshot that was not closed is discarded.

    Args:
        directory: empty, or with the files of another snapshot, which then has the same tables.
    """

    def __init__(self, directory: Path, tables: Iterable[str]) -> None:
        self._directory = directory
        self._names = list(tables)
        self._database = Rdict(str(directory), _options(), column_families=_families(self._names))
        # A property, which rocksdict's stub declares as a method; hence the cast.
        self._write_options = cast(Any, WriteOptions())
        self._write_options.disable_wal = True
        self._handles = {name: self._database.get_column_family_handle(name) for name in (*self._names, MANIFEST_FAMILY)}

    def add(self, table: str, rows: Iterable[Row]) -> None:
        """Write rows of a table. They replace rows with the same keys."""
        handle, batch = self._handles[table], WriteBatch(raw_mode=True)
        for key, value in rows:
            batch.put(key, value, handle)
        self._database.write(batch, self._write_options)

    def delete(self, table: str, keys: Iterable[bytes]) -> None:
        """Delete rows, if they exist."""
        handle, batch = self._handles[table], WriteBatch(raw_mode=True)
        for key in keys:
            batch.delete(key, handle)
        self._database.write(batch, self._write_options)

    def purge(self, table: str, ranges: Iterable[tuple[bytes, bytes]]) -> None:
        """Delete all rows in ranges of keys, the end excluded."""
        handle, batch = self._handles[table], WriteBatch(raw_mode=True)
        for begin, end in ranges:
            batch.delete_range(begin, end, handle)
        self._database.write(batch, self._write_options)

    def settle(self, counts: Mapping[str, int]) -> list[str]:
        """Flush everything into files, and compact the tables whose files have many deleted entries, given the number
        of rows of each. Returns the names of those tables.
        """
        compacted = []
        for name in self._names:
            family = self._database.get_column_family(name)
            family.flush(True)
            stored = _ENTRIES.search(family.property_value("rocksdb.aggregated-table-properties") or "")
            files = int(family.property_value("rocksdb.num-files-at-level0") or 0)
            if files > FILES_MAX or (stored and int(stored[1]) > GARBAGE_RATIO * counts.get(name, 0) + GARBAGE_ROWS):
                _compact(family)
                compacted.append(name)
        return compacted

    def read(self, counts: Mapping[str, int], keep: Keep | None = None) -> tuple[list[TableSummary], bytes]:
        """Read all tables: their summaries, and the full hash. Raises ValueError where the number of rows is not that
        in `counts`.
        """
        return _read_tables(self._database, {name: counts[name] for name in self._names}, keep, RowHasher())

    def close(self, manifest: Manifest | None) -> None:
        """Flush the tables, then the manifest, and close. Without a manifest it only closes."""
        if manifest is not None:
            for name in self._names:
                self._database.get_column_family(name).flush(True)
            self.add(MANIFEST_FAMILY, [(_MANIFEST_KEY, msgspec.msgpack.encode(manifest))])
            family = self._database.get_column_family(MANIFEST_FAMILY)
            family.flush(True)
            _compact(family)
        self._handles = {}
        self._database.close()
        for name in _TRANSIENT:
            (self._directory / name).unlink(missing_ok=True)


def _read_tables(
    database: Any, counts: Mapping[str, int], keep: Keep | None, hasher: RowHasher
) -> tuple[list[TableSummary], bytes]:
    """Read and hash all rows. Returns the summaries of the tables and the hash of all of them."""
    for name, chunk in _hashed_chunks(database, counts, hasher):
        if keep is not None:
            keep(name, chunk)
    return hasher.finish()


def _hashed_chunks(database: Any, counts: Mapping[str, int], hasher: RowHasher) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of all tables, in chunks, each with the name of its table. Another thread hashes them."""
    with ThreadPoolExecutor(1, "row hasher") as thread:
        for name, count in counts.items():
            hasher.begin(name, count)
            hashed: Future[None] | None = None
            for chunk in _chunks(database.get_column_family(name)):
                joined = hasher.joined(chunk)
                if hashed is not None:
                    hashed.result()
                hashed = thread.submit(hasher.hash, joined)
                yield name, chunk
            if hashed is not None:
                hashed.result()


def check_manifest(directory: Path, manifest: Manifest) -> None:
    """Open a database and compare the tables that it has, and the manifest in it, with `manifest`.

    Raises:
        SnapshotDamagedError: something differs or cannot be read.
    """
    with _open_database(directory, manifest) as database:
        _compare_manifest(directory, database, manifest)


def read_tables(directory: Path, manifest: Manifest, keep: Keep | None = None) -> None:
    """Read every table, and compare row counts, the full hash and the stored manifest with `manifest`.

    The full hash covers every row of every table. The hashes of the tables are compared only if it differs, to name the
    table. So a manifest with a wrong hash of a table beside the right full hash is accepted: its rows are those that
    were written. Hashing each row twice would cost 0.4 us a row.

    Args:
        keep: takes the rows, in chunks; without it they are only checked.

    Raises:
        SnapshotDamagedError: something differs or cannot be read; rows that `keep` got before must not be used then.
    """
    with _open_database(directory, manifest) as database:
        _compare_manifest(directory, database, manifest)
        reading = _Reading(directory, database, manifest)
        for name, chunk in reading.chunks:
            if keep is not None:
                keep(name, chunk)
        reading.finish()


def made_of_tables(directory: Path, manifest: Manifest, make: Callable[[Mapping[str, Iterator[Row]]], Made]) -> Made:
    """Return the result of `make`, which takes the rows of all tables while they are read. Everything is compared as by
    `read_tables`, at the end: what was made of other rows is discarded.

    Args:
        make: gets the rows of each table, in key order. It takes each table once, in their order, completely.

    Raises:
        SnapshotDamagedError: as `read_tables`, also where `make` refused the rows for that reason. Other exceptions of
            `make` pass.
    """
    with _open_database(directory, manifest) as database:
        _compare_manifest(directory, database, manifest)
        reading = _Reading(directory, database, manifest)
        try:
            made = make(_TablesInOrder(manifest.row_counts, reading.chunks))
        except SnapshotDamagedError:
            raise
        except Exception:
            reading.finish()  # if the rows are damaged, that is the reason
            raise
        reading.finish()
    return made


class _Reading:
    """The rows of a database that are read once, and compared with its manifest.

    Attributes:
        chunks: the rows, in chunks, each with the name of its table. Raises SnapshotDamagedError.
    """

    def __init__(self, directory: Path, database: Any, manifest: Manifest) -> None:
        self._directory = directory
        self._database = database
        self._manifest = manifest
        self._hasher = RowHasher(by_table=False)
        self.chunks = self._named_chunks()

    def _named_chunks(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield all chunks with the names of their tables. Raises SnapshotDamagedError."""
        chunks = _hashed_chunks(self._database, self._manifest.row_counts, self._hasher)
        while True:
            try:
                chunk = next(chunks, None)
            except Exception as error:  # rocksdict raises bare Exception
                raise _damaged(self._directory, error) from error
            if chunk is None:
                return
            yield chunk

    def finish(self) -> None:
        """Read what is left, and compare everything. Raises SnapshotDamagedError."""
        for _ in self.chunks:
            pass
        directory, manifest = self._directory, self._manifest
        try:
            _, full_hash = self._hasher.finish()
            if full_hash == manifest.full_hash:
                return
            summaries, _ = _read_tables(self._database, manifest.row_counts, None, RowHasher())
        except Exception as error:
            raise _damaged(directory, error) from error
        for found, table in zip(summaries, manifest.tables, strict=True):
            if found != table:
                raise SnapshotDamagedError(f"{directory}: table {table.name}", "its rows are not those that were written")
        raise SnapshotDamagedError(str(directory), "the hash over all tables differs")


class _TablesInOrder(Mapping[str, Iterator[Row]]):
    """The tables of a snapshot that is being read. Each is taken once, in their order."""

    def __init__(self, counts: Mapping[str, int], chunks: Iterator[tuple[str, list[Row]]]) -> None:
        self._counts = counts
        self._chunks = chunks
        self._ahead: tuple[str, list[Row]] | None = None

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __getitem__(self, name: str) -> Iterator[Row]:
        return chain.from_iterable(self._chunks_of(name, self._counts[name]))

    def _chunks_of(self, name: str, count: int) -> Iterator[list[Row]]:
        """Yield the chunks of one table. Tables must be read in their order."""
        while count > 0:
            found = self._ahead or next(self._chunks, None)
            self._ahead = found
            assert found is not None, f"table {name} is taken after it was read"
            assert found[0] == name, f"table {name} is taken before table {found[0]}"
            self._ahead = None
            count -= len(found[1])
            yield found[1]


@contextlib.contextmanager
def _open_database(directory: Path, manifest: Manifest) -> Iterator[Any]:
    """Open a snapshot's database for reading."""
    names = list(manifest.row_counts)
    try:
        _check_families(directory, names)
        families = {name: _reading_options() for name in _families(names)}
        database = Rdict(str(directory), _reading_options(), column_families=families, access_type=AccessType.read_only())
    except Exception as error:  # rocksdict raises bare Exception
        raise _damaged(directory, error) from error
    try:
        yield database
    finally:
        database.close()
        for name in _TRANSIENT:
            (directory / name).unlink(missing_ok=True)


def _check_families(directory: Path, names: list[str]) -> None:
    found = set(Rdict.list_cf(str(directory), _options()))
    expected = {_DEFAULT_FAMILY, MANIFEST_FAMILY, *names}
    if found != expected:
        raise SnapshotDamagedError(str(directory), f"its column families are {sorted(found)}, not {sorted(expected)}")


def _compare_manifest(directory: Path, database: Any, manifest: Manifest) -> None:
    """Check that the database has the same manifest as the file SEAL."""
    try:
        stored = database.get_column_family(MANIFEST_FAMILY).get(_MANIFEST_KEY)
        same = stored is not None and manifest_decoder.decode(stored) == manifest
    except Exception as error:  # rocksdict raises bare Exception
        raise _damaged(directory, error) from error
    if not same:
        raise SnapshotDamagedError(f"{directory}: manifest", "the database's is not that of the seal")


def _chunks(family: Any) -> Iterator[list[Row]]:
    rows = family.items()
    while chunk := list(islice(rows, READ_ROWS)):
        yield chunk


def _damaged(directory: Path, error: Exception) -> SnapshotDamagedError:
    if isinstance(error, SnapshotDamagedError):
        return error
    return SnapshotDamagedError(str(directory), f"the database cannot be read: {error}")

"""A snapshot that differs in any bit from what was written is reported by name and never read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import pytest

from snapshots.errors import SnapshotDamagedError
from snapshots.manifest import Row, RowHasher, TableSummary, make_manifest
from snapshots.rocks import RocksWriter
from snapshots.seal import SEAL, check_files, decode_seal, encode_seal, seal_directory
from snapshots.store import SnapshotStore
from tests.unit.snapshots.making import fields, made, rows_of, tables


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make two snapshots, at 4 and 5."""
    for index in (4, 5):
        made(tmp_path, index, tables(200, salt=str(index)))
    return tmp_path


def newest(directory: Path) -> Path:
    return directory / f"{5:020d}"


def refused(directory: Path) -> SnapshotDamagedError:
    """Return the error of opening and loading the newest snapshot."""
    with pytest.raises(SnapshotDamagedError) as caught:
        SnapshotStore(directory).newest()
    text = str(caught.value)
    assert caught.value.place in text
    assert "--rejoin" in text
    return caught.value


def test_any_flipped_bit_in_any_file_is_found(directory: Path) -> None:
    store = SnapshotStore(directory)
    manifest = store.newest()
    assert manifest is not None
    flipped = 0
    for path in sorted(newest(directory).iterdir()):
        data = path.read_bytes()
        for position in sorted({0, len(data) // 3, len(data) // 2, len(data) - 1} if data else ()):
            changed = bytearray(data)
            changed[position] ^= 1 << position % 8
            path.write_bytes(changed)
            assert refused(directory).place == str(path)
            with pytest.raises(SnapshotDamagedError):
                store.load(manifest)
            flipped += 1
        path.write_bytes(data)
    assert flipped > 25
    assert store.load(manifest) == tables(200, salt="5")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(b""),
    ],
    ids=["missing", "shorter", "longer", "empty"],
)
def test_a_file_of_another_size_is_found(directory: Path, damage: Callable[[Path], None]) -> None:
    for path in sorted(newest(directory).iterdir()):
        data = path.read_bytes()
        if data:
            damage(path)
            assert refused(directory).place == str(path)
            path.write_bytes(data)


def test_the_one_before_is_not_taken_instead(directory: Path) -> None:
    (newest(directory) / SEAL).unlink()
    assert refused(directory).place == str(newest(directory) / SEAL)
    shutil.rmtree(newest(directory))
    found = SnapshotStore(directory).newest()
    assert found is not None
    assert found.index == 4


def test_the_files_of_another_snapshot_are_refused(directory: Path) -> None:
    shutil.rmtree(newest(directory))
    shutil.copytree(directory / f"{4:020d}", newest(directory))
    assert "holds the snapshot at index 4" in refused(directory).what


def test_the_manifest_of_another_index_is_refused(directory: Path) -> None:
    store = SnapshotStore(directory)
    manifest = store.newest()
    assert manifest is not None
    with pytest.raises(SnapshotDamagedError, match="is not the requested snapshot"):
        store.load(msgspec.structs.replace(manifest, term=99))


def test_a_checksum_with_an_exchanged_manifest_is_refused(directory: Path) -> None:
    path = newest(directory) / SEAL
    seal = decode_seal(path.read_bytes())
    changed = msgspec.structs.replace(seal.manifest, sequence=seal.manifest.sequence + 1)
    path.write_bytes(encode_seal(msgspec.structs.replace(seal, manifest=changed)))
    store = SnapshotStore(directory)
    assert store.newest() == changed
    with pytest.raises(SnapshotDamagedError, match="manifest: the database's is not that of the seal"):
        store.load(changed)


@pytest.mark.parametrize(
    ("extra", "text"),
    [([(b"\x01", b"x")], "rows were announced"), ([], "table numbers: its rows are not those that were written")],
)
def test_a_checksummed_database_with_other_rows_is_refused(tmp_path: Path, extra: list[tuple[bytes, bytes]], text: str) -> None:
    """The cause is not damage of a disk but an error of the program that wrote it."""
    content = tables(20)
    hasher = RowHasher()
    for name, rows in content.items():
        hasher.begin(name, len(rows))
        hasher.rows(rows)
    manifest = make_manifest(fields(5), "abi", *hasher.finish())
    path = tmp_path / f"{5:020d}"
    path.mkdir()
    writer = RocksWriter(path, list(content))
    for name, rows in content.items():
        changed = [*extra, *rows] if extra else [(rows[0][0], b"changed"), *rows[1:]] if rows else []
        writer.add(name, changed)
    writer.close(manifest)
    seal_directory(path, manifest)
    store = SnapshotStore(tmp_path, abi="abi")
    assert store.newest() == manifest
    for read in (store.load, lambda manifest: store.build(manifest, rows_of), lambda manifest: store.build(manifest, refuse)):
        with pytest.raises(SnapshotDamagedError, match=text):
            read(manifest)


def refuse(tables: Mapping[str, Iterable[Row]]) -> None:
    """Refuse what is built after a few rows."""
    for rows in tables.values():
        raise ValueError(f"not wanted: {next(iter(rows), None)}")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"full_hash": bytes(32)}, "the hash over all tables differs"),
        ({"tables": [TableSummary("numbers", 20, bytes(32)), TableSummary("texts", 1, bytes(32))]}, ""),
    ],
    ids=["full hash", "hashes of tables"],
)
def test_the_full_hash_decides_whether_rows_are_right(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    """The hashes of tables only say which table has wrong rows."""
    content = {"numbers": tables(20)["numbers"], "texts": [(b"\x01", b"x")]}
    hasher = RowHasher()
    for name, rows in content.items():
        hasher.begin(name, len(rows))
        hasher.rows(rows)
    manifest = msgspec.structs.replace(make_manifest(fields(5), "abi", *hasher.finish()), **changes)
    path = tmp_path / f"{5:020d}"
    path.mkdir()
    writer = RocksWriter(path, list(content))
    for name, rows in content.items():
        writer.add(name, rows)
    writer.close(manifest)
    seal_directory(path, manifest)
    store = SnapshotStore(tmp_path, abi="abi")
    if text:
        with pytest.raises(SnapshotDamagedError, match=text):
            store.load(manifest)
    else:
        assert store.load(manifest) == content


def test_a_checksummed_database_with_other_tables_is_refused(directory: Path) -> None:
    path = newest(directory)
    seal = decode_seal((path / SEAL).read_bytes())
    changed = msgspec.structs.replace(seal.manifest, tables=seal.manifest.tables[:1])
    (path / SEAL).write_bytes(encode_seal(msgspec.structs.replace(seal, manifest=changed)))
    with pytest.raises(SnapshotDamagedError, match="its column families are"):
        SnapshotStore(directory).load(changed)


def test_reading_changes_nothing(directory: Path) -> None:
    store = SnapshotStore(directory)
    manifest = store.newest()
    assert manifest is not None
    before = {path.name: path.read_bytes() for path in newest(directory).iterdir()}
    for _ in range(3):
        store.load(manifest)
    assert {path.name: path.read_bytes() for path in newest(directory).iterdir()} == before
    assert {entry.name for entry in check_files(newest(directory)).files} == set(before) - {SEAL}

"""A snapshot is transferred from one node to another with the same bytes or not at all."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.abi import ABI
from snapshots.errors import SnapshotDamagedError, SnapshotRefusedError
from snapshots.manifest import Manifest
from snapshots.seal import MAGIC, SEAL, FileEntry, Seal, decode_seal, encode_seal
from snapshots.store import SnapshotStore
from snapshots.transfer import SEAL_BYTES_MAX, Source
from tests.unit.snapshots.making import made, names, tables

CONTENT = tables(300, salt="sent")


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> SnapshotStore:
    """Make a store with a snapshot at 5."""
    directory = tmp_path_factory.mktemp("sender")
    made(directory, 5, CONTENT)
    return SnapshotStore(directory)


@pytest.fixture(scope="module")
def run(sender: SnapshotStore) -> bytes:
    """Return all bytes of the transfer."""
    source = sender.open_source()
    data = source.read(0, source.size)
    source.close()
    assert len(data) == source.size
    return data


@pytest.fixture
def receiver(tmp_path: Path) -> SnapshotStore:
    """Make an empty store."""
    return SnapshotStore(tmp_path / "receiver")


def receive(receiver: SnapshotStore, data: bytes, piece: int = 10_000) -> Manifest:
    sink = receiver.open_sink()
    for offset in range(0, len(data), piece):
        sink.write(data[offset : offset + piece])
    return sink.finish()


def refused(receiver: SnapshotStore, data: bytes, directory: Path) -> str:
    """Return why the transfer was refused. Nothing of it is left."""
    before = names(directory)
    with pytest.raises(SnapshotRefusedError) as caught:
        receive(receiver, data)
    assert names(directory) == before
    return str(caught.value)


@pytest.mark.parametrize("piece", [997, 65_536, 10**9])
def test_a_sent_snapshot_arrives(sender: SnapshotStore, receiver: SnapshotStore, run: bytes, tmp_path: Path, piece: int) -> None:
    manifest = receive(receiver, run, piece)
    assert manifest == sender.newest() == receiver.newest()
    assert names(tmp_path / "receiver") == [f"{5:020d}"]
    again = SnapshotStore(tmp_path / "receiver")
    assert again.newest() == manifest
    assert again.load(manifest) == CONTENT


@given(st.data())
@settings(max_examples=30)
def test_any_part_can_be_read(sender: SnapshotStore, run: bytes, data: st.DataObject) -> None:
    source = sender.open_source()
    try:
        offset = data.draw(st.integers(0, source.size + 10))
        length = data.draw(st.integers(0, 300) | st.integers(0, source.size + 10))
        assert source.read(offset, length) == run[offset : offset + length]
    finally:
        source.close()


def test_a_received_snapshot_can_be_sent(receiver: SnapshotStore, run: bytes) -> None:
    receive(receiver, run)
    source = receiver.open_source()
    assert source.read(0, source.size) == run
    source.close()
    source.close()


def test_a_source_outlives_its_snapshot(tmp_path: Path) -> None:
    made(tmp_path, 5, CONTENT)
    source = SnapshotStore(tmp_path).open_source()
    before = source.read(0, source.size)
    shutil.rmtree(tmp_path / f"{5:020d}")
    assert source.read(0, source.size) == before
    source.close()


def test_a_source_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    made(tmp_path, 5, CONTENT)
    path = tmp_path / f"{5:020d}"
    (path / "CURRENT").unlink()
    with pytest.raises(SnapshotDamagedError, match="CURRENT: cannot be read"):
        Source(path)


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    made(tmp_path, 5, CONTENT)
    source = SnapshotStore(tmp_path).open_source()
    (tmp_path / f"{5:020d}" / "CURRENT").write_bytes(b"")
    with pytest.raises(SnapshotDamagedError, match="CURRENT: has become shorter"):
        source.read(0, source.size)
    source.close()


def test_the_same_index_is_replaced_and_older_ones_go(tmp_path: Path, run: bytes) -> None:
    for index in (3, 4, 5):
        made(tmp_path, index, tables(salt="mine"))
    store = SnapshotStore(tmp_path, keep=2)
    manifest = receive(store, run)
    assert names(tmp_path) == [f"{index:020d}" for index in (4, 5)]
    assert store.load(manifest) == CONTENT


def test_an_older_one_does_not_become_the_newest(tmp_path: Path, run: bytes) -> None:
    mine = made(tmp_path, 9, tables(salt="mine"))
    store = SnapshotStore(tmp_path)
    assert store.newest() == mine
    receive(store, run)
    assert store.newest() == mine


def test_a_transfer_cut_short_is_refused(receiver: SnapshotStore, run: bytes, tmp_path: Path) -> None:
    for size in (0, 1, 4, 5, 100, len(run) // 2, len(run) - 1):
        assert "it is incomplete" in refused(receiver, run[:size], tmp_path / "receiver")
    assert receiver.newest() is None


def test_a_transfer_with_extra_bytes_is_refused(receiver: SnapshotStore, run: bytes, tmp_path: Path) -> None:
    assert "more of it than its header lists" in refused(receiver, run + b"x", tmp_path / "receiver")


def test_a_garbled_byte_anywhere_is_found(receiver: SnapshotStore, run: bytes, tmp_path: Path) -> None:
    randomness = random.Random(3)
    header = 4 + int.from_bytes(run[:4], "big")
    positions = [*range(0, 60, 7), *(randomness.randrange(60, header) for _ in range(10))]
    positions += [randomness.randrange(header, len(run)) for _ in range(15)]
    for position in positions:
        garbled = bytearray(run)
        garbled[position] ^= 0x41
        refused(receiver, bytes(garbled), tmp_path / "receiver")


def test_a_header_that_is_too_long_is_refused(receiver: SnapshotStore, run: bytes, tmp_path: Path) -> None:
    data = (SEAL_BYTES_MAX + 1).to_bytes(4, "big") + run[4:]
    assert "its header announces 16777217 bytes" in refused(receiver, data, tmp_path / "receiver")


def test_another_schema_is_refused_at_the_header(tmp_path: Path) -> None:
    made(tmp_path / "other", 5, tables(), abi="f" * 40)
    other = SnapshotStore(tmp_path / "other")
    source = other.open_source()
    head = source.read(0, 8_000)
    source.close()
    receiver = SnapshotStore(tmp_path / "receiver")
    text = refused(receiver, head, tmp_path / "receiver")
    assert "f" * 40 in text
    assert ABI in text


def with_files(run: bytes, files: list[FileEntry], contents: bytes = b"") -> bytes:
    """Return a transfer with another list of files."""
    length = int.from_bytes(run[:4], "big")
    seal = decode_seal(run[4 : 4 + length])
    encoded = encode_seal(Seal(seal.manifest, files))
    return len(encoded).to_bytes(4, "big") + encoded + contents


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "a/b", "..", ".", "", ".hidden", "a\0b", "a b", "x" * 101, SEAL, "é", "a\\b"],
)
def test_file_names_that_leave_the_directory_are_refused(receiver: SnapshotStore, run: bytes, tmp_path: Path, name: str) -> None:
    data = with_files(run, [FileEntry(name, 1, b"")], b"x")
    assert "is not the name of a snapshot's file" in refused(receiver, data, tmp_path / "receiver")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["receiver"]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([FileEntry("a", 0, b""), FileEntry("a", 0, b"")], "a file comes twice"),
        ([FileEntry("a", -1, b"")], "a size of -1"),
        ([FileEntry("a", 0, b"wrong")], "a: its digest differs"),
        ([], "the database cannot be read"),
    ],
)
def test_a_wrong_list_of_files_is_refused(
    receiver: SnapshotStore, run: bytes, tmp_path: Path, files: list[FileEntry], text: str
) -> None:
    assert text in refused(receiver, with_files(run, files), tmp_path / "receiver")


def test_a_wrong_manifest_is_refused(receiver: SnapshotStore, run: bytes, tmp_path: Path) -> None:
    length = int.from_bytes(run[:4], "big")
    seal = decode_seal(run[4 : 4 + length])
    for changes, text in (
        ({"index": 0}, "not a snapshot of this format"),
        ({"format": 2}, "not a snapshot of this format"),
        ({"sequence": 1}, "the database's is not that of the seal"),
    ):
        encoded = encode_seal(Seal(msgspec.structs.replace(seal.manifest, **changes), seal.files))
        data = len(encoded).to_bytes(4, "big") + encoded + run[4 + length :]
        assert text in refused(receiver, data, tmp_path / "receiver")


def test_a_checksum_file_that_does_not_decode_is_refused() -> None:
    for data in (b"", MAGIC, MAGIC + bytes(32), MAGIC + hashlib.blake2b(b"\xc1", digest_size=32).digest() + b"\xc1", b"x" * 100):
        with pytest.raises(ValueError):
            decode_seal(data)


def test_an_aborted_transfer_leaves_nothing(receiver: SnapshotStore, run: bytes, tmp_path: Path) -> None:
    for size in (0, 10, len(run) // 2, len(run)):
        sink = receiver.open_sink()
        sink.write(run[:size])
        sink.abort()
        sink.abort()
        assert names(tmp_path / "receiver") == []
    assert receiver.newest() is None


def test_a_full_disk_is_reported(receiver: SnapshotStore, run: bytes, tmp_path: Path) -> None:
    sink = receiver.open_sink()
    shutil.rmtree(tmp_path / "receiver")
    sink.write(run)
    with pytest.raises(SnapshotRefusedError, match="No such file or directory"):
        sink.finish()

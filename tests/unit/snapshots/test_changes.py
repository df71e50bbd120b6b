"""A snapshot made of the changes since the one before has the same rows as one that is written whole, and does not
alter the one before.
"""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
from pathlib import Path

import pytest

from snapshots import durable, rocks
from snapshots.errors import SnapshotDamagedError
from snapshots.manifest import Row
from snapshots.naming import prune
from snapshots.store import SnapshotStore
from snapshots.writer import write
from statemachine.freezing import RowChunk
from tests.unit.snapshots.making import Tables, as_change_bytes, differences, made, made_of_changes, names, tables


def snapshot(directory: Path, index: int) -> Path:
    return directory / f"{index:020d}"


def inodes(path: Path) -> set[int]:
    return {file.stat().st_ino for file in path.glob("*.sst")}


def load(directory: Path) -> Tables:
    store = SnapshotStore(directory)
    newest = store.newest()
    assert newest is not None
    return store.load(newest)


def altered(content: Tables, randomness: random.Random) -> Tables:
    """Return the rows with some removed, some changed and some added."""
    result: Tables = {}
    for name, rows in content.items():
        kept: dict[bytes, bytes] = {key: row for key, row in rows if randomness.random() > 0.2}
        kept.update((key, row + b"+") for key, row in rows if randomness.random() < 0.1)
        kept.update((randomness.randbytes(4), b"added") for _ in range(randomness.randrange(20)))
        result[name] = sorted(kept.items())
    return result


def test_a_long_chain_of_snapshots_equals_a_whole_one(tmp_path: Path) -> None:
    randomness = random.Random(4)
    content = tables(300)
    made(tmp_path / "chain", 1, content)
    for index in range(2, 14):
        before, content = content, altered(content, randomness)
        manifest = made_of_changes(tmp_path / "chain", index, index - 1, before, content)
        assert manifest.full_hash == made(tmp_path / "whole", index, content).full_hash
        prune(tmp_path / "chain", 2)
    assert load(tmp_path / "chain") == load(tmp_path / "whole") == content


def test_files_that_did_not_change_are_shared_until_much_of_them_is_gone(tmp_path: Path) -> None:
    old = {"t": [(b"%06d" % number, b"x" * 50) for number in range(20_000)]}
    made(tmp_path, 1, old)
    rows: list[Row] = [*old["t"][:100], (b"more", b"y")]
    few = {"t": old["t"][1:]}
    made_of_changes(tmp_path, 2, 1, old, few)
    largest = max(snapshot(tmp_path, 1).glob("*.sst"), key=lambda path: path.stat().st_size)
    assert largest.stat().st_ino in inodes(snapshot(tmp_path, 2))
    made_of_changes(tmp_path, 3, 2, few, {"t": rows[1:]})
    assert not inodes(snapshot(tmp_path, 2)) & inodes(snapshot(tmp_path, 3)), "written in full"
    sizes = [sum(path.stat().st_size for path in snapshot(tmp_path, index).glob("*.sst")) for index in (1, 3)]
    assert sizes[1] < sizes[0] / 10
    assert load(tmp_path) == {"t": rows[1:]}
    prune(tmp_path, 1)
    assert load(tmp_path) == {"t": rows[1:]}


def test_many_small_changes_do_not_pile_up_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocks, "FILES_MAX", 4)
    content: Tables = {"t": [(b"k", b"0")]}
    made(tmp_path, 1, content)
    counts = []
    for index in range(2, 14):
        before, content = content, {"t": [(b"k", b"%d" % index)]}
        made_of_changes(tmp_path, index, index - 1, before, content)
        counts.append(len(inodes(snapshot(tmp_path, index))))
        prune(tmp_path, 1)
    assert max(counts) <= rocks.FILES_MAX + 2
    assert counts[-1] < max(counts)
    assert load(tmp_path) == content


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: object, _target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    old, new = tables(), tables(60)
    made(tmp_path, 4, old)
    made_of_changes(tmp_path, 5, 4, old, new)
    assert not inodes(snapshot(tmp_path, 4)) & inodes(snapshot(tmp_path, 5))
    assert load(tmp_path) == new


def test_a_full_disk_when_linking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: object, _target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    old = tables()
    made(tmp_path, 4, old)
    with pytest.raises(OSError, match="No space left"):
        made_of_changes(tmp_path, 5, 4, old, tables(60))
    assert names(tmp_path) == [f"{4:020d}"]


def test_damage_of_the_previous_snapshot_gets_no_new_manifest(tmp_path: Path) -> None:
    old = tables()
    made(tmp_path, 4, old)
    for path in sorted(snapshot(tmp_path, 4).iterdir()):
        data = path.read_bytes()
        if not data:
            continue
        changed = bytearray(data)
        changed[len(data) // 2] ^= 4
        path.write_bytes(changed)
        with pytest.raises((SnapshotDamagedError, Exception)):
            made_of_changes(tmp_path, 5, 4, old, tables(60))
        assert names(tmp_path) == [f"{4:020d}"], path.name
        path.write_bytes(data)
    assert load(tmp_path) == old


@pytest.mark.parametrize(("abi", "new"), [("0" * 40, tables()), ("", {"other": []})])
def test_changes_of_another_schema_are_refused(tmp_path: Path, abi: str, new: Tables) -> None:
    made(tmp_path, 4, tables())
    chunks = [RowChunk(name, rows, [], []) for name, rows in new.items()]
    data = as_change_bytes(5, 4, new, chunks, abi) if abi else as_change_bytes(5, 4, new, chunks)
    with pytest.raises(ValueError, match="changes of another schema"):
        write(tmp_path, io.BytesIO(data))
    assert names(tmp_path) == [f"{4:020d}"]


def test_a_missing_base_fails_the_snapshot(tmp_path: Path) -> None:
    old = tables()
    made(tmp_path, 4, old)
    shutil.rmtree(snapshot(tmp_path, 4))
    with pytest.raises(SnapshotDamagedError, match="SEAL"):
        made_of_changes(tmp_path, 5, 4, old, tables(60))
    assert names(tmp_path) == []


def test_changes_that_miss_a_row_are_noticed(tmp_path: Path) -> None:
    """The engine's count of rows and the number of rows in the result must agree."""
    old, new = tables(), tables(60)
    made(tmp_path, 4, old)
    chunks = differences(old, new)
    for name, rows in (("numbers", chunks[0].rows[1:]), ("names", chunks[2].rows[:-1])):
        cut = [chunk._replace(rows=rows) if chunk.table == name else chunk for chunk in chunks]
        with pytest.raises(ValueError, match=f"table {name}: .* rows were announced"):
            write(tmp_path, io.BytesIO(as_change_bytes(5, 4, new, cut)))
    assert names(tmp_path) == [f"{4:020d}"]


def test_a_link_is_another_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    durable.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")

"""Snapshots from the engine to the disk and back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from snapshots.abi import ABI
from snapshots.errors import NoSnapshotError, SnapshotAbiError, SnapshotBusyError
from snapshots.job import JobState, WriteJob
from snapshots.manifest import Row, SnapshotFields
from snapshots.seal import Seal, check_files
from snapshots.store import SnapshotStore
from snapshots.writer import locked
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.limits import OPERATOR
from statemachine.tables import TABLES
from statemachine.types import OrderType, Side
from tests.unit.snapshots.making import fields, made, names, rows_of, tables, wait


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory in which a store is made."""
    return tmp_path / "snapshots"


@pytest.fixture
def jobs() -> Iterator[list[WriteJob]]:
    """Return jobs that are cancelled at the end, whatever the result of the test."""
    started: list[WriteJob] = []
    yield started
    for job in started:
        job.cancel()


def an_engine() -> Engine:
    """Make an exchange with a trade, a resting order and a rejected command."""
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "1", "USD", 2),
        PutCurrency(OPERATOR, "2", "BTC", 8),
        PutProduct(OPERATOR, "3", "BTC-USD", "BTC", "USD", 1, 10**8, 10**8, 10**11, 1_000, 2_000),
        *(OpenAccount(OPERATOR, f"open {name}", name) for name in ("alice", "bob")),
        *(Deposit(name, "d", "USD", 10**9) for name in ("alice", "bob")),
        Deposit("bob", "d2", "BTC", 10**10),
        PlaceOrder("bob", "o1", "BTC-USD", Side.SELL, OrderType.LIMIT, 5_000, 3 * 10**8, client_oid="first"),
        PlaceOrder("alice", "o2", "BTC-USD", Side.BUY, OrderType.LIMIT, 5_000, 2 * 10**8),
        PlaceOrder("alice", "o3", "BTC-USD", Side.BUY, OrderType.LIMIT, -1, 2 * 10**8),
    ]
    engine = Engine()
    engine.apply(Batch(1_000, commands))
    return engine


def test_an_engine_comes_back_as_it_was(directory: Path) -> None:
    engine = an_engine()
    store = SnapshotStore(directory)
    known = SnapshotFields(7, 2, b"m", engine.sequence, "0.0.1", 5, engine.full_hash())
    job = store.begin(known, dict(engine.tables()))
    assert wait(job) is JobState.DONE, job.reason
    manifest = SnapshotStore(directory).newest()
    assert manifest is not None
    assert manifest == job.manifest == store.newest()
    assert manifest.full_hash == engine.full_hash()
    assert list(manifest.row_counts) == list(TABLES)
    assert manifest.row_counts["product"] == 1
    assert (manifest.index, manifest.term, manifest.mark, manifest.sequence) == (7, 2, b"m", engine.sequence)
    assert (manifest.software, manifest.created_at, manifest.abi) == ("0.0.1", 5, ABI)
    assert store.build(manifest, Engine.restore).full_hash() == engine.full_hash()
    restored = Engine.restore(store.load(manifest))
    assert restored.full_hash() == engine.full_hash()
    assert restored.state_hash == engine.state_hash
    more = Batch(2_000, [PlaceOrder("alice", "o4", "BTC-USD", Side.BUY, OrderType.LIMIT, 6_000, 2 * 10**8)])
    assert restored.apply(more) == engine.apply(more)
    assert restored.full_hash() == engine.full_hash()


def test_build_gives_the_tables_in_their_order(directory: Path) -> None:
    content = tables(5_000)
    manifest = made(directory, 5, content)
    store = SnapshotStore(directory)
    assert store.build(manifest, rows_of) == content == store.load(manifest)
    assert store.build(manifest, list) == list(content), "rows that are not taken are compared all the same"

    def taken_backwards(found: Mapping[str, Iterable[Row]]) -> list[list[Row]]:
        return [list(found[name]) for name in reversed(list(found))]

    with pytest.raises(AssertionError, match="is taken before table"):
        store.build(manifest, taken_backwards)
    with pytest.raises(StateError, match="expected the tables"):
        store.build(manifest, Engine.restore)


def test_an_empty_store_has_no_snapshot(directory: Path) -> None:
    store = SnapshotStore(directory)
    assert store.newest() is None
    with pytest.raises(NoSnapshotError):
        store.open_source()


def test_the_latest_snapshots_are_kept(directory: Path) -> None:
    store = SnapshotStore(directory, keep=2)
    for index in (9, 10, 100):
        assert wait(store.begin(fields(index), tables(salt=str(index)))) is JobState.DONE
    assert names(directory) == [f"{index:020d}" for index in (10, 100)]
    newest = store.newest()
    assert newest is not None
    assert newest.index == 100
    assert store.load(newest) == tables(salt="100")


def test_a_snapshot_of_the_same_index_replaces_the_former(directory: Path) -> None:
    store = SnapshotStore(directory)
    for salt in "ab":
        assert wait(store.begin(fields(5), tables(salt=salt))) is JobState.DONE
    newest = store.newest()
    assert newest is not None
    assert store.load(newest) == tables(salt="b")
    assert names(directory) == [f"{5:020d}"]


def test_another_schema_is_named_and_not_read(directory: Path) -> None:
    manifest = made(directory, 5, tables(), abi="0" * 40)
    store = SnapshotStore(directory)
    assert store.newest() == manifest
    with pytest.raises(SnapshotAbiError) as caught:
        store.load(manifest)
    for text in ("0" * 40, ABI, "0.0.1", str(directory)):
        assert text in str(caught.value)


def test_the_parent_does_not_wait_for_a_slow_writer(directory: Path, jobs: list[WriteJob]) -> None:
    content = tables(20_000)
    store = SnapshotStore(directory)
    job = store.begin(fields(5), content)
    jobs.append(job)
    os.kill(job.pid, signal.SIGSTOP)
    assert [job.poll() for _ in range(100)] == [JobState.RUNNING] * 100
    assert store.newest() is None
    os.kill(job.pid, signal.SIGCONT)
    assert wait(job) is JobState.DONE, job.reason
    newest = store.newest()
    assert newest is not None
    assert store.load(newest) == content


def test_a_killed_writer_is_reported(directory: Path) -> None:
    store = SnapshotStore(directory)
    job = store.begin(fields(5), tables(20_000))
    os.kill(job.pid, signal.SIGKILL)
    assert wait(job) is JobState.FAILED
    assert "killed by signal 9" in job.reason
    assert job.manifest is None
    (directory / f"{4:020d}.tmp").mkdir(exist_ok=True)
    again = store.begin(fields(6), tables())
    assert wait(again) is JobState.DONE, again.reason
    assert names(directory) == [f"{6:020d}"]
    assert SnapshotStore(directory).newest() == again.manifest


def test_a_cancelled_snapshot_leaves_nothing(directory: Path) -> None:
    store = SnapshotStore(directory)
    job = store.begin(fields(5), tables(20_000))
    job.cancel()
    job.cancel()
    assert job.poll() is JobState.FAILED
    assert SnapshotStore(directory).newest() is None
    assert names(directory) == []


@pytest.mark.parametrize(
    ("content", "changes", "text"),
    [
        ({"t": [(b"\x01", b"x"), (b"\x01", b"y")]}, {}, "table t"),
        ({"t": [(b"\x01", b"x")]}, {"full_hash": b"other"}, "do not have the announced full hash"),
    ],
)
def test_rows_that_make_no_snapshot_are_refused(
    directory: Path, content: dict[str, list[tuple[bytes, bytes]]], changes: dict[str, object], text: str
) -> None:
    job = SnapshotStore(directory).begin(fields(5, **changes), content)
    assert wait(job) is JobState.FAILED
    assert text in job.reason
    assert names(directory) == []


def test_a_directory_that_cannot_be_written_is_named(directory: Path) -> None:
    store = SnapshotStore(directory)
    shutil.rmtree(directory)
    job = store.begin(fields(5), tables())
    assert wait(job) is JobState.FAILED
    assert "FileNotFoundError" in job.reason


def test_only_one_snapshot_is_written_at_a_time(directory: Path, jobs: list[WriteJob]) -> None:
    store = SnapshotStore(directory)
    jobs.append(store.begin(fields(5), tables(20_000)))
    with pytest.raises(AssertionError, match="one snapshot at a time"):
        store.begin(fields(6), tables())


def test_opening_waits_for_a_writer_and_gives_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SnapshotStore(directory)
    monkeypatch.setattr("snapshots.store.LOCK_SECONDS", 0.1)
    with locked(directory), pytest.raises(SnapshotBusyError, match="another process is writing"):
        SnapshotStore(directory)
    SnapshotStore(directory)


def test_leftovers_are_removed_and_a_replaced_one_comes_back(directory: Path) -> None:
    made(directory, 5, tables(salt="5"))
    made(directory, 6, tables(salt="6"))
    final = directory / f"{6:020d}"
    final.rename(directory / f"{6:020d}.old")
    for name in (f"{7:020d}.tmp", "0123456789abcdef.incoming", f"{4:020d}.trash"):
        (directory / name).mkdir()
        (directory / name / "file").touch()
    store = SnapshotStore(directory)
    assert names(directory) == [f"{5:020d}", f"{6:020d}"]
    newest = store.newest()
    assert newest is not None
    assert store.load(newest) == tables(salt="6")


def test_opening_syncs_the_names_that_a_killed_process_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is killed between the rename of a snapshot and the sync of the directory. The next process relies on
    the name, so it must be on the disk.
    """
    synced: list[Path] = []
    monkeypatch.setattr(
        "snapshots.durable.os.fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").resolve())
    )
    SnapshotStore(tmp_path / "snapshots")
    assert tmp_path / "snapshots" in synced


def test_a_start_reads_the_files_once_for_their_digests(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly a start read each file twice: once to find the newest intact snapshot, and once more to load it."""
    made(directory, 5, dict(an_engine().tables()))
    digested: list[str] = []
    real = check_files

    def counted(path: Path) -> Seal:
        digested.append(path.name)
        return real(path)

    monkeypatch.setattr("snapshots.store.check_files", counted)
    store = SnapshotStore(directory)
    manifest = store.newest()
    assert manifest is not None
    first = store.load(manifest)
    assert len(digested) == 1
    assert store.load(manifest) == first
    assert len(digested) == 2, "later it may have been damaged meanwhile"

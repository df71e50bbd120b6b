"""A snapshot becomes the state of a new cluster: on all of its nodes, or no node starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.ports import LogEntry, SnapshotMark
from node.cli.records import warn_of_keys
from node.cluster_directory import ClusterDirectory
from node.config.settings import NodeConfig
from node.data_directory import identity
from node.data_directory.marks import encode_mark
from node.deployment.setup import initialise
from node.errors import DataDirectoryError, DirectoryError
from node.records import backup, exporting, txlog
from snapshots.job import JobState
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, OWN, V0_2_0
from snapshots.manifest import SnapshotFields
from snapshots.store import SnapshotStore
from statemachine.commands import Batch, OpenAccount
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from tests.unit.snapshots.levels.markets import Market
from tests.unit.snapshots.making import wait

MARK = SnapshotMark(LogEntry(b"\x00last", 3, 1), LogEntry(b"\x00before", 2, 1))


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Make a snapshot with one account."""
    engine = Engine()
    engine.apply(Batch(10**9, [OpenAccount(OPERATOR, "a", "alice")]))
    job = SnapshotStore(tmp_path / "backup").begin(
        SnapshotFields(3, 1, encode_mark(MARK), engine.sequence, "0", 0, engine.full_hash()), dict(engine.tables())
    )
    assert wait(job) is JobState.DONE, job.reason
    return tmp_path / "backup" / f"{3:020d}"


@pytest.fixture
def layout(tmp_path: Path) -> ClusterDirectory:
    """Make a new cluster of three nodes."""
    initialise(tmp_path / "new")
    return ClusterDirectory(tmp_path / "new")


def test_no_node_starts_while_a_restore_has_not_ended(
    snapshot: Path, layout: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes without the state could elect a leader, and the third could never follow it."""
    restore_node = backup._restore_node

    def dies_at_n2(path: Path, config: NodeConfig, progress: backup.Progress) -> None:
        if config.node_id == "n2":
            raise KeyboardInterrupt
        restore_node(path, config, progress)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_restore_node", dies_at_n2)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(snapshot, layout)
    for config in layout.configs.values():
        with pytest.raises(DataDirectoryError, match=r"did not end.* Repeat it: quorumbook snapshot restore"):
            identity.read(config)

    manifest, engine = backup.restore(snapshot, layout)
    assert (manifest.index, engine.account_exists("alice")) == (3, True)
    assert {identity.read(config).stage for config in layout.configs.values()} == {identity.Stage.NEW}


def test_a_path_that_is_not_a_snapshot_is_named(snapshot: Path, layout: ClusterDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (snapshot.parent, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(DirectoryError, match=f"{path}: expected a snapshot, a directory named by its index"):
            backup.restore(path, layout)
    assert {identity.read(config).stage for config in layout.configs.values()} == {identity.Stage.NEW}


def test_a_backup_leaves_other_files_of_its_directory_alone(snapshot: Path, tmp_path: Path) -> None:
    """Formerly it deleted every file of the directory whose name ends with .tmp, .incoming or .trash, and notes.old
    beside notes.
    """
    home = tmp_path / "home"
    home.mkdir()
    names = ["a.tmp", "b.incoming", "c.trash", "notes", "notes.old", "d.old", "0123.tmp"]
    for name in names:
        (home / name).write_text(name)
    (home / f"{2:020d}.tmp").mkdir()
    manifest = backup.back_up(snapshot.parent, home)
    assert {path.name for path in home.iterdir()} == {*names, f"{manifest.index:020d}", "writer.lock"}
    assert all((home / name).read_text() == name for name in names)


def test_a_backup_s_directory_that_cannot_be_is_named(snapshot: Path, layout: ClusterDirectory) -> None:
    with pytest.raises(OSError, match="/proc/nowhere"):
        backup.back_up(snapshot.parent, Path("/proc/nowhere"))
    with pytest.raises(DataDirectoryError, match="name another directory"):
        backup.back_up(snapshot.parent, layout.configs["n1"].data_path)


def test_a_state_of_the_level_before_is_copied_restored_and_exported(tmp_path: Path) -> None:
    """A cluster of this software stays at the level before until `cluster upgrade`. Its backup begins a cluster at that level,
    its export one at this software's level.
    """
    market = Market(0)
    engine = states.empty(V0_2_0)
    for batch in (market.foundations(), *market.batches(20)):
        engine.apply_entry(states.encoded(V0_2_0.abi, batch.time, batch.commands))
    old, restored, imported = (
        ClusterDirectory(initialise(tmp_path / name, 1)[0].parent.parent) for name in ("old", "restored", "imported")
    )
    fields = SnapshotFields(3, 1, encode_mark(MARK), engine.sequence, "0", 1, engine.full_hash())
    store = SnapshotStore(backup.snapshots_of(old.configs["n1"]), abi=V0_2_0.abi, accepts=ACCEPTED)
    assert wait(store.begin(fields, dict(engine.tables()))) is JobState.DONE

    manifest = backup.back_up(backup.snapshots_of(old.configs["n1"]), tmp_path / "backup")
    assert manifest.abi == V0_2_0.abi
    _, state = backup.restore(tmp_path / "backup" / f"{3:020d}", restored)
    warn_of_keys(state, restored)
    (copied,) = backup.listed(backup.snapshots_of(restored.configs["n1"]))
    assert (copied.manifest.abi, copied.manifest.full_hash) == (V0_2_0.abi, engine.full_hash())

    exporting.export_tables(old.configs["n1"], tmp_path / "tables", backup.no_progress)
    raised = exporting.import_tables(tmp_path / "tables", imported, backup.no_progress)
    assert raised.full_hash() == states.converted(engine, V0_2_0, OWN).full_hash()
    assert not list(txlog.differences(engine, state))

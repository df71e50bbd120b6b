"""Modes only advance, and snapshots are due by commands or by time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from node.config.settings import SnapshotConfig, StartConfig
from node.data_directory.identity import DirectoryIdentity, Stage
from node.engine.housekeeping import SnapshotSchedule, staggered
from node.engine.modes import Mode, Modes
from node.engine.startup import check_start
from node.errors import DataDirectoryError
from tests.unit.node.fakes import config_of


def test_a_mode_is_logged_once_and_never_goes_back(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        modes = Modes("n1")
        modes.enter(Mode.READY)
        modes.enter(Mode.READY)
    assert [record.getMessage() for record in caplog.records] == ["n1 mode Started", "n1 mode Ready"]
    with pytest.raises(AssertionError, match="from Ready to Initialising"):
        modes.enter(Mode.INITIALISING)


@pytest.mark.parametrize(
    ("commands", "seconds", "due"),
    [(0, 1e9, False), (1, 59, False), (1, 60, True), (99, 0, False), (100, 0, True)],
)
def test_a_snapshot_is_due_by_commands_or_by_time(tmp_path: Path, commands: int, seconds: float, due: bool) -> None:
    config = msgspec.structs.replace(config_of(tmp_path), snapshot=SnapshotConfig(every_commands=100, every_seconds=60))
    assert SnapshotSchedule(config).due(commands, seconds) is due


def test_a_time_of_zero_is_never(tmp_path: Path) -> None:
    config = msgspec.structs.replace(config_of(tmp_path), snapshot=SnapshotConfig(every_commands=100, every_seconds=0))
    assert not SnapshotSchedule(config).due(99, 1e9)


def test_no_two_nodes_are_due_at_the_same_command(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    values = [staggered(1_000, msgspec.structs.replace(config, node_id=node.node_id)) for node in config.nodes]
    assert len(set(values)) == len(config.nodes)
    assert min(values) == 1_000
    assert max(values) < 1_500


@pytest.mark.parametrize(
    ("source", "stage", "has_snapshot", "message"),
    [
        ("snapshot", Stage.STARTED, False, 'start.from is "snapshot", and there is none in'),
        ("dataset", Stage.STARTED, False, 'start.from is "dataset", and this node has run on'),
        ("snapshot", Stage.STARTED, True, ""),
        ("dataset", Stage.NEW, False, ""),
        ("auto", Stage.NEW, False, ""),
    ],
)
def test_a_start_checks_its_source(tmp_path: Path, source: str, stage: Stage, has_snapshot: bool, message: str) -> None:
    config = msgspec.structs.replace(config_of(tmp_path), start=StartConfig(source=source, dataset="d"))
    known = DirectoryIdentity(config.cluster_id, config.node_id, "x", stage=stage)
    if not message:
        check_start(config, known, has_snapshot=has_snapshot)
        return
    with pytest.raises(DataDirectoryError, match=message):
        check_start(config, known, has_snapshot=has_snapshot)

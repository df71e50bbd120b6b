"""What a stopped node leaves on disk after the cluster has returned to the level before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.log import DurableLog, segment_abis
from cluster.ports import LogEntry, Schemas
from cluster.storage import RealDisk
from node.engine import levels
from snapshots.levels.level import ACCEPTED, OWN, V0_2_0, Level, SetLevel, abi_behind, encode_level_entry

COMMAND = b"\x00"
"""The kind of an entry with a payload of the state machine."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a node whose log has entries 1 to 3 of this level, the return at 4, and 5 and 6 of the level before."""
    (tmp_path / "log").mkdir()
    (tmp_path / "archive").mkdir()
    log = DurableLog(RealDisk(tmp_path / "log"), node_id="n1", schemas=Schemas(lambda: OWN.abi, ACCEPTED, abi_behind))
    log.load()
    back = encode_level_entry(SetLevel(OWN, V0_2_0))
    for index in range(1, 7):
        log.append(LogEntry(COMMAND + (back if index == 4 else b"\x90"), index, 1))
    log.close()
    assert list(segment_abis(tmp_path / "log").values()) == [OWN.abi, V0_2_0.abi]
    monkeypatch.setattr(levels, "snapshot_paths", lambda _path: [tmp_path / "old", tmp_path / "new"])
    (tmp_path / "old").mkdir()
    return SimpleNamespace(data_path=tmp_path, keeps_log=False)


def with_snapshot(monkeypatch: pytest.MonkeyPatch, level: Level, index: int) -> None:
    """Pretend that the newest snapshot is of this level and index, and the one before of this software's level."""

    def read(path: Path) -> Any:
        abi, at = (level.abi, index) if path.name == "new" else (OWN.abi, 1)
        return SimpleNamespace(manifest=SimpleNamespace(abi=abi, index=at))

    monkeypatch.setattr(levels, "read_seal", read)


def disk_of(config: Any) -> levels.LogDisk:
    """Return the disk of the node's log."""
    return levels.LogDisk(config.data_path / "log", archive_to=config.data_path / "archive", archives=lambda: config.keeps_log)


def abis(config: Any) -> list[str]:
    """Return the ABIs of the log's segments."""
    return list(segment_abis(config.data_path / "log").values())


def test_data_that_a_snapshot_of_the_level_before_covers_is_removed(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_snapshot(monkeypatch, V0_2_0, 4)
    levels.leave_to_former(config, V0_2_0, disk_of(config))
    assert abis(config) == [V0_2_0.abi]
    assert not (config.data_path / "old").exists()
    levels.leave_to_former(config, V0_2_0, disk_of(config))
    assert abis(config) == [V0_2_0.abi], "the second time nothing is left to do"


@pytest.mark.parametrize(
    ("snapshot", "index", "level"),
    [
        (V0_2_0, 3, V0_2_0),  # the log still needs entry 4
        (OWN, 3, V0_2_0),  # there is no snapshot of the level before
        (OWN, 3, OWN),  # the cluster did not return
    ],
)
def test_data_that_is_still_needed_stays(
    config: Any, monkeypatch: pytest.MonkeyPatch, snapshot: Level, index: int, level: Level
) -> None:
    with_snapshot(monkeypatch, snapshot, index)
    levels.leave_to_former(config, level, disk_of(config))
    assert abis(config) == [OWN.abi, V0_2_0.abi]
    assert (config.data_path / "old").exists()


@pytest.mark.parametrize("keeps_log", [False, True])
def test_the_log_of_a_running_node_continues_without_what_was_removed(
    config: Any, monkeypatch: pytest.MonkeyPatch, *, keeps_log: bool
) -> None:
    """A node that is killed later than this leaves data on which the version before starts."""
    config.keeps_log = keeps_log
    with_snapshot(monkeypatch, V0_2_0, 4)
    disk = disk_of(config)
    log = DurableLog(disk, node_id="n1", schemas=Schemas(lambda: OWN.abi, ACCEPTED, abi_behind))
    log.load()
    levels.leave_to_former(config, V0_2_0, disk)
    assert abis(config) == [V0_2_0.abi], "at once, and not at the stop"
    assert list(segment_abis(config.data_path / "archive").values()) == ([OWN.abi] if keeps_log else [])
    log.append(LogEntry(COMMAND + b"\x90", 7, 1))
    log.roll()
    log.append(LogEntry(COMMAND + b"\x90", 8, 1))
    log.compact_to(5)
    log.compact_to(8)
    log.sync()
    read = DurableLog(disk, node_id="n1", abi=V0_2_0.abi)
    assert [entry.index for entry in read.load()] == [8], "the released version reads it"
    log.close()


def test_a_snapshot_of_the_leader_replaces_a_log_without_what_was_removed(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_snapshot(monkeypatch, V0_2_0, 4)
    disk = disk_of(config)
    log = DurableLog(disk, node_id="n1", schemas=Schemas(lambda: OWN.abi, ACCEPTED, abi_behind))
    log.load()
    levels.leave_to_former(config, V0_2_0, disk)
    log.clear()
    assert abis(config) == []

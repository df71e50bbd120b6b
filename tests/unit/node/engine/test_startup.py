"""A node does not migrate while others serve at the version before."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from node.config.file import load
from node.config.settings import NodeConfig
from node.deployment.setup import initialise
from node.engine import parts, startup
from node.errors import DataDirectoryError
from node.migration.contents import Found
from node.native.protocol import Welcome
from snapshots.abi import ABI
from snapshots.errors import MigrationError

OLD = "0" * 40


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return load(initialise(tmp_path / "cluster", 3)[0])


def answer(monkeypatch: pytest.MonkeyPatch, data: str | None, *greetings: Welcome) -> None:
    async def welcomes(_config: NodeConfig) -> list[Welcome]:
        return list(greetings)

    monkeypatch.setattr(startup, "_greetings", welcomes)
    monkeypatch.setattr(startup, "look", lambda path: Found(path, data, None, None))


def test_the_first_of_a_rolling_start_changes_nothing(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly it migrated at once and was alone, and the others continued without a spare node."""
    others = [Welcome(1, node_id, config.cluster_id, "0.2.0", OLD) for node_id in ("n2", "n3")]
    answer(monkeypatch, OLD, *others)
    with pytest.raises(
        MigrationError, match=r"n2 \(version 0\.2\.0\), n3 \(version 0\.2\.0\) would refuse this node .* Stop all nodes"
    ):
        startup.check_other_nodes(config)
    answer(monkeypatch, OLD, msgspec.structs.replace(others[0], abi=ABI))
    startup.check_other_nodes(config)
    answer(monkeypatch, OLD)
    startup.check_other_nodes(config)
    answer(monkeypatch, ABI, *others)
    startup.check_other_nodes(config)


def test_nodes_that_are_down_are_no_obstacle(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "look", lambda path: Found(path, OLD, None, None))
    startup.check_other_nodes(config)


def test_an_archive_on_another_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly the node stopped at its first snapshot, and so did every other node that was set up in the same way."""
    log, archive = tmp_path / "log", tmp_path / "archive"
    log.mkdir()
    archive.mkdir()
    parts._check_archive(log, archive)

    def across(_self: Path, _target: Path) -> Path:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", across)
    with pytest.raises(DataDirectoryError, match=r"/archive: expected the file system of .*/log"):
        parts._check_archive(log, archive)
    assert not list(log.iterdir())
    assert not list(archive.iterdir())

"""The node to which a data directory belongs, and the error of a node without one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from node.config.file import load
from node.config.settings import NodeConfig
from node.data_directory import identity
from node.data_directory.identity import Stage
from node.deployment.setup import initialise
from node.errors import DataDirectoryError


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    """Return a node whose data directory was just made."""
    return load(initialise(tmp_path / "c", 1, cluster_id="demo")[0])


def test_a_start_leaves_its_mark(config: NodeConfig) -> None:
    made = identity.read(config)
    assert (made.cluster_id, made.node_id, made.stage) == ("demo", "n1", Stage.NEW)
    started = identity.mark_started(config, made)
    assert started.stage is Stage.STARTED
    assert identity.read(config) == started
    assert identity.mark_started(config, started) is started


@pytest.mark.parametrize("lost", ["everything", "contents", "identity"])
def test_a_lost_disk_is_reported(config: NodeConfig, lost: str) -> None:
    shutil.rmtree(config.data_path)
    if lost != "everything":
        config.data_path.mkdir()
        (config.data_path / "node.pid").touch()
    if lost == "identity":
        (config.data_path / "log").mkdir()
    expected = {"everything": "does not exist", "contents": "is empty", "identity": r"has no identity\.json"}[lost]
    with pytest.raises(DataDirectoryError, match=f"{expected}.*quorumbook node start --rejoin.*forgotten what it acknowledged"):
        identity.read(config)


def test_an_empty_disk_may_rejoin(config: NodeConfig) -> None:
    before = identity.read(config)
    shutil.rmtree(config.data_path)
    config.data_path.mkdir()
    (config.data_path / "node.pid").touch()
    made = identity.format_data(config, rejoin=True)
    assert made.stage is Stage.REJOIN
    assert made.incarnation != before.incarnation
    assert identity.read(config) == made
    assert identity.mark_started(config, made).stage is Stage.STARTED


def test_rejoining_with_a_disk_that_is_there_keeps_it(config: NodeConfig) -> None:
    started = identity.mark_started(config, identity.read(config))
    made = identity.format_data(config, rejoin=True)
    assert made == msgspec.structs.replace(started, stage=Stage.REJOIN)
    assert identity.read(config) == made


def test_remains_without_an_identity_are_not_overwritten(config: NodeConfig) -> None:
    (config.data_path / "identity.json").unlink()
    (config.data_path / "snapshots").mkdir()
    with pytest.raises(DataDirectoryError, match=r"has no identity\.json but holds snapshots. Move it away"):
        identity.format_data(config, rejoin=True)
    assert not (config.data_path / "identity.json").exists()


def test_formatting_twice_is_refused(config: NodeConfig) -> None:
    before = identity.read(config)
    with pytest.raises(DataDirectoryError, match="holds identity"):
        identity.format_data(config)
    assert identity.read(config) == before


@pytest.mark.parametrize("action", [identity.read, partial(identity.format_data, rejoin=True)])
@pytest.mark.parametrize(("field", "word"), [("cluster_id", "cluster"), ("node_id", "node")])
def test_the_directory_of_another_node_is_refused(
    config: NodeConfig, field: str, word: str, action: Callable[[NodeConfig], object]
) -> None:
    foreign = msgspec.structs.replace(config, **{field: "other"})
    with pytest.raises(DataDirectoryError, match=f"data directory of {word}") as caught:
        action(foreign)
    assert "'other'" in str(caught.value)
    assert identity.read(config).stage is Stage.NEW


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"cluster_id": 7}', b"[]"])
def test_a_damaged_identity_is_refused(config: NodeConfig, data: bytes) -> None:
    (config.data_path / "identity.json").write_bytes(data)
    with pytest.raises(DataDirectoryError, match=r"identity\.json is damaged"):
        identity.read(config)


def test_an_identity_of_another_version_is_refused(config: NodeConfig) -> None:
    path = config.data_path / "identity.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(DataDirectoryError, match="expected format 1, not 2"):
        identity.read(config)


def test_a_data_directory_that_cannot_be_made_is_named(config: NodeConfig) -> None:
    shutil.rmtree(config.data_path)
    config.data_path.write_text("a file", encoding="utf-8")
    with pytest.raises(DataDirectoryError, match="cannot be read: Not a directory"):
        identity.read(config)
    with pytest.raises(DataDirectoryError, match="cannot be read: Not a directory"):
        identity.format_data(config, rejoin=True)


def test_a_new_cluster_does_not_begin_with_an_even_number_of_nodes(tmp_path: Path) -> None:
    path = initialise(tmp_path / "c", 3)[0]
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.rindex("[[nodes]]")], encoding="utf-8")
    with pytest.raises(DataDirectoryError, match=r"expected 1, 3 or 5 of \[\[nodes\]\] in a new cluster, not 2"):
        identity.read(load(path))


def test_a_removed_node_does_not_start_again(config: NodeConfig) -> None:
    assert identity.stage_of(config) is Stage.NEW
    identity.mark_started(config, identity.read(config))
    identity.mark_removed(config)
    assert identity.stage_of(config) is Stage.REMOVED
    for rejoin in (False, True):
        with pytest.raises(DataDirectoryError, match=r"n1 was removed from the cluster.*quorumbook cluster add"):
            identity.format_data(config, rejoin=True) if rejoin else identity.read(config)

"""Every node of a directory gets another cluster key."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.cluster_directory import ClusterDirectory
from node.deployment.renewing import rotate
from node.deployment.setup import initialise
from node.errors import ClusterKeyError
from node.keys.encryption import read_keys, write_keys


@pytest.fixture
def layout(tmp_path: Path) -> ClusterDirectory:
    initialise(tmp_path / "c", 3)
    return ClusterDirectory(tmp_path / "c")


def held(layout: ClusterDirectory) -> list[dict[int, bytes]]:
    return [read_keys(config.cluster_key_path) for config in layout.configs.values()]


def test_every_node_gets_the_same_next_key(layout: ClusterDirectory) -> None:
    (before, *_) = held(layout)
    done = rotate(layout)
    assert (done.number, done.made, len(done.paths)) == (2, True, 3)
    one, *others = held(layout)
    assert others == [one, one]
    assert one == before | {2: one[2]}
    assert one[2] != one[1]


def test_a_cluster_without_any_gets_its_first(layout: ClusterDirectory) -> None:
    for config in layout.configs.values():
        config.cluster_key_path.unlink()
    assert rotate(layout).number == 1
    assert held(layout)[0] == held(layout)[2]


def test_an_interrupted_rotation_is_brought_to_its_end(layout: ClusterDirectory) -> None:
    path = layout.configs["n2"].cluster_key_path
    write_keys(path, read_keys(path) | {2: bytes(64)})
    done = rotate(layout)
    assert (done.number, done.made, [path.parent.name for path in done.paths]) == (2, False, ["n1", "n3"])
    assert [keys[2] for keys in held(layout)] == [bytes(64)] * 3


def test_two_keys_with_one_number_are_not_touched(layout: ClusterDirectory) -> None:
    write_keys(layout.configs["n3"].cluster_key_path, {1: bytes(64)})
    before = held(layout)
    with pytest.raises(ClusterKeyError, match="n3 has another cluster key 1"):
        rotate(layout)
    assert held(layout) == before

"""Addresses that contradict each other are reported. Formerly an address that was changed in one node.toml only was
ignored silently.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from cluster.membership import Member, Role
from node.config.file import load
from node.config.settings import NodeConfig
from node.deployment.setup import initialise
from node.engine.introductions import Addresses, own_places
from node.engine.membership import first_members


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return load(initialise(tmp_path / "cluster", 3)[0])


def moved(members: list[Member], node_id: str, **changes: str) -> list[Member]:
    return [msgspec.structs.replace(each, **changes) if each.node_id == node_id else each for each in members]


def test_equal_addresses_give_no_warning(config: NodeConfig) -> None:
    members = list(first_members(config))
    assert {member.role for member in members} == {Role.VOTER}
    found = Addresses(config, lambda: (members, 9))
    for member in members:
        found.heard(member.node_id, (member.raft, member.native, member.http))
    assert found.warnings(9) == []
    assert own_places(config) == (members[0].raft, members[0].native, members[0].http)


def test_the_log_counts_and_a_node_toml_that_contradicts_it_is_named(
    config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    members = moved(list(first_members(config)), "n2", native="10.0.0.2:7012")
    here = members[1].native
    found = Addresses(config, lambda: (members, 9))
    with caplog.at_level(logging.WARNING):
        (text,) = found.warnings(9)
        assert found.warnings(9) == [text]
    assert here == "10.0.0.2:7012"
    assert "nodes.n2.native in node.toml is 127.0.0.1" in text
    assert "10.0.0.2:7012 in the cluster's log (entry 9), which counts" in text
    assert "quorumbook cluster replace" in text
    assert caplog.text.count("which counts") == 1
    assert Addresses(config, lambda: (members, 0)).warnings(0) == [], "before the first change of the membership node.toml counts"


def test_an_address_that_is_changed_in_one_file_only_is_named_by_the_others(config: NodeConfig) -> None:
    members = list(first_members(config))
    found = Addresses(config, lambda: (members, 0))
    assert found.warnings(0) == []
    found.heard("n3", ("127.0.0.1:9999", members[2].native, members[2].http))
    (text,) = found.warnings(0)
    assert text.startswith(
        f"n3 says that its raft address is 127.0.0.1:9999, and this node finds it at {members[2].raft}, as node.toml here"
    )
    found.heard("n3", (members[2].raft, members[2].native, members[2].http))
    assert found.warnings(0) == []

"""The errors if a node cannot be added or removed. Tests in tests/acceptance add and remove nodes of real clusters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from cluster.membership import AddMember, Role
from node.data_directory import identity
from node.deployment.local_cluster import LocalCluster
from node.deployment.member_changes import Addition, MemberChanges, progress
from node.deployment.setup import initialise
from node.errors import DirectoryError, MembershipError, SetupError
from node.native.client import ClusterClient
from node.native.protocol import MemberStatus
from tests.unit.node.fakes import FakeNode, addresses, config_of, member, running

N4 = Addition("n4", "127.0.0.1:27004", "127.0.0.1:27104", "http://127.0.0.1:27204", start=False)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[FakeNode]:
    async with running(config_of(tmp_path / "node")) as made:
        yield made


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
async def changes(node: FakeNode, tmp_path: Path, lines: list[str]) -> AsyncIterator[MemberChanges]:
    """Return changes of a cluster whose directory exists and whose leader is a node in this process."""
    initialise(tmp_path / "c", 3, base_port=7000)
    made = MemberChanges(LocalCluster(tmp_path / "c"), lines.append)
    await made._client.close()
    made._client = ClusterClient(addresses({"n1": node}), deadline=1.0)
    yield made
    await made.close()


async def test_a_learner_that_does_not_catch_up_is_reported_with_where_to_look(
    changes: MemberChanges, node: FakeNode, lines: list[str]
) -> None:
    node.raft.unreachable = {"n4"}
    with pytest.raises(
        MembershipError,
        match=r"n4 is a learner without a vote yet after 0 s \(not connected\).*repeat the command to wait longer",
    ):
        await changes.add(N4, 0.0)
    assert lines[1].startswith("n4: added with log entry ")
    assert "quorumbook node start --config node.toml" in lines[2]
    added = node.raft.membership.get("n4")
    assert added is not None
    node.raft.membership = msgspec.structs.replace(
        node.raft.membership, members=(*node.raft.membership.others("n4"), msgspec.structs.replace(added, role=Role.VOTER))
    )
    await changes.add(N4, 5.0)
    assert lines[-1] == "n4 is a voter now"
    assert "n4 is a member already: a voter" in lines


async def test_a_read_only_node_is_done_when_it_has_caught_up(changes: MemberChanges, lines: list[str]) -> None:
    await changes.add(msgspec.structs.replace(N4, read_only=True), 5.0)
    assert lines[-1] == "n4 is read-only now"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Addition("n2", read_only=True), "n2 is a member already, and a voter; a node's role does not change"),
        (Addition("n2", raft="127.0.0.1:1"), r"n2 is a member already, at --raft 127\.0\.0\.1:7002, not 127\.0\.0\.1:1"),
    ],
)
async def test_a_member_that_differs_from_the_requested_one_is_reported(
    changes: MemberChanges, wanted: Addition, text: str
) -> None:
    with pytest.raises(MembershipError, match=text):
        await changes.add(wanted, 1.0)


async def test_addresses_are_checked_before_anything_is_made(changes: MemberChanges, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="it is one of n1"):
        await changes.add(msgspec.structs.replace(N4, raft="127.0.0.1:7001"), 1.0)
    assert not (tmp_path / "c" / "n4").exists()


async def test_an_unknown_node_is_a_mistake_and_a_removed_one_is_not(
    changes: MemberChanges, node: FakeNode, lines: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DirectoryError, match="no node 'n9'; members are: n1, n2, n3"):
        await changes.remove("n9")
    with pytest.raises(DirectoryError, match="no node 'n9'"):
        await changes.replace("n9", N4, 1.0)
    with pytest.raises(MembershipError, match="n3 cannot replace itself"):
        await changes.replace("n3", Addition("n3"), 1.0)
    with pytest.raises(MembershipError, match=r"next failure would stop the cluster.*repeat with --force"):
        await changes.remove("n3")
    config = LocalCluster(tmp_path / "c").layout.configs["n3"]
    identity.mark_started(config, identity.read(config))
    await changes.remove("n3", force=True)
    assert node.raft.membership.get("n3") is None
    assert identity.stage_of(config) is identity.Stage.REMOVED
    assert LocalCluster(tmp_path / "c").node_ids == ["n1", "n2"]
    await changes.remove("n3")
    assert lines[-2] == "n3 is not a member of the cluster"


async def test_a_leader_that_nobody_can_take_over_from_is_not_removed(
    changes: MemberChanges, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.deployment.member_changes.HANDOVER_SECONDS", 0.1)
    node.raft.membership = node.raft.membership.changed(AddMember(member("n4", Role.LEARNER)))
    with pytest.raises(MembershipError, match=r"n1 leads, and no other voter took over within 0\.1 s"):
        await changes.remove("n1", force=True)
    assert node.raft.membership.get("n1") is not None


async def test_progress_is_described_in_words(changes: MemberChanges) -> None:
    status = msgspec.structs.replace(await changes.status(), last_log_index=2_000)
    for seen, words in (
        (MemberStatus("n4", False, 0), "not connected"),
        (MemberStatus("n4", True, 0, snapshot_sent=1 << 20, snapshot_size=5 << 19), "snapshot 1.0 of 2.5 MiB"),
        (MemberStatus("n4", True, 1_500), "1,500 of 2,000"),
        (MemberStatus("n4", True, 2_000), "2,000"),
    ):
        assert progress(seen, status) == words

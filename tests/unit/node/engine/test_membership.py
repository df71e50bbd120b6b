"""The node judges requests for changes of the membership before Raft does. The tests also cover what the status says of
the members.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from cluster.membership import AddMember, ChangeError, Role
from node.config.settings import NodeAddress
from node.engine.membership import removal_fault
from node.native.client import ClusterClient, RequestFailed
from node.native.protocol import FailCode, LeaderHint, MemberStatus, StatusQuery
from tests.unit.node.fakes import FakeNode, addresses, member

N4 = NodeAddress("n4", "127.0.0.1:7004", "127.0.0.1:7104", "http://127.0.0.1:7204")


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[ClusterClient]:
    made = ClusterClient(addresses({"n1": node}), deadline=1.0, client="test")
    yield made
    await made.close()


async def test_a_node_is_added_and_removed(node: FakeNode, client: ClusterClient) -> None:
    index = await client.add_member(N4)
    added = node.raft.membership.get("n4")
    assert added == member("n4", Role.LEARNER)
    status = await client.query(StatusQuery())
    assert status.members_index == index
    assert status.members[-1] == MemberStatus("n4", True, index, "learner", N4.raft, N4.native, N4.http)
    assert [each.node_id for each in status.others] == ["n2", "n3", "n4"]
    assert await client.remove_member("n4") == index + 1
    assert node.raft.membership.get("n4") is None


async def test_a_read_only_member_is_added(node: FakeNode, client: ClusterClient) -> None:
    await client.add_member(N4, read_only=True)
    assert node.raft.membership.get("n4") == member("n4", Role.READ_ONLY)


async def test_a_snapshot_in_progress_is_in_the_status(node: FakeNode, client: ClusterClient) -> None:
    node.raft.sending = {"n3": (5, 20)}
    node.raft.unreachable = {"n1", "n2"}
    members = (await client.query(StatusQuery())).members
    assert [(each.snapshot_sent, each.snapshot_size) for each in members] == [(0, 0), (0, 0), (5, 20)]
    assert [each.connected for each in members] == [True, False, True], "a node is connected with itself"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (NodeAddress("", "127.0.0.1:1", "127.0.0.1:2", "http://127.0.0.1:3"), "node_id: expected 1 to 32"),
        (NodeAddress("n4", "nowhere", "127.0.0.1:2", "http://127.0.0.1:3"), "raft: expected host:port"),
        (NodeAddress("n4", "127.0.0.1:1", "127.0.0.1:0", "http://127.0.0.1:3"), "native: expected host:port"),
        (NodeAddress("n4", "127.0.0.1:1", "127.0.0.1:2", "ftp://127.0.0.1:3"), "http: expected http://host:port"),
    ],
)
async def test_a_malformed_address_is_named(client: ClusterClient, address: NodeAddress, text: str) -> None:
    with pytest.raises(RequestFailed, match=text) as caught:
        await client.add_member(address)
    assert caught.value.code is FailCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ChangeError.ALREADY_MEMBER, FailCode.CONFLICT),
        (ChangeError.ID_USED, FailCode.CONFLICT),
        (ChangeError.UNKNOWN_MEMBER, FailCode.NOT_FOUND),
        (ChangeError.INVALID, FailCode.BAD_REQUEST),
    ],
)
async def test_each_refusal_of_raft_has_its_code(
    node: FakeNode, client: ClusterClient, error: ChangeError, code: FailCode
) -> None:
    node.raft.change_error = error
    with pytest.raises(RequestFailed, match="so it is") as caught:
        await client.add_member(N4)
    assert caught.value.code is code


@pytest.mark.parametrize(
    "error", [ChangeError.UNDER_WAY, ChangeError.NOT_READY, ChangeError.OUTCOME_UNKNOWN, ChangeError.NOT_LEADER]
)
async def test_a_change_that_may_soon_be_possible_is_requested_again(
    node: FakeNode, client: ClusterClient, error: ChangeError
) -> None:
    node.raft.change_error = error
    asked = asyncio.create_task(client.add_member(N4))
    await asyncio.sleep(0.05)
    assert not asked.done()
    node.raft.change_error = None
    await asked
    assert node.raft.membership.get("n4") is not None


async def test_a_follower_names_the_leader(node: FakeNode) -> None:
    node.raft.membership = node.raft.membership.changed(_adding(N4))
    node.raft.lose_leadership("n4")
    connection = await ClusterClient(addresses({"n1": node})).connection("n1")
    with pytest.raises(RequestFailed) as caught:
        await connection.remove_member("n2")
    assert caught.value.leader == LeaderHint("n4", N4.native, N4.http)
    node.raft.lose_leadership("n5")
    with pytest.raises(RequestFailed) as caught:
        await connection.remove_member("n2")
    assert caught.value.code is FailCode.NO_LEADER, "the address of a leader that joined meanwhile is not known yet"
    await connection.close()


def _adding(address: NodeAddress) -> AddMember:
    return AddMember(member(address.node_id, Role.LEARNER))


def voters(states: str) -> list[MemberStatus]:
    """Return voters n1, n2, ... from letters: "u" is up, "d" is down, and "r" is a read-only member."""
    return [
        MemberStatus(f"n{number}", state != "d", 0, "read_only" if state == "r" else "voter")
        for number, state in enumerate(states, 1)
    ]


@pytest.mark.parametrize(
    ("states", "node_id", "fault", "forced"),
    [
        ("u", "n1", "n1 is the only voter", "n1 is the only voter"),
        ("uu", "n2", "", ""),
        ("uuu", "n3", "without n3 there are 2 voters, 2 of them are needed, and 2 can be reached: the next failure", ""),
        ("uud", "n3", "", ""),
        ("uud", "n2", "without n2 there are 2 voters, 2 of them are needed, and 1 can be reached: .*Start n3", "stand still"),
        ("uuuu", "n4", "", ""),
        ("uuud", "n1", "", ""),
        ("uudd", "n1", "2 of them are needed, and 1 can be reached", "stand still"),
        ("uuuuu", "n1", "", ""),
        ("uuuud", "n1", "the next failure would stop the cluster", ""),
        ("uuur", "n4", "", ""),
        ("uuu", "n9", "", ""),
    ],
)
def test_a_removal_that_would_leave_too_few_voters_is_refused(states: str, node_id: str, fault: str, forced: str) -> None:
    for force, expected in ((False, fault), (True, forced)):
        found = removal_fault(voters(states), node_id, force=force)
        assert bool(found) == bool(expected), found
        assert re.search(expected, found)


async def test_the_leader_refuses_such_a_removal(node: FakeNode, client: ClusterClient) -> None:
    with pytest.raises(RequestFailed, match="the next failure would stop the cluster") as caught:
        await client.remove_member("n3")
    assert caught.value.code is FailCode.CONFLICT
    await client.remove_member("n3", force=True)
    assert node.raft.membership.voters == ("n1", "n2")

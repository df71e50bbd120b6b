"""The members of the cluster, as operators see and change them. It converts requests to Raft's changes, and Raft's
answers to the protocol's.

Raft refuses changes that are unsafe or cannot be committed. This module refuses changes that are merely unwise, unless
they are forced: an operator's slip should not cost the cluster its tolerance of the next failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cluster import membership
from cluster.membership import ChangeError, ChangeResult, Member, Role
from cluster.status import MemberState
from node.config.checks import check_address
from node.config.settings import NodeAddress, NodeConfig
from node.errors import ConfigError, RequestFailed
from node.native.protocol import AddMember, FailCode, MemberStatus, NodeStatus, RemoveMember

CODES = {
    ChangeError.NOT_LEADER: FailCode.NOT_LEADER,
    ChangeError.OUTCOME_UNKNOWN: FailCode.OUTCOME_UNKNOWN,
    ChangeError.UNDER_WAY: FailCode.BUSY,
    ChangeError.NOT_READY: FailCode.BUSY,
    ChangeError.INVALID: FailCode.BAD_REQUEST,
    ChangeError.UNKNOWN_MEMBER: FailCode.NOT_FOUND,
}
"""The error codes for Raft's refusals. Every other refusal gives CONFLICT."""


def first_members(config: NodeConfig) -> tuple[Member, ...]:
    """Return the members in the configuration, all of them voters. They count until the log holds a change of the
    membership.
    """
    return tuple(Member(node.node_id, Role.VOTER, node.raft, node.native, node.http) for node in config.nodes)


def member_status(states: Iterable[MemberState], node_id: str) -> list[MemberStatus]:
    """Convert Raft's members to the protocol's, from the view of `node_id`."""
    return [_one(state, node_id) for state in states]


def _one(state: MemberState, node_id: str) -> MemberStatus:
    """Return the status of one member."""
    member = state.member
    sent, size = state.snapshot or (0, 0)
    return MemberStatus(
        member.node_id,
        state.connected or member.node_id == node_id,
        state.match_index,
        member.role.value,
        member.raft,
        member.native,
        member.http,
        sent,
        size,
        state.clock_skew,
    )


def address_of(member: MemberStatus) -> NodeAddress:
    """Return the addresses of a member."""
    return NodeAddress(member.node_id, member.raft, member.native, member.http)


def addition(request: AddMember) -> membership.AddMember:
    """Decode the requested change.

    Raises:
        RequestFailed: BAD_REQUEST, naming the field.
    """

    def fault(name: str, text: str) -> ConfigError:
        return ConfigError("add", name, text)

    try:
        check_address(NodeAddress(request.node_id, request.raft, request.native, request.http), fault)
    except ConfigError as error:
        raise RequestFailed(FailCode.BAD_REQUEST, f"{error.key}: {error.text}") from error
    role = Role.READ_ONLY if request.read_only else Role.LEARNER
    return membership.AddMember(Member(request.node_id, role, request.raft, request.native, request.http))


def removal(request: RemoveMember, members: Sequence[MemberStatus]) -> membership.RemoveMember:
    """Return the requested change if the `members` keep a quorum.

    Raises:
        RequestFailed: CONFLICT, with the numbers.
    """
    fault = removal_fault(members, request.node_id, force=request.force)
    if fault:
        raise RequestFailed(FailCode.CONFLICT, fault)
    return membership.RemoveMember(request.node_id)


def removal_fault(members: Sequence[MemberStatus], node_id: str, *, force: bool) -> str:
    """Return why a member should not be removed, by the leader's view of the members. Returns "" if it may be removed,
    is not a member, or has no vote.
    """
    voters = [member for member in members if member.role == Role.VOTER.value]
    rest = [member for member in voters if member.node_id != node_id]
    if len(rest) == len(voters):
        return ""
    if not rest:
        return f"{node_id} is the only voter: add another one first"
    needed, reachable = len(rest) // 2 + 1, sum(member.connected for member in rest)
    spare, spare_now = reachable - needed, sum(member.connected for member in voters) - (len(voters) // 2 + 1)
    numbers = f"without {node_id} there are {len(rest)} voters, {needed} of them are needed, and {reachable} can be reached"
    lost = ", ".join(member.node_id for member in rest if not member.connected)
    if spare < 0:
        return f"{numbers}: the cluster would stand still. Start {lost} again, or remove what is lost instead"
    if spare == 0 and spare_now > 0 and not force:
        return f"{numbers}: the next failure would stop the cluster, which now survives one. Add a node first, or force it"
    return ""


def failure(result: ChangeResult) -> RequestFailed:
    """Return the error that a client gets for a change that was not made."""
    assert result.error is not None
    return RequestFailed(CODES.get(result.error, FailCode.CONFLICT), result.text or result.error.value)


def public(status: NodeStatus) -> NodeStatus:
    """Return the part of a status that a trader's key may see: enough to find the leader and to know whether the node
    serves. It shows nothing of the structure or health of the cluster.
    """
    members = [MemberStatus(each.node_id, each.connected, 0, each.role, "", each.native, each.http) for each in status.members]
    hidden: dict[str, object] = {
        "state_hash": "",
        "counters": {},
        "durations": {},
        "members": members,
        "cluster_keys_missing": [],
    }
    return msgspec.structs.replace(status, **hidden)

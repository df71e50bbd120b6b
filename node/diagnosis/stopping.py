"""Decides whether a node may stop now: before maintenance, a rolling restart, or in a container's preStop hook.

A node may stop if the other serving voters are still a majority. A voter counts if it is connected to the leader and
has applied what the leader has committed. A voter that is still catching up does not count, because the cluster would
have to wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from cluster.membership import Role
from node.deployment.statuses import Statuses, leader_of, newest_members

POLL_S = 0.25


class StopVerdict(msgspec.Struct, frozen=True):
    """Whether a node may stop. `remaining`: serving voters without it; `needed`: the size of a majority.
    `stands_still`: no majority serves even now, so a stop makes nothing worse.
    """

    may_stop: bool
    text: str
    remaining: int = 0
    needed: int = 0
    stands_still: bool = False


def verdict(statuses: Statuses, node_id: str) -> StopVerdict:
    """Return the verdict that follows from all nodes' statuses."""
    members = {member.node_id: member for member in newest_members(statuses)}
    if not members:
        return StopVerdict(False, "no node answers, so it is not known whether the others serve", stands_still=True)
    if node_id not in members:
        return StopVerdict(True, f"{node_id} is no member of the cluster")
    voters = [member.node_id for member in members.values() if member.role == Role.VOTER.value]
    needed = len(voters) // 2 + 1
    leader = statuses.get(leader_of(statuses))
    if node_id not in voters:
        return StopVerdict(True, f"{node_id} has no vote: the cluster does not need it", len(voters), needed)
    if leader is None:
        return StopVerdict(False, "no leader serves: find out why before you stop another node", 0, needed, stands_still=True)
    if leader.change_under_way:
        return StopVerdict(False, "a membership change is in progress: wait until it is complete", 0, needed)
    connected = {member.node_id for member in leader.members if member.connected}
    serving = [
        each
        for each in voters
        if each != node_id and each in connected and (status := statuses.get(each)) is not None and status.ready and status.voter
    ]
    lacking = [each for each in voters if each not in serving and each != node_id]
    numbers = f"without {node_id}, {len(serving)} of {len(voters)} voters serve, and {needed} are needed"
    if len(serving) >= needed:
        spare = len(serving) - needed
        return StopVerdict(True, f"{numbers}" + ("" if spare else ": the next failure stops the exchange"), len(serving), needed)
    why = f"; {', '.join(lacking)} does not serve" if lacking else ""
    stands_still = len(serving) + 1 < needed  # a leader that has just lost its majority reports for a moment that it serves
    return StopVerdict(False, f"{numbers}: the exchange would stand still{why}", len(serving), needed, stands_still)


async def wait_until_may_stop(
    ask: Callable[[], Awaitable[Statuses]], node_id: str, seconds: float
) -> tuple[StopVerdict, Statuses]:
    """Ask repeatedly until the node may stop, for `seconds` at most. Returns the last verdict and the nodes' statuses."""
    end = time.monotonic() + seconds
    while True:
        statuses = await ask()
        found = verdict(statuses, node_id)
        if found.may_stop or time.monotonic() >= end:
            return found, statuses
        await asyncio.sleep(POLL_S)

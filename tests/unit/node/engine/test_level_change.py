"""A change of the level is refused by name wherever a member could not follow, and nothing is proposed then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.raft import Done, ProposeResult
from node.engine import level_change
from node.engine.level_change import LevelChange
from node.errors import ConnectionLost, RequestFailed
from node.native.protocol import FailCode, MemberStatus
from snapshots.levels.level import OWN, SUPPORTED, V0_2_0, Level, decode_set_level

LEVELS = [level.version for level in SUPPORTED]


class Cluster:
    """Three members as their leader sees them; tests change what they say."""

    def __init__(self) -> None:
        self.level: Level = V0_2_0
        self.busy = ""
        self.raft = SimpleNamespace(members_index=0, change_under_way=False, digests_differing=0, applied_index=10)
        self.is_leader = True
        self.in_flight = 0
        self.held = 0
        self.roles = {"n1": "voter", "n2": "voter", "n3": "voter"}
        self.told: dict[str, Any] = {name: self.status_of() for name in self.roles}
        self.unprepared: dict[str, str] = {}
        self.prepared: list[str] = []
        self.proposed: list[bytes] = []
        self.change = LevelChange(
            "n1",
            self,
            self,
            level=lambda: self.level,
            members=lambda: [MemberStatus(name, True, 0, role) for name, role in self.roles.items()],
            busy=lambda: self.busy,
            ask=self._ask,
            prepare=self._prepare,
            own=lambda: self.told["n1"],
            prepare_own=lambda abi: self._prepare(MemberStatus("n1", True, 0), abi),
        )

    @staticmethod
    def status_of(**changes: object) -> Any:
        said: dict[str, object] = {
            "software": "0.3.0", "levels": LEVELS, "level": "0.2.0", "level_abi": V0_2_0.abi, "ready": True, "applied_index": 10,
        }  # fmt: skip
        return SimpleNamespace(**{**said, **changes})

    async def _ask(self, member: MemberStatus) -> Any:
        said = self.told[member.node_id]
        if isinstance(said, Exception):
            raise said
        return said

    async def _prepare(self, member: MemberStatus, abi: str) -> None:
        assert abi == OWN.abi
        if member.node_id in self.unprepared:
            raise RequestFailed(FailCode.CONFLICT, self.unprepared[member.node_id])
        self.prepared.append(member.node_id)

    def status(self) -> Any:
        return self.raft

    def hold(self) -> Callable[[], None]:
        self.held += 1

        def release() -> None:
            self.held -= 1

        return release

    def propose(self, payload: bytes, done: Done) -> None:
        assert self.held
        assert self.change.under_way
        self.proposed.append(payload)
        asyncio.get_running_loop().call_soon(done, ProposeResult(index=11, value=True))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(level_change, "CAUGHT_UP_SECONDS", 0.05)
    monkeypatch.setattr(level_change, "DRAIN_SECONDS", 0.05)
    return Cluster()


async def test_one_entry_changes_the_level_once_all_are_ready(cluster: Cluster) -> None:
    report = await cluster.change.change("0.3.0", check=False)
    assert (report.old, report.to, report.index, report.problems) == ("0.2.0", "0.3.0", 11, [])
    (payload,) = cluster.proposed
    change = decode_set_level(payload)
    assert change is not None
    assert (change.old, change.to) == (V0_2_0, OWN)
    assert sorted(cluster.prepared) == ["n1", "n2", "n3"]
    assert not cluster.held
    assert not cluster.change.under_way


async def test_a_check_changes_nothing(cluster: Cluster) -> None:
    report = await cluster.change.change("0.3.0", check=True)
    assert report.problems == []
    assert [member.levels for member in report.members] == [LEVELS] * 3
    assert not cluster.proposed
    assert not cluster.prepared


def down(cluster: Cluster) -> None:
    cluster.told["n3"] = ConnectionLost("no connection")


def too_old(cluster: Cluster) -> None:
    cluster.told["n2"] = cluster.status_of(software="0.2.0", levels=[], level="", level_abi="")


def behind(cluster: Cluster) -> None:
    cluster.told["n2"] = cluster.status_of(applied_index=4)


def elsewhere(cluster: Cluster) -> None:
    cluster.told["n2"] = cluster.status_of(level="0.3.0", level_abi=OWN.abi)


def learner(cluster: Cluster) -> None:
    cluster.roles["n3"] = "learner"


def membership(cluster: Cluster) -> None:
    cluster.raft.change_under_way = True


def differing(cluster: Cluster) -> None:
    cluster.raft.digests_differing = 1


def resealing(cluster: Cluster) -> None:
    cluster.busy = "API keys are being encrypted again: wait until that is done"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (down, "n3: does not answer (no connection): start it, or remove it"),
        (too_old, "n2: runs version 0.2.0, which does not know level 0.3.0: install 0.3.0 or later"),
        (behind, "n2: lags behind: it has applied entry 4 of 10"),
        (elsewhere, "n2: is at level 0.3.0 and not at 0.2.0"),
        (learner, "n3: is a learner that has not caught up yet"),
        (membership, "a change of the membership is under way"),
        (differing, "the states of nodes differ"),
        (resealing, "API keys are being encrypted again"),
    ],
)
async def test_what_speaks_against_it_is_named_and_nothing_is_changed(
    cluster: Cluster, make: Callable[[Cluster], None], said: str
) -> None:
    make(cluster)
    report = await cluster.change.change("0.3.0", check=True)
    assert any(said in problem for problem in report.problems), report.problems
    with pytest.raises(RequestFailed) as refused:
        await cluster.change.change("0.3.0", check=False)
    assert refused.value.code is FailCode.CONFLICT
    assert said in refused.value.message
    assert not cluster.proposed
    assert not cluster.held


async def test_unknown_levels_and_ways_back(cluster: Cluster) -> None:
    with pytest.raises(RequestFailed, match=r"'0.9.0' is no level .* expected one of 0.2.0, 0.3.0"):
        await cluster.change.change("0.9.0", check=False)
    assert (await cluster.change.change("0.2.0", check=False)).index == 0, "it is there already"
    cluster.level = OWN
    with pytest.raises(RequestFailed, match=r"cannot be undone without loss.*quorumbook rollback --export"):
        await cluster.change.change("0.2.0", check=False)
    assert not cluster.proposed


async def test_a_state_that_cannot_be_converted_stops_it_before_the_entry(cluster: Cluster) -> None:
    cluster.unprepared["n2"] = "money is not conserved"
    with pytest.raises(RequestFailed, match=r"nothing was changed: n2: cannot convert its state: .*money is not conserved"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed


async def test_members_are_asked_again_until_all_are_ready_at_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prepares for long; another could have been restarted meanwhile."""
    monkeypatch.setattr(level_change, "READY_SECONDS", 0.02)
    slow = [0.05, 0.05]
    quick = cluster.change._prepare

    async def prepare(member: MemberStatus, abi: str) -> None:
        if member.node_id == "n3" and slow:
            await asyncio.sleep(slow.pop())
        await quick(member, abi)

    cluster.change._prepare = prepare
    assert (await cluster.change.change("0.3.0", check=False)).index == 11
    assert sorted(cluster.prepared) == ["n1"] * 3 + ["n2"] * 3 + ["n3"] * 3


async def test_members_that_are_never_ready_together(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_change, "READY_SECONDS", 0.0)
    with pytest.raises(RequestFailed, match="not ready at the same time"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed


async def test_twice_at_once(cluster: Cluster) -> None:
    first = asyncio.create_task(cluster.change.change("0.3.0", check=False))
    await asyncio.sleep(0)
    with pytest.raises(RequestFailed, match="under way already"):
        await cluster.change.change("0.3.0", check=False)
    assert (await first).index == 11


async def test_what_changed_while_members_made_ready_is_looked_at_again(cluster: Cluster) -> None:
    async def prepare(_member: MemberStatus, _abi: str) -> None:
        cluster.raft.members_index = 5

    cluster.change._prepare = prepare
    with pytest.raises(RequestFailed, match="a change of the membership is under way"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed
    assert not cluster.held


async def test_too_much_under_way_and_a_leadership_that_was_lost(cluster: Cluster) -> None:
    cluster.in_flight = 1
    with pytest.raises(RequestFailed, match="too much was under way"):
        await cluster.change.change("0.3.0", check=False)
    cluster.in_flight, cluster.is_leader = 0, False
    with pytest.raises(RequestFailed, match="leadership has changed"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed
    assert not cluster.held

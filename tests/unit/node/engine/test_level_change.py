"""A change of the level is refused with the name of each member that could not follow, and then nothing is proposed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.batcher import Refusal
from cluster.raft import Done, ProposeResult
from node.engine import level_change
from node.engine.level_change import LevelChange
from node.errors import ConnectionLost, RequestFailed
from node.native.protocol import FailCode, MemberStatus
from snapshots.levels.level import OWN, SUPPORTED, V0_2_0, CheckLevel, Level, SetLevel, decode_level_entry, decode_set_level

LEVELS = [level.version for level in SUPPORTED]


class Cluster:
    """Three members as their leader sees them. Tests change what they report."""

    def __init__(self) -> None:
        self.level: Level = V0_2_0
        self.busy = ""
        self.raft = SimpleNamespace(members_index=0, change_under_way=False, digests_differing=0, applied_index=10)
        self.is_leader = True
        self.in_flight = 0
        self.held = 0
        self.roles = {"n1": "voter", "n2": "voter", "n3": "voter"}
        self.statuses: dict[str, Any] = {name: self.status_of() for name in self.roles}
        self.unprepared: dict[str, str] = {}
        self.prepared: list[str] = []
        self.proposed: list[bytes] = []
        self.in_use: list[str] = []
        self.in_use_later: list[str] = []
        self.kept = False
        self.failed: list[Refusal] = []
        self.after_check: Callable[[], object] = lambda: None
        self.change = LevelChange(
            "n1",
            self,
            self,
            level=lambda: self.level,
            members=lambda: [MemberStatus(name, True, 0, role) for name, role in self.roles.items()],
            busy=lambda: self.busy,
            ask=self._ask,
            prepare=self._prepare,
            own=lambda: self.statuses["n1"],
            prepare_own=lambda abi: self._prepare(MemberStatus("n1", True, 0), abi),
            obstacles=self._obstacles,
        )

    @staticmethod
    def status_of(**changes: object) -> Any:
        defaults: dict[str, object] = {
            "software": "0.3.0", "levels": LEVELS, "level": "0.2.0", "level_abi": V0_2_0.abi, "ready": True, "applied_index": 10,
        }  # fmt: skip
        return SimpleNamespace(**{**defaults, **changes})

    async def _ask(self, member: MemberStatus) -> Any:
        defaults = self.statuses[member.node_id]
        if isinstance(defaults, Exception):
            raise defaults
        return defaults

    async def _prepare(self, member: MemberStatus, abi: str) -> None:
        assert abi == (OWN if self.level is V0_2_0 else V0_2_0).abi
        if member.node_id in self.unprepared:
            raise RequestFailed(FailCode.CONFLICT, self.unprepared[member.node_id])
        self.prepared.append(member.node_id)

    async def _obstacles(self, abi: str, *, keep: bool) -> list[str]:
        self.kept = keep
        assert abi == V0_2_0.abi
        return self.in_use

    def fail_queued(self, refusal: Refusal) -> None:
        assert self.held
        self.failed.append(refusal)

    def at_the_later_level(self) -> None:
        """Put all members at the level of this software."""
        self.level = OWN
        self.statuses = {name: self.status_of(level="0.3.0", level_abi=OWN.abi) for name in self.roles}

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
        check = isinstance(decode_level_entry(payload), CheckLevel)
        result = ProposeResult(index=11, value=list(self.in_use_later) if check else True)
        if check:
            self.after_check()
        asyncio.get_running_loop().call_soon(done, result)


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
    cluster.statuses["n3"] = ConnectionLost("no connection")


def too_old(cluster: Cluster) -> None:
    cluster.statuses["n2"] = cluster.status_of(software="0.2.0", levels=[], level="", level_abi="")


def behind(cluster: Cluster) -> None:
    cluster.statuses["n2"] = cluster.status_of(applied_index=4)


def elsewhere(cluster: Cluster) -> None:
    cluster.statuses["n2"] = cluster.status_of(level="0.3.0", level_abi=OWN.abi)


def learner(cluster: Cluster) -> None:
    cluster.roles["n3"] = "learner"


def membership(cluster: Cluster) -> None:
    cluster.raft.change_under_way = True


def differing(cluster: Cluster) -> None:
    cluster.raft.digests_differing = 1


def resealing(cluster: Cluster) -> None:
    cluster.busy = "API keys are being encrypted again: wait until that is done"


@pytest.mark.parametrize(
    ("make", "defaults"),
    [
        (down, "n3: does not answer (no connection): start it, or remove it"),
        (too_old, "n2: runs version 0.2.0, which cannot change to level 0.3.0: install 0.3.0 or later"),
        (behind, "n2: lags behind: it has applied entry 4 of 10"),
        (elsewhere, "n2: is at level 0.3.0 and not at 0.2.0"),
        (learner, "n3: is a learner that has not caught up yet"),
        (membership, "a change of the membership is under way"),
        (differing, "the states of nodes differ"),
        (resealing, "API keys are being encrypted again"),
    ],
)
async def test_the_problems_of_a_level_change_are_named_and_nothing_changes(
    cluster: Cluster, make: Callable[[Cluster], None], defaults: str
) -> None:
    make(cluster)
    report = await cluster.change.change("0.3.0", check=True)
    assert any(defaults in problem for problem in report.problems), report.problems
    with pytest.raises(RequestFailed) as refused:
        await cluster.change.change("0.3.0", check=False)
    assert refused.value.code is FailCode.CONFLICT
    assert defaults in refused.value.message
    assert not cluster.proposed
    assert not cluster.held


async def test_an_unknown_level_is_refused_and_the_present_one_changes_nothing(cluster: Cluster) -> None:
    with pytest.raises(RequestFailed, match=r"'0.9.0' is not a level .* expected one of 0.2.0, 0.3.0"):
        await cluster.change.change("0.9.0", check=False)
    assert (await cluster.change.change("0.2.0", check=False)).index == 0, "the level is in force already"
    assert not cluster.proposed


@pytest.mark.parametrize(
    ("at", "to", "earlier", "defaults"),
    [
        (OWN, "0.2.0", False, "0.2.0 is an earlier level than 0.3.0, which is in force: use quorumbook cluster downgrade"),
        (V0_2_0, "0.3.0", True, "0.3.0 is a later level than 0.2.0, which is in force: use quorumbook cluster upgrade"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
async def test_an_upgrade_never_goes_back_and_a_downgrade_never_forth(
    cluster: Cluster, at: Level, to: str, defaults: str, *, earlier: bool, check: bool
) -> None:
    if at is OWN:
        cluster.at_the_later_level()
    with pytest.raises(RequestFailed, match=defaults) as refused:
        await cluster.change.change(to, check=check, earlier=earlier)
    assert refused.value.code is FailCode.BAD_REQUEST
    assert not cluster.proposed
    assert not cluster.prepared


@pytest.mark.parametrize(
    ("make", "defaults"),
    [
        (down, "n3: does not answer (no connection): start it, or remove it"),
        (too_old, "n2: runs version 0.2.0, which cannot change to level 0.2.0: install 0.3.0 or later"),
        (behind, "n2: lags behind: it has applied entry 4 of 10"),
        (learner, "n3: is a learner that has not caught up yet"),
        (membership, "a change of the membership is under way"),
        (differing, "the states of nodes differ"),
        (resealing, "API keys are being encrypted again"),
    ],
)
async def test_a_return_is_refused_for_the_same_reasons(cluster: Cluster, make: Callable[[Cluster], None], defaults: str) -> None:
    cluster.at_the_later_level()
    make(cluster)
    for name, status in cluster.statuses.items():
        if hasattr(status, "level_abi") and status.levels:
            status.level, status.level_abi = "0.3.0", OWN.abi
            cluster.statuses[name] = status
    with pytest.raises(RequestFailed, match=re.escape(defaults)) as refused:
        await cluster.change.change("0.2.0", check=False, earlier=True)
    assert refused.value.code is FailCode.CONFLICT
    assert not cluster.proposed
    assert not cluster.held


async def test_the_leader_is_lost_while_a_member_converts_its_state(cluster: Cluster) -> None:
    """It does not delay commands until the member has applied the check."""
    cluster.at_the_later_level()

    def lag() -> None:
        cluster.raft.applied_index = 11
        asyncio.get_running_loop().call_later(0.05, setattr, cluster, "is_leader", False)

    cluster.after_check = lag
    async with asyncio.timeout(10):
        with pytest.raises(RequestFailed, match="leadership has changed: try again"):
            await cluster.change.change("0.2.0", check=False)
    assert not cluster.held
    assert not cluster.change.under_way


async def test_the_way_back_is_checked_by_all_before_the_entry(cluster: Cluster) -> None:
    cluster.at_the_later_level()
    report = await cluster.change.change("0.2.0", check=False)
    assert (report.old, report.to, report.problems) == ("0.3.0", "0.2.0", [])
    assert [decode_level_entry(payload) for payload in cluster.proposed] == [CheckLevel(OWN, V0_2_0), SetLevel(OWN, V0_2_0)]
    assert sorted(cluster.prepared) == ["n1", "n1", "n2", "n2", "n3", "n3"], "each prepared its state, and brought it up to date"
    assert cluster.kept
    assert cluster.failed == [Refusal.NOT_LEADER], "waiting commands are sent again, and checked at the new level"
    assert not cluster.held


async def test_features_in_use_are_named_before_any_command_waits(cluster: Cluster) -> None:
    cluster.at_the_later_level()
    cluster.in_use = ["table firm: 0.2.0 has no such table (1 row, the first is acme)"]
    report = await cluster.change.change("0.2.0", check=True)
    assert report.problems[0] == cluster.in_use[0]
    assert "quorumbook rollback --export" in report.problems[1]
    with pytest.raises(RequestFailed, match=r"the level stays 0\.3\.0: table firm.*quorumbook rollback --export"):
        await cluster.change.change("0.2.0", check=False)
    assert not cluster.proposed
    assert not cluster.prepared


def used(cluster: Cluster) -> None:
    cluster.in_use_later = ["table order: terms is in use"]


def member_lost(cluster: Cluster) -> None:
    cluster.after_check = lambda: cluster.statuses.update(n3=ConnectionLost("no connection"))


def lead_lost(cluster: Cluster) -> None:
    cluster.after_check = lambda: setattr(cluster, "is_leader", False)


def membership_changed(cluster: Cluster) -> None:
    cluster.after_check = lambda: setattr(cluster.raft, "members_index", 5)


@pytest.mark.parametrize(
    ("make", "defaults"),
    [
        (used, "table order: terms is in use"),
        (member_lost, "n3: does not answer"),
        (lead_lost, "leadership has changed"),
        (membership_changed, "the members have changed meanwhile: try again"),
    ],
)
async def test_the_entry_is_not_proposed_if_the_check_says_no_or_anything_changed(
    cluster: Cluster, make: Callable[[Cluster], None], defaults: str
) -> None:
    cluster.at_the_later_level()
    make(cluster)
    with pytest.raises(RequestFailed, match=f"nothing was changed: .*{defaults}"):
        await cluster.change.change("0.2.0", check=False)
    assert [decode_level_entry(payload) for payload in cluster.proposed] == [CheckLevel(OWN, V0_2_0)]
    assert not cluster.failed
    assert not cluster.held
    assert not cluster.change.under_way


async def test_a_state_that_cannot_be_converted_stops_it_before_the_entry(cluster: Cluster) -> None:
    cluster.unprepared["n2"] = "money is not conserved"
    with pytest.raises(RequestFailed, match=r"nothing was changed: n2: cannot convert its state: .*money is not conserved"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed


async def test_members_are_asked_again_until_all_are_ready_at_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One member prepares for a long time, and another could have been restarted meanwhile."""
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


async def test_members_that_are_never_ready_together_prevent_the_change(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level_change, "READY_SECONDS", 0.0)
    with pytest.raises(RequestFailed, match="not ready at the same time"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed


async def test_a_second_change_at_the_same_time_is_refused(cluster: Cluster) -> None:
    first = asyncio.create_task(cluster.change.change("0.3.0", check=False))
    await asyncio.sleep(0)
    with pytest.raises(RequestFailed, match="under way already"):
        await cluster.change.change("0.3.0", check=False)
    assert (await first).index == 11


@pytest.mark.parametrize("to", ["0.3.0", "0.2.0"])
@pytest.mark.parametrize("step", ["asked", "prepared", "checked", "set"])
async def test_a_command_that_was_killed_is_given_again_at_each_step(cluster: Cluster, to: str, step: str) -> None:
    """The leader continues without its client, so the second command is refused, and a later one finds the level in
    force.
    """
    if to == "0.2.0":
        cluster.at_the_later_level()
    reached, go_on = asyncio.Event(), asyncio.Event()
    ask, prepare, propose = cluster.change._ask, cluster.change._prepare, cluster.propose

    async def at(name: str) -> None:
        if name == step:
            reached.set()
            await go_on.wait()

    async def asked(member: MemberStatus) -> Any:
        await at("asked")
        return await ask(member)

    async def prepared(member: MemberStatus, abi: str) -> None:
        await at("prepared")
        await prepare(member, abi)

    def proposed(payload: bytes, done: Done) -> None:
        name = "checked" if isinstance(decode_level_entry(payload), CheckLevel) else "set"
        if name != step:
            propose(payload, done)
            return

        async def later() -> None:
            await at(name)
            propose(payload, done)

        tasks.append(asyncio.create_task(later()))

    tasks: list[asyncio.Task[None]] = []
    cluster.change._ask, cluster.change._prepare = asked, prepared
    cluster.propose = proposed  # type: ignore[method-assign]
    first = asyncio.create_task(cluster.change.change(to, check=False))
    async with asyncio.timeout(10):
        if (to, step) != ("0.3.0", "checked"):  # an upgrade has no check
            await reached.wait()
            with pytest.raises(RequestFailed, match="a change of the level is under way already"):
                await cluster.change.change(to, check=False)
            go_on.set()
        assert (await first).index == 11
    cluster.level = OWN if to == "0.3.0" else V0_2_0
    report = await cluster.change.change(to, check=False)
    assert (report.old, report.to, report.index) == (to, to, 0), "the level is in force already"
    assert not cluster.held


async def test_the_cluster_is_checked_again_after_the_members_are_ready(cluster: Cluster) -> None:
    async def prepare(_member: MemberStatus, _abi: str) -> None:
        cluster.raft.members_index = 5

    cluster.change._prepare = prepare
    with pytest.raises(RequestFailed, match="the members have changed meanwhile: try again"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed
    assert not cluster.held


async def test_too_many_commands_or_a_lost_leadership_prevent_the_change(cluster: Cluster) -> None:
    cluster.in_flight = 1
    with pytest.raises(RequestFailed, match="too much was under way"):
        await cluster.change.change("0.3.0", check=False)
    cluster.in_flight, cluster.is_leader = 0, False
    with pytest.raises(RequestFailed, match="leadership has changed"):
        await cluster.change.change("0.3.0", check=False)
    assert not cluster.proposed
    assert not cluster.held

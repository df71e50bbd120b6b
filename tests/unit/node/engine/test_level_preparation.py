"""The next level's state is prepared beside the node's work, and the entry that changes the level takes it over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.ports import CaptureState, LogEntry, SnapshotMark
from node.engine import level_preparation, replicated_engine
from node.engine.feed import Feed
from node.engine.level_preparation import Preparation
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.snapshot_port import SnapshotPort
from node.errors import RequestFailed
from snapshots.job import JobState, WriteJob
from snapshots.levels.level import OWN, SUPPORTED, V0_2_0, CheckLevel, Level, SetLevel, encode_level_entry
from snapshots.levels.lowering import lowered
from snapshots.levels.raising import raised
from snapshots.levels.states import empty, encoded, level_of
from snapshots.store import SnapshotStore
from statemachine.commands import Batch, PutFirm
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from tests.unit.snapshots.levels.markets import Market

CHANGE = encode_level_entry(SetLevel(V0_2_0, OWN))


class Node:
    """A node at level 0.2.0 that trades, with as much of Raft as a preparation needs."""

    def __init__(self, directory: Path) -> None:
        self.machine = ReplicatedEngine(Feed(100), empty(V0_2_0))
        store = SnapshotStore(directory, accepts=[level.abi for level in SUPPORTED])
        self.port = SnapshotPort(store, self.machine, software="test", now_ns=lambda: 7)
        self.market = Market(5)
        self.index, self.snapshot_index = 1, 0
        self.beside: list[Callable[[], None]] = []
        self.machine.beside = self.beside.append
        self.preparation = Preparation(self, self.machine, store, self.port)  # type: ignore[arg-type]  # as much of it as is used
        self.apply(1, self.market.foundations())
        self.trade(20)

    def apply(self, index: int, batch: Any) -> None:
        self.machine.apply(index, encoded(self.machine.level.abi, batch.time, batch.commands))

    def shadow(self) -> object:
        return self.machine.shadow

    def returning(self) -> object:
        return self.machine.returning

    def trade(self, count: int) -> None:
        for batch in self.market.batches(count):
            self.index += 1
            self.apply(self.index, batch)

    def status(self) -> Any:
        return SimpleNamespace(applied_index=self.index, snapshot_index=self.snapshot_index)

    def request_snapshot(self) -> None:
        if self.snapshot_index == self.index:
            return  # as Raft does
        last = LogEntry(b"\x00last", self.index, 1)
        self.port.capture(SnapshotMark(last, LogEntry(b"\x00before", self.index - 1, 1)))
        self._poll(self.index)

    def _poll(self, index: int) -> None:
        if (state := self.port.poll()) is CaptureState.RUNNING:
            asyncio.get_running_loop().call_later(0.01, self._poll, index)
            return
        if state is CaptureState.DONE:
            self.snapshot_index = index


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    yield node
    node.port.cancel()


async def trading_until(node: Node, task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(30):
        while not task.done():
            node.trade(1)
            await asyncio.sleep(0.001)


async def test_the_entry_uses_the_state_that_was_prepared_during_trading(node: Node) -> None:
    task = asyncio.create_task(node.preparation.prepare(OWN.abi))
    await trading_until(node, task)
    await task
    assert node.machine.is_prepared
    node.trade(30)
    before = node.machine.engine
    whole = raised(before, V0_2_0, OWN)
    released: list[object] = []
    node.machine.let_go = released.append
    assert node.machine.may_apply(CHANGE), "nothing has to be done first"
    assert not node.beside
    assert node.machine.apply(node.index + 1, CHANGE) is True
    assert released == [before]
    assert node.machine.level == OWN
    assert (node.machine.engine.state_hash, node.machine.engine.full_hash()) == (whole.state_hash, whole.full_hash())
    assert node.shadow() is None
    node.trade(10)
    await node.preparation.prepare(OWN.abi)  # the state is prepared already: nothing happens
    assert node.shadow() is None


@pytest.mark.parametrize("level", [V0_2_0, OWN])
async def test_a_disk_that_is_full_is_named_at_once_and_nothing_is_kept(
    node: Node, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formerly the request waited five minutes for a snapshot that was no longer being written."""
    if level is OWN:
        node.machine.replace(raised(node.machine.engine, V0_2_0, OWN))
    poll = WriteJob.poll

    def full(job: WriteJob) -> JobState:
        job.reason = "the snapshot's writer ended with 1: No space left on device"
        return JobState.FAILED if poll(job) is not JobState.RUNNING else JobState.RUNNING

    monkeypatch.setattr(WriteJob, "poll", full)
    to = V0_2_0 if level is OWN else OWN
    with pytest.raises(
        RequestFailed, match=r"its snapshot cannot be written: .*No space left on device: mend that, and try again"
    ):
        async with asyncio.timeout(10):
            await node.preparation.prepare(to.abi)
    assert node.shadow() is None
    node.trade(3)
    assert not node.machine.is_prepared


async def test_a_second_request_shares_the_first_and_a_third_finds_it_ready(node: Node) -> None:
    await asyncio.gather(node.preparation.prepare(OWN.abi), node.preparation.prepare(OWN.abi))
    shadow = node.machine.shadow
    await node.preparation.prepare(OWN.abi)
    assert node.machine.shadow is shadow


async def test_without_a_preparation_the_state_is_converted_beside_at_the_entry(node: Node) -> None:
    assert not node.machine.may_apply(CHANGE)
    (convert,) = node.beside
    convert()
    assert node.machine.may_apply(CHANGE)
    assert node.machine.apply(node.index + 1, CHANGE) is True


async def test_a_snapshot_of_the_leader_ends_a_preparation(node: Node) -> None:
    await node.preparation.prepare(OWN.abi)
    released: list[object] = []
    node.machine.let_go = released.append
    other = empty(V0_2_0)
    node.machine.replace(other)
    assert node.shadow() is None
    assert len(released) == 1
    assert not node.machine.is_prepared


async def test_a_snapshot_of_the_leader_during_a_preparation_is_reported(node: Node) -> None:
    task = asyncio.create_task(node.preparation.prepare(OWN.abi))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert node.shadow() is not None
    node.machine.replace(node.machine.engine)
    with pytest.raises(RequestFailed, match="a snapshot of the leader has replaced its state"):
        await task
    assert node.shadow() is None
    await node.preparation.prepare(OWN.abi)
    assert node.machine.is_prepared


async def test_a_state_that_cannot_be_kept_up_is_dropped_and_the_node_continues(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await node.preparation.prepare(OWN.abi)
    assert node.machine.shadow is not None

    def broken() -> None:
        raise KeyError("order 7")

    monkeypatch.setattr(node.machine.shadow, "follow", broken)
    node.trade(3)
    assert node.shadow() is None
    assert "cannot follow" in caplog.text
    assert not node.machine.may_apply(CHANGE), "it is converted at the entry"


async def test_a_state_that_differs_is_not_taken(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    await node.preparation.prepare(OWN.abi)
    whole = raised(node.machine.engine, V0_2_0, OWN)
    assert node.machine.shadow is not None
    assert node.machine.shadow._made is not None
    node.machine.shadow._made.patch().close_order(whole.book_page("BTC-USD", 1, (0, 0, 0), 1)[0][2])  # type: ignore[arg-type]
    assert node.machine.apply(node.index + 1, CHANGE) is True
    assert "cannot be used" in caplog.text
    assert node.machine.engine.full_hash() == whole.full_hash()


async def test_a_prepared_state_is_dropped_when_the_level_does_not_change(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_preparation, "KEEP_SECONDS", 0.01)
    await node.preparation.prepare(OWN.abi)
    async with asyncio.timeout(10):
        while node.machine.shadow is not None:  # noqa: ASYNC110  # a timer ends it
            await asyncio.sleep(0.005)
    changes = node.machine.engine.core_state.changes  # type: ignore[attr-defined]
    assert type(changes).__name__ == "Changes", "nothing is noted any more"
    node.trade(5)


async def test_an_unknown_level_is_refused(node: Node) -> None:
    with pytest.raises(RequestFailed, match="cannot run at the level"):
        await node.preparation.prepare("f" * 40)


class TestTheWayBack:
    """A node at the level of this software, whose state returns to the one before."""

    CHECK = encode_level_entry(CheckLevel(OWN, V0_2_0))
    BACK = encode_level_entry(SetLevel(OWN, V0_2_0))
    FIRM = Batch(10**15, [PutFirm(OPERATOR, "firm", "acme")])

    @pytest.fixture
    def raised_node(self, node: Node) -> Node:
        node.machine.beside = None
        node.machine.apply(node.index, CHANGE)
        assert node.machine.level is OWN
        node.machine.beside = node.beside.append
        node.market.repeats = False
        node.trade(10)
        return node

    async def test_the_check_converts_in_a_thread_and_the_entry_uses_the_result(self, raised_node: Node) -> None:
        machine, work = raised_node.machine, raised_node.beside
        before = machine.engine.state_hash
        assert not machine.may_apply(self.CHECK)
        work.pop()()
        assert machine.may_apply(self.CHECK)
        assert machine.apply(100, self.CHECK) == []
        assert machine.level is OWN, "a check changes nothing"
        assert machine.engine.state_hash == before
        assert machine.may_apply(self.BACK), "it is converted already"
        assert machine.apply(101, self.BACK) is True
        assert machine.level is V0_2_0
        assert not work
        machine.engine.check()
        raised_node.trade(10)

    async def test_an_entry_with_commands_drops_the_checked_state(self, raised_node: Node) -> None:
        machine, work = raised_node.machine, raised_node.beside
        let_go: list[Engine] = []
        machine.let_go = let_go.append
        machine.may_apply(self.CHECK)
        work.pop()()
        assert machine.apply(100, self.CHECK) == []
        raised_node.trade(1)
        assert [level_of(engine) for engine in let_go] == [V0_2_0]
        assert not machine.may_apply(self.BACK)
        work.pop()()
        assert machine.apply(102, self.BACK) is True
        machine.engine.check()

    async def test_every_node_answers_with_the_features_in_use_and_the_level_stays(self, raised_node: Node) -> None:
        machine = raised_node.machine
        machine.apply(99, encoded(OWN.abi, self.FIRM.time, self.FIRM.commands))
        machine.beside = None
        answer = machine.apply(100, self.CHECK)
        assert isinstance(answer, list)
        assert len(answer) == 1
        assert answer[0].startswith("table firm: 0.2.0 has no such table")
        assert machine.apply(101, self.CHECK) == answer
        assert machine.level is OWN
        with pytest.raises(RequestFailed, match="table firm"):
            await raised_node.preparation.prepare(V0_2_0.abi)
        assert await raised_node.preparation.obstacles(V0_2_0.abi, keep=False) == answer

    async def test_every_member_tries_it_on_a_snapshot(self, raised_node: Node) -> None:
        assert await raised_node.preparation.obstacles(V0_2_0.abi, keep=False) == []
        assert raised_node.snapshot_index == raised_node.index, "a snapshot before the change"
        assert raised_node.machine.level is OWN
        assert raised_node.returning() is None

    def check_and_return(self, node: Node) -> None:
        """Apply the two entries of a return, and check that the state is what a conversion of the whole state gives."""
        machine, work = node.machine, node.beside
        whole = lowered(machine.engine, V0_2_0)
        assert not machine.may_apply(self.CHECK)
        work.pop()()
        assert machine.may_apply(self.CHECK)
        assert machine.apply(node.index + 1, self.CHECK) == []
        assert node.returning() is None
        assert machine.apply(node.index + 2, self.BACK) is True
        assert (machine.engine.state_hash, machine.engine.full_hash()) == (whole.state_hash, whole.full_hash())
        machine.engine.check()
        node.trade(10)

    async def test_the_check_uses_the_state_that_was_prepared_during_trading(
        self, raised_node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await trading_until(raised_node, asyncio.create_task(raised_node.preparation.prepare(V0_2_0.abi)))
        prepared = raised_node.returning()
        raised_node.trade(5)
        await trading_until(raised_node, asyncio.create_task(raised_node.preparation.prepare(V0_2_0.abi)))
        assert raised_node.returning() is prepared, "it was brought up to date"
        raised_node.trade(5)
        monkeypatch.setattr(replicated_engine, "converted", None)  # nothing converts the whole state
        self.check_and_return(raised_node)

    async def test_a_snapshot_that_is_being_written_at_the_check_is_taken_over(
        self, raised_node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await raised_node.preparation.prepare(V0_2_0.abi)
        raised_node.trade(5)
        raised_node.request_snapshot()
        raised_node.trade(5)
        monkeypatch.setattr(replicated_engine, "converted", None)
        self.check_and_return(raised_node)

    async def test_an_unusable_prepared_state_is_replaced_by_a_conversion_of_the_whole_state(
        self, raised_node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        await raised_node.preparation.prepare(V0_2_0.abi)
        assert raised_node.machine.returning is not None
        raised_node.machine.returning.failure = "more changed than can be taken over"
        self.check_and_return(raised_node)
        assert "cannot be used" in caplog.text

    async def test_the_check_names_features_that_came_into_use_since_the_preparation(self, raised_node: Node) -> None:
        machine = raised_node.machine
        await raised_node.preparation.prepare(V0_2_0.abi)
        machine.apply(99, encoded(OWN.abi, self.FIRM.time, self.FIRM.commands))
        assert not machine.may_apply(self.CHECK)
        raised_node.beside.pop()()
        answer = machine.apply(100, self.CHECK)
        assert isinstance(answer, list)
        assert answer[0].startswith("table firm: 0.2.0 has no such table")
        assert machine.level is OWN
        assert raised_node.returning() is None
        raised_node.index = 100
        with pytest.raises(RequestFailed, match="table firm"):
            await raised_node.preparation.prepare(V0_2_0.abi)

    async def test_a_snapshot_of_the_leader_or_the_time_limit_ends_the_preparation(
        self, raised_node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = raised_node.machine
        await raised_node.preparation.prepare(V0_2_0.abi)
        released: list[object] = []
        machine.let_go = released.append
        machine.replace(machine.engine)
        assert raised_node.returning() is None
        assert len(released) == 1
        raised_node.trade(1)
        monkeypatch.setattr(level_preparation, "KEEP_SECONDS", 0.01)
        await raised_node.preparation.prepare(V0_2_0.abi)
        async with asyncio.timeout(10):
            while machine.returning is not None:  # noqa: ASYNC110  # a timer ends it
                await asyncio.sleep(0.005)
        assert len(released) == 2

    async def test_a_check_at_another_level_has_no_effect(self, node: Node) -> None:
        assert node.machine.may_apply(self.CHECK)
        answer = node.machine.apply(100, self.CHECK)
        assert answer == ["the level is 0.2.0, and 0.2.0 is not the one before"]
        assert node.machine.apply(101, self.BACK) is False

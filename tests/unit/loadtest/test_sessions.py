"""The sessions of all three protocols against the stub over real sockets, and the ledger of their answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path

import pytest

from loadtest.ground import prepare
from loadtest.market import set_up, traders
from loadtest.personalities import Personality, flow_of
from loadtest.traffic import stub, users
from loadtest.traffic.ledger import Ledger, OutcomeSummary
from loadtest.traffic.sessions import Cluster, HttpSession, NativeSession, SocketSession
from loadtest.traffic.users import Pace, Protocols, Sample, SampleKind, UserDesk
from node.client.native import reach
from node.records.audit import read_acknowledged
from statemachine.commands import PlaceOrder

PEOPLE = traders(3, 1)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Make a cluster whose only node is the stub."""
    ground = prepare(tmp_path / "cluster", nodes=1)
    listening = asyncio.Event()
    serving = asyncio.create_task(stub.serve(ground.directory, listening.set))
    async with asyncio.timeout(20):
        await listening.wait()
    made = Cluster(reach(ground.directory))
    try:
        await made.start()
        yield made
    finally:
        await made.close()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


def desk(cluster: Cluster, directory: Path | None = None) -> tuple[UserDesk, list[Sample]]:
    samples: list[Sample] = []
    return UserDesk(cluster, PEOPLE, 1, "run", Pace(0.0), Ledger(directory), samples.append), samples


@pytest.mark.parametrize("protocol", [HttpSession, SocketSession, NativeSession])
async def test_a_session_sends_every_kind_of_command_and_checks_the_answers(cluster: Cluster, protocol: Protocols) -> None:
    session = protocol(cluster, PEOPLE[0])
    try:
        for command in islice(flow_of(Personality.MIXED, 1, PEOPLE[0].account_id, "r"), 300):
            reply = await session.send(command)
            assert reply.fault == ""
            assert reply.answered
            if isinstance(command, PlaceOrder):
                assert reply.outcome is not None
                assert reply.outcome.kind == "placed"
                assert reply.outcome.order_id == stub.order_number_of(command.client_oid)
        seen = await session.look()
        assert seen is None or seen.fault == ""
    finally:
        await session.close()


@pytest.mark.parametrize("protocol", [HttpSession, SocketSession, NativeSession])
@pytest.mark.parametrize("pace", [Pace(0.0), Pace(0.0, 400.0)], ids=["closed", "open"])
async def test_users_report_their_requests(cluster: Cluster, protocol: Protocols, pace: Pace, tmp_path: Path) -> None:
    await set_up(cluster.operator, PEOPLE)
    shared, samples = desk(cluster, tmp_path / "results")
    shared.pace = pace
    stopping = asyncio.Event()

    def report(sample: Sample) -> None:
        samples.append(sample)
        if len(samples) == 100:
            stopping.set()

    shared.report = report
    async with asyncio.timeout(30):
        await users.trade(shared, protocol, 5, stopping)
    assert len(samples) >= 100
    assert not [sample.fault for sample in samples if sample.fault]
    assert {sample.protocol for sample in samples} == {protocol.protocol}
    assert (SampleKind.READ in {sample.kind for sample in samples}) == (protocol is not SocketSession)
    assert await shared.ledger.lost(cluster.operator) == []
    shared.ledger.close()
    (path,) = (tmp_path / "results").glob("acknowledged-*.jsonl")
    assert {line.kind for line in read_acknowledged(path)} <= {"placed", "rejected", "cancelled"}


async def test_a_recording_is_sent_in_its_order_and_ends(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "ops.csv"
    path.write_text("op,id,side,price,size,flag\nseed,a,buy,100.00,5,\nnew,b,sell,101.00,5,\ncancel,a,,,,\n")
    shared, samples = desk(cluster)
    async with asyncio.timeout(20):
        await users.replay(shared, path, asyncio.Event())
    assert [(sample.name, sample.fault) for sample in samples] == [("recorded day", "")]


async def test_a_dead_node_is_a_failure_after_the_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.traffic.sessions.PATIENCE_S", 0.3)
    ground = prepare(tmp_path / "cluster", nodes=1)
    nobody = Cluster(reach(ground.directory))
    nobody.urls = ["http://127.0.0.1:9"]
    try:
        for protocol in (HttpSession, SocketSession, NativeSession):
            session = protocol(nobody, PEOPLE[0])
            reply = await session.send(next(flow_of(Personality.MAKER, 1, PEOPLE[0].account_id, "r")))
            await session.close()
            assert reply.fault, protocol
            assert not reply.answered
    finally:
        await nobody.close()


def test_the_ledger_finds_an_order_with_two_ids(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (order,) = islice(flow_of(Personality.MAKER, 1, "alice", "r"), 1)
    assert ledger.answered(order, OutcomeSummary("placed", 5, 7), 0.0, 1.0) == ""
    assert ledger.answered(order, OutcomeSummary("placed", 5, 7), 2.0, 3.0) == ""
    assert "order 8, and 7 before" in ledger.answered(order, OutcomeSummary("placed", 6, 8), 4.0, 5.0)
    ledger.unanswered(order, 6.0)
    ledger.close()
    (path,) = tmp_path.iterdir()
    assert [line.kind for line in read_acknowledged(path)] == ["placed", "placed", "placed", "unanswered"]


async def test_http_traders_follow_the_leader(cluster: Cluster) -> None:
    """A trader that began at a dead node sends every request to the leader, from the first one on."""
    leader, dead = cluster.leader_url, "http://127.0.0.1:9"
    cluster.urls, cluster.leader_url = [dead], dead
    session = HttpSession(cluster, PEOPLE[0])
    cluster.leader_url = leader
    try:
        async with asyncio.timeout(5):
            reply = await session.send(next(flow_of(Personality.MAKER, 1, PEOPLE[0].account_id, "r")))
        assert reply.fault == ""
    finally:
        await session.close()

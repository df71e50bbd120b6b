"""The cluster client: a failover is a pause, every leader gets the same commands, and none is applied twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.membership import Membership
from node.errors import OtherVersionError
from node.native import client as client_module
from node.native.client import ClusterClient, ConnectionLost, NativeConnection, RequestFailed
from node.native.protocol import (
    BalancesQuery,
    BookQuery,
    ControlAction,
    FailCode,
    NodeStatus,
    OrderQuery,
    ProductsQuery,
    StatusQuery,
)
from statemachine.commands import AnyCommand
from statemachine.events import AnyEvent, Placed, Transferred
from tests.unit.node.fakes import WORLD, FakeNode, addresses, buy, config_of, member, running, sell
from tests.unit.node.native.test_connection import WELCOME, saying
from tests.waiting import until


@contextlib.asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[dict[str, FakeNode]]:
    """Make three nodes of which n1 leads. Each has a consensus of its own, and `follow` keeps their states equal."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = {}
        for node_id in ("n1", "n2", "n3"):
            node = await stack.enter_async_context(running(config_of(directory / node_id, node_id), leader=node_id == "n1"))
            node.raft.leader_id = "n1"
            nodes[node_id] = node
        yield nodes


def replicate(source: FakeNode, *targets: FakeNode) -> None:
    """Bring other nodes up to the source's log."""
    for target in targets:
        for payload in source.raft.entries[len(target.raft.entries) :]:
            target.raft.entries.append(payload)
            target.raft.index += 1
            target.machine.apply(target.raft.index, payload)


def elect(nodes: dict[str, FakeNode], leader_id: str) -> None:
    for node in nodes.values():
        if node.raft.is_leader and node.config.node_id != leader_id:
            node.raft.lose_leadership(leader_id)
        node.raft.leader_id = leader_id


@contextlib.asynccontextmanager
async def client_of(nodes: dict[str, FakeNode], deadline: float = 8.0) -> AsyncIterator[ClusterClient]:
    client = ClusterClient(addresses(nodes), deadline=deadline, client="test")
    try:
        yield client
    finally:
        await client.close()


class TestSubmitting:
    async def test_commands_reach_the_leader_wherever_it_is(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            elect(nodes, "n3")
            outcomes = await client.submit(WORLD)
            assert isinstance(outcomes[-1], Transferred)
            assert nodes["n3"].machine.engine.sequence == len(WORLD)
            assert client.leader_id == "n3"
            assert nodes["n1"].service.refused["not_leader"] == 1, "the hint led straight to the leader"
            assert nodes["n2"].service.refused["not_leader"] == 0

    async def test_a_dead_leader_is_left_for_the_next_one(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit(WORLD)
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            await nodes["n1"].stop()
            sending = asyncio.create_task(client.submit([buy(1)]))
            await until(lambda: nodes["n2"].service.refused["not_leader"] > 2)
            elect(nodes, "n2")
            (outcome,) = await sending
            assert isinstance(outcome, Placed)
            assert not outcome.duplicate

    async def test_a_command_applied_before_the_leader_failed_is_not_applied_again(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit(WORLD)
            nodes["n1"].raft.hold = True
            sending = asyncio.create_task(client.submit([buy(1)]))
            await until(lambda: nodes["n1"].raft.under_way == 1)
            payload = nodes["n1"].raft._under_way[0][0]
            replicate(nodes["n1"], nodes["n2"])
            nodes["n2"].machine.apply(2, payload)
            elect(nodes, "n2")
            (outcome,) = await sending
            assert isinstance(outcome, Placed)
            assert outcome.duplicate
            assert len(nodes["n2"].machine.engine.book_orders("BTC-USD", buy(1).side)) == 1

    async def test_many_tasks_share_the_way_to_the_new_leader(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit(WORLD)
            nodes["n1"].raft.hold = True
            sending = [asyncio.create_task(client.submit([buy(number)])) for number in range(50)]
            await until(lambda: nodes["n1"].raft.under_way > 0)
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            await nodes["n1"].stop()
            elect(nodes, "n3")
            outcomes = await asyncio.gather(*sending)
            assert sorted(o.order.client_oid for (o,) in outcomes if isinstance(o, Placed)) == sorted(map(str, range(50)))
            assert nodes["n3"].server.sessions == 1

    async def test_a_client_without_a_leader_gives_up_at_the_deadline(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes, deadline=0.3) as client:
            for node in nodes.values():
                node.raft.leader_id = ""
            with pytest.raises(RequestFailed, match="it was not applied") as caught:
                await client.submit(WORLD)
            assert caught.value.code is FailCode.NO_LEADER

    async def test_a_command_without_an_answer_has_an_unknown_outcome_at_the_deadline(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            nodes["n1"].raft.hold = True
            with pytest.raises(RequestFailed, match="it may have been applied") as caught:
                await client.submit(WORLD, deadline=0.2)
            assert caught.value.code is FailCode.OUTCOME_UNKNOWN

    async def test_an_unreachable_cluster_has_certainly_not_applied_it(self, tmp_path: Path) -> None:
        client = ClusterClient({"n1": f"unix:{tmp_path / 'nobody.sock'}"}, deadline=0.1)
        with pytest.raises(RequestFailed) as caught:
            await client.submit(WORLD)
        assert caught.value.code is FailCode.NO_LEADER
        await client.close()

    async def test_the_clients_own_faults_are_not_tried_again(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            with pytest.raises(RequestFailed) as caught:
                await client.submit([buy(number) for number in range(1_001)])
            assert caught.value.code is FailCode.BAD_REQUEST

    async def test_a_closed_client_raises(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes:
            client = ClusterClient(addresses(nodes), deadline=0.1)
            await client.close()
            with pytest.raises(ConnectionLost, match="closed"):
                await client.connection("n1")

    async def test_a_node_that_answers_nothing_is_cut_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client_module, "PING_INTERVAL", 0.05)
        monkeypatch.setattr(client_module, "PING_TIMEOUT", 0.1)
        async with cluster(tmp_path) as nodes, saying(tmp_path / "mute", WELCOME) as address:
            elect(nodes, "n2")
            client = ClusterClient({"n1": address, **addresses({"n2": nodes["n2"]})})
            outcomes = await client.submit(WORLD)
            assert len(outcomes) == len(WORLD)
            await client.close()


class TestReading:
    async def test_a_read_is_local_or_linearizable(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit([*WORLD, buy(1)])
            assert [product.product_id for product in await client.query(ProductsQuery())] == ["BTC-USD"]
            assert (await client.query(BookQuery("BTC-USD", 3), True)).bid_orders[0].price == 100
            assert (await client.query(OrderQuery("alice", 0, "1"), linearizable=True)).order_id == 1
            with pytest.raises(RequestFailed) as caught:
                await client.query(BalancesQuery("nobody"))
            assert caught.value.code is FailCode.NOT_FOUND

    async def test_a_linearizable_read_follows_the_leader(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            elect(nodes, "n2")
            assert (await client.query(StatusQuery(), linearizable=True)).node_id == "n2"

    async def test_the_status_of_one_node_can_be_read(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            status = await (await client.connection("n3")).query(StatusQuery())
            assert (status.node_id, status.role, status.leader_id) == ("n3", "follower", "n1")
            assert status.leader is not None
            assert status.leader.http == "http://127.0.0.1:7201"

    async def test_one_node_can_be_controlled(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            assert await client.control(ControlAction.SNAPSHOT, "n2")
            assert nodes["n2"].raft.snapshots_wanted == 1
            nodes["n1"].raft.successor = "n3"
            assert await client.control(ControlAction.TRANSFER_LEADERSHIP)
            assert nodes["n1"].raft.leader_id == "n3"


async def read(client: ClusterClient, from_sequence: int, enough: Callable[[list[AnyEvent]], bool]) -> list[AnyEvent]:
    seen: list[AnyEvent] = []
    async with asyncio.timeout(10), contextlib.aclosing(client.events("BTC-USD", from_sequence)) as stream:
        async for events in stream:
            seen += events
            if enough(seen):
                break
    return seen


class TestEvents:
    async def test_kept_events_come_before_live_ones(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit([*WORLD, buy(1), buy(2)])
            reading = asyncio.create_task(read(client, 2, lambda seen: len(seen) >= 8))
            await until(lambda: nodes["n1"].server.sessions == 2)
            await client.submit([sell(1)])
            assert [event.product_sequence for event in await reading] == [2, 3, 4, 5, 6, 7, 8, 9]

    async def test_a_reader_continues_at_another_node_without_gap_or_repetition(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit(WORLD)
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            reading = asyncio.create_task(read(client, 1, lambda seen: len(seen) >= 61))
            for number in range(10):
                await client.submit([buy(number)])
            replicate(nodes["n1"], nodes["n3"])
            for number in range(10, 15):
                await client.submit([buy(number)])
            await until(lambda: nodes["n1"].server.sessions == 2)
            await nodes["n1"].stop()
            # n2 has nothing yet and n3 a part: the reader may be ahead of both.
            elect(nodes, "n2")
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            for number in range(15, 30):
                await client.submit([buy(number)])
                replicate(nodes["n2"], nodes["n3"])
            assert [event.product_sequence for event in await reading] == list(range(1, 62))

    async def test_a_sequence_that_no_node_keeps_is_refused(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit(WORLD)
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            for node in nodes.values():
                node.feed.restart({"BTC-USD": 50})
            with pytest.raises(RequestFailed) as caught:
                await read(client, 7, bool)
            assert caught.value.code is FailCode.TOO_OLD

    async def test_a_sequence_that_one_node_keeps_is_found_there(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit([*WORLD, buy(1), buy(2)])
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            for node_id in ("n1", "n2"):
                nodes[node_id].feed.restart({"BTC-USD": 5})
            seen = await read(client, 1, lambda seen: len(seen) >= 5)
            assert [event.product_sequence for event in seen] == [1, 2, 3, 4, 5]

    async def test_a_node_that_jumps_ahead_is_left(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit([*WORLD, buy(1)])
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            reading = asyncio.create_task(read(client, 1, lambda seen: len(seen) >= 7))
            await until(lambda: nodes["n1"].server.sessions == 2)
            for number in (2, 3):
                nodes["n2"].raft.leader_id = "n2"
                nodes["n2"].raft.propose(_batch([buy(number)]), lambda _result: None)
                nodes["n2"].raft.tick()
            nodes["n1"].feed.restart({"BTC-USD": 7})
            assert [event.product_sequence for event in await reading] == [1, 2, 3, 4, 5, 6, 7]

    async def test_a_node_that_was_cut_off_from_the_others_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("node.native.feed_reader.IDLE_CHECK", 0.05)
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit([*WORLD, buy(1)])
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            reading = asyncio.create_task(read(client, 1, lambda seen: len(seen) >= 5))
            await until(lambda: nodes["n1"].server.sessions == 2)
            elect(nodes, "n2")
            nodes["n1"].raft.leader_id = ""
            await until(lambda: nodes["n2"].server.sessions + nodes["n3"].server.sessions > 0)
            await client.submit([buy(2)])
            replicate(nodes["n2"], nodes["n3"])
            assert [event.product_sequence for event in await reading] == [1, 2, 3, 4, 5]

    async def test_an_unknown_product_is_refused(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            with pytest.raises(RequestFailed) as caught:
                await read(client, 1, bool)
            assert caught.value.code is FailCode.NOT_FOUND

    async def test_a_consumer_that_takes_its_time_holds_the_stream_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("node.native.feed_reader.PENDING_MAX", 10)
        monkeypatch.setattr(client_module, "PING_INTERVAL", 0.01)
        monkeypatch.setattr(client_module, "PING_TIMEOUT", 0.05)
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            opened: list[str] = []
            open_node = client._open

            async def counted(node_id: str) -> NativeConnection:
                opened.append(node_id)
                return await open_node(node_id)

            pings: list[bool] = []
            answers = client_module._answers

            async def ping(connection: NativeConnection, learn: Callable[[NodeStatus], None]) -> bool:
                pings.append(True)
                return await answers(connection, learn)

            monkeypatch.setattr(client_module, "_answers", ping)
            monkeypatch.setattr(client, "_open", counted)
            await client.submit(WORLD)
            sequences: list[int] = []
            async with asyncio.timeout(20), contextlib.aclosing(client.events("BTC-USD", 1)) as stream:
                for number in range(20):
                    await client.submit([buy(number)])
                sequences += [event.product_sequence for event in await anext(stream)]
                for number in range(20, 300):
                    await client.submit([buy(number)])
                enough = len(pings) + 15
                await until(lambda: len(pings) >= enough)
                async for events in stream:
                    sequences += [event.product_sequence for event in events]
                    if len(sequences) >= 601:
                        break
            assert sequences == list(range(1, 602))
            assert opened == ["n1", "n1"], "a reader that is held back is not taken for one that has lost its node"


def _batch(commands: list[AnyCommand]) -> bytes:
    from statemachine.commands import Batch, encode_batch

    return encode_batch(Batch(0, commands))


class TestMembers:
    """What the client learns of nodes that join and leave."""

    async def test_a_node_that_joined_is_known_when_the_others_are_gone(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of({"n1": nodes["n1"]}) as client:
            places = {name: msgspec.structs.replace(member(name), native=node.address) for name, node in nodes.items()}
            nodes["n1"].raft.membership = Membership(tuple(places.values()))
            await client.submit(WORLD)
            await until(lambda: set(client._order) == {"n1", "n2", "n3"})
            replicate(nodes["n1"], nodes["n2"], nodes["n3"])
            elect(nodes, "n3")
            await nodes["n1"].stop()
            stream = client.events("BTC-USD", 1)
            (outcome,) = await client.submit([buy(1)])
            assert isinstance(outcome, Placed)
            replicate(nodes["n3"], nodes["n2"])
            async with asyncio.timeout(10), contextlib.aclosing(stream):
                assert (await anext(stream))[0].product_sequence == 1

    async def test_a_node_that_was_removed_is_not_tried_again(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            await client.submit(WORLD)
            nodes["n1"].raft.membership = Membership((member("n1"), member("n3")))
            await until(lambda: client._order == ["n1", "n3"])
            assert client._addresses["n3"] == nodes["n3"].address, "the address that was given stays"

    async def test_a_client_forgets_a_member_only_by_the_status_of_a_ready_node(self, tmp_path: Path) -> None:
        async with cluster(tmp_path) as nodes, client_of(nodes) as client:
            status = nodes["n1"].service.status()
            members = [each for each in status.members if each.node_id != "n2"]
            client._learn(msgspec.structs.replace(status, members=members, ready=False))
            assert client._order == ["n1", "n2", "n3"]
            client._learn(msgspec.structs.replace(status, members=members, ready=True))
            assert client._order == ["n1", "n3"]


async def test_a_leader_that_has_no_levels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0.2.0 answered that the request was unreadable."""
    opened = NativeConnection.open

    async def open_former(address: str, **options: Any) -> NativeConnection:
        connection = await opened(address, **options)
        connection.welcome = msgspec.structs.replace(connection.welcome, software="0.2.0 (commit abc)", levels=[])
        return connection

    monkeypatch.setattr(NativeConnection, "open", open_former)
    async with cluster(tmp_path) as nodes, client_of(nodes) as client:
        elect(nodes, "n2")
        with pytest.raises(RequestFailed, match=r"n2: leads, and runs version 0\.2\.0, which cannot change the level: install"):
            await client.change_level("0.3.0", check=True)


async def test_nothing_is_sent_to_a_leader_of_another_version(tmp_path: Path) -> None:
    """Formerly it answered 400 to valid orders, because it could not decode what it does not know."""
    async with cluster(tmp_path) as nodes:
        client = ClusterClient(addresses(nodes), deadline=5.0, abi="another")
        before = {node_id: node.machine.engine.sequence for node_id, node in nodes.items()}
        with pytest.raises(OtherVersionError, match=r"NO_LEADER: n1 runs another version \(test, ABI abi; .* leads: nothing"):
            await client.submit(WORLD)
        assert {node_id: node.machine.engine.sequence for node_id, node in nodes.items()} == before
        await client.close()

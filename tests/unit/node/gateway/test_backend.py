"""The gateway over real native servers: failovers in progress, an engine that restarts, readers that catch up, and the
process itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from node.config.file import load
from node.deployment import setup
from node.engine.native_server import NativeServer
from node.engine.service import Send
from node.errors import RequestFailed
from node.gateway import backend as backend_module
from node.gateway import feeds
from node.gateway.backend import NodeBackend
from node.gateway.errors import UnavailableError
from node.gateway.gateway import STATUS_AGE_MAX, Gateway, build
from node.keys.credentials import Credentials
from node.native.client import ClusterClient, NativeConnection
from node.native.protocol import Events, FailCode, Failed, NodeStatus, StatusQuery, Submit
from statemachine.commands import Batch, PutApiKey, encode_batch
from statemachine.events import AnyEvent
from statemachine.limits import OPERATOR
from tests.ports import free_port
from tests.unit.node.fakes import WORLD, FakeNode, addresses, buy, config_of, running, sell
from tests.unit.node.gateway.harness import SECRET, STOP_TIMEOUT, Client, headers, receive, served
from tests.waiting import until

ALICE = Credentials("alice-key", SECRET, "p")
KEY = PutApiKey(OPERATOR, "key", "alice-key", "alice", SECRET, "p", 7)
ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "1", "size": "2", "client_oid": "once"}


def replicate(source: FakeNode, target: FakeNode) -> None:
    """Bring a node up to the source's log."""
    for payload in source.raft.entries[len(target.raft.entries) :]:
        target.raft.entries.append(payload)
        target.raft.index += 1
        target.machine.apply(target.raft.index, payload)


@dataclass
class World:
    """Two nodes, n1 leading, and a gateway of n1."""

    nodes: dict[str, FakeNode]
    backend: NodeBackend
    gateway: Gateway
    client: Client

    async def place(self, body: Mapping[str, object]) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        signed = headers(ALICE, "POST", "/orders", data)
        async with self.client.post("/orders", data=data, headers=signed, allow_redirects=False) as response:
            return response.status, json.loads(await response.read())


@contextlib.asynccontextmanager
async def world(directory: Path, deadline: float = 5.0, *, redirect: bool = False) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        nodes = {}
        for node_id in ("n1", "n2"):
            node = await stack.enter_async_context(running(config_of(directory / node_id, node_id), leader=node_id == "n1"))
            node.raft.leader_id = "n1"
            nodes[node_id] = node
        config = nodes["n1"].config
        cluster = ClusterClient(addresses(nodes), deadline=deadline)
        backend = NodeBackend(str(config.engine_socket), cluster, deadline, redirect=redirect)
        gateway = build(config, backend)
        client = await stack.enter_async_context(served(gateway))
        await backend.submit([*WORLD, KEY])
        replicate(nodes["n1"], nodes["n2"])
        yield World(nodes, backend, gateway, client)


async def placed_over_a_failover(w: World, body: Any, *, applied: bool) -> tuple[int, Any]:
    """n1 writes an order to its log and fails, and n2 leads next. With `applied` it has the entry. Returns status and
    order.
    """
    one, two = w.nodes["n1"], w.nodes["n2"]
    one.raft.hold = True
    answer = asyncio.create_task(w.place(body))
    await until(lambda: one.raft.under_way > 0)
    payloads = [payload for payload, _ in one.raft._under_way]
    one.raft.lose_leadership("n2")
    if applied:
        two.raft.entries += payloads
        two.raft.index += 1
        two.machine.apply(two.raft.index, payloads[0])
    two.raft.lead()
    found = await answer
    assert len(two.machine.engine.orders("alice")) == 1
    return found


@pytest.mark.parametrize("applied", [True, False])
async def test_a_failover_during_a_command_is_a_pause_and_the_command_applies_once(tmp_path: Path, applied: bool) -> None:
    async with world(tmp_path) as w:
        status, order = await placed_over_a_failover(w, ORDER, applied=applied)
        assert (status, order["client_oid"]) == (200, "once")


@pytest.mark.parametrize("applied", [True, False])
async def test_an_order_that_only_its_signature_names_is_applied_once_too(tmp_path: Path, applied: bool) -> None:
    unnamed = {name: value for name, value in ORDER.items() if name != "client_oid"}
    async with world(tmp_path) as w:
        status, order = await placed_over_a_failover(w, unnamed, applied=applied)
        assert (status, order["size"]) == (200, "2")


async def test_while_the_engine_is_away_the_leader_is_asked_for_keys_and_nothing_is_kept(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        one, two = w.nodes["n1"], w.nodes["n2"]
        await w.place(ORDER)
        one.raft.lose_leadership("n2")
        two.raft.lead()
        await one.server.stop()
        assert (await w.place(ORDER | {"client_oid": "two"}))[0] == 200
        operator = await w.backend._cluster.connection("n2")
        await operator.submit([msgspec.structs.replace(KEY, command_id="gone", permissions=0)])
        status, answer = await w.place(ORDER | {"client_oid": "three"})
        assert (status, answer["message"]) == (401, "invalid signature")


async def test_a_revoked_key_sends_no_commands_over_a_node_that_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        one, two = w.nodes["n1"], w.nodes["n2"]
        assert (await w.place(ORDER))[0] == 200
        replicate(one, two)
        one.raft.lose_leadership("n2")
        two.raft.lead()
        status = one.raft.status
        monkeypatch.setattr(one.raft, "status", lambda: msgspec.structs.replace(status(), quorum=False))
        await w.gateway.monitor.poll()
        assert (await w.place(ORDER | {"client_oid": "two"}))[0] == 200
        leader = await w.backend._cluster.connection("n2")
        await leader.submit([msgspec.structs.replace(KEY, command_id="gone", permissions=0)])
        found, answer = await w.place(ORDER | {"client_oid": "three"})
        assert (found, answer["message"]) == (401, "invalid signature")


async def test_a_follower_sends_the_operators_commands_on(tmp_path: Path) -> None:
    """Formerly it answered 307 while it was one entry behind, although `http.followers` was "forward"."""
    async with world(tmp_path) as w:
        one, two = w.nodes["n1"], w.nodes["n2"]
        one.raft.lose_leadership("n2")
        two.raft.lead()
        await w.gateway.monitor.poll()
        admin, target = w.gateway.config.admin, "/admin/accounts/new"
        signed = headers(Credentials(admin.key_id, admin.secret, admin.passphrase), "PUT", target, b"{}")

        async def put() -> int:
            async with w.client.request("PUT", target, data=b"{}", headers=signed, allow_redirects=False) as response:
                return response.status

        answer = asyncio.create_task(put())
        await until(lambda: answer.done() or two.machine.engine.account_exists("new"))
        replicate(two, one)
        assert await answer == 200


async def test_a_key_revoked_while_the_engine_was_down_is_refused_when_it_is_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        one = w.nodes["n1"]
        assert (await w.place(ORDER))[0] == 200
        await one.server.stop()
        one.machine.apply(
            one.raft.index + 1, encode_batch(Batch(1, [msgspec.structs.replace(KEY, command_id="gone", permissions=0)]))
        )
        one.server = NativeServer(one.service, lambda _channel: None)
        await one.start()
        status, answer = await w.place(ORDER | {"client_oid": "two"})
        assert (status, answer["message"]) == (401, "invalid signature")


async def test_a_gateway_that_stops_answers_requests_in_progress(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        one = w.nodes["n1"]
        one.raft.hold = True
        answer = asyncio.create_task(w.place(ORDER))
        await until(lambda: one.raft.under_way > 0)
        stopping = asyncio.create_task(w.client.app.stop(STOP_TIMEOUT))
        done, _ = await asyncio.wait([stopping, answer], timeout=0.5)
        assert not done, "the stop waits for the request, and the request for its outcome"
        assert one.raft.under_way == 1, "it did not have to be sent again"
        one.raft.hold = False
        one.raft.tick()
        assert (await answer)[0] == 200
        await stopping


async def test_a_follower_sends_commands_on_and_answers_when_it_has_applied_them(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        one, two = w.nodes["n1"], w.nodes["n2"]
        one.raft.lose_leadership("n2")
        two.raft.lead()
        answer = asyncio.create_task(w.place(ORDER))
        await until(lambda: len(two.machine.engine.orders("alice")) == 1)
        assert not (await asyncio.wait([answer], timeout=0.05))[0], "this node has not applied it"
        replicate(two, one)
        assert (await answer)[0] == 200


@pytest.mark.parametrize(
    ("code", "text"), [(FailCode.OVERLOADED, "queue is full"), (FailCode.RATE_LIMITED, "rate limit exceeded")]
)
async def test_a_follower_says_at_once_that_the_leader_has_too_much_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: FailCode, text: str
) -> None:
    """Formerly it answered 503 after the whole deadline, while the leader's own gateway answers 429."""

    def refuse(_principal: object, request: Submit, _size: int, send: Send) -> None:
        send(Failed(request.request_id, code, "too much"))

    async with world(tmp_path, 60.0) as w:
        one, two = w.nodes["n1"], w.nodes["n2"]
        one.raft.lose_leadership("n2")
        two.raft.lead()
        monkeypatch.setattr(two.service, "submit", refuse)
        async with asyncio.timeout(30):
            status, answer = await w.place(ORDER)
        assert status == 429
        assert text in answer["message"]


async def test_a_list_of_orders_beyond_the_share_of_its_account_is_429(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        signed = headers(ALICE, "GET", "/orders")
        async with w.client.get("/orders", headers=signed) as response:
            assert response.status == 200
        w.nodes["n1"].service.account_rates.spend("alice", 1e6)
        async with w.client.get("/orders", headers=headers(ALICE, "GET", "/orders")) as response:
            assert (response.status, (await response.json())["reason"]) == (429, "rate_limit")


async def test_a_follower_redirects_and_serves_its_own_state(tmp_path: Path) -> None:
    async with world(tmp_path, redirect=True) as w:
        w.nodes["n1"].raft.lose_leadership("n2")
        status, answer = await w.place(ORDER)
        assert (status, answer["leader_id"]) == (307, "n2")
        await until(lambda: w.gateway.monitor.age() > STATUS_AGE_MAX)
        async with w.client.get("/products/BTC-USD/book") as response:
            assert response.status == 200
            assert response.headers["x-quorumbook-role"] == "follower"
        async with w.client.get("/products/BTC-USD/book?consistency=linearizable", allow_redirects=False) as response:
            assert response.status == 307


async def test_no_leader_until_the_deadline_is_503_and_an_order_in_progress_504(tmp_path: Path) -> None:
    async with world(tmp_path, deadline=0.3) as w:
        one, two = w.nodes["n1"], w.nodes["n2"]
        two.raft.leader_id = ""
        one.raft.lose_leadership("")
        status, answer = await w.place(ORDER)
        assert (status, answer["reason"]) == (503, "no_leader")
        one.raft.lead()
        one.raft.hold = True
        asking = asyncio.create_task(w.place(ORDER))
        await until(lambda: one.raft.under_way > 0)
        one.raft.lose_leadership("")
        status, answer = await asking
        assert (status, answer["reason"]) == (504, "outcome_unknown")
        assert two.machine.engine.orders("alice") == []


async def test_the_socket_of_an_engine_that_restarts_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RETRY_MIN", 0.01)
    async with world(tmp_path) as w, w.client.ws_connect("/") as reader:
        one = w.nodes["n1"]
        await reader.send_json({"type": "subscribe", "product_ids": ["BTC-USD"]})
        assert (await receive(reader))["type"] == "subscriptions"
        await w.backend.submit([buy(1)])
        await one.server.stop()
        one.server = NativeServer(one.service, lambda _channel: None)
        await one.start()
        assert isinstance(await w.backend.query(StatusQuery()), NodeStatus)
        await w.backend.submit([buy(2)])
        assert [(await receive(reader))["sequence"] for _ in range(4)] == [2, 3, 4, 5]


async def test_replays_give_all_kept_events_and_continue(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.backend.submit([sell(1), buy(2), buy(3)])
        seen: list[AnyEvent] = []
        async with w.backend.replay("BTC-USD", 2) as batches:
            async for events in batches:
                seen += events
                if len(seen) == 8:
                    await w.backend.submit([buy(4)])
                if len(seen) == 10:
                    break
        assert [event.product_sequence for event in seen] == list(range(2, 12))


async def test_a_replay_ends_with_its_engine(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.backend.submit([buy(1)])

        async def stop_on_the_way() -> None:
            async with w.backend.replay("BTC-USD", 1) as batches:
                async for _ in batches:
                    await w.nodes["n1"].server.stop()

        with pytest.raises(UnavailableError):
            await stop_on_the_way()


async def test_a_replay_that_its_reader_does_not_take_waits_at_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[NativeConnection] = []
    pause = NativeConnection.pause_reading

    def noted(connection: NativeConnection) -> None:
        paused.append(connection)
        pause(connection)

    monkeypatch.setattr(backend_module, "REPLAY_FRAMES_MAX", 3)
    monkeypatch.setattr(NativeConnection, "pause_reading", noted)
    async with world(tmp_path) as w, w.backend.replay("BTC-USD", 1) as batches:
        for number in range(10):
            await w.backend.submit([buy(number)])
        await until(lambda: bool(paused))
        last = w.nodes["n1"].machine.engine.product_sequence("BTC-USD")
        seen: list[AnyEvent] = []
        async for events in batches:
            seen += events
            if len(seen) == last:
                break
        assert [event.product_sequence for event in seen] == list(range(1, last + 1))
        assert paused[0].reading


async def test_subscriptions_report_their_end_and_refusals_reach_the_caller(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        ends: list[str] = []
        arrived: list[Events] = []
        assert await w.backend.subscribe("BTC-USD", 1, arrived.append, ends.append) == 1
        await w.backend.submit([buy(1)])
        await until(lambda: bool(arrived))
        with pytest.raises(RequestFailed) as caught:
            await w.backend.subscribe("NO-SUCH", 1, arrived.append, ends.append)
        assert caught.value.code is FailCode.NOT_FOUND
        await w.nodes["n1"].server.stop()
        await until(lambda: bool(ends))


async def test_the_process_serves_without_an_engine_and_ends_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    setup.initialise(tmp_path / "c", 1, base_port=port)
    path = tmp_path / "c" / "n1" / "node.toml"
    url = load(path).http.public_url
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "node.gateway.process", "--config", str(path), "--worker", "3", stderr=asyncio.subprocess.PIPE
    )
    try:
        async with aiohttp.ClientSession() as session:
            assert process.stderr is not None
            async with asyncio.timeout(30):
                while b"listens on" not in (line := await process.stderr.readline()):
                    assert line, "the process ended"
            async with session.get(f"{url}/healthz") as response:
                assert response.status == 200
            async with session.get(f"{url}/readyz") as response:
                assert (response.status, (await response.json())["reasons"]) == (503, ["the engine does not answer"])
            async with session.get(f"{url}/metrics") as response:
                assert 'quorumbook_engine_up{node="n1"} 0.0' in await response.text()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()


async def test_a_process_with_a_bad_configuration_reports_it(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("nonsense = 1\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "node.gateway.process", "--config", str(path), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert b"node.toml" in stderr
    assert b"Traceback" not in stderr


def _note(lost: list[int], number: int, _reason: str) -> None:
    lost.append(number)


async def test_subscribing_again_leaves_no_task_behind(tmp_path: Path) -> None:
    """A product that is subscribed again and again on an open connection costs one task a connection, not one a
    subscription.
    """
    async with world(tmp_path) as there:
        await there.backend.submit(WORLD)
        lost: list[int] = []
        before = len(asyncio.all_tasks())
        for number in range(20):
            await there.backend.subscribe("BTC-USD", 1, lambda _events: None, partial(_note, lost, number))
        assert len(asyncio.all_tasks()) <= before + 1
        assert there.backend._connection is not None
        there.backend._connection.abort("gone")
        await until(lambda: lost == [19])


async def test_an_order_is_not_sent_on_to_a_leader_of_another_version(tmp_path: Path) -> None:
    """The answer is 503 with the reason, and at once. Formerly it was 400, as if the order were invalid."""
    async with world(tmp_path) as w:
        one, two = w.nodes["n1"], w.nodes["n2"]
        one.raft.lose_leadership("n2")
        two.raft.lead()
        cluster = ClusterClient(addresses(w.nodes), deadline=30.0, abi="another")
        backend = NodeBackend(str(one.config.engine_socket), cluster, 30.0)
        gateway = build(one.config, backend)
        async with served(gateway) as client:
            other = World(w.nodes, backend, gateway, client)
            status, answer = await asyncio.wait_for(other.place(ORDER), 10)
        assert status == 503
        assert "n2 runs another version" in answer["message"] + answer.get("detail", "")
        assert two.machine.engine.orders("alice") == []

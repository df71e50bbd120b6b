"""Redirects to the leader, pauses, unknown outcomes, readiness, and what reads say about their age."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.engine.modes import Mode, Modes
from node.errors import ConnectionLost, RequestFailed
from node.gateway import admin
from node.gateway.backend import NodeBackend
from node.gateway.errors import ApiError, NotLeaderError, UnavailableError
from node.gateway.gateway import STATUS_AGE_MAX, Monitor
from node.keys.credentials import Credentials
from node.native.protocol import AnyQuery, FailCode, NodeStatus, StatusQuery
from node.system import software
from node.system.processes import ENGINE_PID_FILE, PidFile, locked_pid
from snapshots.abi import ABI
from statemachine.commands import AnyCommand, OpenAccount
from statemachine.events import Done
from tests.unit.node.gateway.harness import LEADER, SECRET, Exchange
from tests.waiting import until

ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1"}
COMMAND = OpenAccount("operator", "g:1", "carol")
OUTCOME = Done(1, 1, False, True)


async def test_a_follower_leads_the_client_to_the_leader(exchange: Exchange) -> None:
    exchange.backend.leads = False
    for method, target in (("POST", "/orders?x"), ("DELETE", "/orders?product_id=BTC-USD"), ("POST", "/deposits")):
        body = ORDER if target.startswith("/orders?x") else {"currency": "USD", "amount": "1"} if method == "POST" else None
        response = await exchange.send("alice", method, target.removesuffix("?x"), body)
        assert response.status == 307
        assert response.headers["Location"] == LEADER.http + str(response.url.relative())
        answer = await response.json()
        assert (answer["leader"], answer["leader_id"]) == (LEADER.http, "n2")
        assert LEADER.http in answer["message"]


async def test_a_follower_never_answers_a_command_that_something_does_not_exist(exchange: Exchange) -> None:
    unknown = ORDER | {"product_id": "NEW-USD"}
    assert (await exchange.call("alice", "POST", "/orders", unknown))[0] == 404
    exchange.backend.leads, exchange.backend.status = False, {"leader": LEADER, "leader_id": "n2"}
    await exchange.gateway.monitor.poll()
    assert (await exchange.call("alice", "POST", "/orders", unknown))[0] == 307
    exchange.keys["new"] = Credentials("new-key", SECRET, "p")
    assert (await exchange.call("new", "POST", "/orders", ORDER))[0] == 307
    assert (await exchange.call("new", "GET", "/orders"))[0] == 401


async def test_a_node_that_has_not_caught_up_does_not_judge_a_key(exchange: Exchange) -> None:
    exchange.backend.leads, exchange.backend.status = False, {"ready": False, "leader_id": ""}
    await exchange.gateway.monitor.poll()
    exchange.keys["new"] = Credentials("new-key", SECRET, "p")
    for method, target, body in (("POST", "/orders", ORDER), ("GET", "/orders", None)):
        status, answer = await exchange.call("new", method, target, body)
        assert (status, answer["reason"]) == (503, "no_leader")
        assert "not caught up" in answer["message"]
    exchange.backend.status = {"leader": LEADER, "leader_id": "n2"}
    await until(lambda: exchange.gateway.monitor.age() > STATUS_AGE_MAX)
    assert (await exchange.call("new", "GET", "/orders"))[0] == 401, "the node judges as soon as it has caught up"


async def test_a_follower_serves_reads_and_says_how_old_they_are(exchange: Exchange) -> None:
    exchange.backend.leads = False
    exchange.backend.status["sequence"] = 4711
    await until(lambda: exchange.gateway.monitor.age() > STATUS_AGE_MAX)
    response = await exchange.send("", "GET", "/products/BTC-USD/book")
    assert response.status == 200
    assert response.headers["x-quorumbook-role"] == "follower"
    assert response.headers["x-quorumbook-sequence"] == "4711"


@pytest.mark.parametrize(
    "target", ["/products", "/currencies", "/products/BTC-USD/book", "/products/BTC-USD/stats", "/fees", "/profiles", "/orders"]
)
async def test_a_linearizable_read_goes_through_a_barrier_at_the_leader(exchange: Exchange, target: str) -> None:
    assert (await exchange.call("alice", "GET", f"{target}?consistency=linearizable"))[0] == 200
    exchange.backend.leads = False
    assert (await exchange.call("alice", "GET", f"{target}?consistency=linearizable"))[0] == 307
    assert (await exchange.call("alice", "GET", f"{target}?consistency=local"))[0] == 200
    status, answer = await exchange.call("alice", "GET", f"{target}?consistency=perhaps")
    assert (status, answer["field"]) == (400, "consistency")


async def test_an_answer_404_names_the_sequence_of_the_node(exchange: Exchange) -> None:
    """Only so a client that learned of an order from another node knows whether this node is behind."""
    exchange.backend.leads = False
    exchange.backend.status["sequence"] = 4711
    await until(lambda: exchange.gateway.monitor.age() > STATUS_AGE_MAX)
    response = await exchange.send("alice", "GET", "/orders/00000000-0000-0000-0000-0000000000ff")
    assert (response.status, response.headers["x-quorumbook-sequence"]) == (404, "4711")


async def test_a_node_without_a_majority_names_no_leader(exchange: Exchange) -> None:
    exchange.backend.leads, exchange.backend.status = False, {"quorum": False, "ready": False}
    await exchange.gateway.monitor.poll()
    status, answer = await exchange.get("/products/BTC-USD/book?consistency=linearizable")
    assert (status, answer["reason"]) == (503, "no_leader")
    assert "no majority" in answer["message"]
    assert (await exchange.get("/products/BTC-USD/book"))[0] == 200


async def test_a_command_names_its_sequence(exchange: Exchange) -> None:
    response = await exchange.send("alice", "POST", "/orders", ORDER)
    assert int(response.headers["x-quorumbook-sequence"]) == exchange.backend.engine.sequence


@pytest.mark.parametrize(("unknown", "status", "word"), [(False, 503, "Nothing was done"), (True, 504, "outcome is unknown")])
async def test_without_a_leader_the_error_says_whether_the_command_may_be_applied(
    exchange: Exchange, unknown: bool, status: int, word: str
) -> None:
    exchange.backend.fail = [UnavailableError("no leader", outcome_unknown=unknown)]
    response = await exchange.send("alice", "POST", "/orders", ORDER | {"client_oid": "kept"})
    assert response.status == status
    assert response.headers["Retry-After"] == "1"
    assert word in (await response.json())["message"]
    assert (await exchange.call("alice", "POST", "/orders", ORDER | {"client_oid": "kept"}))[0] == 200


async def test_a_full_queue_is_429(exchange: Exchange) -> None:
    exchange.backend.fail = [ApiError(429, "Too many requests", headers={"Retry-After": "1"})]
    assert (await exchange.call("alice", "POST", "/orders", ORDER))[0] == 429


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"leader_id": ""}, "no leader is known"),
        ({"quorum": False}, "no majority of the nodes is reachable"),
        ({"ready": False}, "not caught up with the leader"),
    ],
)
async def test_readyz_names_the_reasons(exchange: Exchange, status: dict[str, Any], reason: str) -> None:
    got, answer = await exchange.get("/readyz")
    assert (got, answer["ready"], answer["node"]["role"]) == (200, True, "leader")
    exchange.backend.status = status
    got, answer = await exchange.get("/readyz")
    assert (got, answer["reasons"]) == (503, [reason])


async def test_concurrent_requests_for_the_status_share_one_query(exchange: Exchange) -> None:
    exchange.backend.queried.clear()
    answers = await asyncio.gather(*(exchange.get(path) for path in ("/status", "/readyz") for _ in range(50)))
    assert {status for status, _ in answers} == {200}
    assert exchange.backend.queried.count(StatusQuery()) < 50


@pytest.mark.parametrize("ask", [Monitor.now, Monitor.recent])
async def test_a_status_still_being_read_is_not_fresh(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Monitor], Awaitable[NodeStatus | None]]
) -> None:
    own, query = Monitor(exchange.backend, exchange.gateway.metrics), exchange.backend.query
    await own.poll()
    go_on = asyncio.Event()

    async def late(wanted: AnyQuery, linearizable: bool = False) -> Any:
        await go_on.wait()
        return await query(wanted, linearizable)

    monkeypatch.setattr(exchange.backend, "query", late)
    exchange.backend.status = {"role": "follower"}
    await asyncio.sleep(2 * STATUS_AGE_MAX)  # what was asked before is recent for so long
    under_way = asyncio.create_task(own.poll())
    await asyncio.sleep(0)
    asked = asyncio.ensure_future(ask(own))
    await asyncio.sleep(0)
    go_on.set()
    status = await asked
    assert status is not None
    assert status.role == "follower"
    await under_way


async def test_the_status_has_the_mode_also_while_the_engine_cannot_answer(exchange: Exchange, tmp_path: Path) -> None:
    exchange.gateway.config = msgspec.structs.replace(exchange.gateway.config, directory=str(tmp_path))
    exchange.backend.status = {"mode": Mode.READY}
    got, answer = await exchange.get("/status")
    assert (got, answer["mode"], answer["node"]["role"]) == (200, "Ready", "leader")
    assert (answer["software"], answer["abi"]) == (software.version(), ABI)
    exchange.backend.down = True
    got, answer = await exchange.get("/status")
    assert (got, answer["mode"]) == (200, "")
    assert "node" not in answer
    path = exchange.gateway.config.data_path / ENGINE_PID_FILE
    path.parent.mkdir()
    lock = PidFile.acquire(path)
    Modes("n1", lock.note).enter(Mode.BOOTSTRAPPING)
    assert (await exchange.get("/status"))[1]["mode"] == "Bootstrapping"
    assert locked_pid(path) == os.getpid()
    lock.release()
    assert (await exchange.get("/status"))[1]["mode"] == ""


async def test_an_engine_that_is_gone_makes_the_node_unready_and_reads_503(exchange: Exchange) -> None:
    exchange.backend.down = True
    assert (await exchange.get("/readyz"))[1]["reasons"] == ["the engine does not answer"]
    status, answer = await exchange.get("/products")
    assert (status, bool(answer["message"])) == (503, True)
    assert (await exchange.get("/healthz"))[0] == 200


async def test_metrics_count_requests_and_show_the_node(exchange: Exchange) -> None:
    await exchange.get("/products/BTC-USD/book")
    await exchange.get("/nothing")
    await exchange.gateway.monitor.poll()
    text = await (await exchange.client.get("/metrics")).text()
    assert (
        'quorumbook_http_requests_total{method="GET",node="n1",route="/products/{id}/book",status="200",worker="0"} 1.0' in text
    )
    assert 'route="none",status="404"' in text
    assert 'quorumbook_raft_term{node="n1"} 3.0' in text
    assert 'quorumbook_node_role{node="n1",role="leader"} 1.0' in text
    assert 'quorumbook_member_connected{member="n2",node="n1"} 1.0' in text
    assert 'quorumbook_member_snapshot_size_bytes{member="n2",node="n1"} 0.0' in text


async def test_a_fault_of_ours_is_answered_in_json(exchange: Exchange, caplog: pytest.LogCaptureFixture) -> None:
    exchange.backend.views = None  # type: ignore[assignment]  # any fault will do
    response = await exchange.client.get("/products")
    assert (response.status, json.loads(await response.read())) == (500, {"message": "Internal error"})
    assert "fault while answering GET /products" in caplog.text


Step = Callable[[Sequence[AnyCommand]], Awaitable[list[Any]]]


class FakeConnection:
    """A connection to the engine that does what the test says."""

    def __init__(self, *steps: object) -> None:
        self.steps = list(steps)
        self.sent: list[Sequence[AnyCommand]] = []
        self.closed = asyncio.Event()
        self.close_reason = ""

    async def submit(
        self,
        commands: Sequence[AnyCommand],
        deadline: float | None = None,
        on_resend: Callable[[], None] = lambda: None,
        *,
        patient: bool = True,
    ) -> list[Any]:
        self.sent.append(commands)
        return [await self._step()]

    def enqueue(self, commands: Sequence[AnyCommand]) -> asyncio.Future[list[Any]]:
        self.sent.append(commands)
        outcomes: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        step = self.steps.pop(0) if self.steps else ConnectionLost("no more steps")
        if isinstance(step, Exception):
            outcomes.set_exception(step)
        elif step != "hang":
            outcomes.set_result([step])
        return outcomes

    async def query(self, query: object, linearizable: bool = False) -> Any:
        return await self._step()

    async def status_ahead_of_events(self) -> Any:
        return await self._step()

    async def _step(self) -> Any:
        step = self.steps.pop(0) if self.steps else ConnectionLost("no more steps")
        if isinstance(step, Exception):
            raise step
        if step == "hang":
            await asyncio.sleep(1000)
        return step

    async def close(self) -> None:
        pass


def backend(
    monkeypatch: pytest.MonkeyPatch,
    here: FakeConnection | Exception,
    elsewhere: FakeConnection,
    deadline: float = 0.2,
    *,
    redirect: bool = False,
) -> NodeBackend:
    async def connect(self: NodeBackend) -> Any:
        if isinstance(here, Exception):
            raise here
        return here

    monkeypatch.setattr(NodeBackend, "_connect", connect)
    return NodeBackend("/nowhere", elsewhere, deadline, redirect=redirect)  # type: ignore[arg-type]  # as much of a ClusterClient as is used


def failed(code: FailCode) -> RequestFailed:
    return RequestFailed(code, code.name.lower(), LEADER if code is FailCode.NOT_LEADER else None)


@pytest.mark.parametrize(
    "first", [ConnectionLost("gone"), failed(FailCode.OUTCOME_UNKNOWN), failed(FailCode.NO_LEADER), failed(FailCode.STOPPING)]
)
async def test_a_command_in_progress_goes_to_the_next_leader_with_its_id(
    monkeypatch: pytest.MonkeyPatch, first: Exception
) -> None:
    here, elsewhere = FakeConnection(first), FakeConnection(OUTCOME)
    assert await backend(monkeypatch, here, elsewhere).submit([COMMAND]) == [OUTCOME]
    assert here.sent == elsewhere.sent == [[COMMAND]]


async def test_a_command_goes_to_another_node_without_their_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = FakeConnection(OUTCOME)
    assert await backend(monkeypatch, ConnectionLost("nobody"), elsewhere).submit([COMMAND]) == [OUTCOME]


@pytest.mark.parametrize(
    ("first", "last", "unknown"),
    [
        (failed(FailCode.NO_LEADER), failed(FailCode.NO_LEADER), False),
        (failed(FailCode.OUTCOME_UNKNOWN), failed(FailCode.NO_LEADER), True),
        (ConnectionLost("gone"), failed(FailCode.NO_LEADER), True),
        (failed(FailCode.NO_LEADER), failed(FailCode.OUTCOME_UNKNOWN), True),
        (failed(FailCode.NO_LEADER), ConnectionLost("gone"), True),
    ],
)
async def test_the_error_of_the_deadline_says_whether_the_command_may_be_applied(
    monkeypatch: pytest.MonkeyPatch, first: Exception, last: Exception, unknown: bool
) -> None:
    with pytest.raises(UnavailableError) as caught:
        await backend(monkeypatch, FakeConnection(first), FakeConnection(last)).submit([COMMAND])
    assert caught.value.outcome_unknown is unknown


async def test_an_engine_that_hangs_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError) as caught:
        await backend(monkeypatch, FakeConnection("hang"), FakeConnection(), deadline=0.05).submit([COMMAND])
    assert caught.value.outcome_unknown


async def test_a_known_leader_and_a_full_queue_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotLeaderError):
        await backend(monkeypatch, FakeConnection(failed(FailCode.NOT_LEADER)), FakeConnection(), redirect=True).submit([COMMAND])
    with pytest.raises(ApiError) as caught:
        await backend(monkeypatch, FakeConnection(failed(FailCode.OVERLOADED)), FakeConnection()).submit([COMMAND])
    assert caught.value.status == 429


async def test_reads_wait_for_an_engine_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    here = FakeConnection(ConnectionLost("gone"), failed(FailCode.NO_LEADER), "status")
    assert await backend(monkeypatch, here, FakeConnection()).query(StatusQuery()) == "status"
    with pytest.raises(RequestFailed):
        await backend(monkeypatch, FakeConnection(failed(FailCode.NOT_FOUND)), FakeConnection()).query(StatusQuery())
    with pytest.raises(NotLeaderError):
        await backend(monkeypatch, FakeConnection(failed(FailCode.NOT_LEADER)), FakeConnection()).query(
            StatusQuery(), linearizable=True
        )


async def test_an_operator_hands_leadership_over(exchange: Exchange) -> None:
    assert (await exchange.call("alice", "POST", "/admin/leadership"))[0] == 403
    status, refused = await exchange.call("admin", "POST", "/admin/leadership", {"node_id": "n9"})
    assert (status, refused["message"]) == (400, "n9 is not a voter")
    assert await exchange.call("admin", "POST", "/admin/leadership", {"node_id": "n2"}) == (200, {"leader": "n2", "term": 4})


async def test_a_handover_without_a_successor_is_a_conflict(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(node_id: str) -> None:
        return None

    monkeypatch.setattr(exchange.backend, "hand_over", nobody)
    monkeypatch.setattr(admin, "HAND_OVER_SECONDS", 0.05)
    status, refused = await exchange.call("admin", "POST", "/admin/leadership")
    assert (status, refused["reason"]) == (409, "conflict")

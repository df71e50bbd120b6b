"""The engine service: its answers while this node leads, follows, stops, or is full, and the barriers that reads share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.config.settings import NativeConfig
from node.engine.leadership import ANSWERS_PER_TURN, BARRIER_INTERVAL_S, READS_WAITING_MAX
from node.engine.modes import Mode
from node.engine.service import READY_LAG_S, UNIT_BYTES
from node.native.framing import decode_request
from node.native.protocol import (
    Answer,
    BalancesQuery,
    BookQuery,
    BookView,
    ControlAction,
    CurrenciesQuery,
    FailCode,
    Failed,
    LeaderHint,
    NodeStatus,
    OrderQuery,
    OrdersQuery,
    Results,
    StatusQuery,
    Submit,
    TradesQuery,
)
from statemachine.commands import Batch, decode_batch, encode_batch
from statemachine.events import Placed
from tests.unit.node.engine.desk import Desk
from tests.unit.node.fakes import WORLD, buy, sell

HINT = LeaderHint("n2", "127.0.0.1:7102", "http://127.0.0.1:7202")


class TestCommands:
    def test_requests_that_come_together_are_one_entry_stamped_once(self, desk: Desk) -> None:
        desk.submit(1, *WORLD)
        desk.submit(2, buy(1), buy(2))
        desk.submit(3, sell(1))
        assert desk.answers == [], "nothing is answered before it is applied"
        desk.run()
        (batch,) = [decode_batch(payload) for payload in desk.raft.entries]
        assert batch.time == 1_001
        assert batch.commands == [*WORLD, buy(1), buy(2), sell(1)]
        assert [(answer.request_id, len(answer.outcomes)) for answer in desk.answers] == [(1, len(WORLD)), (2, 2), (3, 1)]

    def test_a_follower_leads_to_the_leader(self, desk: Desk) -> None:
        desk.raft.leader_id = "n2"
        desk.submit(1, buy(1))
        assert desk.answers == [Failed(1, FailCode.NOT_LEADER, "n2 leads", HINT)]

    def test_commands_without_a_leader_are_refused(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, leader=False)
        desk.submit(1, buy(1))
        assert desk.answers == [Failed(1, FailCode.NO_LEADER, "no leader is known at the moment")]

    def test_pending_requests_are_executed_by_this_node_if_it_becomes_leader(self, desk: Desk) -> None:
        desk.submit(1, *WORLD)
        desk.run()
        desk.answers.clear()
        desk.raft.lose_leadership()
        desk.raft.election_in_progress = True
        desk.submit(2, buy(1))
        desk.query(BalancesQuery("alice"), linearizable=True, request_id=3)
        assert not desk.answers
        desk.raft.election_in_progress = False
        desk.raft.lead()
        desk.run()
        desk.wait()
        assert {answer.request_id: type(answer) for answer in desk.answers} == {2: Results, 3: Answer}

    def test_pending_requests_are_redirected_to_the_next_leader(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, leader=False)
        desk.raft.leader_id, desk.raft.election_in_progress = "n3", True
        desk.submit(1, buy(1))
        desk.query(BalancesQuery("alice"), linearizable=True, request_id=2)
        assert not desk.answers, "n3 was the leader, and is out of reach"
        desk.raft.election_in_progress = False
        desk.raft.lose_leadership("n2")
        assert desk.answers == [Failed(number, FailCode.NOT_LEADER, "n2 leads", HINT) for number in (1, 2)]
        desk.raft.election_in_progress = True
        desk.submit(3, buy(2))
        desk.wait()
        assert [answer.request_id for answer in desk.answers] == [1, 2], "the third command came later and still has time"
        desk.wait()
        assert [answer.request_id for answer in desk.answers] == [1, 2, 3]

    def test_the_wait_for_a_leader_ends(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, leader=False)
        desk.raft.leader_id, desk.raft.election_in_progress = "n2", True
        desk.submit(1, buy(1))
        desk.wait()
        assert desk.answers == [Failed(1, FailCode.NOT_LEADER, "n2 leads", HINT)], "the client may reach it"

    def test_the_number_of_commands_that_wait_for_a_leader_is_bounded(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, leader=False, native=NativeConfig("127.0.0.1:0", queue_max=4))
        desk.raft.election_in_progress = True
        desk.submit(1, buy(1), buy(2))
        desk.submit(2, buy(3))
        assert [answer.request_id for answer in desk.answers] == [2], "one account fills half of the room"
        desk.submit(3, sell(5))
        desk.service.begin_stop()
        assert [(answer.request_id, answer.code) for answer in desk.answers[1:]] == [
            (1, FailCode.STOPPING),
            (3, FailCode.STOPPING),
        ]

    def test_a_full_queue_refuses_commands(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", queue_max=3))
        desk.submit(1, buy(1), buy(2))
        desk.submit(2, buy(3), buy(4))
        text = "2 commands are waiting already, and this account has its share of the queue"
        assert desk.answers == [Failed(2, FailCode.OVERLOADED, text)]
        assert desk.service.refused["overloaded"] == 1

    def test_entries_are_bounded(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", batch_commands_max=3))
        for number in range(5):
            desk.submit(number, buy(2 * number), buy(2 * number + 1))
        desk.run()
        assert [len(decode_batch(payload).commands) for payload in desk.raft.entries] == [2, 2, 2, 2, 2]

    def test_commands_of_a_leadership_lost_before_the_proposal_are_refused(self, desk: Desk) -> None:
        desk.submit(1, buy(1))
        desk.raft.lose_leadership("n2")
        assert desk.answers == [Failed(1, FailCode.NOT_LEADER, "n2 leads", HINT)]
        desk.run()
        assert len(desk.answers) == 1

    @pytest.mark.parametrize("applied", [False, True])
    def test_commands_of_a_leadership_lost_after_the_proposal_have_an_unknown_outcome(self, desk: Desk, applied: bool) -> None:
        desk.submit(1, *WORLD)
        desk.ready.pop(0)()
        desk.raft.lose_leadership("n2", applied=applied)
        (answer,) = desk.answers
        assert (answer.request_id, answer.code, answer.leader) == (1, FailCode.OUTCOME_UNKNOWN, HINT)
        desk.answers.clear()
        desk.raft.lead()
        desk.submit(2, *WORLD)
        desk.run()
        (results,) = desk.answers
        assert isinstance(results, Results)
        assert {outcome.duplicate for outcome in results.outcomes} == {applied}

    def test_a_stopping_node_refuses_new_work_and_finishes_its_work(self, desk: Desk) -> None:
        desk.submit(1, *WORLD)
        desk.service.begin_stop()
        desk.submit(2, buy(1))
        assert desk.answers == [Failed(2, FailCode.STOPPING, "this node is stopping")]
        assert not desk.service._batcher.idle
        desk.run()
        assert desk.service.idle
        assert desk.answers[1].request_id == 1
        desk.raft.lose_leadership("n2")
        desk.submit(3, buy(1))
        assert desk.answers[2] == Failed(3, FailCode.NOT_LEADER, "n2 leads", HINT)

    @pytest.mark.parametrize("count", [1, 20, 1_000])
    def test_an_entry_is_never_longer_than_its_requests_say(self, count: int) -> None:
        """Clients may leave out the last fields, and the log contains them all."""
        short: list[list[Any]] = [
            [2, "o", "i", "p", "b", "q", 1, 1, 1, 1, 1, 1],
            [7, "a", "i", "p", 1, 1, 1, 1],
            [8, "a", "i", 1],
            [9, "a", "i"],
        ]
        for command in short:
            body = msgspec.msgpack.encode([2, 1, [command] * count])
            request = decode_request(body)
            assert isinstance(request, Submit)
            payload = encode_batch(Batch(2**62, request.commands))
            assert len(payload) <= len(body) + UNIT_BYTES * count + 16


class TestReads:
    def test_reads_that_come_under_a_barrier_share_the_next_one(self, desk: Desk) -> None:
        desk.submit(1, *WORLD)
        desk.run()
        index = desk.raft.index
        desk.query(CurrenciesQuery(), linearizable=True, request_id=1)
        for number in range(2, 50):
            desk.query(CurrenciesQuery(), linearizable=True, request_id=number)
        assert desk.raft.under_way == 1
        desk.answers.clear()
        desk.raft.tick()
        assert [answer.request_id for answer in desk.answers] == [1], "the others came after the barrier had begun"
        desk.wait()
        desk.raft.tick()
        assert len(desk.answers) == 1 + ANSWERS_PER_TURN
        while desk.ready:
            before = len(desk.answers)
            desk.ready.pop(0)()
            assert len(desk.answers) - before <= ANSWERS_PER_TURN, "however many have waited, the loop's turn is short"
        assert [answer.request_id for answer in desk.answers] == list(range(1, 50))
        assert desk.raft.index == index + 2

    def test_however_many_reads_come_they_write_few_entries(self, desk: Desk) -> None:
        index = desk.raft.index
        for number in range(2_000):
            desk.query(CurrenciesQuery(), linearizable=True, request_id=number)
            desk.raft.tick()
            if desk.timers and desk.timers[0][0] <= desk.seconds:
                desk.wait()
            desk.seconds += 0.0001
        while desk.timers or desk.ready:
            if desk.timers:
                desk.wait()
            desk.run()
        assert len(desk.answers) == 2_000
        assert desk.raft.index - index <= 0.2 / BARRIER_INTERVAL_S + 2

    def test_reads_of_a_barrier_that_fails_are_refused(self, desk: Desk) -> None:
        desk.query(CurrenciesQuery(), linearizable=True)
        desk.raft.lose_leadership("n2")
        assert desk.answers == [Failed(1, FailCode.NOT_LEADER, "n2 leads", HINT)]
        desk.query(CurrenciesQuery(), linearizable=True)
        assert desk.answers[1].code is FailCode.NOT_LEADER
        desk.raft.lead()
        desk.query(CurrenciesQuery(), linearizable=True, request_id=3)
        desk.raft.tick()
        assert isinstance(desk.answers[2], Answer)

    def test_waiting_reads_are_bounded(self, desk: Desk) -> None:
        for _ in range(READS_WAITING_MAX + 2):
            desk.query(CurrenciesQuery(), linearizable=True)
        assert [answer.code for answer in desk.answers] == [FailCode.OVERLOADED]

    def test_the_book_is_answered_at_every_level(self, desk: Desk) -> None:
        desk.submit(1, *WORLD, buy(1, price=99), buy(2, price=98), buy(3, price=99), sell(4, price=101))
        desk.run()
        one = desk.read(BookQuery("BTC-USD", 1), BookView)
        assert [(level.price, level.size, level.orders) for level in one.bids] == [(99, 2 * 10**8, 2)]
        assert one.product_sequence == 9
        two = desk.read(BookQuery("BTC-USD", 2), BookView)
        assert [level.price for level in two.bids] == [99, 98]
        assert [level.price for level in two.asks] == [101]
        three = desk.read(BookQuery("BTC-USD", 3), BookView)
        assert [(order.price, order.order_id) for order in three.bid_orders] == [(99, 1), (99, 3), (98, 2)]
        assert three.bids == []

    def test_a_cached_book_follows_its_product(self, desk: Desk) -> None:
        desk.submit(1, *WORLD, buy(1))
        desk.run()
        assert desk.read(BookQuery("BTC-USD", 3), BookView).product_sequence == 3
        desk.submit(2, buy(2))
        desk.run()
        again = desk.read(BookQuery("BTC-USD", 3), BookView)
        assert (again.product_sequence, len(again.bid_orders)) == (5, 2)

    @pytest.mark.parametrize(
        ("query", "code", "text"),
        [
            (BookQuery("BTC-USD", 4), FailCode.BAD_REQUEST, "query.level: expected 1, 2 or 3, got 4"),
            (BookQuery("ETH-USD", 2), FailCode.NOT_FOUND, "product 'ETH-USD' does not exist"),
            (TradesQuery("ETH-USD"), FailCode.NOT_FOUND, "product 'ETH-USD' does not exist"),
            (TradesQuery("BTC-USD", 0), FailCode.BAD_REQUEST, "query.limit: expected at least 1, got 0"),
            (BalancesQuery("eve"), FailCode.NOT_FOUND, "account 'eve' does not exist"),
            (OrdersQuery("eve"), FailCode.NOT_FOUND, "account 'eve' does not exist"),
            (OrdersQuery("alice", limit=-1), FailCode.BAD_REQUEST, "query.limit: expected at least 1, got -1"),
            (OrdersQuery("alice", before_id=-1), FailCode.BAD_REQUEST, "query.before_id: expected 0 or an order id, got -1"),
            (OrderQuery("alice", 77), FailCode.NOT_FOUND, "order 77 of account 'alice' does not exist"),
            (OrderQuery("bob", 1), FailCode.NOT_FOUND, "order 1 of account 'bob' does not exist"),
            (OrderQuery("alice", 0, "x"), FailCode.NOT_FOUND, "order 'x' of account 'alice' does not exist"),
        ],
    )
    def test_a_query_that_cannot_be_answered_is_refused(self, desk: Desk, query: Any, code: FailCode, text: str) -> None:
        desk.submit(1, *WORLD, buy(1))
        desk.run()
        desk.answers.clear()
        desk.query(query)
        assert desk.answers == [Failed(1, code, text)]

    def test_the_status_shows_the_node(self, desk: Desk) -> None:
        desk.submit(1, *WORLD)
        desk.run()
        desk.seconds = 7.5
        status = desk.read(StatusQuery(), NodeStatus)
        engine = desk.machine.engine
        assert (status.node_id, status.cluster_id, status.role, status.software) == ("n1", "test", "leader", "1.2.3")
        assert (status.sequence, status.state_hash) == (len(WORLD), engine.state_hash.hex())
        assert status.uptime == 2.5
        assert status.ready
        assert status.counters["moons"] == 2
        assert status.counters["commands_proposed"] == len(WORLD)
        desk.service.begin_stop()
        assert not desk.read(StatusQuery(), NodeStatus).ready

    def test_a_follower_that_is_an_entry_behind_is_ready(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Under load a follower nearly always is behind. Formerly a quarter of its readiness checks got 503."""
        desk.submit(1, *WORLD)
        desk.run()
        desk.raft.lose_leadership("n2")
        status, ready = desk.raft.status, False
        monkeypatch.setattr(desk.raft, "status", lambda: msgspec.structs.replace(status(), ready=ready))
        desk.now_ns = 3_600 * 10**9
        assert not desk.service.status().ready, "it has never caught up"
        for mode in (Mode.INITIALISING, Mode.READY):
            desk.service.modes.enter(mode)
        assert not desk.service.status().ready, "its newest entry is an hour old"
        ready = True
        assert desk.service.status().ready
        ready = False
        desk.seconds += READY_LAG_S
        assert desk.service.status().ready, "it had caught up a second ago"
        desk.seconds += 1
        assert not desk.service.status().ready
        desk.now_ns = desk.machine.engine.time + int(READY_LAG_S * 10**9) - 1_000
        assert desk.service.status().ready, "it has applied an entry of the latest second"
        desk.raft.leader_id = ""
        assert not desk.service.status().ready

    def test_a_follower_without_its_leader_is_not_ready_for_long(self, desk: Desk) -> None:
        """Formerly the last node of a cluster that had lost its majority was shown as ready for ever."""
        desk.submit(1, *WORLD)
        desk.run()
        desk.raft.lose_leadership("n2")
        for mode in (Mode.INITIALISING, Mode.READY):
            desk.service.modes.enter(mode)
        assert desk.service.status().ready
        desk.raft.unreachable = {"n2"}
        desk.seconds += READY_LAG_S
        assert desk.service.status().ready, "another leader may be there in a moment"
        desk.seconds += 1
        assert not desk.service.status().ready
        desk.raft.unreachable = set()
        assert desk.service.status().ready


class TestControl:
    def test_a_transfer_needs_somebody_to_take_over(self, desk: Desk) -> None:
        desk.control(1, ControlAction.TRANSFER_LEADERSHIP)
        while desk.timers:
            assert not desk.answers
            desk.wait()
        assert desk.answers == [Failed(1, FailCode.BAD_REQUEST, "no other node is up to date and reachable")]
        desk.raft.successor = "n2"
        desk.control(2, ControlAction.TRANSFER_LEADERSHIP)
        assert isinstance(desk.answers[1], Answer)
        desk.control(3, ControlAction.TRANSFER_LEADERSHIP)
        assert desk.answers[2] == Failed(3, FailCode.NOT_LEADER, "n2 leads", HINT)

    def _transfer_under_load(self, desk: Desk) -> None:
        """Send request 2, which transfers the leadership, then a command as 3 and a read as 4."""
        desk.submit(1, *WORLD)
        desk.run()
        desk.answers.clear()
        desk.control(2, ControlAction.TRANSFER_LEADERSHIP)
        desk.submit(3, buy(1))
        desk.query(StatusQuery(), linearizable=True, request_id=4)

    def test_under_load_nothing_new_goes_into_the_log_until_another_node_leads(self, desk: Desk) -> None:
        self._transfer_under_load(desk)
        desk.run()
        assert desk.answers == [], "they wait"
        assert len(desk.raft.entries) == 1
        desk.raft.successor = "n2"
        desk.wait()
        desk.run()
        desk.raft.tick()
        assert [(type(answer), answer.request_id) for answer in desk.answers] == [(Failed, 3), (Answer, 2), (Failed, 4)]
        assert desk.answers[0] == Failed(3, FailCode.NOT_LEADER, "n2 leads", HINT)
        assert len(desk.raft.entries) == 1

    def test_a_handover_that_fails_ends_and_everything_continues(self, desk: Desk) -> None:
        self._transfer_under_load(desk)
        while desk.timers:
            desk.wait()
        desk.run()
        assert {(type(answer), answer.request_id) for answer in desk.answers} == {(Failed, 2), (Results, 3), (Answer, 4)}

    def test_any_node_takes_a_snapshot_on_request(self, desk: Desk) -> None:
        desk.raft.leader_id = "n2"
        desk.control(1, ControlAction.SNAPSHOT)
        assert isinstance(desk.answers[0], Answer)
        assert desk.raft.snapshots_wanted == 1


def test_a_replaced_engine_serves_its_own_state(desk: Desk) -> None:
    desk.submit(1, *WORLD, buy(1))
    desk.run()
    other = Desk(Path("."))
    other.machine.replace(type(desk.machine.engine).restore(dict(desk.machine.engine.tables())))
    assert other.read(BookQuery("BTC-USD", 3), BookView) == desk.read(BookQuery("BTC-USD", 3), BookView)
    other.submit(2, buy(2))
    other.run()
    outcome = other.answers[-1].outcomes[0]
    assert isinstance(outcome, Placed)
    assert other.service.feed.next_sequence("BTC-USD") == 6

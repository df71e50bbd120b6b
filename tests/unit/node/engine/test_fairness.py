"""An account's commands delay only that account: there are turns in the log, room in the queue, and a rate, wherever
the commands come from.
"""

from __future__ import annotations

from pathlib import Path

from node.config.settings import NativeConfig
from node.engine.principal import Principal, gateway
from node.native.protocol import FailCode, Failed, OrdersQuery, Query, Submit
from statemachine.commands import CancelAll, decode_batch
from statemachine.types import Permission
from tests.unit.node.engine.desk import Desk
from tests.unit.node.fakes import WORLD, buy, sell

ALICE = Principal("key of alice", operator=False, account_id="alice", permissions=int(Permission.TRADE))
OPERATOR = Principal("operator", operator=True)


def submit(desk: Desk, principal: Principal, request_id: int, *commands: object) -> None:
    desk.service.submit(principal, Submit(request_id, list(commands)), 100, desk.answers.append)  # type: ignore[arg-type]


def failed(desk: Desk) -> list[tuple[int, FailCode]]:
    return [(answer.request_id, answer.code) for answer in desk.answers if isinstance(answer, Failed)]


def test_an_account_with_many_commands_waiting_holds_back_no_other(tmp_path: Path) -> None:
    """The commands come over its own session, over the gateway, or from the gateway of another node."""
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", batch_commands_max=10, account_rate=0))
    others = (ALICE, gateway("gateway of n1"), gateway("gateway of n2"))
    for number in range(600):
        submit(desk, others[number % 3], number, buy(number))
    submit(desk, others[1], 1_000, sell(1))
    desk.run()
    places = [command.account_id for entry in desk.raft.entries for command in decode_batch(entry).commands]
    assert places.count("alice") == 600
    assert places.index("bob") <= 20
    of_alice = [
        command for entry in desk.raft.entries for command in decode_batch(entry).commands if command.account_id == "alice"
    ]
    assert of_alice == [buy(number) for number in range(600)], "an account's own commands keep their order"


def test_an_account_has_a_rate_over_all_ways_together(tmp_path: Path) -> None:
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", account_rate=10))
    for number in range(12):
        submit(desk, ALICE, number, buy(number))
        submit(desk, gateway("gateway of n2"), 100 + number, buy(100 + number))
    assert len(failed(desk)) == 14, "a burst of a second's worth"
    assert {code for _, code in failed(desk)} == {FailCode.RATE_LIMITED}
    assert "account 'alice' has used up its share of 10 units a second; send it again in 0.10 s" in desk.answers[-1].message
    submit(desk, gateway("gateway of n2"), 200, sell(1))
    assert len(failed(desk)) == 14, "bob has his own"
    desk.seconds += 0.1
    submit(desk, ALICE, 300, buy(300))
    assert len(failed(desk)) == 14


def test_a_command_of_much_work_costs_more(tmp_path: Path) -> None:
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", account_rate=10))
    for number in range(3):
        submit(desk, ALICE, number, CancelAll("alice", f"all-{number}"))
    assert failed(desk) == [(1, FailCode.RATE_LIMITED), (2, FailCode.RATE_LIMITED)]


def test_lists_of_orders_for_a_gateway_are_paid_by_their_account(tmp_path: Path) -> None:
    """Formerly a list over REST cost one request, whatever the engine read for it: a millisecond for 10,000 open orders."""
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", account_rate=10, batch_commands_max=1_000))
    submit(desk, OPERATOR, 1, *WORLD, *(buy(number) for number in range(1, 501)))
    desk.run()
    for _ in range(4):
        desk.query(OrdersQuery("alice", "ETH-USD", limit=1), request_id=7)
    assert failed(desk) == [(7, FailCode.RATE_LIMITED)] * 2, "500 orders are five units"
    desk.query(OrdersQuery("bob"))
    desk.seconds += 0.5
    desk.query(OrdersQuery("alice"))
    assert len(failed(desk)) == 2


def test_the_operator_has_no_rate(tmp_path: Path) -> None:
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", account_rate=1))
    for number in range(100):
        submit(desk, OPERATOR, number, buy(number))
    submit(desk, OPERATOR, 200, *WORLD)
    submit(desk, gateway("gateway of n1"), 201, *WORLD)
    assert failed(desk) == []


def test_a_long_request_queues_in_pieces_and_is_answered_as_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", batch_commands_max=100))
    submit(desk, OPERATOR, 1, *WORLD)
    desk.run()
    submit(desk, ALICE, 2, *(buy(number) for number in range(950)))
    submit(desk, gateway("gateway of n1"), 3, sell(1))
    desk.run()
    entries = [decode_batch(entry).commands for entry in desk.raft.entries[1:]]
    assert sell(1) in entries[0] + entries[1], "bob does not wait for all of alice's"
    assert [command for entry in entries for command in entry if command.account_id == "alice"] == [buy(n) for n in range(950)]
    answers = {answer.request_id: answer for answer in desk.answers}
    assert [outcome.order.client_oid for outcome in answers[2].outcomes] == [str(number) for number in range(950)]


def test_a_long_request_has_room_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", queue_max=600))
    submit(desk, ALICE, 1, *(buy(number) for number in range(250)))
    submit(desk, ALICE, 2, *(buy(number) for number in range(1_000, 1_250)))
    assert failed(desk) == [(2, FailCode.OVERLOADED)]
    assert desk.service.status().counters["commands_queued"] == 250


def test_a_long_request_that_was_applied_in_part_is_of_unknown_outcome(tmp_path: Path) -> None:
    desk = Desk(tmp_path, native=NativeConfig("127.0.0.1:0", batch_commands_max=100))
    submit(desk, ALICE, 1, *(buy(number) for number in range(900)))
    while desk.ready:
        desk.ready.pop(0)()
    assert desk.raft.under_way == 2
    desk.raft.lose_leadership("n2", applied=True)
    assert failed(desk) == [(1, FailCode.OUTCOME_UNKNOWN)]
    desk.raft.lead()
    submit(desk, ALICE, 2, *(buy(number) for number in range(900)))
    desk.raft.lose_leadership("n2")
    assert failed(desk)[1:] == [(2, FailCode.NOT_LEADER)], "no chunk had left the queue"


def test_a_read_is_paid_for_before_it_waits(tmp_path: Path) -> None:
    """Otherwise a key could have thousands of long lists in progress before the first is paid for."""
    desk = Desk(tmp_path)
    submit(desk, OPERATOR, 1, *WORLD)
    desk.run()
    submit(desk, OPERATOR, 2, *(buy(number) for number in range(500)))
    desk.run()
    desk.answers.clear()
    charged: list[float] = []
    viewer = Principal("key of alice", operator=False, account_id="alice", permissions=int(Permission.VIEW))
    desk.service.query(viewer, Query(3, OrdersQuery("alice", limit=1), True), desk.answers.append, charged.append)
    assert desk.answers == []
    assert charged == [5.04]
    desk.run()
    assert len(desk.answers) == 1
    assert charged == [5.04]

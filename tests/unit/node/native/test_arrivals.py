"""What a node sends is passed on with bounded work in one turn of the event loop. Outcomes do not wait for the events
of others.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from node.native.arrivals import EVENTS_TOGETHER, TURN_SECONDS, WAITING_MAX, Arrivals
from node.native.connection import NativeConnection
from node.native.framing import pack
from node.native.protocol import Answer, Events, FailCode, Failed, KeysChanged, ProductsQuery, Results, StatusQuery
from statemachine.commands import CancelAll
from statemachine.events import OrderDone
from statemachine.types import DoneReason, OrderType, Side


class Transport:
    """Records whether the connection is read."""

    def __init__(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False


class Written:
    """A transport that takes everything."""

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class Owner:
    """Records what is passed on. Each event takes `seconds` of the clock."""

    def __init__(self, seconds: float) -> None:
        self.reading = True
        self.urgent: set[int] = set()
        self.now = 0.0
        self.seconds = seconds
        self.got: list[str] = []
        self.reason = ""
        self.arrivals = Arrivals(self, lambda: self.now)
        self.transport = Transport()
        self.arrivals.connection_made(cast(Any, self.transport))

    def is_urgent(self, request_id: int) -> bool:
        return request_id in self.urgent

    def received(self, message: msgspec.Struct) -> None:
        if isinstance(message, Events):
            self.now += self.seconds * len(message.events)
            self.got.append(f"{len(message.events)} events")
        else:
            self.got.append(type(message).__name__)

    def flush(self) -> None:
        pass

    def lost(self, reason: str) -> None:
        self.reason = reason


def events(count: int) -> bytes:
    limit = OrderType.LIMIT
    return pack(
        Events(
            "BTC-USD",
            [
                OrderDone("BTC-USD", number, 0, number, "alice", Side.BUY, limit, 1, 1, DoneReason.CANCELLED, True)
                for number in range(1, count + 1)
            ],
        )
    )


RESULTS = pack(Results(1, []))
ANSWER = pack(Answer(2, msgspec.Raw(b"\xc0")))
KEYS = pack(KeysChanged(["key"]))


async def turns(owner: Owner) -> int:
    """Run the event loop until nothing waits. Returns the number of turns."""
    count = 0
    async with asyncio.timeout(5):
        while owner.arrivals._waiting:
            count += 1
            await asyncio.sleep(0)
    return count


async def test_outcomes_go_ahead_and_other_messages_keep_their_order() -> None:
    owner = Owner(0.0)
    owner.arrivals.data_received(events(3) + RESULTS + ANSWER + events(2))
    assert owner.got == ["Results", "3 events", "Answer", "2 events"]


async def test_many_events_take_many_turns_and_outcomes_go_ahead() -> None:
    owner = Owner(TURN_SECONDS / EVENTS_TOGETHER * 1.01)
    owner.arrivals.data_received(events(10 * EVENTS_TOGETHER) + ANSWER + KEYS + RESULTS)
    assert owner.got == ["KeysChanged", "Results", f"{EVENTS_TOGETHER} events"]
    owner.arrivals.data_received(events(1) + RESULTS)
    assert owner.got[-1] == "Results", "outcomes that arrive meanwhile go ahead too"
    assert await turns(owner) >= 9
    assert owner.got[4:] == [f"{EVENTS_TOGETHER} events"] * 9 + ["Answer", "1 events"]


async def test_a_refused_command_and_a_status_go_ahead() -> None:
    owner = Owner(0.0)
    owner.urgent = {7, 70_000}
    refused, ended = (pack(Failed(number, FailCode.NOT_LEADER, "another node leads")) for number in (70_000, 3))
    owner.arrivals.data_received(events(3) + ANSWER + ended + refused + pack(Answer(7, msgspec.Raw(b"\xc0"))))
    assert owner.got == ["Failed", "Answer", "3 events", "Answer", "Failed"]


async def test_a_connection_names_its_commands_and_urgent_requests() -> None:
    connection = NativeConnection()
    connection._wire.transport = cast(Any, Written())
    outcomes = connection.enqueue([CancelAll("alice", "c1", "BTC-USD")])
    pending = [asyncio.ensure_future(connection.query(query)) for query in (StatusQuery(), ProductsQuery())]
    pending.append(asyncio.ensure_future(connection.status_ahead_of_events()))
    await asyncio.sleep(0)
    assert [number for number in range(6) if connection.is_urgent(number)] == [1, 4], (
        "the commands, and the status ahead of events: the book of a gateway includes what `query` says"
    )
    connection.lost("over")
    await asyncio.gather(outcomes, *pending, return_exceptions=True)
    assert not any(map(connection.is_urgent, range(6)))


async def test_too_much_that_waits_stops_the_reading() -> None:
    owner = Owner(1.0)
    frame = events(1_000)
    for _ in range(WAITING_MAX // len(frame) + 3):
        owner.arrivals.data_received(frame)
    assert not owner.transport.reading
    owner.seconds = 0.0
    await turns(owner)
    assert owner.transport.reading


async def test_an_owner_that_reads_no_more_gets_no_more() -> None:
    owner = Owner(0.0)
    owner.reading = False
    owner.arrivals.data_received(events(2) + ANSWER)
    assert owner.got == []
    owner.reading = True
    owner.arrivals.go_on()
    await turns(owner)
    assert owner.got == ["2 events", "Answer"]


async def test_answers_that_wait_are_passed_on_when_the_connection_ends() -> None:
    owner = Owner(1.0)
    owner.arrivals.data_received(events(500) + ANSWER)
    owner.arrivals.connection_lost(None)
    assert owner.got[-1] == "Answer"
    assert owner.reason == "the node closed the connection"


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\0\0\0\1\xc1", b"\0\0\0\2\x93\x63"])
async def test_bytes_of_another_protocol_end_the_connection(data: bytes) -> None:
    owner = Owner(0.0)
    owner.arrivals.data_received(data)
    assert "not the native protocol" in owner.reason

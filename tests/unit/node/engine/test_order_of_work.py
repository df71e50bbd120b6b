"""A lone order does not wait for a turn of the event loop that it does not need: the steps of an order in the leader's
engine follow one another before other messages are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from cluster.driver import RaftDriver
from node.engine.leadership import ahead_of_tick
from node.engine.outgoing import CHUNK, Outgoing
from node.engine.session import Session
from node.native.framing import FrameSplitter, pack
from node.native.protocol import (
    FRAME_MAX,
    PROTOCOL_VERSION,
    Events,
    Failed,
    Hello,
    KeysChanged,
    Results,
    Submit,
    response_decoder,
)
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR
from statemachine.types import Permission
from tests.unit.node.fakes import WORLD, FakeNode, buy, config_of


class Wire:
    """A transport that records the messages of each write."""

    def __init__(self) -> None:
        self.writes: list[list[object]] = []
        self._splitter = FrameSplitter(FRAME_MAX)

    def write(self, data: bytes) -> None:
        self.writes.append([type(response_decoder.decode(body)) for body in self._splitter.feed(data)])

    def get_extra_info(self, _name: str) -> None:
        pass

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True


def greeted(node: FakeNode) -> tuple[Session, Wire]:
    """Return a gateway's session after its greeting."""
    wire = Wire()
    session = Session(node.server, local=True)
    session.connection_made(cast(Any, wire))
    session.data_received(pack(Hello(PROTOCOL_VERSION, "test")))
    return session, wire


async def turn() -> None:
    """Let the event loop run what is due."""
    await asyncio.sleep(0)


async def test_a_proposal_is_ticked_in_the_turn_in_which_it_is_made() -> None:
    loop, steps = asyncio.get_running_loop(), list[str]()

    class Raft:
        wake: Callable[[], None]

        def tick(self) -> None:
            steps.append("tick")

        def due_in(self) -> float:
            return 60.0

    raft = Raft()
    driver = RaftDriver(cast(Any, raft))
    running = asyncio.create_task(driver.run())
    await turn()
    steps.clear()

    def propose() -> None:
        steps.append("propose")
        loop.call_soon(lambda: steps.append("next turn"))
        raft.wake()

    ahead_of_tick(loop.call_soon, lambda: raft.wake())(propose)
    await turn()
    await turn()
    assert steps == ["propose", "tick", "next turn"]
    driver.stop()
    await running


async def test_outcomes_are_written_when_their_entry_is_answered(tmp_path: Path) -> None:
    node = FakeNode(config_of(tmp_path), auto=False)
    session, wire = greeted(node)
    other, other_wire = greeted(node)
    node.service.feed.resume(node.service.feed.subscribe(session, 1, "BTC-USD", 0))
    session.data_received(pack(Submit(1, WORLD)))
    await turn()
    node.raft.tick()
    await turn()
    wire.writes.clear()
    session.data_received(pack(Submit(2, [buy(1)])) + pack(Submit(3, [buy(2)])))
    other.data_received(pack(Submit(4, [buy(3)])))
    await turn()
    node.raft.tick()
    assert wire.writes == [[Events, Results, Results]], "in one write, and before any other turn"
    assert other_wire.writes[-1] == [Results]
    await turn()
    assert len(wire.writes) == 1
    assert node.service.answered == {}


async def test_gateways_learn_of_changed_keys_before_any_outcome_is_written(tmp_path: Path) -> None:
    node = FakeNode(config_of(tmp_path), auto=False)
    session, _wire = greeted(node)
    follower, follower_wire = greeted(node)
    node.server.key_followers[follower] = None
    await turn()
    follower_wire.writes.clear()
    key = PutApiKey(OPERATOR, "k", "key", "alice", "c2VjcmV0", "open", Permission.VIEW)
    session.data_received(pack(Submit(1, [*WORLD, key])))
    await turn()
    node.raft.tick()
    assert follower_wire.writes == [[KeysChanged]]


async def test_a_refusal_is_written_at_the_end_of_the_turn(tmp_path: Path) -> None:
    node = FakeNode(config_of(tmp_path), auto=False, leader=False)
    session, wire = greeted(node)
    await turn()
    wire.writes.clear()
    session.data_received(pack(Submit(1, [buy(1)])) + pack(Submit(2, [])))
    assert wire.writes == []
    await turn()
    assert wire.writes == [[Failed, Results]]
    assert node.service.answered == {}, "no entry is answered here that would empty it"


async def test_flush_leaves_long_messages_to_the_turns(tmp_path: Path) -> None:
    written: list[int] = []

    class Transport:
        def write(self, data: bytes) -> None:
            written.append(len(data))

        def set_write_buffer_limits(self, high: int) -> None:
            pass

        def get_write_buffer_size(self) -> int:
            return 0

    out = Outgoing(cast(Any, Transport()), 2 * CHUNK, lambda: None)
    out.write(b"x" * 10)
    out.flush()
    assert written == [10]
    out.write(b"x" * (CHUNK + 1))
    out.flush()
    assert written == [10]
    out.blocked = True
    out.discard()
    out.write(b"x")
    out.flush()
    assert written == [10], "the transport accepts no more"

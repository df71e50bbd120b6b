"""The engine's service without its process: the test plays its event loop, consensus and clocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from node.config.settings import NativeConfig
from node.engine.feed import Feed
from node.engine.principal import gateway
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.service import EngineService, NodeIdentity
from node.native.protocol import Answer, Control, ControlAction, Query, Results, Submit
from tests.unit.node.fakes import LocalRaft, config_of

GATEWAY = gateway("test")


class Answers(list[Any]):
    """What a client has received: outcomes are encoded once, by the engine, and decoded here."""

    def append(self, answer: Any) -> None:
        is_results = isinstance(answer, Results)
        super().append(msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Results) if is_results else answer)


class Desk:
    """A service whose event loop, consensus and clocks are played by the test."""

    def __init__(self, directory: Path, *, leader: bool = True, native: NativeConfig | None = None) -> None:
        config = config_of(directory, native=native)
        feed = Feed(config.native.events_kept)
        self.ready: list[Any] = []
        self.now_ns = 1_000
        self.seconds = 5.0
        self.machine = ReplicatedEngine(feed)
        self.raft = LocalRaft(self.machine, auto=False, leader=leader)
        self.answers: list[Any] = Answers()
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.service = EngineService(
            config,
            NodeIdentity("1.2.3", "abi"),
            self.machine,
            feed,
            self.raft,
            later=self.ready.append,
            after=self._after,
            time_ns=self._time,
            clock=lambda: self.seconds,
            more_counters=lambda: {"moons": 2},
        )

    def _after(self, seconds: float, work: Callable[[], None]) -> None:
        self.timers.append((self.seconds + seconds, work))

    def wait(self) -> None:
        """Let time pass until the next timer, and run it."""
        self.seconds, work = self.timers.pop(0)
        work()

    def control(self, request_id: int, action: ControlAction) -> None:
        self.service.control(GATEWAY, Control(request_id, action), self.answers.append)

    def _time(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def submit(self, request_id: int, *commands: Any, size: int = 100) -> None:
        self.service.submit(GATEWAY, Submit(request_id, list(commands)), size, self.answers.append)

    def query(self, query: Any, *, linearizable: bool = False, request_id: int = 1) -> None:
        self.service.query(GATEWAY, Query(request_id, query, linearizable), self.answers.append)

    def read(self, query: Any, kind: Any) -> Any:
        self.query(query)
        answer = self.answers.pop()
        assert isinstance(answer, Answer), answer
        return msgspec.msgpack.decode(answer.body, type=kind)

    def run(self) -> None:
        while self.ready or self.raft.under_way:
            while self.ready:
                self.ready.pop(0)()
            self.raft.tick()

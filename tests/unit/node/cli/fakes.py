"""A cluster for the command line that is one engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from node.engine.feed import Audience, Feed
from node.engine.queries import NotFoundError, Views
from node.errors import QuorumbookError
from node.native.client import ClusterClient, RequestFailed
from node.native.protocol import ANSWER_TYPES, AnyQuery, ControlAction, FailCode, MemberStatus, NodeStatus, StatusQuery
from statemachine.commands import AnyCommand, Batch
from statemachine.engine import Engine
from statemachine.events import AnyEvent, AnyOutcome


class FakeClient(ClusterClient):
    """A real engine behind the interface of `ClusterClient`. Every batch is one second later than the previous one.

    Attributes:
        failures: raised by the next calls to `submit`, one each.
        controls: the requests, with their nodes.
    """

    def __init__(self) -> None:
        super().__init__({"n1": "127.0.0.1:1"})
        self.engine = Engine()
        self.events_made: list[AnyEvent] = []
        self.failures: list[QuorumbookError] = []
        self.leaderless = False
        self.linearizable: list[bool] = []
        self.controls: list[tuple[ControlAction, str]] = []
        self.submitted: list[list[AnyCommand]] = []
        members = [
            MemberStatus(node_id, True, 40, native=f"127.0.0.1:{number}") for number, node_id in enumerate(("n1", "n2", "n3"), 1)
        ]
        self.status = NodeStatus(
            "n1", "trial", "leader", "n1", 3, 40, 40, 40, 1, 10, 0, "", True, True, True, 1.0, "0.1.0", "abi", members
        )  # fmt: skip
        self._feed = Feed(1000)
        self._views = Views(self._feed)

    async def submit(
        self,
        commands: Sequence[AnyCommand],
        deadline: float | None = None,
        on_resend: Callable[[], None] = lambda: None,
        *,
        patient: bool = True,
    ) -> list[AnyOutcome]:
        """Apply at once."""
        if self.failures:
            raise self.failures.pop(0)
        self.submitted.append(list(commands))
        applied = self.engine.apply(Batch((len(self.submitted) + 1_700_000_000) * 10**9, list(commands)))
        self.events_made.extend(applied.events)
        self._feed.publish(applied.event_products, applied.encoded_events)
        return applied.outcomes

    async def _query(self, query: AnyQuery, linearizable: bool = False) -> Any:
        if linearizable and self.leaderless:
            raise RequestFailed(FailCode.NO_LEADER, "no answer from a leader within 8 s; it was not applied")
        self.linearizable.append(linearizable)
        if isinstance(query, StatusQuery):
            return self.status
        try:
            body = self._views.answer(self.engine, query, Audience.FULL)
        except NotFoundError as error:
            raise RequestFailed(FailCode.NOT_FOUND, str(error)) from error
        return msgspec.msgpack.decode(body, type=ANSWER_TYPES[type(query)])

    async def control(self, action: ControlAction, node_id: str = "", *, about: str = "") -> bool:
        """Record the request, and do it at once."""
        self.controls.append((action, node_id or about))
        if action is ControlAction.SNAPSHOT:
            self.status = msgspec.structs.replace(self.status, snapshot_index=self.status.applied_index)
        elif action is ControlAction.TRANSFER_LEADERSHIP:
            leader = about or "n2"
            self.status = msgspec.structs.replace(self.status, term=self.status.term + 1, node_id=leader, leader_id=leader)
        return True

    async def query_node(self, node_id: str, query: AnyQuery) -> Any:
        """Query this engine, because all nodes are the same here."""
        return await self._query(query)

    async def events(self, product_id: str, from_sequence: int = 0) -> AsyncGenerator[list[AnyEvent], None]:
        """Yield the product's events so far and then those that arrive."""
        sent = 0
        while True:
            fresh = [event for event in self.events_made[sent:] if event.product_id == product_id]
            sent = len(self.events_made)
            if fresh:
                yield fresh
            await asyncio.sleep(0)

"""The answers that the users of one process got to their commands, for the verdict: all in a file that an audit reads,
and the latest orders in memory.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec

from loadtest.recorder import UNANSWERED, Acknowledgement
from node.errors import ConnectionLost, RequestFailed
from node.native.client import ClusterClient
from node.native.protocol import OrderQuery
from statemachine.commands import AnyCommand, PlaceOrder

LATEST = 200
"""Orders, the last acknowledged ones, that the verdict looks for at the end."""

REMEMBERED = 10_000
"""Orders whose id is compared if the exchange acknowledges them again. A user repeats only its last order."""


class OutcomeSummary(NamedTuple):
    """The outcome in an answer. `kind`: the outcome's class in lower case. `sequence`: 0 if the answer has none, as
    over HTTP. `order_id`: 0 unless an order was placed.
    """

    kind: str
    sequence: int = 0
    order_id: int = 0


class LatestOrder(NamedTuple):
    """An order that was acknowledged."""

    account_id: str
    client_oid: str
    order_id: int


class Ledger:
    """Writes the acknowledgements to a file in `directory`, or nowhere if that is None."""

    def __init__(self, directory: Path | None) -> None:
        self._file: TextIO | None = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = (directory / f"acknowledged-{os.getpid()}-{time.time_ns()}.jsonl").open("w", encoding="ascii")
        self._encode = msgspec.json.Encoder().encode
        self._order_ids: dict[tuple[str, str], int] = {}
        self.latest: deque[LatestOrder] = deque(maxlen=LATEST)

    def answered(self, command: AnyCommand, outcome: OutcomeSummary, sent: float, answered: float) -> str:
        """Record the answer to a command. Returns what contradicts an earlier answer, or "". Times are monotonic seconds."""
        self._write(command, outcome, sent, answered)
        if not outcome.order_id or not isinstance(command, PlaceOrder):
            return ""
        key = (command.account_id, command.command_id)
        first = self._order_ids.setdefault(key, outcome.order_id)
        if len(self._order_ids) > REMEMBERED:
            self._order_ids.pop(next(iter(self._order_ids)))
        self.latest.append(LatestOrder(command.account_id, command.client_oid, outcome.order_id))
        return (
            "" if first == outcome.order_id else f"client_oid {command.client_oid}: order {outcome.order_id}, and {first} before"
        )

    def unanswered(self, command: AnyCommand, sent: float) -> None:
        """Record that a command was sent and not answered. It may have been applied, once."""
        self._write(command, OutcomeSummary(UNANSWERED), sent, 0.0)

    def _write(self, command: AnyCommand, outcome: OutcomeSummary, sent: float, answered: float) -> None:
        """Record a command and its outcome in the file."""
        if self._file is not None:
            line = Acknowledgement(
                command.account_id, command.command_id, outcome.kind, outcome.sequence, outcome.order_id, False, sent, answered
            )
            self._file.write(self._encode(line).decode() + "\n")

    def close(self) -> None:
        """Close the file. A second call has no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def lost(self, client: ClusterClient) -> list[str]:
        """Look for the latest orders, and empty their list. Returns a line for each order that the exchange does not
        have under its id.
        """
        found = []
        while self.latest:
            order = self.latest.popleft()
            try:
                state = await client.query(OrderQuery(order.account_id, 0, order.client_oid), linearizable=True)
                if state.order_id != order.order_id:
                    found.append(f"{order.client_oid}: order {order.order_id} was acknowledged, {state.order_id} is there")
            except (RequestFailed, ConnectionLost) as error:
                found.append(f"{order.client_oid}: order {order.order_id} was acknowledged; {error}")
        return found

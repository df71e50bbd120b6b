"""What the users of one process were told of their orders, for the verdict: in a file, as an audit reads it, and the
latest orders in memory.
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
"""Orders that are looked for at the end: the last ones that were acknowledged."""

REMEMBERED = 10_000
"""Orders whose id is compared when the exchange acknowledges them again. A user repeats only its last order."""


class Told(NamedTuple):
    """The answer to a command. `kind`: the outcome's class in lower case. `sequence`: 0 if the protocol does not tell
    it, as HTTP. `order_id`: 0 unless an order was placed.
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

    def told(self, command: AnyCommand, told: Told, sent: float, answered: float) -> str:
        """Note the answer to a command. Returns what contradicts an earlier answer, or "". Times are monotonic seconds."""
        self._write(command, told, sent, answered)
        if not told.order_id or not isinstance(command, PlaceOrder):
            return ""
        key = (command.account_id, command.command_id)
        first = self._order_ids.setdefault(key, told.order_id)
        if len(self._order_ids) > REMEMBERED:
            self._order_ids.pop(next(iter(self._order_ids)))
        self.latest.append(LatestOrder(command.account_id, command.client_oid, told.order_id))
        return "" if first == told.order_id else f"client_oid {command.client_oid}: order {told.order_id}, and {first} before"

    def unanswered(self, command: AnyCommand, sent: float) -> None:
        """Note that a command was sent and not answered: it may have been applied, once."""
        self._write(command, Told(UNANSWERED), sent, 0.0)

    def _write(self, command: AnyCommand, told: Told, sent: float, answered: float) -> None:
        if self._file is not None:
            line = Acknowledgement(
                command.account_id, command.command_id, told.kind, told.sequence, told.order_id, False, sent, answered
            )
            self._file.write(self._encode(line).decode() + "\n")

    def close(self) -> None:
        """Close the file. A second call has no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def lost(self, client: ClusterClient) -> list[str]:
        """Look for the latest orders; what is wrong with each that the exchange does not have under its id. The list of
        the latest orders is empty afterwards.
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

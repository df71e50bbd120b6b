"""Clients that send their flows, record every answer, and check it.

A client without an answer sends the same commands with the same ids again until they are answered. It thereby learns
every outcome, and the exchange must not apply a command twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from loadtest.answers import fault
from loadtest.market import Submitter
from loadtest.recorder import Recorder
from node.errors import ConnectionLost, RequestFailed
from node.native.client import ClusterClient
from node.native.protocol import AnyQuery, FailCode
from statemachine.commands import AnyCommand
from statemachine.events import AnyOutcome

FAULTS_KEPT = 20
"""Texts of faults that are kept; all are counted."""

FINAL = frozenset({FailCode.BAD_REQUEST, FailCode.UNAUTHORIZED, FailCode.FORBIDDEN, FailCode.NOT_FOUND})
"""Failures that another attempt cannot correct."""


class Pacer:
    """Spreads commands evenly in time. `rate`: commands a second of all clients together, or 0 for no limit.

    Commands that could not be sent during an outage are not sent in addition afterwards.
    """

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate if rate > 0 else 0.0
        self._due = 0.0

    async def take(self, count: int) -> None:
        """Wait for the turn of the next `count` commands."""
        now = time.monotonic()
        self._due = max(self._due, now - 0.02) + count * self._interval
        if self._due > now:
            await asyncio.sleep(self._due - now)


class Faults:
    """The wrong answers to all clients."""

    def __init__(self) -> None:
        self.count = 0
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """Count a wrong answer, and keep its text up to a limit."""
        self.count += 1
        if len(self.texts) < FAULTS_KEPT:
            self.texts.append(text)


class Desk:
    """What the clients of one process share: the recorder, the pacer, the wrong answers, and the signal to stop."""

    def __init__(self, recorder: Recorder, *, rate: float = 0.0) -> None:
        self.recorder = recorder
        self.pacer = Pacer(rate)
        self.faults = Faults()
        self.stopping = asyncio.Event()
        self.retried = 0

    async def trade(self, client: Submitter, flow: Iterable[AnyCommand], chunk: int = 1) -> None:
        """Send `flow` in requests of `chunk` commands, one request at a time, until it ends or the desk stops.

        Raises:
            WrongAnswerError: an answer contradicts an earlier one.
            RequestFailed: the exchange does not let this client trade.
        """
        commands = iter(flow)
        while not self.stopping.is_set():
            part = _take(commands, chunk)
            if not part:
                return
            await self.pacer.take(len(part))
            await self.send(client, part)

    async def send(self, client: Submitter, commands: list[AnyCommand]) -> list[AnyOutcome]:
        """Send `commands` until they are answered, and return the outcomes. The list is empty if the desk stopped first."""
        sent = time.monotonic()
        self.recorder.sent(commands, sent)
        while True:
            try:
                outcomes = await client.submit(commands)
            except (RequestFailed, ConnectionLost) as error:
                if isinstance(error, RequestFailed) and error.code in FINAL:
                    raise
                if self.stopping.is_set():
                    return []
                self.retried += len(commands)
                continue
            self.recorder.answered(commands, outcomes, sent, time.monotonic())
            self._judge(commands, outcomes)
            return outcomes

    async def ask(self, client: ClusterClient, queries: Iterable[AnyQuery], pause: float) -> None:
        """Send each of `queries` as a linearizable read, `pause` seconds apart, until they end or the desk stops. Reads
        without an answer are not recorded.

        Raises:
            RequestFailed: the exchange does not let this client read.
        """
        for query in queries:
            if self.stopping.is_set():
                return
            await self.pacer.take(1)
            sent = time.monotonic()
            try:
                body: bytes | None = msgspec.msgpack.encode(await client.query(query, linearizable=True))
            except ConnectionLost:
                continue
            except RequestFailed as error:
                if error.code is FailCode.NOT_FOUND:
                    body = None
                elif error.code in FINAL:
                    raise
                else:
                    continue
            self.recorder.read(query, body, sent, time.monotonic())
            await asyncio.sleep(pause)

    def _judge(self, commands: Sequence[AnyCommand], outcomes: Sequence[AnyOutcome]) -> None:
        for command, outcome in zip(commands, outcomes, strict=True):
            text = fault(command, outcome)
            if text:
                self.faults.add(f"{command.account_id} {command.command_id}: {text}")


def _take(commands: Iterator[AnyCommand], count: int) -> list[AnyCommand]:
    """Return the next commands, up to a number."""
    part = []
    for command in commands:
        part.append(command)
        if len(part) == count:
            break
    return part

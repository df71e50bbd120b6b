"""The actions of users: trade, replay a recording, follow a feed. Each is a coroutine with its own `stopping`. It ends
when that is set and every request in flight is answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import datetime
from enum import Enum
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec

from loadtest.answers import fault as outcome_fault
from loadtest.flow import recorded_flow
from loadtest.market import PRODUCTS, Trader
from loadtest.personalities import flow_of, personality_of
from loadtest.traffic.arrival import closed_loop, open_loop
from loadtest.traffic.ledger import Ledger
from loadtest.traffic.sessions import Cluster, HttpSession, NativeSession, Reply, SocketSession, UserSession, refused, summary_of
from node.client.rest import RestError
from node.errors import ConnectionLost, RequestFailed
from node.system import tasks as background
from statemachine.commands import AnyCommand, CancelAll, CancelOrder, PlaceOrder

Protocols = type[HttpSession] | type[SocketSession] | type[NativeSession]

VERBS: dict[type[AnyCommand], str] = {PlaceOrder: "place", CancelOrder: "cancel", CancelAll: "cancel all"}

LOOK_EVERY = 20
"""Commands of a trader between two reads of its open orders."""

RECORDED_CHUNK = 20
"""Commands of a recording in one request."""

FEED_INTERVAL_S = 0.05
"""Seconds in which a feed reader reports one message. It checks all messages."""

RECORDED_NAME = "recorded day"
FEED_NAME = "feed"


class SampleKind(Enum):
    """The kind of a sample. The value is its name in the report; commands have the name of their protocol."""

    COMMAND = ""
    READ = "reads"
    FEED = "feed"


class Sample(NamedTuple):
    """One request, or one message of a feed. `at_s`: when the answer came, in seconds since the epoch. `fault`: the
    error in it, or "".
    """

    kind: SampleKind
    protocol: str
    name: str
    at_s: float
    latency_s: float
    length: int
    fault: str


class Pace(msgspec.Struct, frozen=True):
    """The pace of one user. `arrivals`: requests a second in an open loop; 0 for a closed loop with at most
    `per_user` requests a second, 0 for no limit.
    """

    per_user: float
    arrivals: float = 0.0


class UserDesk:
    """The objects that the users of one process share: the cluster, the accounts, the ledger, and the receiver of
    samples."""

    def __init__(
        self,
        cluster: Cluster,
        people: list[Trader],
        seed: int,
        run: str,
        pace: Pace,
        ledger: Ledger,
        report: Callable[[Sample], None],
    ) -> None:
        self.cluster = cluster
        self.people = people
        self.seed = seed
        self.run = run
        self.pace = pace
        self.ledger = ledger
        self.report = report

    def done(self, kind: SampleKind, protocol: str, name: str, due: float, reply: Reply) -> None:
        """Report a reply to a request that was due at that time of `time.perf_counter`."""
        self.report(Sample(kind, protocol, name, time.time(), time.perf_counter() - due, reply.length, reply.fault))

    def judged(self, command: AnyCommand, reply: Reply, sent: float) -> Reply:
        """Record a reply in the ledger. Returns the reply, with the fault that the ledger finds. `sent`: monotonic
        seconds."""
        if not reply.answered:
            self.ledger.unanswered(command, sent)
        elif reply.outcome is not None:
            fault = self.ledger.answered(command, reply.outcome, sent, time.monotonic())
            return reply._replace(fault=reply.fault or fault)
        return reply


async def trade(desk: UserDesk, protocol: Protocols, number: int, stopping: asyncio.Event) -> None:
    """Trade as the user with this number."""
    person, personality = desk.people[number % len(desk.people)], personality_of(number)
    flow = flow_of(personality, desk.seed, person.account_id, f"{desk.run}.{number}")
    session: UserSession = protocol(desk.cluster, person)
    sent = 0

    async def send(due: float) -> None:
        nonlocal sent
        sent += 1
        if sent % LOOK_EVERY == 0 and (seen := await session.look()) is not None:
            desk.done(SampleKind.READ, session.protocol, "open orders", due, seen)
            return
        command, begin = next(flow), time.monotonic()
        reply = desk.judged(command, await session.send(command), begin)
        desk.done(SampleKind.COMMAND, session.protocol, f"{VERBS[type(command)]} ({personality.value})", due, reply)

    try:
        if desk.pace.arrivals:
            await open_loop(send, desk.pace.arrivals, Random(f"{desk.seed}:{desk.run}:{number}"), stopping)
        else:
            await closed_loop(send, desk.pace.per_user, stopping)
    finally:
        await session.close()


async def replay(desk: UserDesk, recording: Path, stopping: asyncio.Event) -> None:
    """Send a recording in its order, once, as the operator for two accounts, several commands a request."""
    buyer, seller = desk.people[-1].account_id, desk.people[-2].account_id
    flow: Iterator[AnyCommand] = recorded_flow(recording, buyer, seller, f"{desk.run}.r")

    async def send(due: float) -> None:
        commands = list(islice(flow, RECORDED_CHUNK))
        if not commands:
            stopping.set()
            return
        begin = time.monotonic()
        try:
            outcomes = await desk.cluster.operator.submit(commands)
        except (RequestFailed, ConnectionLost) as error:
            reply = refused(error)
            for command in commands:
                desk.judged(command, reply, begin)
        else:
            replies = [
                desk.judged(command, Reply(outcome_fault(command, outcome), 0, summary_of(outcome)), begin)
                for command, outcome in zip(commands, outcomes, strict=True)
            ]
            reply = next((each for each in replies if each.fault), replies[0])
        desk.done(SampleKind.COMMAND, NativeSession.protocol, RECORDED_NAME, due, reply)

    await closed_loop(send, desk.pace.per_user, stopping)


async def follow(desk: UserDesk, number: int, stopping: asyncio.Event) -> None:
    """Follow the channel `full` of a product, and check that no sequence is missing or comes twice."""
    product_id = PRODUCTS[number % len(PRODUCTS)].product_id
    client = desk.cluster.rest(None)
    messages = client.stream(product_id, "full")
    reading = asyncio.create_task(_read(desk, messages, product_id))
    ended = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((reading, ended), return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
    finally:
        await background.cancel([reading, ended])
        await client.close()


async def _read(desk: UserDesk, messages: AsyncGenerator[dict[str, Any], None], product_id: str) -> None:
    """Read until cancelled, or until no node keeps the next message."""
    last = 0
    reported = 0.0
    try:
        async for message in messages:
            sequence, now = int(message["sequence"]), time.time()
            fault = f"{product_id}: {sequence} came after {last}" if last and sequence != last + 1 else ""
            last = sequence
            if fault or now - reported >= FEED_INTERVAL_S:
                reported = now
                age_s = max(0.0, now - datetime.fromisoformat(message["time"]).timestamp())
                desk.report(Sample(SampleKind.FEED, SocketSession.protocol, FEED_NAME, now, age_s, 0, fault))
    except RestError as error:
        desk.report(Sample(SampleKind.FEED, SocketSession.protocol, FEED_NAME, time.time(), 0.0, 0, str(error)))
    finally:
        await messages.aclose()

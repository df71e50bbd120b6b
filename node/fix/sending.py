"""Sends the messages of a session, either through its report stream or under numbers of the connection.

A client of order entry or drop copy may lose its node and log on at another one, where the sequence numbers must
continue. Every message to such a client is therefore in its report stream (`statemachine.streams`) before it is written.
The exchange adds the reports of orders to the stream. All other messages, such as heartbeats and rejects, go through the
log as notes, and are written when they come back as events of the stream:

    StreamSender.send ─▶ Submissions ─▶ log ─▶ stream ─▶ StreamSender.run ─▶ the client

A ResendRequest is answered from the stream, beginning with the requested number. A gap fill replaces administrative
messages, as the standard requires, and events that the node no longer keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from node.errors import QuorumbookError, RequestFailed
from node.fix import tags
from node.fix.logon import Terms
from node.fix.reports import execution_report
from node.fix.tags import ADMIN
from node.fix.wire import Fields, encode, join, split
from node.gateway.backend import Backend, Resent
from node.gateway.catalogue import Catalogue, Product
from node.gateway.errors import ApiError, UnavailableError
from node.native.protocol import FailCode
from node.system.tasks import Backoff
from statemachine.commands import AnyCommand, NoteStream
from statemachine.events import AnyEvent, AnyOutcome, Noted, OrderReported, Rejected, StreamNoted
from statemachine.types import Reason

log = logging.getLogger(__name__)

BATCH_MAX = 100
"""Commands of a session that one request may hold. Waiting commands share a request."""
WAITING_MAX = 1_000
"""Commands of a session that may wait. At this number the session stops reading from its client."""
RETRY_MIN, RETRY_MAX = 0.05, 1.0
"""Minimum and maximum seconds between attempts to reach the exchange or the stream. The pause doubles."""
CHECKPOINT_SECONDS = 1.0
"""Maximum seconds before the stream records how many of the client's messages were handled, without another record."""
RESENDS_MAX = 4
"""ResendRequests of a session that may wait."""


class Link(Protocol):
    """The connection to the client."""

    async def write(self, data: bytes) -> None:
        """Write bytes, and wait while the client reads too slowly. Raises ConnectionError."""

    def close(self, why: str) -> None:
        """End the connection. Calling it again has no effect."""


class Sender(Protocol):
    """What the session layer needs in order to answer."""

    def send(self, fields: Fields, taken: int = 0) -> None:
        """Send a message. `taken` is the number of the client's message that it settles, with all earlier ones."""

    def settled(self, number: int) -> None:
        """The client's messages up to this number need no further answer."""

    def resend(self, begin: int, end: int) -> None:
        """Send the messages from number `begin` to `end` (0: the last one) again."""

    def close(self) -> None:
        """End the connection after all messages passed to `send` are written."""


_NEVER = frozenset({FailCode.BAD_REQUEST, FailCode.FORBIDDEN})
"""Failures that repeat at every attempt, such as that of a command that the cluster's level does not have."""

Answers = list[tuple[Fields, int]]
"""Messages to send, each with the number of the client's message that it settles."""
Done = Callable[[AnyOutcome, bool], Awaitable[Answers]]
"""Returns the answers to a command's outcome. The flag says that this session may have sent the command before."""


async def no_answer(_outcome: AnyOutcome, _resent: bool) -> Answers:
    """Return no answer, because the stream reports the outcome."""
    return []


@dataclass
class Item:
    """A command that waits, and the function that answers its outcome."""

    command: AnyCommand
    done: Done = no_answer
    settles: bool = False
    """Whether the command records that messages of the client are settled. It is sent after the commands before it."""

    @property
    def is_note(self) -> bool:
        """Whether the command is a note, which needs no answer."""
        return isinstance(self.command, NoteStream)


class Submissions:
    """Submits a session's commands in order. One request is under way at a time; commands that arrive meanwhile go into
    the next request.

    A request is repeated with the same command ids until it is answered or the session ends. `refused` is called with a
    note that was refused.
    """

    def __init__(self, backend: Backend, note: Callable[[str, int], NoteStream], refused: Callable[[Rejected], None]) -> None:
        self._backend = backend
        self._note = note
        self._refused = refused
        self._items: deque[Item] = deque()
        self._answers: deque[Item] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._settled = 0
        self._noted = 0
        self._noted_at = time.monotonic()

    def put(self, item: Item) -> None:
        """Queue a command for submission."""
        self._items.append(item)
        self._wake()

    def note(self, fields: Fields, taken: int) -> None:
        """Queue a message as a note of the stream."""
        self._items.append(self._noting(fields, taken))
        self._wake()

    async def room(self) -> None:
        """Wait until fewer than `WAITING_MAX` commands wait."""
        await self._room.wait()

    async def idle(self) -> None:
        """Wait until the queue is empty."""
        await self._idle.wait()

    def settle(self, number: int) -> None:
        """Settle the client's messages up to this number after the waiting commands are answered."""
        self._settled = max(self._settled, number)

    async def run(self) -> None:
        """Submit commands until cancelled."""
        while True:
            if not self._items and not self._answers:
                self._idle.set()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECKPOINT_SECONDS):
                        await self._changed.wait()
            batch = self._batch()
            if batch:
                await self._submit(batch)

    def _batch(self) -> list[Item]:
        """Return the next commands: answers first, then requests."""
        batch: list[Item] = []
        while self._answers and len(batch) < BATCH_MAX:
            batch.append(self._answers.popleft())
        if not self._answers:
            settled = True
            while self._items and len(batch) < BATCH_MAX and (settled or not self._items[0].settles):
                item = self._items.popleft()
                settled = settled and item.is_note
                batch.append(item)
        if len(self._items) < WAITING_MAX:
            self._room.set()
        now = time.monotonic()
        waits = bool(self._items or self._answers)
        if not batch and not waits and self._settled > self._noted and now - self._noted_at >= CHECKPOINT_SECONDS:
            self._noted, self._noted_at = self._settled, now
            batch.append(self._noting([], self._settled))
        return batch

    async def _submit(self, batch: list[Item]) -> None:
        """Submit commands until they have outcomes, and queue the answers."""
        resent, backoff = Resent(), Backoff(RETRY_MIN, RETRY_MAX)
        outcomes: list[AnyOutcome]
        commands = [item.command for item in batch]
        while True:
            try:
                outcomes = await self._backend.submit(commands, resent)
                break
            except (UnavailableError, ApiError) as error:
                log.debug("commands of a session wait: %s", error)
            except RequestFailed as failure:
                if failure.code not in _NEVER:
                    log.warning("submitting commands of a session again: %s", failure)
                elif len(batch) > 1:
                    for item in batch:
                        await self._submit([item])
                    return
                else:
                    outcomes = [Rejected(0, 0, False, Reason.INVALID_ORDER, "", failure.message)]
                    break
            except QuorumbookError as error:
                log.warning("submitting commands of a session again: %s", error)
            resent.note()
            await backoff.wait()
        for item, outcome in zip(batch, outcomes, strict=True):
            for fields, taken in await item.done(outcome, resent.happened):
                self._answers.append(self._noting(fields, taken))

    def _noting(self, fields: Fields, taken: int) -> Item:
        """Return the command that writes a message and the number of the client's processed messages into the stream."""
        return Item(self._note(join(fields) if fields else "", taken), self._check_note, settles=taken > 0)

    async def _check_note(self, outcome: AnyOutcome, _resent: bool) -> Answers:
        if isinstance(outcome, Rejected):
            self._refused(outcome)
        return []

    def _wake(self) -> None:
        self._idle.clear()
        self._changed.set()
        if len(self._items) >= WAITING_MAX:
            self._room.clear()


class StreamSender:
    """Sends the events of a report stream. `base` is the stream's number before the client's first message.

    Attributes:
        last: the MsgSeqNum of the message sent last.
        submissions: the session's commands.
        taken_over: whether the client has a newer connection, perhaps at another node.
    """

    def __init__(self, backend: Backend, catalogue: Catalogue, link: Link, terms: Terms, origin: str, first: Noted) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._link = link
        self._terms = terms
        self._origin = origin
        self._base = first.base
        self._next = first.number
        self.last = first.number - first.base - 1
        self._notes = 0
        self._resends: asyncio.Queue[tuple[int, int]] = asyncio.Queue(RESENDS_MAX)
        self._writing = asyncio.Lock()
        self._wrote_at = time.monotonic()
        self._closing = False
        self.taken_over = False
        self.submissions = Submissions(backend, self._note, lambda why: link.close(f"a note was refused: {why.detail}"))

    @property
    def quiet_seconds(self) -> float:
        """Return the seconds since the last message was sent."""
        return time.monotonic() - self._wrote_at

    def send(self, fields: Fields, taken: int = 0) -> None:
        """See `Sender.send`."""
        if not self._closing:
            self.submissions.note(fields, taken)

    def settled(self, number: int) -> None:
        """See `Sender.settled`."""
        self.submissions.settle(number)

    def resend(self, begin: int, end: int) -> None:
        """See `Sender.resend`."""
        try:
            self._resends.put_nowait((begin, end))
        except asyncio.QueueFull:
            self._link.close("too many ResendRequests wait")

    def close(self) -> None:
        """See `Sender.close`. The last message passed to `send` must be a Logout."""
        self._closing = True

    async def run(self) -> None:
        """Send the stream's events, those kept and all later ones. Returns when the stream cannot be followed, or when
        another connection has taken it over.
        """
        backoff = Backoff(RETRY_MIN, RETRY_MAX)
        while True:
            try:
                async with self._backend.replay(self._terms.stream_id, self._next) as events:
                    backoff.reset()
                    if not await self._deliver_all(events):
                        return
            except RequestFailed as failure:
                if failure.code is FailCode.TOO_OLD:
                    self._link.close("the node no longer keeps the session's next reports")
                    return
            except UnavailableError as error:
                log.debug("stream %s: %s", self._terms.stream_id, error)
            await backoff.wait()

    async def run_resends(self) -> None:
        """Answer ResendRequests one after the other until cancelled."""
        while True:
            begin, end = await self._resends.get()
            async with self._writing:
                last = self.last if end == 0 else min(end, self.last)
                if begin <= last:
                    await self._resend(max(1, begin), last)

    async def _deliver_all(self, events: AsyncIterator[list[AnyEvent]]) -> bool:
        """Send events of the stream until they end. Returns False if one of them ends the session."""
        async for batch in events:
            async with self._writing:
                for event in batch:
                    if not await self._deliver(event):
                        return False
        return True

    async def _deliver(self, event: AnyEvent) -> bool:
        """Send an event of the stream. Returns False if it ends the session."""
        if event.product_sequence < self._next:
            return True
        self._next = event.product_sequence + 1
        if isinstance(event, StreamNoted):
            if event.base != self._base or (event.origin != self._origin and event.text.startswith("35=A")):
                self.taken_over = True
                self._link.close("the client has logged on somewhere else")
                return False
            fields = split(event.text)
            if event.origin != self._origin and fields[0][1] in ADMIN:
                # The note belongs to an earlier connection, such as the Logout after a failed Logon.
                self.last = event.product_sequence - self._base
                await self._fill(self.last, self.last + 1)
                return True
        else:
            assert isinstance(event, OrderReported), "a stream has reports and notes"
            fields = await self._fields(event)
        self.last = event.product_sequence - self._base
        await self._write(self.last, fields, 0)
        if fields[0][1] == "5" and isinstance(event, StreamNoted) and event.origin == self._origin:
            self._link.close("logged out")
            return False
        return True

    async def _fields(self, event: OrderReported) -> Fields:
        return execution_report(event, await self._product(event.symbol))

    async def _product(self, symbol: str) -> Product:
        """Return a product. Asks again until the engine answers."""
        while True:
            try:
                return await self._catalogue.product(symbol)
            except QuorumbookError as error:
                log.debug("product %s: %s", symbol, error)
                await asyncio.sleep(RETRY_MIN)

    async def _write(self, number: int, fields: Fields, first_ns: int) -> None:
        self._wrote_at = time.monotonic()
        await self._link.write(encode(self._terms.target, self._terms.sender, number, fields, time.time_ns(), first_ns))

    # Sending again

    async def _resend(self, begin: int, last: int) -> None:
        """Send the messages from `begin` to `last` again. `last` must not exceed the session's last number."""
        gap = begin
        end = self._base + last
        while begin <= last:
            try:
                begin = max(begin, await self._first_kept(begin, last))
                async with self._backend.replay(self._terms.stream_id, self._base + begin) as events:
                    async for batch in events:
                        for event in itertools.takewhile(lambda each: each.product_sequence <= end, batch):
                            number = event.product_sequence - self._base
                            gap = await self._again(number, event, gap)
                            begin = number + 1
                        if begin > last:
                            break
            except (RequestFailed, UnavailableError) as error:
                log.debug("resend on %s: %s", self._terms.stream_id, error)
                await asyncio.sleep(RETRY_MAX)
        if gap <= last:
            await self._fill(gap, last + 1)

    async def _again(self, number: int, event: AnyEvent, gap: int) -> int:
        """Send one event again. Returns the number at which the gap after it begins."""
        if isinstance(event, StreamNoted):
            fields = split(event.text)
            if fields[0][1] in ADMIN:
                return gap
        else:
            assert isinstance(event, OrderReported), "a stream has reports and notes"
            fields = await self._fields(event)
        if gap < number:
            await self._fill(gap, number)
        await self._write(number, fields, event.time)
        return number + 1

    async def _fill(self, begin: int, following: int) -> None:
        """Send a gap fill for the numbers from `begin` to before `following`."""
        fields = [(tags.MSG_TYPE, "4"), (tags.GAP_FILL, "Y"), (tags.NEW_SEQ_NO, str(following))]
        await self._write(begin, fields, time.time_ns())

    async def _first_kept(self, begin: int, last: int) -> int:
        """Return the first number from `begin` on that the node keeps, or `last` + 1. It needs O(log n) queries."""
        if await self._is_kept(begin):
            return begin
        low, high = begin, last + 1
        while high - low > 1:
            middle = (low + high) // 2
            if await self._is_kept(middle):
                high = middle
            else:
                low = middle
        return high

    async def _is_kept(self, number: int) -> bool:
        """Return whether the engine still keeps a message of the stream."""
        try:
            async with self._backend.replay(self._terms.stream_id, self._base + number):
                return True
        except RequestFailed as failure:
            if failure.code is not FailCode.TOO_OLD:
                raise
            return False

    def _note(self, text: str, taken: int) -> NoteStream:
        """Return the command that writes a text into the stream."""
        self._notes += 1
        return NoteStream(
            self._terms.account_id,
            f"fix:{self._origin}:{self._notes}",
            self._terms.stream_id,
            self._origin,
            text,
            taken,
        )


class LocalSender:
    """Sends under numbers that start at 1 with each connection. Market data uses it, because its sessions do not
    outlive the connection. Messages are not sent again.
    """

    def __init__(self, link: Link, terms: Terms) -> None:
        self._link = link
        self._terms = terms
        self.last = 0
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._wrote_at = time.monotonic()
        self.waiting = 0
        """Bytes waiting for the client."""

    @property
    def quiet_seconds(self) -> float:
        """Return the seconds since the last message was sent."""
        return time.monotonic() - self._wrote_at

    def send(self, fields: Fields, taken: int = 0) -> None:  # noqa: ARG002 - as `Sender` says
        """See `Sender.send`."""
        self.last += 1
        self._put(encode(self._terms.target, self._terms.sender, self.last, fields, time.time_ns()))

    def settled(self, number: int) -> None:
        """See `Sender.settled`."""

    def resend(self, begin: int, end: int) -> None:
        """See `Sender.resend`. A gap fill replaces all messages."""
        last = self.last if end == 0 else min(end, self.last)
        if 1 <= begin <= last:
            now = time.time_ns()
            fields = [(tags.MSG_TYPE, "4"), (tags.GAP_FILL, "Y"), (tags.NEW_SEQ_NO, str(last + 1))]
            self._put(encode(self._terms.target, self._terms.sender, begin, fields, now, now))

    def close(self) -> None:
        """See `Sender.close`."""
        self._outgoing.put_nowait(None)

    async def run(self) -> None:
        """Write messages until `close`."""
        while (data := await self._outgoing.get()) is not None:
            await self._link.write(data)
            self.waiting -= len(data)
        self._link.close("logged out")

    def _put(self, data: bytes) -> None:
        """Queue bytes for the connection. A client that reads too slowly is cut off."""
        self._wrote_at = time.monotonic()
        self.waiting += len(data)
        if self.waiting > LOCAL_WAITING_MAX:
            self._link.close("slow consumer: too much waits for this connection")
            return
        self._outgoing.put_nowait(data)


LOCAL_WAITING_MAX = 16 * 1024 * 1024
"""Bytes that may wait for a reader of market data. A reader with more is cut off."""

"""The server of FIX clients: accepts connections within bounds, logs clients on, and serves their sessions.

Each client pays for its own connections. The server counts connections by address from the beginning, and by API key
after the Logon. A message costs its key units (`node.budget`), and the server stops reading from a key without units.
It cuts off a client that does not read, or sends nothing for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import NamedTuple

from node.budget import AddressShares, Cost, Places, Shares, caller_of
from node.config.settings import FixConfig
from node.errors import QuorumbookError, RequestFailed
from node.fix import tags
from node.fix.counting import FixCounts
from node.fix.fields import FixMessage
from node.fix.logon import CancelOnDisconnect, LogonCheck, LogonRefusedError, Service, Terms
from node.fix.market import MarketData
from node.fix.orders import UNSUPPORTED_TYPE, OrderEntry, business_reject
from node.fix.sending import LocalSender, Sender, StreamSender
from node.fix.session import FixSession
from node.fix.wire import Fields, FixFrame, Framer, WireError, encode, join
from node.gateway.auth import Authenticator, Identity
from node.gateway.backend import Backend
from node.gateway.catalogue import Catalogue
from node.gateway.feeds import Feeds
from node.native.protocol import FailCode, StreamQuery
from node.system import tasks as background
from statemachine.commands import NoteStream
from statemachine.events import Noted, Rejected
from statemachine.tables import StreamRow
from statemachine.types import Permission

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 400
"""Connections, logged on or not. A session has one or two connections to the engine, which accepts 512
(`engine.connection_limits.LOCAL_MAX`).
"""
CONNECTIONS_PER_ADDRESS = 64
MARKET_SESSIONS_PER_KEY = 8
"""Market data sessions of a key. A key has one session of order entry and one of drop copy in the whole cluster."""

HANDSHAKES_PER_SECOND, HANDSHAKES_BURST = 10.0, 40.0
"""Connections of one address."""
LOGONS_PER_SECOND, LOGONS_BURST = 2.0, 10.0
"""Logons of one key."""

HANDSHAKE_TIMEOUT = 5.0
"""Seconds for the TLS handshake. The connection is already counted then."""
LOGON_TIMEOUT = 10.0
"""Seconds from the handshake to the Logon."""
FRAME_SECONDS = 15.0
"""Seconds from the first byte of a message to the last."""
WRITE_STALL = 10.0
"""Seconds that a client may take to read the written bytes."""
LOGOUT_SECONDS = 5.0
"""Seconds in which the server's Logout must be written."""
CANCEL_SECONDS = 30.0
"""Seconds for which the server tries to cancel the orders of a lost connection."""
RIGHTS_SECONDS = 5.0
"""Seconds between two checks of a user's roles."""
LOOK_SECONDS = 0.25
READ_SIZE = 64 * 1024
WRITE_HIGH = 1024 * 1024
"""Bytes in the transport above which writing waits."""

BYTES_PER_UNIT = 1_024
"""Bytes of a message for each further unit: checking and splitting them takes 0.15 ms. An order has about 200."""

GARBLED_BURST, GARBLED_RATE = 5, 0.1
"""Garbled messages that a connection may send at once, and a second. The standard requires that they are ignored."""


class FixConnection:
    """One connection. It implements the `Link` of its sender and `auth.Signed`."""

    def __init__(self, server: FixServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.identity: Identity | None = None
        self.ended = False
        self.session: FixSession | None = None
        self.needed = Permission.VIEW
        """The permission that the session's requests need."""
        self._server = server
        self._reader = reader
        self._writer = writer
        self._over = asyncio.Event()
        self._framer = Framer()
        self._frame_since = 0.0
        self._frames: list[FixFrame] = []
        peer = writer.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def enough(self) -> int:
        """See `auth.Signed`. Order entry without TRADE still gets its reports, and its requests are refused."""
        return self.needed | Permission.VIEW

    # The link

    async def write(self, data: bytes) -> None:
        """See `Link.write`."""
        if self.ended:
            raise ConnectionResetError("the connection has ended")
        self._server.counts.sent(data)
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > WRITE_HIGH:
            try:
                async with asyncio.timeout(WRITE_STALL):
                    await self._writer.drain()
            except TimeoutError:
                self.close("the client does not read")
                raise ConnectionResetError("the client does not read") from None

    def close(self, why: str) -> None:
        """See `Link.close`."""
        if not self.ended:
            self.ended = True
            name = self.identity.key_id if self.identity is not None else self.address
            log.info("FIX session of %s ends: %s", name, why)
            self._over.set()

    def lose_identity(self, key_id: str) -> None:
        """See `auth.Signed`."""
        self.close(f"the API key {key_id} was revoked or changed")

    # Its life

    async def run(self) -> None:
        """Serve the connection until it ends."""
        try:
            async with asyncio.timeout(LOGON_TIMEOUT):
                frame = await self._next_frame()
                terms = await self._server.admit(FixMessage(frame), self.address) if frame is not None else None
        except TimeoutError:
            self.close("no Logon in time")
            return
        except LogonRefusedError as error:
            await self.refuse(_names(FixMessage(frame)) if frame is not None else None, str(error))
            return
        if terms is not None:
            self.identity = terms.identity
            self.needed = Permission.TRADE if terms.service is Service.ORDERS else Permission.VIEW
            await self._server.serve(self, terms)

    async def refuse(self, names: tuple[str, str] | None, why: str) -> None:
        """Send a Logout to a client that is not logged on. Its MsgSeqNum is 1, because nothing was sent before. `names`
        are the TargetCompID and SenderCompID of the client's message, or None if the client sent nothing.
        """
        log.info("FIX logon from %s refused: %s", self.address, why)
        self._server.counts.refused_logons += 1
        if names is not None:
            fields: Fields = [(tags.MSG_TYPE, "5"), (tags.TEXT, why)]
            with contextlib.suppress(ConnectionError):
                await self.write(encode(*names, 1, fields, time.time_ns()))
        self.close(why)

    async def serve(self, session: FixSession, running: list[Coroutine[None, None, None]]) -> None:
        """Serve a session until the connection ends. `running` are the coroutines of its sender."""
        self.session = session
        tasks = [asyncio.create_task(run) for run in (self._read(session), self._look(session), *running)]
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait([over, *tasks[:1]], return_when=asyncio.FIRST_COMPLETED)
            if not self.ended and session.ended:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOGOUT_SECONDS):  # a Logout may be queued
                        await self._over.wait()
        finally:
            self.close("the client is gone")
            over.cancel()
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, OSError):
                    log.error("a FIX session failed", exc_info=result)

    async def _read(self, session: FixSession) -> None:
        """Read the client's messages until the connection ends."""
        while not self.ended and (frame := await self._next_frame()) is not None:
            assert self.identity is not None
            wait = self._server.keys.take(self.identity.key_id, Cost.REQUEST + len(frame.raw) // BYTES_PER_UNIT)
            while wait:
                await asyncio.sleep(wait)
                wait = self._server.keys.take(self.identity.key_id, Cost.REQUEST)
            session.allowed = bool(self.identity.permissions & self.needed)
            message = FixMessage(frame)
            self._server.counts.received(message.type)
            await session.take(message, frame.number)

    async def _look(self, session: FixSession) -> None:
        """Check the times of the session every second, and end a connection whose message does not end."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            session.look()
            if self._framer.waiting and time.monotonic() - self._frame_since > FRAME_SECONDS:
                self.close("a message does not end")

    async def _next_frame(self) -> FixFrame | None:
        """Return the next message, or None at the end."""
        while not self._frames:
            try:
                data = await self._reader.read(READ_SIZE)
                if not data:
                    return None
                if not self._framer.waiting:
                    self._frame_since = time.monotonic()
                garbled = self._framer.garbled
                self._frames = self._framer.feed(data)
            except WireError as error:
                self.close(str(error))
                return None
            except OSError:
                return None
            self._server.counts.garbled += self._framer.garbled - garbled
            if self._framer.garbled > garbled and not self._server.may_be_garbled(self, self._framer.garbled - garbled):
                self.close("too many garbled messages")
                return None
        return self._frames.pop(0)


def _names(message: FixMessage) -> tuple[str, str]:
    """Return TargetCompID and SenderCompID of a message, or NONE in place of one that is missing or invalid."""
    found: list[str] = []
    for tag in (tags.TARGET, tags.SENDER):
        try:
            found.append(message.optional(tag) or "NONE")
        except QuorumbookError:
            found.append("NONE")
    return found[0], found[1]


class _Begun(NamedTuple):
    """How a session of a report stream begins: the number of the client's next message, the sequence of the command that
    opened the stream, and whether the exchange knows the numbers of the session.
    """

    expected: int
    opened: int
    known: bool


@dataclass
class FixServer:
    """Accepts connections and serves each one the service for which it logs on."""

    config: FixConfig
    backend: Backend
    catalogue: Catalogue
    feeds: Feeds
    auth: Authenticator
    connections: dict[FixConnection, None] = field(default_factory=dict)
    counts: FixCounts = field(default_factory=FixCounts)
    _streams: dict[str, FixConnection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._doorkeeper = LogonCheck(self.auth, self.backend, self.config.logon_age_max)
        self.keys: Shares[str] = Shares(self.config.key_rate)
        self._logons: Shares[str] = Shares(LOGONS_PER_SECOND, LOGONS_BURST)
        self._handshakes = AddressShares(HANDSHAKES_PER_SECOND, HANDSHAKES_BURST)
        self._garbled: Shares[str] = Shares(GARBLED_RATE, GARBLED_BURST)
        self._places: Places[str] = Places(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS)
        self._markets: Places[str] = Places(CONNECTIONS_MAX, MARKET_SESSIONS_PER_KEY)
        self._server: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listen, and return the port."""
        self._tls = tls
        self._server = await asyncio.start_server(self._accept, host, port, limit=READ_SIZE, backlog=64)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, and log all clients out."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            if connection.session is not None:
                connection.session.end("the node is stopping")
            else:
                connection.close("the node is stopping")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        await background.cancel(self._tasks)

    async def admit(self, message: FixMessage, address: str) -> Terms:
        """See `LogonCheck.admit`."""
        return await self._doorkeeper.admit(message, address)

    def may_be_garbled(self, connection: FixConnection, count: int) -> bool:
        """Return whether a connection may continue after `count` more garbled messages. They are charged to its address."""
        return not any(self._garbled.take(caller_of(connection.address)) for _ in range(min(count, 2 * GARBLED_BURST)))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection, or refuse it because of a limit."""
        connection = FixConnection(self, reader, writer)
        caller = caller_of(connection.address)
        task = asyncio.current_task()
        assert task is not None
        if self._handshakes.take(connection.address) or not self._places.enter(caller):
            self.counts.refused_connections += 1
            writer.transport.abort()
            return
        self.counts.connections += 1
        self._tasks.add(task)
        self.connections[connection] = None
        try:
            if self._tls is not None:
                await writer.start_tls(self._tls, ssl_handshake_timeout=HANDSHAKE_TIMEOUT)
            await connection.run()
        except (QuorumbookError, OSError) as error:
            log.info("FIX connection from %s: %s", connection.address, error)
        finally:
            self._tasks.discard(task)
            self.counts.connections -= 1
            del self.connections[connection]
            self._places.leave(caller)
            await _finish(writer)

    async def serve(self, connection: FixConnection, terms: Terms) -> None:
        """Serve the service for which a client logged on."""
        if self._logons.take(terms.sender):
            await connection.refuse((terms.target, terms.sender), "too many Logons")
        elif terms.service is Service.MARKET:
            await self._serve_market(connection, terms)
        else:
            await self._serve_stream(connection, terms)

    async def _serve_market(self, connection: FixConnection, terms: Terms) -> None:
        """Serve a session of market data."""
        if terms.number != 1:
            await connection.refuse((terms.target, terms.sender), "a session of market data begins with MsgSeqNum 1")
            return
        if not self._markets.enter(terms.sender):
            await connection.refuse(
                (terms.target, terms.sender), f"a key has at most {MARKET_SESSIONS_PER_KEY} sessions of market data"
            )
            return
        sender = LocalSender(connection, terms)
        market = MarketData(self.feeds, self.catalogue, sender, self.keys, terms.sender)
        session = FixSession(terms, 1, sender, connection, market.handle)
        sender.send(terms.answer())
        session.begin(1)
        try:
            with self.counts.session(terms.service):
                await connection.serve(session, [sender.run()])
        finally:
            market.close()
            self._markets.leave(terms.sender)

    async def _serve_stream(self, connection: FixConnection, terms: Terms) -> None:
        """Serve order entry or drop copy, whose messages come from the report stream."""
        row = await self._stream(terms)
        expected = 1 if terms.reset or row is None else row.taken + 1
        origin = secrets.token_hex(8)
        too_low = terms.number < expected
        answer: Fields = terms.answer()
        if too_low:
            text = f"MsgSeqNum too low, expecting {expected} but received {terms.number}"
            answer = [(tags.MSG_TYPE, "5"), (tags.TEXT, text)]
        note = NoteStream(
            terms.account_id,
            f"fix:{origin}:0",
            terms.stream_id,
            origin,
            join(answer),
            terms.number if terms.number == expected or row is None else 0,
            open=not too_low,
            reset=terms.reset,
        )
        (outcome,) = await self.backend.submit([note])
        if isinstance(outcome, Rejected):
            await connection.refuse(
                (terms.target, terms.sender), f"the session cannot be opened ({outcome.detail}); log on with ResetSeqNumFlag=Y"
            )
            return
        assert isinstance(outcome, Noted), outcome
        before = self._streams.get(terms.stream_id)
        if not too_low:
            if before is not None:
                before.close("the client has logged on again")
            self._streams[terms.stream_id] = connection
        sender = StreamSender(self.backend, self.catalogue, connection, terms, origin, outcome)
        try:
            with self.counts.session(terms.service):
                await self._run_stream(
                    connection, terms, sender, _Begun(expected, outcome.sequence, row is not None or terms.reset), too_low=too_low
                )
        finally:
            if self._streams.get(terms.stream_id) is connection:
                del self._streams[terms.stream_id]

    async def _run_stream(
        self, connection: FixConnection, terms: Terms, sender: StreamSender, begun: _Begun, *, too_low: bool
    ) -> None:
        """Run a session whose numbers are part of the replicated state."""
        orders = OrderEntry(self.backend, self.catalogue, sender, terms)
        handle = orders.handle if terms.service is Service.ORDERS else _copies_only(sender)
        session = FixSession(terms, begun.expected, sender, connection, handle)
        submitting = asyncio.create_task(sender.submissions.run())
        submitting.add_done_callback(lambda _: connection.close("the session's commands ended"))
        try:
            if too_low:
                sender.close()
                session.stop()
            else:
                session.begin(terms.number, known=begun.known)
            running = [sender.run(), sender.run_resends()]
            trades = terms.service is Service.ORDERS and not too_low
            cancels = trades and terms.cancel is not CancelOnDisconnect.NONE
            if trades:
                orders.disarm()
            if cancels:
                running.append(orders.keep_armed())
            if terms.is_of_another:
                running.append(self._watch_rights(connection, terms))
            await connection.serve(session, running)
            here_again = self._streams.get(terms.stream_id) is not connection
            if cancels and not here_again and not sender.taken_over:
                async with asyncio.timeout(CANCEL_SECONDS):
                    if await self._is_latest(terms, begun.opened):
                        await orders.cancel_on_disconnect()
        except TimeoutError:
            log.warning("FIX session of %s: its orders were not cancelled in time", terms.sender)
        finally:
            submitting.cancel()
            (failure,) = await asyncio.gather(submitting, return_exceptions=True)
            if isinstance(failure, Exception):
                log.error("the commands of a FIX session failed", exc_info=failure)

    async def _watch_rights(self, connection: FixConnection, terms: Terms) -> None:
        """Check until cancelled whether the user's roles still allow the account, and end the session if they do not."""
        while True:
            await asyncio.sleep(RIGHTS_SECONDS)
            with contextlib.suppress(QuorumbookError):  # no node answers; the next check decides
                if not await self._doorkeeper.sees(terms.identity, terms.account_id):
                    connection.close(f"the user may not see the account {terms.account_id} any more")

    async def _is_latest(self, terms: Terms, opened: int) -> bool:
        """Return whether the client has not logged on anywhere after the command `opened`. This node may have been cut
        off from the others meanwhile. Asks until the leader answers.
        """
        while True:
            try:
                row = await self._stream(terms)
            except QuorumbookError as error:
                log.debug("stream %s: %s", terms.stream_id, error)
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return row is not None and row.opened == opened

    async def _stream(self, terms: Terms) -> StreamRow | None:
        """Return the leader's row of the session's stream."""
        try:
            row: StreamRow = await self.backend.query_leader(StreamQuery(terms.stream_id))
        except RequestFailed as failure:
            if failure.code is not FailCode.NOT_FOUND:
                raise
            return None
        return row


def _copies_only(sender: Sender) -> Callable[[FixMessage, int], Awaitable[None]]:
    """Return a handler that rejects the requests of a drop copy session."""

    async def handle(message: FixMessage, number: int) -> None:
        sender.send(business_reject(message, number, UNSUPPORTED_TYPE, "a drop copy session takes no requests"), number)

    return handle


async def _finish(writer: asyncio.StreamWriter) -> None:
    """Close after a short time in which the written bytes can be sent."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
            return
    writer.transport.abort()

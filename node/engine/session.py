"""One connection of the native protocol, from its greeting to its end.

A session has three states: it must greet (`Hello`), then it is served, then it is closing. A message that does not
decode is answered with `Failed(BAD_REQUEST)` naming the field. The session then continues, because the start of the
next frame is known. It is closed if the start is not known (a frame of impossible length), before the greeting, and
after several such messages.

The memory of a session is bounded. If a client does not read its answers, the node stops reading from it and leaves its
requests unprocessed, its feed waits in the ring, and after `STALL_MAX` seconds the session is closed. The work for a
session is bounded, too: each request has a cost (`node.budget`), which the key's budget pays. The node stops reading
from a session whose key has no budget left until the budget recovers. A request that would wait longer than `PACE_MAX`
is refused unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec

from node.budget import Bucket, Cost
from node.engine.book_copy import LongAnswer
from node.engine.feed import Audience, Subscription
from node.engine.outgoing import Outgoing
from node.engine.principal import Principal, gateway
from node.engine.submissions import rate_limited
from node.errors import FramingError, RequestFailed
from node.native.framing import FrameSplitter, MalformedError, decode_request, pack, request_id_of
from node.native.protocol import (
    FRAME_MAX,
    PROTOCOL_VERSION,
    TRUE,
    AddMember,
    Answer,
    ChangeLevel,
    Control,
    FailCode,
    Failed,
    FollowKeys,
    Hello,
    LeaderHint,
    PrepareLevel,
    Query,
    RemoveMember,
    Results,
    Submit,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from snapshots.levels.level import SUPPORTED

if TYPE_CHECKING:
    from node.engine.native_server import NativeServer

log = logging.getLogger(__name__)

HELLO_TIMEOUT = 5.0
"""Seconds for the greeting, and before it for the TLS handshake."""

HELLO_MAX = 4_096
"""Bytes of the first frame. The node keeps no more for an unauthenticated client."""

WRITE_HIGH = 1024 * 1024
"""Unread bytes of a client above which the node stops reading from it."""

WRITE_MAX = 16 * 1024 * 1024
"""Unread bytes above which a session is closed. They are answers to requests that were pending when the client stopped
reading; a single answer may be longer.
"""

STALL_MAX = 15.0
"""Seconds for which a client may leave waiting bytes unread."""

FRAME_SECONDS = 15.0
"""Seconds for a whole frame to arrive, counted from its first byte."""

IDLE_MAX = 120.0
"""Seconds without a request after which a session without subscriptions is closed. Quorumbook's own clients request the
status twice a second.
"""

CLOSE_SECONDS = 2.0
"""Seconds for sending the last message."""

TURN_MAX = 0.005
"""Seconds for which the requests of one session are processed before other work has its turn, above all heartbeats."""

PACE_MAX = 0.5
"""Seconds for which a request waits for its key's budget. One that would wait longer is refused."""

REFUSED_PAUSE = 0.1
"""Seconds for which the node does not read from a session after such a refusal."""

MALFORMED_BURST = 5
MALFORMED_RATE = 0.1
"""Malformed messages that a session may send at once, and a second. A correct client sends none; a person who
experiments sends a few.
"""

EVENT_BYTES = 150
"""Approximate bytes of an event in a frame. The cost of a replay depends on its length."""

READS_MAX = 64
"""Linearizable reads that one session may have pending. Gateways may have more, because they serve many clients."""
READS_MAX_OPERATOR = 2_000

CLIENT_NAME_MAX = 128


class Session(asyncio.Protocol):
    """One connection. Also the feed's `Subscriber`.

    `greeted` is called once with the principal after authentication, before the welcome. It refuses the session by
    raising RequestFailed. `gone` is called when the connection is lost.
    """

    def __init__(
        self,
        server: NativeServer,
        *,
        local: bool,
        greeted: Callable[[Principal, str], None] = lambda _principal, _address: None,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        self.audience = Audience.PUBLIC
        self.key_id = ""
        self.node_id = ""
        self._account_id = ""
        self._server = server
        self._service = server.service
        self._local = local
        self._greeted = greeted
        self._gone = gone
        self._transport: asyncio.Transport
        self._out: Outgoing
        self._splitter = FrameSplitter(HELLO_MAX)
        self._principal: Principal | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._unread: deque[bytes] = deque()
        self._open = False
        self._paused = False
        self._scheduled = False
        self._replaying = False
        self._results: list[Results] = []
        """Outcomes of the entry that is being answered."""
        self._reads = 0
        self._address = ""
        self._malformed = Bucket(MALFORMED_RATE, MALFORMED_BURST, time.monotonic())
        self._paced_since = 0.0
        now = time.monotonic()
        self._since = now
        """When the connection was accepted or, while closing, when closing began."""
        self._asked = now
        self._took = now
        self._took_bytes = 0

    # ------------------------------------------------------------------ calls from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the session. A node that is stopping refuses it."""
        self._transport = cast(asyncio.Transport, transport)
        self._out = Outgoing(self._transport, WRITE_HIGH // 4, self._flushed)
        peer = self._transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        self._open = True
        self._server.admit(self)
        if self._service.stopping:
            self._refuse(FailCode.STOPPING, "this node is stopping")

    def data_received(self, data: bytes) -> None:
        """Queue the requests in `data`. Malformed data ends the session."""
        if not self._open:
            return
        begins = not self._splitter.waiting
        try:
            frames = self._splitter.feed(data)
        except FramingError as error:
            self._count("framing")
            self._refuse(FailCode.BAD_REQUEST, str(error))
            return
        if begins or frames:
            self._asked = time.monotonic()
        self._unread.extend(frames)
        if not self._scheduled:
            self._take_turn()

    def pause_writing(self) -> None:
        self._out.blocked = True

    def resume_writing(self) -> None:
        self._out.unblock()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Drop what was not answered, and end the subscriptions."""
        self._open = False
        self._unread.clear()
        self._out.discard()
        for subscription in self._subscriptions.values():
            self._service.feed.unsubscribe(subscription)
        self._subscriptions.clear()
        self._server.dismiss(self)
        self._gone()

    # ------------------------------------------------------------------ periodic calls from the server

    @property
    def waiting(self) -> int:
        """Bytes kept for this session: unread answers, and the received part of a frame."""
        return self._out.waiting + self._splitter.waiting

    def look(self, now: float) -> None:
        """Close the session if it has exceeded a time limit."""
        if not self._open:
            if now - self._since > CLOSE_SECONDS:
                self._transport.abort()
        elif self._principal is None:
            if now - self._since > HELLO_TIMEOUT:
                self._cut("silent", "no greeting")
        elif self._stalled(now):
            self._cut("stalled", "does not read its answers")
        elif self._splitter.waiting and now - self._asked > FRAME_SECONDS and self._transport.is_reading():
            self._cut("slow", "does not finish what it began to send")
        elif now - self._asked > IDLE_MAX and not self._subscriptions and not self._principal.node and not self._unread:
            self._count("idle")
            self._refuse(FailCode.STOPPING, f"no request for {IDLE_MAX:g} s")

    def _stalled(self, now: float) -> bool:
        """Return whether the client has taken no bytes for too long."""
        taken = self._out.written - self._out.waiting
        if taken != self._took_bytes or not self._out.waiting:
            self._took, self._took_bytes = now, taken
        return now - self._took > STALL_MAX

    def cut_for_room(self) -> None:
        """Close this session because it holds the most bytes and the limit of all sessions is reached."""
        self._cut("stalled", f"{self.waiting} bytes wait for it, and all sessions together hold too much")

    # ------------------------------------------------------------------ calls from the feed

    @property
    def writable(self) -> bool:
        """See `feed.Subscriber`."""
        return self._open and not self._paused

    def send(self, frame: bytes) -> bool:
        """See `feed.Subscriber`. During a replay it sends one frame a turn."""
        if self._open:
            waiting = self._out.waiting
            if waiting > WRITE_MAX:
                self._cut("stalled", "does not read its answers")
            else:
                self._out.write(frame)
                self._paused = waiting + len(frame) > WRITE_HIGH
        return not self._paused and not self._replaying

    def feed_ended(self, subscription: Subscription, reason: str) -> None:
        """See `feed.Subscriber`."""
        self._subscriptions.pop(subscription.product_id, None)
        self._reply(Failed(subscription.request_id, FailCode.TOO_OLD, reason))

    def _flushed(self) -> None:
        """Called when the transport has accepted bytes."""
        if self._paused and self._out.waiting <= WRITE_HIGH // 2:
            self._paused = False
            self._schedule_turn()

    # ------------------------------------------------------------------ turns

    def _schedule_turn(self, seconds: float = 0.0) -> None:
        """Let the session read its next messages soon, or after some seconds."""
        if self._open and not self._scheduled:
            self._scheduled = True
            loop = asyncio.get_running_loop()
            if seconds:
                loop.call_later(seconds, self._next_turn)
            else:
                loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Continue after a pause: first send waiting feed frames, then process the client's requests."""
        self._scheduled = False
        for subscription in list(self._subscriptions.values()):
            if self.writable and not subscription.live and not self._wait():
                self._replay(subscription)
        self._take_turn()

    def _take_turn(self) -> None:
        """Process received requests while the client reads the answers, has budget, and the session's turn is not over."""
        unread, clock = self._unread, time.monotonic
        until = clock() + TURN_MAX
        while unread and self._open and not self._paused:
            if self.key_id:
                seconds = self._wait()
                if seconds:
                    self._out_of_budget(seconds)
                    return
                self._paced_since = 0.0
            self._message(unread.popleft())
            if clock() > until:
                break
        if not self.writable:
            self._transport.pause_reading()
        elif unread:
            self._transport.pause_reading()
            self._schedule_turn()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    def _wait(self) -> float:
        """Return the seconds until the key and its account have budget again. The next request may overdraw it."""
        if not self.key_id:
            return 0.0
        return max(self._server.key_rates.wait(self.key_id), self._service.account_rates.wait(self._account_id))

    def _charge(self, cost: float) -> None:
        if self.key_id:
            self._server.key_rates.spend(self.key_id, cost)

    def _out_of_budget(self, seconds: float) -> None:
        """Delay the client. If the delay would be long, refuse its next request and decode only its id."""
        now = time.monotonic()
        self._paced_since = self._paced_since or now
        self._transport.pause_reading()
        if now + seconds - self._paced_since <= PACE_MAX:
            self._schedule_turn(seconds)
            return
        self._paced_since = 0.0
        self._count("rate_limited")
        error = rate_limited("this API key or its account has used up its share", seconds)
        self._reply(Failed(request_id_of(self._unread.popleft()), error.code, error.message))
        self._schedule_turn(REFUSED_PAUSE)

    # ------------------------------------------------------------------ messages

    def close(self, reason: str) -> None:
        """Send the reason, and close."""
        if self._open:
            self._refuse(FailCode.STOPPING, reason)

    def abort(self) -> None:
        """Close without flushing written bytes."""
        self._open = False
        self._transport.abort()

    def _message(self, body: bytes) -> None:
        """Handle a message of the client."""
        if self.key_id:
            self._charge(Cost.length(len(body)))
        try:
            request = decode_request(body)
        except MalformedError as error:
            self._malformed_message(error)
            return
        principal = self._principal
        if principal is None:
            self._greet(request)
            return
        if not principal.node:
            self._principal = principal = self._service.gate.refresh(principal)
        if type(request) is Submit:
            self._service.submit(principal, request, len(body), self._submitted)
        else:
            self._charge(Cost.REQUEST)
            self._other(principal, request)

    def _submitted(self, message: msgspec.Struct) -> None:
        """Charge for commands. Their account pays for them. The key pays for a refused request, because refusals would
        otherwise be free.
        """
        if type(message) is Results and message.outcomes:
            if not self._results:
                self._service.answered[self] = None
            self._results.append(message)
            return
        if isinstance(message, Failed):
            self._charge(Cost.REQUEST)
        self._reply(message)

    def flush(self) -> None:
        """Write the queued answers now. See `EngineService.answered`."""
        if self._results:
            self._write_results()
        self._out.flush()

    def _write_results(self) -> None:
        """Encode the outcomes of one entry together. Long ones are written one by one, as all other messages."""
        results, self._results = self._results, []
        if not self._open:
            return
        try:
            frames = b"".join(map(pack, results))
        except FramingError:
            frames = b""
        if 0 < len(frames) <= WRITE_HIGH:
            self.send(frames)
        else:
            for message in results:
                self._reply(message)

    def _malformed_message(self, error: MalformedError) -> None:
        """Answer a malformed message. Too many of them end the session."""
        self._count("malformed")
        self._charge(Cost.MALFORMED)
        if self._principal is None:
            self._refuse(FailCode.BAD_REQUEST, error.text)
            return
        self._reply(Failed(error.request_id, FailCode.BAD_REQUEST, error.text))
        if not self._principal.node and self._malformed.take(time.monotonic()):
            self._refuse(FailCode.BAD_REQUEST, "too many malformed messages")

    def _greet(self, request: msgspec.Struct) -> None:
        """Authenticate the client by its first message."""
        try:
            self._principal = principal = self._identify(request)
            self._greeted(principal, self._address)
        except RequestFailed as error:
            self._count("unproven" if error.code is FailCode.NOT_LEADER else error.code.name.lower())
            self._refuse(error.code, error.message, error.leader)
            return
        self._splitter.limit = FRAME_MAX
        self.audience = principal.audience
        if principal.row is not None and not principal.operator:
            self.key_id, self._account_id = principal.row.key_id, principal.account_id
        if not self._local:
            _keep_alive(self._transport)
        service = self._service
        config, identity = service.config, service.identity
        log.debug("session of %s opened", principal.name)
        self._reply(
            Welcome(
                PROTOCOL_VERSION,
                config.node_id,
                config.cluster_id,
                identity.software,
                identity.abi,
                [level.abi for level in SUPPORTED],
            )
        )

    def _identify(self, request: msgspec.Struct) -> Principal:
        """Return who sent the first message. Raises RequestFailed."""
        if not isinstance(request, Hello):
            raise RequestFailed(FailCode.BAD_REQUEST, "the first message must be Hello")
        if request.version != PROTOCOL_VERSION:
            text = f"version: this node speaks {PROTOCOL_VERSION}, the client {request.version}"
            raise RequestFailed(FailCode.BAD_REQUEST, text)
        if len(request.client) > CLIENT_NAME_MAX:
            raise RequestFailed(FailCode.BAD_REQUEST, f"client: at most {CLIENT_NAME_MAX} characters")
        if not request.key_id:
            node_id = self._certified_node()
            if self._local or node_id is not None:
                self.node_id = node_id or ""
                return gateway(f"gateway {request.client!r} of {node_id or self._service.config.node_id}")
        return self._service.gate.authenticate(request, time.time(), self._address)

    def _certified_node(self) -> str | None:
        """Return the node of this cluster whose certificate the peer presented."""
        channel = self._transport.get_extra_info("ssl_object")
        node_id = None if channel is None else self._server.peer_node_id(channel)
        known = {member.node_id for member in self._service.members()}
        return node_id if node_id in known else None

    def _other(self, principal: Principal, request: msgspec.Struct) -> None:
        """Handle a request other than commands."""
        self._principal = principal
        self.audience = principal.audience
        match request:
            case Query():
                self._query(principal, request)
            case Subscribe():
                self._subscribe(request)
            case Unsubscribe():
                self._unsubscribe(request.product_id)
                self._reply(Subscribed(request.request_id, request.product_id, 0))
            case AddMember() | RemoveMember():
                self._service.change_members(principal, request, self._reply)
            case FollowKeys():
                self._follow_keys(principal, request)
            case ChangeLevel():
                self._service.change_level(principal, request, self._reply)
            case PrepareLevel():
                self._service.prepare_level(principal, request, self._reply)
            case Control():
                self._service.control(principal, request, self._reply)
            case _:
                self._reply(Failed(0, FailCode.BAD_REQUEST, "Hello is sent once"))

    def _query(self, principal: Principal, request: Query) -> None:
        """Answer a query."""
        if not request.linearizable:
            self._service.query(principal, request, self._reply, self._charge)
            return
        if self._reads >= (READS_MAX_OPERATOR if principal.operator else READS_MAX):
            self._reply(Failed(request.request_id, FailCode.OVERLOADED, f"{self._reads} linearizable reads are under way"))
            return
        self._reads += 1
        self._charge(Cost.BARRIER)
        self._service.query(principal, request, self._read_done, self._charge)

    def _read_done(self, message: msgspec.Struct) -> None:
        self._reads -= 1
        self._reply(message)

    def _subscribe(self, request: Subscribe) -> None:
        """Subscribe to the events of a product."""
        self._charge(Cost.SUBSCRIBE)
        try:
            subscription = self._service.subscribe(self, request)
        except RequestFailed as error:
            self._reply(Failed(request.request_id, error.code, error.message))
            return
        self._unsubscribe(request.product_id)
        self._subscriptions[request.product_id] = subscription
        self._reply(Subscribed(request.request_id, request.product_id, subscription.next_sequence))
        if self.writable:
            self._replay(subscription)

    def _replay(self, subscription: Subscription) -> None:
        """Send a reader its missing events, one frame a turn, and charge for them."""
        self._replaying = True
        before = self._out.written
        try:
            self._service.feed.resume(subscription)
        finally:
            self._replaying = False
        self._charge(Cost.rows((self._out.written - before) // EVENT_BYTES))
        if not subscription.live and self._out.written > before:
            self._schedule_turn(self._wait())

    def _unsubscribe(self, product_id: str) -> None:
        subscription = self._subscriptions.pop(product_id, None)
        if subscription is not None:
            self._service.feed.unsubscribe(subscription)

    # ------------------------------------------------------------------ API keys

    def _follow_keys(self, principal: Principal, request: FollowKeys) -> None:
        """Follow changes of API keys."""
        try:
            principal.check_node("following API keys")
        except RequestFailed as error:
            self._reply(Failed(request.request_id, error.code, error.message))
            return
        self._server.key_followers[self] = None
        self._reply(Answer(request.request_id, TRUE))

    def keys_changed(self) -> None:
        """Called when API keys were put. A changed key ends its session, even if the session only listens."""
        if self._open and self._principal is not None and self._principal.row is not None:
            self._principal = self._service.gate.refresh(self._principal)
            self.audience = self._principal.audience
            if self._principal.key is None:
                self._count("revoked")
                self._refuse(FailCode.UNAUTHORIZED, "the API key was revoked or replaced")

    def member_gone(self) -> None:
        """Called when the node whose certificate the client presented is no longer a member."""
        if self._open:
            self._count("revoked")
            self._refuse(FailCode.UNAUTHORIZED, f"{self.node_id} is not a member of the cluster any more")

    # ------------------------------------------------------------------ writing and ending

    def _reply(self, message: msgspec.Struct) -> None:
        """Send a message."""
        if not self._open:
            return
        if self._results:
            self._write_results()  # they come first
        if isinstance(message, LongAnswer):
            for chunk in message.frame():
                self.send(chunk)
            return
        try:
            frame = pack(message)
        except FramingError as error:
            self._count("answer_too_long")
            frame = pack(Failed(getattr(message, "request_id", 0), FailCode.BAD_REQUEST, str(error)))
        self.send(frame)

    def _refuse(self, code: FailCode, text: str, leader: LeaderHint | None = None) -> None:
        """Send the last message, then close."""
        self._reply(Failed(0, code, text, leader))
        self._open = False
        self._since = time.monotonic()
        if self._out.finish(WRITE_HIGH):
            self._transport.close()
        else:
            self._transport.abort()

    def _cut(self, kind: str, text: str) -> None:
        """Cut the connection, count the reason, and log it."""
        if self._open:
            self._open = False
            self._count(kind)
            name = "a client that has not greeted" if self._principal is None else self._principal.name
            log.warning("session of %s cut off: %s", name, text)
            self._transport.abort()

    def _count(self, kind: str) -> None:
        self._service.refused[kind] += 1


def _keep_alive(transport: asyncio.Transport) -> None:
    """Turn on TCP keepalive, so that the system detects a peer that vanished without closing. Such a peer may have
    subscribed and send nothing.
    """
    connection = transport.get_extra_info("socket")
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)

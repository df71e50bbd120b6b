"""The native protocol's server: sessions over the node's Unix socket and over TLS.

A session lives through three states: it must greet (`Hello`), then it is served, then it is closing. A message that does not decode is answered
with `Failed(BAD_REQUEST)` naming the field, and the session goes on, for the next frame's beginning is known; only where that is not so (a frame of
impossible length) or before the greeting is it closed.

Nobody can make the node hold much for them: a session that does not read its answers is not read from either, what it has sent is left unprocessed,
its feed waits in the ring, and after `STALL_MAX` seconds it is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec

from node.engine.feed import Audience, Subscription
from node.engine.principal import Principal, gateway
from node.engine.service import EngineService
from node.errors import FramingError, RequestFailed
from node.native.framing import FrameSplitter, MalformedError, decode_request, pack
from node.native.protocol import (
    FRAME_MAX,
    PROTOCOL_VERSION,
    TRUE,
    AddMember,
    Answer,
    Control,
    FailCode,
    Failed,
    FollowKeys,
    Hello,
    KeysChanged,
    Query,
    RemoveMember,
    Submit,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from node.system.unix_socket import reachable

log = logging.getLogger(__name__)

HELLO_TIMEOUT = 5.0
"""Seconds to greet, TLS handshake not included."""

HELLO_MAX = 4_096
"""Bytes of the first frame: nobody gets the node to keep more before it knows who they are."""

WRITE_HIGH = 1024 * 1024
"""Bytes waiting to be read by a client above which the node stops reading from it."""

WRITE_MAX = 16 * 1024 * 1024
"""Bytes waiting above which a session is cut off: answers to what was under way when it stopped reading."""

STALL_MAX = 15.0
"""Seconds above `WRITE_HIGH` after which a session is cut off."""

TURN_MAX = 0.005
"""Seconds for which the requests of one session are worked on before everything else gets its turn: heartbeats above all."""

READS_MAX = 64
"""Linearizable reads that one session may have under way; gateways may have more, for they speak for many."""
READS_MAX_OPERATOR = 2_000

SESSIONS_MAX = 1_024
CLIENT_NAME_MAX = 128


class Session(asyncio.Protocol):
    """One connection. Also the feed's `Subscriber`."""

    def __init__(self, server: NativeServer, *, local: bool) -> None:
        self.audience = Audience.PUBLIC
        self._server = server
        self._service = server.service
        self._local = local
        self._transport: asyncio.Transport
        self._splitter = FrameSplitter(HELLO_MAX)
        self._principal: Principal | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._unread: deque[bytes] = deque()
        self._open = False
        self._paused = False
        self._scheduled = False
        self._reads = 0
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        peer = self._transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        self._open = True
        if not self._server.admit(self):
            self._refuse(FailCode.OVERLOADED, f"{SESSIONS_MAX} sessions are open already")
        elif self._service.stopping:
            self._refuse(FailCode.STOPPING, "this node is stopping")
        else:
            self._timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, self._cut, "silent", "no greeting")

    def data_received(self, data: bytes) -> None:
        if not self._open:
            return
        try:
            self._unread.extend(self._splitter.feed(data))
        except FramingError as error:
            self._count("framing")
            self._refuse(FailCode.BAD_REQUEST, str(error))
            return
        if not self._scheduled:
            self._take_turn()

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(STALL_MAX, self._cut, "stalled", "does not read its answers")

    def resume_writing(self) -> None:
        self._paused = False
        self._stop_timer()
        self._schedule_turn()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._open = False
        self._stop_timer()
        self._unread.clear()
        for subscription in self._subscriptions.values():
            self._service.feed.unsubscribe(subscription)
        self._subscriptions.clear()
        self._server.dismiss(self)

    # ------------------------------------------------------------------ what the feed calls

    @property
    def writable(self) -> bool:
        """See `feed.Subscriber`."""
        return self._open and not self._paused

    def send(self, frame: bytes) -> bool:
        """See `feed.Subscriber`."""
        if self._open:
            if self._transport.get_write_buffer_size() > WRITE_MAX:
                self._cut("stalled", "does not read its answers")
            else:
                self._transport.write(frame)
        return not self._paused

    def feed_ended(self, subscription: Subscription, reason: str) -> None:
        """See `feed.Subscriber`."""
        self._subscriptions.pop(subscription.product_id, None)
        self._reply(Failed(subscription.request_id, FailCode.TOO_OLD, reason))

    # ------------------------------------------------------------------ turns

    def _schedule_turn(self) -> None:
        if self._open and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """After a pause: first what the feed owes, then what the client has sent."""
        self._scheduled = False
        for subscription in list(self._subscriptions.values()):
            if self.writable:
                self._service.feed.resume(subscription)
        self._take_turn()

    def _take_turn(self) -> None:
        """Answer what has arrived, while the client takes the answers and it is not the others' turn."""
        unread, clock = self._unread, time.monotonic
        until = clock() + TURN_MAX
        while unread and self.writable:
            self._message(unread.popleft())
            if clock() > until:
                break
        if not self.writable:
            return
        if unread:
            self._transport.pause_reading()
            self._schedule_turn()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    # ------------------------------------------------------------------ messages

    def close(self, reason: str) -> None:
        """Say why, and end."""
        if self._open:
            self._refuse(FailCode.STOPPING, reason)

    def abort(self) -> None:
        """End without waiting for what is written."""
        self._open = False
        self._transport.abort()

    def _message(self, body: bytes) -> None:
        if not self._open:
            return
        try:
            request = decode_request(body)
        except MalformedError as error:
            self._count("malformed")
            if self._principal is None:
                self._refuse(FailCode.BAD_REQUEST, error.text)
            else:
                self._reply(Failed(error.request_id, FailCode.BAD_REQUEST, error.text))
            return
        if self._principal is None:
            self._greet(request)
        elif isinstance(request, Submit):
            self._principal = self._service.gate.refresh(self._principal)
            self._service.submit(self._principal, request, len(body), self._reply)
        else:
            self._other(self._service.gate.refresh(self._principal), request)

    def _greet(self, request: msgspec.Struct) -> None:
        try:
            self._principal = self._identify(request)
        except RequestFailed as error:
            self._count(error.code.name.lower())
            self._refuse(error.code, error.message)
            return
        self._stop_timer()
        self._splitter.limit = FRAME_MAX
        self.audience = self._principal.audience
        service = self._service
        config, identity = service.config, service.identity
        log.debug("session of %s opened", self._principal.name)
        self._reply(Welcome(PROTOCOL_VERSION, config.node_id, config.cluster_id, identity.software, identity.abi))

    def _identify(self, request: msgspec.Struct) -> Principal:
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
                return gateway(f"gateway {request.client!r} of {node_id or self._service.config.node_id}")
        return self._service.gate.authenticate(request, time.time(), self._address)

    def _certified_node(self) -> str | None:
        """The node of this cluster whose certificate the peer has shown."""
        channel = self._transport.get_extra_info("ssl_object")
        node_id = None if channel is None else self._server.peer_node_id(channel)
        known = {member.node_id for member in self._service.members()}
        return node_id if node_id in known else None

    def _other(self, principal: Principal, request: msgspec.Struct) -> None:
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
            case Control():
                self._service.control(principal, request, self._reply)
            case _:
                self._reply(Failed(0, FailCode.BAD_REQUEST, "Hello is sent once"))

    def _query(self, principal: Principal, request: Query) -> None:
        if not request.linearizable:
            self._service.query(principal, request, self._reply)
            return
        if self._reads >= (READS_MAX_OPERATOR if principal.operator else READS_MAX):
            self._reply(Failed(request.request_id, FailCode.OVERLOADED, f"{self._reads} linearizable reads are under way"))
            return
        self._reads += 1
        self._service.query(principal, request, self._read_done)

    def _read_done(self, message: msgspec.Struct) -> None:
        self._reads -= 1
        self._reply(message)

    def _subscribe(self, request: Subscribe) -> None:
        try:
            subscription = self._service.subscribe(self, request)
        except RequestFailed as error:
            self._reply(Failed(request.request_id, error.code, error.message))
            return
        self._unsubscribe(request.product_id)
        self._subscriptions[request.product_id] = subscription
        self._reply(Subscribed(request.request_id, request.product_id, subscription.next_sequence))
        if self.writable:
            self._service.feed.resume(subscription)

    def _unsubscribe(self, product_id: str) -> None:
        subscription = self._subscriptions.pop(product_id, None)
        if subscription is not None:
            self._service.feed.unsubscribe(subscription)

    # ------------------------------------------------------------------ API keys

    def _follow_keys(self, principal: Principal, request: FollowKeys) -> None:
        try:
            principal.check_node("following API keys")
        except RequestFailed as error:
            self._reply(Failed(request.request_id, error.code, error.message))
            return
        self._server.key_followers[self] = None
        self._reply(Answer(request.request_id, TRUE))

    def keys_changed(self) -> None:
        """API keys were put: one that is not what it was ends its session, which may only be listening."""
        if self._open and self._principal is not None and self._principal.row is not None:
            self._principal = self._service.gate.refresh(self._principal)
            self.audience = self._principal.audience
            if self._principal.key is None:
                self._count("revoked")
                self._refuse(FailCode.UNAUTHORIZED, "the API key was revoked or replaced")

    # ------------------------------------------------------------------ writing and ending

    def _reply(self, message: msgspec.Struct) -> None:
        if not self._open:
            return
        try:
            frame = pack(message)
        except FramingError as error:
            self._count("answer_too_long")
            frame = pack(Failed(getattr(message, "request_id", 0), FailCode.BAD_REQUEST, str(error)))
        self.send(frame)

    def _refuse(self, code: FailCode, text: str) -> None:
        """The last message, then the end."""
        self._reply(Failed(0, code, text))
        self._open = False
        self._stop_timer()
        self._transport.close()

    def _cut(self, kind: str, text: str) -> None:
        if self._open:
            self._open = False
            self._count(kind)
            name = "a client that has not greeted" if self._principal is None else self._principal.name
            log.warning("session of %s cut off: %s", name, text)
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self, kind: str) -> None:
        self._service.refused[kind] += 1


class NativeServer:
    """Listens on the node's Unix socket, for its gateways, and over TLS, for everybody else.

    `peer_node_id` reads the node id out of a verified certificate; None when it names none.
    """

    def __init__(self, service: EngineService, peer_node_id: Callable[[ssl.SSLObject], str | None]) -> None:
        self.service = service
        self.peer_node_id = peer_node_id
        self.key_followers: dict[Session, None] = {}
        self._sessions: dict[Session, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._servers: list[asyncio.Server] = []
        self._socket: Path | None = None
        service.keys.on_change.append(self._keys_changed)

    @property
    def sessions(self) -> int:
        """Connections at the moment."""
        return len(self._sessions)

    def _keys_changed(self, key_ids: list[str]) -> None:
        """Tell gateways before anything else; sessions of keys are looked at when what is under way has been answered."""
        frame = pack(KeysChanged(key_ids))
        for follower in list(self.key_followers):
            follower.send(frame)
        if self._sessions:
            asyncio.get_running_loop().call_soon(self._look_at_keys)

    def _look_at_keys(self) -> None:
        for session in list(self._sessions):
            session.keys_changed()

    async def listen_local(self, path: Path) -> None:
        """Listen on a Unix socket that only this user can open. A socket file left behind by a dead process is replaced."""
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        with reachable(path) as name:
            server = await loop.create_unix_server(lambda: Session(self, local=True), name, start_serving=False)
            path.chmod(0o600)
        await server.start_serving()
        self._socket = path
        self._servers.append(server)

    async def listen_tls(self, address: str, context: ssl.SSLContext) -> int:
        """Listen on "host:port"; the port, which is chosen by the system if it is 0 there."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Session(self, local=False),
            host.strip("[]"),
            int(port),
            ssl=context,
            ssl_handshake_timeout=HELLO_TIMEOUT,
            ssl_shutdown_timeout=1.0,
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self, reason: str = "this node is stopping", *, wait: float = 2.0) -> None:
        """Close the listeners and every session, with the reason; what has been written is flushed for at most `wait` seconds."""
        for server in self._servers:
            server.close()
        for session in list(self._sessions):
            session.close(reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._empty.wait()
        for session in list(self._sessions):
            session.abort()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def admit(self, session: Session) -> bool:
        """Count a session in; False when there are too many."""
        self._sessions[session] = None
        self._empty.clear()
        return len(self._sessions) <= SESSIONS_MAX

    def dismiss(self, session: Session) -> None:
        """Count it out."""
        self._sessions.pop(session, None)
        self.key_followers.pop(session, None)
        if not self._sessions:
            self._empty.set()

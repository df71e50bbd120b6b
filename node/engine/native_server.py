"""The native protocol's server: sessions over the node's Unix socket and over TLS.

`session.py` implements a session, and `connection_limits.py` limits the number of connections. TLS handshakes run in
other threads (`cluster.tls`). One timer checks all connections for time limits once a second, so an idle connection
costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.tls import TlsProtocol
from node.budget import Shares
from node.engine import session as session_module
from node.engine.connection_limits import BACKLOG, ConnectionLimits, Leave
from node.engine.principal import Principal
from node.engine.service import EngineService
from node.engine.session import Session
from node.native.framing import pack
from node.native.protocol import KeysChanged
from node.system import tasks as background
from node.system.sockets import host_and_port, host_of, reachable

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Seconds between checks of all connections."""

HELD_MAX = 256 * 1024 * 1024
"""Bytes that all sessions together may keep waiting, in both directions. Beyond this, the sessions that hold the most
are closed.
"""

HANDSHAKE_THREADS = 2


class _TlsConnection(TlsProtocol):
    """A connection to the TLS port that has not greeted yet."""

    def __init__(self, server: NativeServer, context: ssl.SSLContext) -> None:
        super().__init__(context, self._session, server.threads, failed=self._handshake_failed)
        self._server = server
        self._leave: Leave | None = None
        self.since = time.monotonic()
        self.session: Session | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, or close the connection if too many wait."""
        super().connection_made(transport)
        self._server.arrived[self] = None
        peer = transport.get_extra_info("peername")
        if not self._server.limits.arrive(self, peer[0] if isinstance(peer, tuple) else ""):
            self._server.count("too_many")
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back the connection's place."""
        self._server.arrived.pop(self, None)
        self._server.limits.stop_waiting(self)
        if self._leave is not None:
            self._leave()
            self._leave = None
        super().connection_lost(exc)

    def drop(self) -> None:
        """See `connection_limits.Caller`."""
        self._transport.abort()

    def _session(self) -> Session:
        self.session = Session(self._server, local=False, greeted=self._greeted)
        return self.session

    def _greeted(self, principal: Principal, address: str) -> None:
        self._leave = self._server.limits.enter(principal, address)
        self._server.limits.stop_waiting(self)

    def _handshake_failed(self, error: BaseException) -> None:
        self._server.count("handshake")
        log.debug("no TLS handshake: %s", error)


class NativeServer:
    """Listens on the node's Unix socket for its gateways, and over TLS for all other clients.

    `peer_node_id` reads the node id from a verified certificate, or returns None if the certificate names no node.

    Attributes:
        arrived: connections to the TLS port, greeted or not.
    """

    def __init__(self, service: EngineService, peer_node_id: Callable[[ssl.SSLObject], str | None]) -> None:
        self.service = service
        self.peer_node_id = peer_node_id
        self.key_followers: dict[Session, None] = {}
        self.key_rates: Shares[str] = Shares(service.config.native.key_rate, service.config.native.key_rate)
        self.limits = ConnectionLimits(
            host for node in service.config.nodes for host in (host_of(node.native), host_of(node.raft))
        )
        self.threads = ThreadPoolExecutor(HANDSHAKE_THREADS, thread_name_prefix="tls-handshake")
        self.arrived: dict[_TlsConnection, None] = {}
        self._sessions: dict[Session, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._servers: list[asyncio.Server] = []
        self._socket: Path | None = None
        self._timer: asyncio.TimerHandle | None = None
        service.keys.on_change.append(self._keys_changed)

    @property
    def sessions(self) -> int:
        """Current number of sessions, over the Unix socket and after a TLS handshake."""
        return len(self._sessions)

    def count(self, kind: str) -> None:
        """Count a refused connection or session."""
        self.service.refused[kind] += 1

    def _keys_changed(self, key_ids: list[str]) -> None:
        """Notify gateways first. Sessions of these keys are checked after pending requests have been answered."""
        frame = pack(KeysChanged(key_ids))
        for follower in list(self.key_followers):
            follower.send(frame)
            follower.flush()
        if self._sessions:
            changed = frozenset(key_ids)
            asyncio.get_running_loop().call_soon(lambda: self._look_at_keys(changed))

    def _look_at_keys(self, changed: frozenset[str]) -> None:
        for session in list(self._sessions):
            if not changed or session.key_id in changed or not session.key_id:
                session.keys_changed()

    async def listen_local(self, path: Path) -> None:
        """Listen on a Unix socket that only this user can open. A socket file left behind by a dead process is
        replaced.
        """
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        with reachable(path) as name:
            server = await loop.create_unix_server(self._local_session, name, start_serving=False)
            path.chmod(0o600)
        await server.start_serving()
        self._socket = path
        self._servers.append(server)
        self._look_again()

    def _local_session(self) -> asyncio.Protocol:
        """Return the session of a connection over the Unix socket."""
        leave = self.limits.enter_local()
        if leave is None:
            self.count("too_many")
            return _Refused()
        return Session(self, local=True, gone=leave)

    async def listen_tls(self, address: str, context: ssl.SSLContext) -> int:
        """Listen on "host:port". Returns the port; for port 0 the system chooses it."""
        host, port = host_and_port(address)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _TlsConnection(self, context), host, port, backlog=BACKLOG)
        self._servers.append(server)
        self._look_again()
        return int(server.sockets[0].getsockname()[1])

    async def stop(self, reason: str = "this node is stopping", *, wait: float = 2.0) -> None:
        """Close the listeners and every session, with the reason. Written data is flushed for at most `wait` seconds."""
        for server in self._servers:
            server.close()
        for connection in list(self.arrived):
            if connection.session is None:
                connection.drop()
        for session in list(self._sessions):
            session.close(reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._empty.wait()
        for session in list(self._sessions):
            session.abort()
        if self._timer is not None:
            self._timer.cancel()
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def admit(self, session: Session) -> None:
        """Register a session."""
        self._sessions[session] = None
        self._empty.clear()

    def dismiss(self, session: Session) -> None:
        """Unregister a session."""
        self._sessions.pop(session, None)
        self.key_followers.pop(session, None)
        if not self._sessions:
            self._empty.set()

    # ------------------------------------------------------------------ time limits

    def _look_again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = background.at_next(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Check every connection: about half a microsecond each."""
        now = time.monotonic()
        for connection in list(self.arrived):
            if connection.session is None and now - connection.since > session_module.HELLO_TIMEOUT:
                self.count("silent")
                connection.drop()
        held = 0
        for session in list(self._sessions):
            session.look(now)
            held += session.waiting
        if held > HELD_MAX:
            self._make_room(held)
        self._end_removed()
        self._look_again()

    def _end_removed(self) -> None:
        """End the sessions with the certificates of nodes that are no longer members: a certificate may have been stolen."""
        certified = [session for session in self._sessions if session.node_id]
        members = {member.node_id for member in self.service.members()} if certified else set()
        for session in certified:
            if session.node_id not in members:
                session.member_gone()

    def _make_room(self, held: int) -> None:
        """Cut the connections with the most waiting bytes until they hold no more than allowed."""
        for session in sorted(self._sessions, key=lambda each: each.waiting, reverse=True):
            if held <= HELD_MAX:
                return
            held -= session.waiting
            session.cut_for_room()


class _Refused(asyncio.Protocol):
    """A connection to the Unix socket for which no place is free."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

"""The server: it listens, counts connections, runs the timer of all connections, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import cast

from node.budget import AddressShares, Places, caller_of
from node.gateway.http import limits
from node.gateway.http.connection import Connection
from node.gateway.http.messages import Request, Response
from node.gateway.http.tls_port import TlsPort
from node.system import tasks as background


class HttpServer:
    """Serves HTTP/1.1 on one port.

    Args:
        handle: answers a request. It must not raise for any request.
        direct: accepts a request that it will answer later by a callback with a short answer. It returns False to leave
            the request to `handle`.
        socket_paths: paths that accept WebSocket requests.
        socket_protocol: makes the protocol that gets such a connection, including its first request.
        refused: called for each connection or request that is refused before it reaches a handler, with the kind of
            refusal and the peer's address.
        exempt: whether an address is exempt from the bound on connections of one address.
    """

    def __init__(
        self,
        handle: Callable[[Request], Awaitable[Response]],
        *,
        direct: Callable[[Request, Callable[[Response], None]], bool] | None = None,
        socket_paths: Iterable[str] = (),
        socket_protocol: Callable[[], asyncio.Protocol],
        refused: Callable[[str, str], None],
        exempt: Callable[[str], bool] = lambda _peer: False,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.handle = handle
        self.direct = direct
        self.under_way = 0
        """Requests that `direct` accepted and that are not answered yet."""
        self.socket_protocol = socket_protocol
        self._on_refused = refused
        self._trouble = AddressShares(limits.TROUBLE_RATE, limits.TROUBLE_BURST)
        self.stopping = False
        self.waiting = 0
        self.port = 0
        self.exempt = exempt
        self._socket_paths = frozenset(socket_paths)
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._occupied = asyncio.Event()
        self._places = Places[str](limits.CONNECTIONS_MAX, limits.CONNECTIONS_EACH)
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking = Places[str](limits.HANDSHAKES_MAX, limits.CONNECTIONS_EACH)
        self._handshakes = AddressShares(limits.HANDSHAKE_RATE, limits.HANDSHAKE_BURST)
        self._tls_port: TlsPort | None = None
        self._server: asyncio.Server | None = None
        self._clock: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a port, which other processes may share. Raises OSError."""

        def made() -> asyncio.Protocol:
            return cast(asyncio.Protocol, Connection(self))

        if tls is None:
            self._server = await self.loop.create_server(made, host, port, reuse_port=True, backlog=limits.BACKLOG)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self._tls_port = TlsPort(tls, made, self._may_shake, self._shaken)
            await self._tls_port.listen(host, port)
            self.port = self._tls_port.port
        self._clock = asyncio.create_task(self._run_clock())

    async def stop(self, timeout: float) -> None:
        """Accept no more connections and requests. Connections end when their requests are answered, or after `timeout` s."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        if self._tls_port is not None:
            await self._tls_port.close()
        for connection in list(self._connections):
            connection.stop()
        until = self.loop.time() + timeout
        while (self._tasks or self.under_way) and self.loop.time() < until:  # noqa: ASYNC110 - two kinds of requests, once in a life
            await asyncio.sleep(limits.STOP_LOOK)
        await background.cancel([*self._tasks, *([self._clock] if self._clock is not None else [])])
        for connection in list(self._connections):
            if not connection.waiting:
                connection.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        for connection in list(self._connections):
            connection.abort()

    def _may_shake(self, peer: str) -> bool:
        """Return whether a peer may begin a TLS handshake, and count it."""
        if self.exempt(peer):
            return True
        if self._trouble.take(peer, 0.0) or self._handshakes.take(peer) or not self._shaking.enter(caller_of(peer)):
            self.refused("handshakes", peer)
            return False
        return True

    def _shaken(self, peer: str, succeeded: bool) -> None:
        """Count a TLS handshake that has ended."""
        if not self.exempt(peer):
            self._shaking.leave(caller_of(peer))
        if not succeeded and not self.stopping:
            self.refused("handshake", peer)

    def begin(self, answer: Coroutine[None, None, None]) -> None:
        """Run the coroutine that answers a request."""
        background.keep(self._tasks, answer)

    def enter(self, connection: Connection) -> bool:
        """Count a new connection. Returns False if there are too many."""
        self._connections.add(connection)
        self._empty.clear()
        self._occupied.set()
        exempt = self.exempt(connection.peer)
        if len(self._connections) > limits.CONNECTIONS_MAX + limits.REFUSED_MAX:
            connection.cut("connections")
            return True
        if not exempt and self._trouble.take(connection.peer, 0.0):
            connection.cut("trouble")
            return True
        holder = "" if exempt else caller_of(connection.peer)
        if holder and not self._places.enter(holder):
            return False
        connection.holder = holder
        return holder != "" or len(self._connections) <= limits.CONNECTIONS_MAX

    def refused(self, kind: str, peer: str) -> None:
        """Report a connection or request that was refused before it reached a handler."""
        if kind not in ("trouble", "handshakes") and not self.exempt(peer):
            self._trouble.spend(peer, 1.0)
        self._on_refused(kind, peer)

    def leave(self, connection: Connection) -> None:
        """Count a connection that has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()
            self._occupied.clear()
        if connection.holder:
            self._places.leave(connection.holder)
            connection.holder = ""

    def is_socket(self, request: Request) -> bool:
        """Return whether the request begins a WebSocket."""
        upgrade = request.header("upgrade")
        return (
            request.method == "GET"
            and upgrade is not None
            and upgrade.lower() == "websocket"
            and request.path in self._socket_paths
        )

    @staticmethod
    def is_local(peer: str) -> bool:
        """Return whether the peer is on this machine."""
        return peer == "::1" or peer.removeprefix("::ffff:").startswith("127.")

    async def _run_clock(self) -> None:
        """Check the deadlines of connections. Without connections it waits for the next one."""
        while True:
            await self._occupied.wait()
            await asyncio.sleep(limits.TICK)
            now = self.loop.time()
            for connection in list(self._connections):
                connection.tick(now)
            self.shed()

    def shed(self) -> None:
        """While too many bytes wait for clients, cut the connection with the most waiting bytes."""
        if self.waiting <= limits.WAITING_MAX:
            return
        for connection in sorted(self._connections, key=lambda each: each.waiting, reverse=True):
            if self.waiting <= limits.WAITING_MAX:
                return
            if not connection.is_socket:
                connection.cut("unread")

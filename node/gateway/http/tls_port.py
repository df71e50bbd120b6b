"""A port with TLS that decides about a connection before its handshake.

The TLS servers of event loops call a protocol only after the handshake. Connections in the handshake would then be
neither counted nor charged, so one address could hold all descriptors and all processor time of a gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from node.gateway.http import limits
from node.system import tasks as background

log = logging.getLogger(__name__)

ACCEPT_PAUSE = 1.0
"""Seconds without accepting after the system refused to accept, for example for want of descriptors."""


class TlsPort:
    """Accepts connections.

    Args:
        made: makes the protocol of a connection whose handshake has succeeded.
        enter: called with the peer's address. Returns whether the peer may begin a handshake.
        leave: called once after each `enter` that returned True, with the address and whether the handshake succeeded.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        made: Callable[[], asyncio.Protocol],
        enter: Callable[[str], bool],
        leave: Callable[[str, bool], None],
    ) -> None:
        self.port = 0
        self._tls = tls
        self._made = made
        self._enter = enter
        self._leave = leave
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> None:
        """Listen on every address of the host. Other processes may share the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                listening = socket.create_server(address, family=family, backlog=limits.BACKLOG, reuse_port=True)
                listening.setblocking(False)
                self._sockets.append(listening)
        except OSError:
            await self.close()
            raise
        self.port = self._sockets[0].getsockname()[1]
        self._accepting = [loop.create_task(self._accept(each)) for each in self._sockets]

    async def close(self) -> None:
        """Stop listening, and end the handshakes under way."""
        await background.cancel([*self._accepting, *self._handshakes])
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        """Accept connections until the task is cancelled. A connection beyond the limits is closed at once."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("connections cannot be accepted: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            peer = address[0]
            if self._enter(peer):
                background.keep(self._handshakes, self._shake(connection, peer))
            else:
                connection.close()

    async def _shake(self, connection: socket.socket, peer: str) -> None:
        """Do the TLS handshake of a connection, and hand the connection to the server."""
        succeeded = False
        try:
            with contextlib.suppress(OSError):  # ssl.SSLError and TimeoutError are OSErrors
                await asyncio.get_running_loop().connect_accepted_socket(
                    self._made, connection, ssl=self._tls, ssl_handshake_timeout=limits.HANDSHAKE_TIMEOUT
                )
                succeeded = True
        finally:
            self._leave(peer, succeeded)

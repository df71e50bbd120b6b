"""The Raft port: TLS 1.3 with certificates on both sides, length-prefixed frames, no pickle.

Each pair of nodes has one connection. The node with the greater id calls. If it does not, because it does not know the
other node or was removed, the other one calls after a while. Of two connections, the one that the greater id made
stays. A caller is accepted only if its certificate is of this cluster's authority and names a peer, or any node while
this node looks for a leader (`ports.Wire.accepts_unknown`). Both nodes then send `Hello` (cluster, node, protocol,
ABI), and only after that other messages. `channel.py` has the frames. An invalid frame or caller is refused and counted
by kind in `refused`, and the connection is closed; the node continues.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import msgspec

from cluster.callers import Doorkeeper, RefusalLog, caller_of
from cluster.channel import HELLO_MAX, Channel
from cluster.errors import WireRefusedError
from cluster.ports import OnMessage
from cluster.tls import TlsProtocol

log = logging.getLogger(__name__)

PROTOCOL = 2
FORMER_PROTOCOL = 1
"""The protocol of version 0.2.0. It is used with a peer that does not offer `ALPN`."""
ALPN = "quorumbook-raft/2"
"""The name of this protocol in the TLS handshake. Version 0.2.0 offers no name."""
HANDSHAKE_TIMEOUT = 3.0
HANDSHAKE_THREADS = 2
"""Threads for the handshakes of callers, so that unknown callers take no time of Raft's thread."""
KEEPALIVE = 0.5
"""Seconds between two checks of all connections. A connection on which nothing was sent for half of that time gets a
keepalive. Only connections between followers need keepalives.
"""
CHECK_SLACK = 0.15
"""Seconds for which a check waits for a message. A message wakes the process anyway, and the heartbeats of a leader
(every 0.07 s) arrive often enough, so only a node that hears nothing is woken by the timer.
"""
SILENCE_MAX = 1.5
"""Seconds without any frame after which a connection counts as dead."""
RETRY_MIN, RETRY_MAX = 0.05, 1.0
CALL_AFTER = 2.0
"""Seconds that the smaller id waits to be called before it calls."""
PAUSE_NOTED = 0.5
"""Seconds by which a check may be late. If it is later, this process was paused or had no CPU time, and the peer's
silence does not count.
"""


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first frame of both sides. Protocol 1 has the first four fields.

    `abi` is the schema of the sender's state, and `accepts` the schemas that it can read. `log_abi` is the schema of
    the first command in its log, or "" if the log does not go back to the first entry.
    """

    protocol: int
    cluster_id: str
    node_id: str
    abi: str
    accepts: list[str] | None = None
    log_abi: str = ""


@dataclass(frozen=True)
class WireSettings:
    """This node's identity, its listening address, the initial addresses of the peers ("host:port" by node id), and
    TLS.

    `peer_node_id` returns the node id in a verified certificate, or None. `introduce` returns this node's current hello
    for a protocol. `met` is called with a peer's hello before any other message is handled. `narrow` converts a message
    to protocol 1, and returns None if protocol 1 does not have it.
    """

    hello: Hello
    listen: str
    peers: dict[str, str]
    server_tls: ssl.SSLContext
    client_tls: ssl.SSLContext
    peer_node_id: Callable[[ssl.SSLObject], str | None]
    refused: Counter[str] = field(default_factory=Counter)
    introduce: Callable[[Hello], Hello] = lambda hello: hello
    met: Callable[[Hello], None] = lambda _hello: None
    narrow: Callable[[bytes], bytes | None] = lambda data: data


def split_address(address: str) -> tuple[str, int]:
    """Return the parts of "host:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listening_place(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the address family and the address on which to listen. Of a name's addresses an IPv4 address is preferred.

    Raises:
        OSError: the name does not resolve.
    """
    found: dict[int, str] = {}
    for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        found.setdefault(family, str(place[0]))
    chosen = socket.AF_INET if socket.AF_INET in found else socket.AF_INET6
    return chosen, (found[chosen], port)


class _Connection:
    """One established connection to a peer. `preferred`: the greater id of the two made it."""

    def __init__(self, peer: str, channel: Channel, *, preferred: bool) -> None:
        self.peer = peer
        self.channel = channel
        self.former = _protocol(channel) == FORMER_PROTOCOL
        self.preferred = preferred
        self.ended = asyncio.Event()
        """Set when the connection no longer counts."""

    def send(self, data: bytes) -> bool:
        """Send a message. Returns False if it certainly does not arrive."""
        return self.channel.send(data, self.peer)


def _protocol(channel: Channel) -> int:
    """Return the newest protocol that both sides of a connection know."""
    tls = channel.transport.get_extra_info("ssl_object")
    return PROTOCOL if tls is not None and tls.selected_alpn_protocol() == ALPN else FORMER_PROTOCOL


class _Caller(TlsProtocol):
    """A caller whose handshake runs in other threads. `greeted` gets its channel, or the reason of the failure."""

    def __init__(self, context: ssl.SSLContext, greeted: asyncio.Future[Channel], threads: Executor) -> None:
        super().__init__(context, lambda: Channel(self._made), threads, failed=self._refused)
        self._greeted = greeted

    def _made(self, channel: Channel) -> None:
        if not self._greeted.done():
            self._greeted.set_result(channel)

    def _refused(self, error: BaseException) -> None:
        if not self._greeted.done():
            self._greeted.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._refused(exc or ConnectionResetError("the caller closed the connection during the handshake"))


class TlsWire:
    """See `ports.Wire`. `start` needs a running event loop; `failed` gets the first error that must stop the node."""

    def __init__(self, settings: WireSettings) -> None:
        self._settings = settings
        for context in (settings.server_tls, settings.client_tls):
            context.set_alpn_protocols([ALPN])
        self._node_id = settings.hello.node_id
        self._peers: dict[str, str] = {}
        self._removed_peers: dict[str, bytes] = {}
        self._started = False
        self._called: set[str] = set()
        self._connections: dict[str, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._check: asyncio.TimerHandle | None = None
        self._check_at = 0.0
        clock = asyncio.get_running_loop().time
        self._door = Doorkeeper(clock)
        self._threads = ThreadPoolExecutor(HANDSHAKE_THREADS, thread_name_prefix="raft-handshake")
        self._refusals = RefusalLog(clock)
        self._on_message: OnMessage = lambda _peer, _data, _more: None
        self._on_connected: Callable[[str], None] = lambda _peer: None
        self._on_disconnected: Callable[[str], None] = lambda _peer: None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused = settings.refused
        self.accepts_unknown = False
        self._know(settings.peers)

    def _know(self, peers: Mapping[str, str]) -> None:
        """Set the peers. Only numeric addresses are known to be theirs before they call."""
        self._peers = dict(peers)
        self._door.peers = frozenset(caller_of(split_address(address)[0]) for address in peers.values() if address)

    def start(
        self,
        on_message: OnMessage,
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        """Listen, and call the peers."""
        self._on_message, self._on_connected, self._on_disconnected = on_message, on_connected, on_disconnected
        self._spawn(self._listen())
        self._started = True
        self._call_all()

    def _call_all(self) -> None:
        for peer in self._peers:
            if self._started and peer not in self._called:
                self._called.add(peer)
                self._spawn(self._keep_calling(peer))

    def _spawn(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    async def _listen(self) -> None:
        """Accept callers until cancelled. It does not use an asyncio server, because that does not report failed
        handshakes.
        """
        loop = asyncio.get_running_loop()
        family, place = _listening_place(*split_address(self._settings.listen))
        with socket.create_server(place, family=family, backlog=100) as listener:
            listener.setblocking(False)
            self._listener = listener
            while True:
                try:
                    caller, name = await loop.sock_accept(listener)
                except OSError as error:
                    # No descriptors are free, or the caller has disconnected: continue after a pause.
                    log.warning("raft port: no caller could be accepted: %s", error)
                    await asyncio.sleep(RETRY_MIN)
                else:
                    self._spawn(self._accepted(caller, name))

    def send(self, peer: str, message: bytes) -> bool:
        """Queue a message."""
        connection = self._connections.get(peer)
        if connection is None or not connection.former:
            return connection is not None and connection.send(message)
        narrow = self._settings.narrow(message)
        return narrow is None or connection.send(narrow)

    @property
    def former_peers(self) -> list[str]:
        """The connected peers that speak protocol 1."""
        return sorted(peer for peer, connection in self._connections.items() if connection.former)

    def drop_former(self) -> None:
        """End the connections with peers that use protocol 1, which cannot read the schema of this node's state any more."""
        for peer in self.former_peers:
            log.warning("the connection with %s ends: its version cannot read the log of this cluster any more", peer)
            self._connections[peer].channel.transport.abort()

    def set_peers(self, peers: Mapping[str, str], removed_peers: Mapping[str, bytes]) -> None:
        """See `ports.Wire`."""
        self._know(peers)
        self._removed_peers = dict(removed_peers)
        self._call_all()
        for peer, last_message in removed_peers.items():
            connection = self._connections.get(peer)
            if connection is not None and connection.send(last_message):
                log.info("%s was removed from the cluster: the connection ends", peer)
                connection.channel.transport.close()

    def stop(self) -> None:
        """Close all connections and the port."""
        for task in self._tasks:
            task.cancel()
        for connection in list(self._connections.values()):
            connection.channel.transport.close()
        self._check_at = float("inf")
        if self._check is not None:
            self._check.cancel()
        self._threads.shutdown(wait=False)

    # ------------------------------------------------------------------ becoming connected

    async def _accepted(self, caller: socket.socket, name: object) -> None:
        """Make a connection with a caller, or refuse it. Serves the connection until it ends."""
        host = str(name[0]) if isinstance(name, tuple) else str(name)
        refusal = self._door.refusal(host)
        if refusal is not None:
            caller.close()
            self._refuse(refusal[0], refusal[1], caller_of(host), None)
            return
        channel, who = None, caller_of(host)
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                channel = await self._handshake(caller)
                who = peer = self._certified(channel)
                self._check_welcome(peer)
                await self._hello(channel, peer)
        except WireRefusedError as error:
            self._refuse(error.kind, str(error), who, channel)
            return
        except Exception as error:  # noqa: BLE001  # no input of an unauthenticated caller may stop the node
            # A paused or disconnected member also fails its handshake. Other callers have no certificate of this cluster.
            kind = "certificate" if isinstance(error, ssl.SSLError) else "handshake"
            self._refuse(kind, f"no TLS handshake with a certificate of this cluster: {error!r}", who, channel)
            return
        finally:
            self._door.leaves(host)
        if peer in self._removed_peers:
            self._send_removed(peer, channel)
            return
        await self._serve(_Connection(peer, channel, preferred=peer > self._node_id))

    async def _handshake(self, caller: socket.socket) -> Channel:
        """Do the TLS handshake with a caller."""
        loop = asyncio.get_running_loop()
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeted: asyncio.Future[Channel] = loop.create_future()
        below, _ = await loop.connect_accepted_socket(lambda: _Caller(self._settings.server_tls, greeted, self._threads), caller)
        try:
            return await greeted
        except BaseException:
            below.abort()
            raise

    def _certified(self, channel: Channel) -> str:
        peer = self._settings.peer_node_id(channel.transport.get_extra_info("ssl_object"))
        if peer is None or peer == self._node_id:
            raise WireRefusedError("unknown_node", f"the certificate is of {peer!r}, which is no other node")
        return peer

    def _check_welcome(self, peer: str) -> None:
        if not (peer in self._peers or peer in self._removed_peers or self.accepts_unknown):
            raise WireRefusedError("unknown_node", f"{peer!r} is no member of the cluster, or not yet")

    async def _hello(self, channel: Channel, peer: str) -> Hello:
        """Exchange hellos with a peer. Returns the peer's. Raises WireRefusedError if the two do not fit."""
        protocol = _protocol(channel)
        ours = self._settings.introduce(msgspec.structs.replace(self._settings.hello, protocol=protocol))
        former = [ours.protocol, ours.cluster_id, ours.node_id, ours.abi]
        body = msgspec.msgpack.encode(former if protocol == FORMER_PROTOCOL else ours)
        channel.send(body, peer)
        try:
            theirs = msgspec.msgpack.decode(await channel.frame(HELLO_MAX), type=Hello)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise WireRefusedError("malformed", f"no hello from {peer}: {error}") from None
        for name in ("protocol", "cluster_id"):
            if getattr(theirs, name) != getattr(ours, name):
                raise WireRefusedError(name, f"{peer} has {name} {getattr(theirs, name)!r}, this node {getattr(ours, name)!r}")
        if theirs.abi not in (ours.accepts or [ours.abi]) or ours.abi not in (theirs.accepts or [theirs.abi]):
            raise WireRefusedError("abi", f"{peer} has abi {theirs.abi!r}, this node {ours.abi!r}")
        if theirs.node_id != peer:
            raise WireRefusedError("unknown_node", f"{theirs.node_id!r} speaks with the certificate of {peer!r}")
        self._settings.met(theirs)
        return theirs

    def _send_removed(self, peer: str, channel: Channel) -> None:
        channel.send(self._removed_peers[peer], peer)
        channel.transport.close()
        self._refuse("removed", f"{peer} was removed from the cluster", peer, None)

    def _refuse(self, kind: str, text: str, who: str, channel: Channel | None) -> None:
        self.refused[kind] += 1
        self._refusals.note(who, text)
        if channel is not None:
            channel.transport.abort()

    async def _keep_calling(self, peer: str) -> None:
        """Call a peer whenever there is no connection to it, until it is no longer a peer. While there is one, this
        waits for its end.
        """
        pause = RETRY_MIN
        while peer in self._peers:
            if peer > self._node_id:
                await asyncio.sleep(CALL_AFTER)
            if (connection := self._connections.get(peer)) is not None:
                await connection.ended.wait()
                continue
            if await self._call(peer):
                pause = RETRY_MIN
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, RETRY_MAX)
        self._called.discard(peer)

    async def _call(self, peer: str) -> bool:
        """Call a peer once, and serve the connection until it ends. Returns whether the peer was reached. The peer may
        have been removed since the caller's decision.
        """
        address = self._peers.get(peer)
        if address is None:
            return False
        host, port = split_address(address)
        channel = None
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                loop = asyncio.get_running_loop()
                _, channel = await loop.create_connection(Channel, host, port, ssl=self._settings.client_tls)
                if self._certified(channel) != peer:
                    raise WireRefusedError("unknown_node", f"another node answers at the address of {peer}")
                await self._hello(channel, peer)
        except WireRefusedError as error:
            self._refuse(error.kind, str(error), peer, channel)
            return False
        except (OSError, ssl.SSLError, EOFError, TimeoutError):
            if channel is not None:
                channel.transport.abort()
            return False
        if peer in self._removed_peers:
            self._send_removed(peer, channel)
            return False
        await self._serve(_Connection(peer, channel, preferred=peer < self._node_id))
        return True

    # ------------------------------------------------------------------ while connected

    async def _serve(self, connection: _Connection) -> None:
        """Serve a connection until it ends. Of two connections with one peer, both nodes keep the same one."""
        peer, channel = connection.peer, connection.channel
        old = self._connections.get(peer)
        if old is not None and old.preferred and not connection.preferred:
            channel.transport.abort()
            return
        if old is not None:
            old.channel.transport.abort()
            self._tell_disconnected(peer)
        self._connections[peer] = connection
        self._refusals.connected(peer)
        self._check_later()
        try:
            self._on_connected(peer)
            await channel.serve(partial(self._take, connection))
        except WireRefusedError as error:
            self.refused[error.kind] += 1
            log.warning("raft port: %s: %s", peer, error)
        except Exception as error:  # noqa: BLE001  # an internal error stops the node
            self._fail(error)
        finally:
            channel.transport.abort()
            if self._connections.get(peer) is connection:
                del self._connections[peer]
                self._tell_disconnected(peer)
            connection.ended.set()

    def _tell_disconnected(self, peer: str) -> None:
        try:
            self._on_disconnected(peer)
        except Exception as error:  # noqa: BLE001  # as above
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _take(self, connection: _Connection, message: bytes, more: bool) -> bool:
        """Pass on a message unless another connection to the same peer has replaced this one."""
        if self._connections.get(connection.peer) is not connection:
            return False
        if connection.channel.heard >= self._check_at:
            self._check_now()
        self._on_message(connection.peer, message, more)
        return True

    def _check_later(self) -> None:
        """Set the timer of the next check, if it is not set."""
        if self._check is None:
            loop = asyncio.get_running_loop()
            self._check_at = loop.time() + KEEPALIVE
            self._check = loop.call_at(self._check_at + CHECK_SLACK, self._check_now)

    def _check_now(self) -> None:
        """Send keepalives, and detect peers that send nothing."""
        now = asyncio.get_running_loop().time()
        paused = now - self._check_at > CHECK_SLACK + PAUSE_NOTED
        if self._check is not None:
            self._check.cancel()
            self._check = None
        for connection in list(self._connections.values()):
            channel = connection.channel
            if paused:
                channel.heard = max(channel.heard, now - KEEPALIVE)  # its latest frames may not have been read yet
            if now - channel.heard > SILENCE_MAX:
                log.warning("%s has been silent for %.1f s", connection.peer, now - channel.heard)
                channel.transport.abort()
            elif now - channel.wrote > KEEPALIVE / 2:
                connection.send(b"")
        if self._connections:
            self._check_later()

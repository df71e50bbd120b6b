"""Limits the connections to the engine: who may have one, and how many.

Connections are counted from the moment they are accepted, long before the client has authenticated. Places are reserved
by kind of client: no client can take those of the node's gateways, of other nodes or of operators. The sum of all
places is below the number of descriptors that a process is guaranteed (`node.system.processes`).

A connection that has not greeted yet waits and has no place. If too many connections wait, of one address or in total,
the oldest is dropped in favour of the new one. An honest client greets within milliseconds; an old waiting connection
is probably idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Protocol

from node.budget import AddressShares, Cost, Places, caller_of
from node.engine.principal import Principal
from node.errors import RequestFailed
from node.native.protocol import FailCode

LOCAL_MAX = 512
"""Connections over the node's Unix socket: its gateways, which have up to six each, its history, and tools of the same
user.
"""

NODES_MAX = 512
"""Sessions with a node's certificate: the gateways of the other nodes."""

OPERATORS_MAX = 64
"""Sessions of keys with ADMIN, the operator's first of all."""

CLIENTS_MAX = 1_024
"""Sessions of all other keys."""

SESSIONS_PER_KEY = 32
"""Sessions of one key; a market maker has a few on each node."""

SESSIONS_PER_ADDRESS = 256
"""Sessions of keys from one IPv4 address or IPv6 /64: an office of traders behind one router."""

WAITING_MAX = 256
"""Waiting connections from unknown addresses. The addresses of members of the cluster have as many places again."""

WAITING_PER_ADDRESS = 32

HANDSHAKES_PER_SECOND = 20.0
"""New connections that one address may open at once before some are refused; `budget.BURST_SECONDS` does not apply."""

HANDSHAKES_BURST = 100.0

BACKLOG = 64
"""Connections that the kernel accepts before the loop handles them."""

CONNECTIONS_MAX = LOCAL_MAX + NODES_MAX + OPERATORS_MAX + CLIENTS_MAX + 2 * WAITING_MAX + 2 * BACKLOG
"""Descriptors that all places take together. A dropped connection is closed in the same turn of the loop."""

MEMBER_ADDRESSES_MAX = 64

Leave = Callable[[], None]


class Caller(Protocol):
    """A connection that has not greeted."""

    def drop(self) -> None:
        """Close the connection at once."""


class _Waiting:
    """Waiting connections of one kind, oldest first and by caller."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._callers: dict[Caller, str] = {}
        self._by_caller: dict[str, dict[Caller, None]] = {}

    def add(self, caller: Caller, name: str) -> Caller | None:
        """Add a waiting connection. Returns the connection that must be dropped for it, already removed, or None."""
        same = self._by_caller.get(name, {})
        oldest = None
        if len(same) >= self._each:
            oldest = next(iter(same))
        elif len(self._callers) >= WAITING_MAX:
            oldest = next(iter(self._callers))
        if oldest is not None:
            self.remove(oldest)
        self._callers[caller] = name
        self._by_caller.setdefault(name, {})[caller] = None
        return oldest

    def remove(self, caller: Caller) -> None:
        """Remove a waiting connection. Calling it again has no effect."""
        name = self._callers.pop(caller, None)
        if name is not None:
            same = self._by_caller[name]
            del same[caller]
            if not same:
                del self._by_caller[name]

    def __len__(self) -> int:
        return len(self._callers)


class ConnectionLimits:
    """The places of one engine's connections.

    Args:
        members: hosts of the cluster's nodes, as configured. The addresses behind host names are added when a node
            shows its certificate.
    """

    def __init__(self, members: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._members = {host for host in members if _is_address(host)}
        self._rates = AddressShares(HANDSHAKES_PER_SECOND * Cost.HANDSHAKE, HANDSHAKES_BURST * Cost.HANDSHAKE, clock=clock)
        self._from_others = _Waiting(WAITING_PER_ADDRESS)
        self._from_members = _Waiting(WAITING_MAX)
        self._local: Places[str] = Places(LOCAL_MAX, LOCAL_MAX)
        self._nodes: Places[str] = Places(NODES_MAX, NODES_MAX)
        self._operators: Places[str] = Places(OPERATORS_MAX, OPERATORS_MAX)
        self._keys: Places[str] = Places(CLIENTS_MAX, SESSIONS_PER_KEY)
        self._addresses: Places[str] = Places(CLIENTS_MAX, SESSIONS_PER_ADDRESS)

    @property
    def waiting(self) -> int:
        """Connections that have not greeted."""
        return len(self._from_others) + len(self._from_members)

    def arrive(self, caller: Caller, address: str) -> bool:
        """Add a new connection that waits until it has greeted. Returns False if it must be closed at once. May drop an
        older connection.
        """
        is_member = address in self._members
        if not is_member and self._rates.take(address, Cost.HANDSHAKE):
            return False
        dropped = (self._from_members if is_member else self._from_others).add(caller, caller_of(address))
        if dropped is not None:
            dropped.drop()
        return True

    def stop_waiting(self, caller: Caller) -> None:
        """Note that a connection has greeted or is closed. Calling it again has no effect."""
        self._from_others.remove(caller)
        self._from_members.remove(caller)

    def enter_local(self) -> Leave | None:
        """Take a place of the Unix socket. Returns the function that gives it back, or None if no place is free."""
        return _leave(self._local, "") if self._local.enter("") else None

    def enter(self, principal: Principal, address: str) -> Leave:
        """Take a place for a client that has greeted over TLS. Returns the function that gives it back.

        Raises:
            RequestFailed: OVERLOADED: no place is free.
        """
        if principal.node:
            self._learn(address)
            return _taken(self._nodes, principal.name, "sessions of other nodes")
        if principal.operator:
            return _taken(self._operators, principal.name, "sessions of operators")
        leave_key = _taken(self._keys, principal.name, "sessions of this API key")
        try:
            leave_address = _taken(self._addresses, caller_of(address), "sessions from this address")
        except RequestFailed:
            leave_key()
            raise

        def leave() -> None:
            leave_key()
            leave_address()

        return leave

    def _learn(self, address: str) -> None:
        if len(self._members) < MEMBER_ADDRESSES_MAX:
            self._members.add(address)


def _leave(places: Places[str], holder: str) -> Leave:
    return lambda: places.leave(holder)


def _taken(places: Places[str], holder: str, what: str) -> Leave:
    """Take a place for a holder. Raises RequestFailed (OVERLOADED)."""
    if not places.enter(holder):
        count = places.held(holder) if places.held(holder) >= places.each else places.taken
        raise RequestFailed(
            FailCode.OVERLOADED, f"{count} {what if count == places.held(holder) else 'sessions'} are open already"
        )
    return _leave(places, holder)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

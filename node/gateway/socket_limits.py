"""What WebSocket clients may have and ask for, so that one of them costs the others nothing.

All bounds are of one gateway process. An address is an IPv4 address or an IPv6 /64 (`node.budget`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from node.budget import AddressShares, Bucket, Places, caller_of
from node.gateway.turns import Turns

SOCKETS_MAX = 2_000
"""Connections. Each takes a descriptor and some 50 kB."""

SOCKETS_PER_ADDRESS = 200
"""Connections of one address: an office, or a bot with one connection for each product."""

SOCKETS_RESERVED = 500
"""Of all, those kept for addresses that have fewer than `FEW`: ten addresses cannot shut out everybody."""
FEW = 10

MESSAGES_PER_SECOND = 100.0
MESSAGES_BURST = 200.0
"""Messages of one connection, pings and pongs among them; one with more is cut off. Pings that answer messages do not count: see `Allowance`."""

PINGS_EARNED_MAX = 10_000
"""Messages that a client may have received and not yet answered with a ping: what the buffers of both ends hold of short messages."""

BYTES_PER_UNIT = 16 * 1024
"""Bytes of a message that cost one unit to decode."""

UNITS_PER_SECOND = 500.0
UNITS_BURST = 2_000.0
"""What the messages of one address may cost together: a twentieth of a core, and 0.2 s of one at once. Beyond it a message is refused."""

FLOOD = 1_000.0
"""What a connection that is cut off for a flood costs its address, which gets no other one while it has not paid: two seconds."""

WAITING_MAX = 256 * 1024 * 1024
"""Bytes that wait for all readers together. Where there are more, readers that have more than `WAITING_FAIR` waiting are cut off."""
WAITING_FAIR = 1024 * 1024

RESUMES_MAX = 4
"""Readers that catch up at the same time; each has a connection to the engine of its own."""

RESUMES_WAITING = 16
"""Readers of one address that may wait for that."""


class Allowance:
    """How many messages one connection may send.

    `MESSAGES_PER_SECOND` on average and `MESSAGES_BURST` at once, and one ping more for each message that the connection was sent. Some clients
    (cbpro among them) send a ping before each read: their pings come as fast as the feed's messages go. The sum stays bounded by what this
    server chose to send.
    """

    def __init__(self, now: float, per_second: float, burst: float) -> None:
        self._bucket = Bucket(per_second, burst, now)
        self._pings = 0

    def sent(self) -> None:
        """The connection was sent a message."""
        if self._pings < PINGS_EARNED_MAX:
            self._pings += 1

    def take(self, now: float, *, ping: bool) -> bool:
        """Count a message that the client sent; False where it is one too many."""
        if ping and self._pings:
            self._pings -= 1
            return True
        return not self._bucket.take(now)


class SocketLimits:
    """The limits and what they are charged with. `address_rate` 0: addresses are not told apart (a proxy in front limits them)."""

    def __init__(self, address_rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        each = SOCKETS_PER_ADDRESS if address_rate else SOCKETS_MAX
        self._places: Places[str] = Places(SOCKETS_MAX, each)
        self._shares = AddressShares(UNITS_PER_SECOND if address_rate else 0.0, UNITS_BURST, clock=clock)
        self._by_address = bool(address_rate)
        self.resumes = Turns(RESUMES_MAX, RESUMES_WAITING)
        self.waiting = 0
        """Bytes that wait in the queues of all connections."""

    def enter(self, address: str) -> bool:
        """Take a place for a connection; False where there is none. Each True needs one `leave`."""
        caller = caller_of(address)
        places = self._places
        if self._by_address and places.held(caller) >= FEW and places.taken >= SOCKETS_MAX - SOCKETS_RESERVED:
            return False
        return places.enter(caller)

    def leave(self, address: str) -> None:
        """Give a place back."""
        self._places.leave(caller_of(address))

    def wait(self, address: str) -> float:
        """Seconds until the address has paid for what it has had; 0 when it has."""
        return self._shares.wait(address)

    def take(self, address: str, cost: float) -> float:
        """Charge the address and return 0, or return the seconds after which it may ask again."""
        return self._shares.take(address, cost)

    def spend(self, address: str, cost: float) -> None:
        """Charge the address for what turned out to cost more."""
        self._shares.spend(address, cost)

    def overfull(self, waiting: int) -> bool:
        """Whether a connection with so many bytes waiting must go, because too many wait for all of them."""
        return self.waiting > WAITING_MAX and waiting > WAITING_FAIR

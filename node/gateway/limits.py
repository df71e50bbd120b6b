"""Limits of connections and requests, so that one client does not affect the others: `node.budget` for HTTP and the
WebSocket.

All bounds are those of one gateway process. An address is an IPv4 address or an IPv6 /64 (`node.budget`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable

from node.budget import AddressShares, Bucket, Places, Shares, caller_of
from node.gateway.errors import ApiError


class Callers:
    """The shares of one kind of caller. `message` is what a refused one reads."""

    def __init__(self, shares: Shares[str] | AddressShares, message: str) -> None:
        self._shares = shares
        self._message = message

    def take(self, caller: str, cost: float = 1.0) -> None:
        """Charge a request. Raises ApiError 429, with the time to wait in whole seconds."""
        seconds = self._shares.take(caller, cost)
        if seconds:
            headers = {"Retry-After": str(math.ceil(seconds))}
            detail = f"at most {self._shares.rate:g} a second"
            raise ApiError(429, self._message, reason="rate_limit", detail=detail, headers=headers)

    def wait(self, caller: str) -> float:
        """Return the seconds until a request may be charged, or 0. Nothing is charged."""
        return self._shares.wait(caller)

    def spend(self, caller: str, cost: float) -> None:
        """Charge the cost of a request beyond the amount already charged."""
        self._shares.spend(caller, cost)


class Limits:
    """The limits of a gateway process: units a second of a key, and of an address without one; 0 means no limit."""

    def __init__(self, per_key: float, per_address: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = Callers(Shares(per_key, clock=clock), "Private rate limit exceeded")
        self.addresses = Callers(AddressShares(per_address, clock=clock), "Public rate limit exceeded")


SOCKETS_MAX = 2_000
"""Connections. Each takes a descriptor and some 50 kB."""

SOCKETS_PER_ADDRESS = 200
"""Connections of one address: an office, or a bot with one connection for each product."""

SOCKETS_RESERVED = 500
"""Of all, those kept for addresses that have fewer than `FEW`: ten addresses cannot shut out everybody."""
FEW = 10

MESSAGES_PER_SECOND = 100.0
MESSAGES_BURST = 200.0
"""Messages of one connection, pings and pongs among them; one with more is cut off. Pings that answer messages do not
count: see `Allowance`.
"""

PINGS_EARNED_MAX = 10_000
"""Messages that a client may have received and not yet answered with a ping: what the buffers of both ends hold of
short messages.
"""

BYTES_PER_UNIT = 16 * 1024
"""Bytes of a message that cost one unit to decode."""

UNITS_PER_SECOND = 500.0
UNITS_BURST = 2_000.0
"""What the messages of one address may cost together: a twentieth of a core, and 0.2 s of one at once. Beyond it a
message is refused.
"""

FLOOD = 1_000.0
"""What a connection that is cut off for a flood costs its address, which gets no other one while it has not paid: two
seconds.
"""

WAITING_MAX = 256 * 1024 * 1024
"""Bytes that wait for all readers together. Where there are more, readers that have more than `WAITING_FAIR` waiting
are cut off.
"""
WAITING_FAIR = 1024 * 1024

RESUMES_MAX = 4
"""Readers that catch up at the same time; each has a connection to the engine of its own."""

RESUMES_WAITING = 16
"""Readers of one address that may wait to catch up."""


class Allowance:
    """How many messages one connection may send.

    `MESSAGES_PER_SECOND` on average and `MESSAGES_BURST` at once, and one ping more for each message that the
    connection was sent. Some clients (cbpro among them) send a ping before each read: their pings come as fast as the
    feed's messages go. The sum stays bounded by what this server chose to send.
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
    """The limits and what they are charged with. `address_rate` 0: addresses are not told apart (a proxy in front
    limits them).
    """

    def __init__(self, address_rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        each = SOCKETS_PER_ADDRESS if address_rate else SOCKETS_MAX
        self._places: Places[str] = Places(SOCKETS_MAX, each)
        self._shares = AddressShares(UNITS_PER_SECOND if address_rate else 0.0, UNITS_BURST, clock=clock)
        self._by_address = bool(address_rate)
        self.resumes = Turns(RESUMES_MAX, RESUMES_WAITING)
        self.waiting = 0
        """Bytes that wait in the queues of all connections."""

    def enter(self, address: str) -> bool:
        """Take a place for a connection. Returns False if none is free. Each True needs one `leave`."""
        caller = caller_of(address)
        places = self._places
        if self._by_address and places.held(caller) >= FEW and places.taken >= SOCKETS_MAX - SOCKETS_RESERVED:
            return False
        return places.enter(caller)

    def leave(self, address: str) -> None:
        """Give a place back."""
        self._places.leave(caller_of(address))

    def wait(self, address: str) -> float:
        """Return the seconds until the address has paid for its messages, or 0."""
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


class TurnRefusedError(Exception):
    """The holder has too many in the queue already."""


class Turns:
    """`places` at once, each holder in turn: whoever waits is served before a holder that had its turn since.

    Args:
        places: how many may go on at once, of all holders together.
        waiting: how many of one holder may wait.
    """

    def __init__(self, places: int, waiting: int) -> None:
        assert places > 0
        assert waiting > 0
        self._free = places
        self._waiting_max = waiting
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Who waits, by holder; the holder in front is next, and goes to the end then."""

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits: whoever has had a place for long should give it back, and queue again."""
        return bool(self._queues)

    @contextlib.asynccontextmanager
    async def turn(self, holder: str) -> AsyncIterator[None]:
        """Hold a place for the duration of the block. Raises TurnRefusedError."""
        await self._enter(holder)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, holder: str) -> None:
        if self._free and not self._queues:
            self._free -= 1
            return
        queue = self._queues.setdefault(holder, deque())
        if len(queue) >= self._waiting_max:
            raise TurnRefusedError(f"{len(queue)} of this address wait already")
        mine = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # the place had been given to us
            else:
                self._forget(holder, mine)
            raise

    def _forget(self, holder: str, mine: asyncio.Future[None]) -> None:
        queue = self._queues.get(holder)
        if queue is not None and mine in queue:
            queue.remove(mine)
            if not queue:
                del self._queues[holder]

    def _leave(self) -> None:
        """Give a place to the oldest waiting reader of the next holder, or keep it free."""
        while self._queues:
            holder, queue = self._queues.popitem(last=False)
            mine = queue.popleft()
            if queue:
                self._queues[holder] = queue
            if not mine.done():
                mine.set_result(None)
                return
        self._free += 1

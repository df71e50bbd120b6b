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
    """The shares of one kind of caller. `message` is the text of a refusal."""

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

    def charge(self, caller: str) -> bool:
        """Charge a request, and return whether that is allowed. Nothing is charged if it is not."""
        return not self._shares.take(caller)

    def spend(self, caller: str, cost: float) -> None:
        """Charge the cost of a request beyond the amount already charged."""
        self._shares.spend(caller, cost)


class Limits:
    """The limits of a gateway process, in units a second of a key, and of an address without a key. 0 means no limit."""

    def __init__(self, per_key: float, per_address: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = Callers(Shares(per_key, clock=clock), "Private rate limit exceeded")
        self.addresses = Callers(AddressShares(per_address, clock=clock), "Public rate limit exceeded")


SOCKETS_MAX = 2_000
"""WebSocket connections of a process. Each takes a descriptor and about 50 kB."""

SOCKETS_PER_ADDRESS = 200
"""Connections of one address. It suffices for an office, or a bot with one connection for each product."""

SOCKETS_RESERVED = 500
"""Connections reserved for addresses that have fewer than `FEW`, so that ten addresses cannot take all places."""
FEW = 10

MESSAGES_PER_SECOND = 100.0
MESSAGES_BURST = 200.0
"""Messages of one connection a second on average, and at once, including pings and pongs. A connection with more is cut
off. Pings that answer messages do not count: see `MessageAllowance`.
"""

PINGS_EARNED_MAX = 10_000
"""Messages that a client may have received and not yet answered with a ping. The buffers of both ends hold as many
short messages.
"""

BYTES_PER_UNIT = 16 * 1024
"""Bytes of a message that cost one unit to decode."""

UNITS_PER_SECOND = 500.0
UNITS_BURST = 2_000.0
"""Units that the messages of one address may cost a second, and at once: 5% of a core, and 0.2 s of a core. Beyond this
a message is refused.
"""

FLOOD = 1_000.0
"""Units charged to the address of a connection that is cut off for a flood: two seconds of its budget. The address gets
no new connection until they are paid.
"""

WAITING_MAX = 256 * 1024 * 1024
"""Bytes that may wait for all readers together. Above this, readers with more than `WAITING_FAIR` waiting bytes are cut
off.
"""
WAITING_FAIR = 1024 * 1024

RESUMES_MAX = 4
"""Readers that may catch up from the engine at the same time. Each one has its own connection to the engine."""

RESUMES_WAITING = 16
"""Readers of one address that may wait to catch up."""


class MessageAllowance:
    """The number of messages that one connection may send.

    It is `MESSAGES_PER_SECOND` on average and `MESSAGES_BURST` at once, plus one ping for each message that the server
    sent. Some clients (cbpro among them) send a ping before each read, so their pings are as frequent as the feed's
    messages. The number of these pings is bounded by the number of messages that the server sent.
    """

    def __init__(self, now: float, per_second: float, burst: float) -> None:
        self._bucket = Bucket(per_second, burst, now)
        self._pings = 0

    def sent(self) -> None:
        """Record that the server sent a message."""
        if self._pings < PINGS_EARNED_MAX:
            self._pings += 1

    def take(self, now: float, *, ping: bool) -> bool:
        """Count a message of the client. Returns False if it exceeds the allowance. `now` is in seconds."""
        if ping and self._pings:
            self._pings -= 1
            return True
        return not self._bucket.take(now)


class SocketLimits:
    """The limits of all WebSocket connections of a process, and their current use. With `address_rate` 0 there are no
    limits by address, because a proxy in front of the gateway applies them.
    """

    def __init__(self, address_rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        each = SOCKETS_PER_ADDRESS if address_rate else SOCKETS_MAX
        self._places: Places[str] = Places(SOCKETS_MAX, each)
        self._shares = AddressShares(UNITS_PER_SECOND if address_rate else 0.0, UNITS_BURST, clock=clock)
        self._by_address = bool(address_rate)
        self.resumes = Turns(RESUMES_MAX, RESUMES_WAITING)
        self.waiting = 0
        """Bytes waiting in the queues of all connections."""

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
        """Charge the address for a cost that became known later."""
        self._shares.spend(address, cost)

    def overfull(self, waiting: int) -> bool:
        """Return whether a connection with `waiting` bytes in its queue must be cut off, because too many wait in total."""
        return self.waiting > WAITING_MAX and waiting > WAITING_FAIR


class TurnRefusedError(Exception):
    """The holder has too many waiting readers already."""


class Turns:
    """A fair semaphore: places go to the holders in turn. A waiting holder is served before one that had a later turn.

    Args:
        places: the number of places, for all holders together.
        waiting: the number of readers of one holder that may wait.
    """

    def __init__(self, places: int, waiting: int) -> None:
        assert places > 0
        assert waiting > 0
        self._free = places
        self._waiting_max = waiting
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """The waiting readers by holder. The first holder is served next, and then moves to the end."""

    @property
    def waited_for(self) -> bool:
        """Whether a reader waits. A reader that has held a place for long then releases it and queues again."""
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
        """Wait until one of the turns is free. Raises TurnRefusedError."""
        if self._free and not self._queues:
            self._free -= 1
            return
        queue = self._queues.setdefault(holder, deque())
        if len(queue) >= self._waiting_max:
            raise TurnRefusedError(f"{len(queue)} of this address wait already")
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the place had been given to us
            else:
                self._forget(holder, turn)
            raise

    def _forget(self, holder: str, turn: asyncio.Future[None]) -> None:
        """Remove a waiting request from its queue."""
        queue = self._queues.get(holder)
        if queue is not None and turn in queue:
            queue.remove(turn)
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

"""Budgets: what a request costs, who pays for it, and how much each payer may spend.

The rule (ADR 0027): one client's work costs that client, never the leader's lead. Every request has a *cost* in units,
and every key, account and address has a *share*: a token bucket that fills with time. The engine's native protocol and
the gateways' HTTP and WebSocket use these classes alike.

One unit is the work of one ordinary command, such as a limit order that rests: about 0.1 ms of one core on each node.
`Cost` prices the rest by it.

    Bucket           one payer's budget: so many units a second, so many at once
    Shares           a bucket for each payer, in bounded memory, that nobody can reset
    AddressShares    the same for addresses: an IPv4 address, an IPv6 /64 and the /48 around it
    Places           how many of something (connections, sessions, slow reads) one holder and all together may have at once

Nothing here does I/O or reads a clock unasked. The classes belong to one thread each.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Generic, TypeVar

BURST_SECONDS = 2.0
"""A payer that was quiet may spend at once what it could have spent in that time."""

PAYERS_KEPT = 16_384
"""Buckets kept of one kind: about 4 MB. More payers than that, all of them busy within `BURST_SECONDS`, share one
bucket.
"""

WIDE_FACTOR = 16
"""The share of an IPv6 /48, in shares of one /64. A site has a /48: it could send from 65,536 of them."""

_ROUNDING = 1e-6
"""Units that may lack because seconds are fractions: who waits as long as was said is served."""

Payer = TypeVar("Payer", bound=Hashable)


class Cost:
    """Prices in units. What is not listed costs `REQUEST`."""

    REQUEST = 1.0
    """Any request: it is read, decoded and answered."""
    COMMAND = 1.0
    """A command, in place of the request it comes in: a request of 100 commands costs 100."""
    CANCEL_ALL = 10.0
    """A command that may cancel up to 10,000 orders, and mostly cancels few."""
    BARRIER = 2.0
    """A linearizable read: its share of a log entry, which every node syncs."""
    SUBSCRIBE = 5.0
    """A subscription; the events behind it are charged with `ROWS`."""
    HANDSHAKE = 10.0
    """A TLS handshake: about 1 ms of a core."""
    MALFORMED = 20.0
    """A message that does not decode, and must be explained."""
    ROWS = 100
    """Rows (orders, price levels, trades, events) that are looked at for one unit more."""
    BYTES = 64 * 1024
    """Bytes of a request, received and decoded for one unit more."""

    @staticmethod
    def rows(count: int) -> float:
        """The price of looking at so many rows."""
        return count / Cost.ROWS

    @staticmethod
    def length(size: int) -> float:
        """The price of so many bytes."""
        return size / Cost.BYTES


class Bucket:
    """`rate` units a second on average, `burst` at once. Times are seconds of any clock that does not run backwards."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        assert rate > 0
        assert burst > 0
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def wait(self, now: float, cost: float = 1.0) -> float:
        """Seconds until `cost` may be spent; 0 when it may. What costs more than `burst` needs a full bucket."""
        self._fill(now)
        lacking = min(cost, self._burst) - self._left
        return lacking / self._rate if lacking > _ROUNDING else 0.0

    def spend(self, cost: float = 1.0) -> None:
        """Charge for what was done, also beyond what is left: the next wait is longer."""
        self._left -= cost

    def take(self, now: float, cost: float = 1.0) -> float:
        """Spend `cost` if it is allowed and return 0; else return the seconds to wait."""
        seconds = self.wait(now, cost)
        if not seconds:
            self.spend(cost)
        return seconds

    def full(self, now: float) -> bool:
        """Whether the bucket is as if it were new."""
        self._fill(now)
        return self._left >= self._burst

    def _fill(self, now: float) -> None:
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now


class Shares(Generic[Payer]):
    """A bucket for each payer.

    Memory is bounded, and forgetting never helps anybody: only a full bucket is forgotten, because a new one is full,
    too. Where all `kept` buckets are in use, payers without one share a single bucket until there is room.

    Args:
        rate: units a second for each payer; 0 means no limit.
        burst: units at once; by default what `BURST_SECONDS` bring.
        kept: buckets kept.
    """

    _LOOKS = 4
    """Buckets looked at for a full one, each time there is no room. Constant work; the least recently used come first."""

    def __init__(
        self, rate: float, burst: float = 0.0, *, kept: int = PAYERS_KEPT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        assert kept > 0
        self.rate = rate
        self._burst = burst or max(1.0, rate * BURST_SECONDS)
        self._kept = kept
        self._clock = clock
        self._buckets: OrderedDict[Payer, Bucket] = OrderedDict()
        self._common: Bucket | None = None

    def wait(self, payer: Payer, cost: float = 1.0) -> float:
        """Seconds until the payer may spend `cost`; 0 when they may. Nothing is charged."""
        return self._bucket(payer).wait(self._clock(), cost) if self.rate else 0.0

    def take(self, payer: Payer, cost: float = 1.0) -> float:
        """Charge the payer and return 0, or return the seconds after which it is worth asking again."""
        return self._bucket(payer).take(self._clock(), cost) if self.rate else 0.0

    def spend(self, payer: Payer, cost: float) -> None:
        """Charge the payer for what turned out to cost more."""
        if self.rate:
            self._bucket(payer).spend(cost)

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, payer: Payer) -> Bucket:
        buckets = self._buckets
        bucket = buckets.get(payer)
        if bucket is not None:
            buckets.move_to_end(payer)
            return bucket
        now = self._clock()
        if len(buckets) >= self._kept and not self._make_room(now):
            if self._common is None:
                self._common = Bucket(self.rate, self._burst, now)
            return self._common
        bucket = buckets[payer] = Bucket(self.rate, self._burst, now)
        return bucket

    def _make_room(self, now: float) -> bool:
        for _ in range(min(self._LOOKS, len(self._buckets))):
            payer, bucket = next(iter(self._buckets.items()))
            if bucket.full(now):
                del self._buckets[payer]
                return True
            self._buckets.move_to_end(payer)
        return False


class AddressShares:
    """Shares of addresses. An IPv6 address pays from the bucket of its /64 and from that of its /48, which is
    `WIDE_FACTOR` times as large.

    Args: see `Shares`.
    """

    def __init__(
        self, rate: float, burst: float = 0.0, *, kept: int = PAYERS_KEPT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self._narrow: Shares[str] = Shares(rate, burst, kept=kept, clock=clock)
        self._wide: Shares[str] = Shares(rate * WIDE_FACTOR, burst * WIDE_FACTOR, kept=kept, clock=clock)

    def wait(self, address: str, cost: float = 1.0) -> float:
        """See `Shares.wait`."""
        caller, site = networks(address)
        seconds = self._narrow.wait(caller, cost)
        return max(seconds, self._wide.wait(site, cost)) if site else seconds

    def take(self, address: str, cost: float = 1.0) -> float:
        """See `Shares.take`. Neither bucket is charged unless both have it."""
        seconds = self.wait(address, cost)
        if not seconds:
            self.spend(address, cost)
        return seconds

    def spend(self, address: str, cost: float) -> None:
        """See `Shares.spend`."""
        caller, site = networks(address)
        self._narrow.spend(caller, cost)
        if site:
            self._wide.spend(site, cost)


class Places(Generic[Payer]):
    """How many of something may be there at once: `each` for one holder, `total` for all."""

    def __init__(self, total: int, each: int) -> None:
        assert 0 < each <= total
        self.total = total
        self.each = each
        self.taken = 0
        self._held: dict[Payer, int] = {}

    def enter(self, holder: Payer) -> bool:
        """Take a place; False, and nothing taken, where there is none. Each True needs one `leave`."""
        held = self._held.get(holder, 0)
        if held >= self.each or self.taken >= self.total:
            return False
        self._held[holder] = held + 1
        self.taken += 1
        return True

    def leave(self, holder: Payer) -> None:
        """Give a place back."""
        held = self._held[holder]
        assert held > 0, "who leaves has entered"
        self.taken -= 1
        if held == 1:
            del self._held[holder]
        else:
            self._held[holder] = held - 1

    def held(self, holder: Payer) -> int:
        """How many places a holder has."""
        return self._held.get(holder, 0)


def caller_of(address: str) -> str:
    """Who is behind an address, as far as anybody can tell: the IPv4 address, or the /64 of an IPv6 address. Other text
    stays as it is.
    """
    return networks(address)[0]


@lru_cache(maxsize=4_096)
def networks(address: str) -> tuple[str, str]:
    """`caller_of` an address, and the /48 of an IPv6 address ("" for any other)."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address, ""
    if not isinstance(parsed, IPv6Address):
        return str(parsed), ""
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped), ""
    groups = parsed.exploded.split(":")
    return f"{':'.join(groups[:4])}::/64", f"{':'.join(groups[:3])}::/48"

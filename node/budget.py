"""Budgets: the cost of a request, the payer, and how much each payer may spend.

The rule (ADR 0027): one client's work costs that client, and never costs the leader its leadership. Every request has a
*cost* in units, and every key, account and address has a *share*: a token bucket that fills with time. The engine's
native protocol and the gateways' HTTP and WebSocket use the same classes.

One unit is the work of one ordinary command, such as a limit order that rests: about 0.1 ms of one core on each node.
`Cost` prices other requests in this unit.

    Bucket           one payer's budget: units a second on average, and units at once
    Shares           a bucket for each payer, in bounded memory, that no payer can reset
    AddressShares    the same for addresses: an IPv4 address, an IPv6 /64 and the /48 around it
    Places           how many of something (connections, sessions, slow reads) one holder and all together may have at once

Nothing here does I/O or reads a clock by default. Each object belongs to one thread.
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
"""Buckets kept of one kind: about 4 MB. If more payers are busy within `BURST_SECONDS`, the rest share one bucket."""

WIDE_FACTOR = 16
"""The share of an IPv6 /48, in shares of one /64. A site has a /48, so it could send from 65,536 of them."""

_ROUNDING = 1e-6
"""Units that may be missing because seconds are fractions: a payer that has waited for the announced time is served."""

Payer = TypeVar("Payer", bound=Hashable)


class Cost:
    """Prices in units. Requests without a price of their own cost `REQUEST`."""

    REQUEST = 1.0
    """Any request: it is read, decoded and answered."""
    COMMAND = 1.0
    """A command, in place of the request it comes in: a request of 100 commands costs 100."""
    CANCEL_ALL = 10.0
    """A command that may cancel up to 10,000 orders, although it usually cancels few."""
    BARRIER = 2.0
    """A linearizable read: its part of a log entry that every node syncs."""
    SUBSCRIBE = 5.0
    """A subscription. The events that follow are charged with `ROWS`."""
    HANDSHAKE = 10.0
    """A TLS handshake: about 1 ms of a core."""
    MALFORMED = 20.0
    """A message that cannot be decoded and needs an explanation."""
    ROWS = 100
    """Rows (orders, price levels, trades, events) for each further unit."""
    SHOWN = 4
    """Rows that one row of an answer costs, in addition to finding it: the answer holds the whole object."""
    BYTES = 64 * 1024
    """Bytes of a request, received and decoded, for each further unit."""

    @staticmethod
    def rows(count: int) -> float:
        """Return the price of reading rows."""
        return count / Cost.ROWS

    @staticmethod
    def shown(count: int) -> float:
        """Return the price of the rows of an answer, such as orders or trades: a unit for each full 25."""
        return float(Cost.SHOWN * count // Cost.ROWS)

    @staticmethod
    def length(size: int) -> float:
        """Return the price of bytes."""
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
        """Return the seconds until `cost` may be spent; 0 if it may be spent now. A cost above `burst` needs a full
        bucket.
        """
        self._fill(now)
        lacking = min(cost, self._burst) - self._left
        return lacking / self._rate if lacking > _ROUNDING else 0.0

    def spend(self, cost: float = 1.0) -> None:
        """Charge for work that is done, even beyond what is left. The next wait is then longer."""
        self._left -= cost

    def take(self, now: float, cost: float = 1.0) -> float:
        """Spend `cost` if that is allowed and return 0; otherwise return the seconds to wait."""
        seconds = self.wait(now, cost)
        if not seconds:
            self.spend(cost)
        return seconds

    def overdraw(self, now: float, cost: float) -> float:
        """Spend `cost`, even beyond what is left, if one unit may be spent now, and return 0. Otherwise return the
        seconds to wait.
        """
        seconds = self.wait(now)
        if not seconds:
            self._left -= cost
        return seconds

    def full(self, now: float) -> bool:
        """Return whether the bucket equals a new one."""
        self._fill(now)
        return self._left >= self._burst

    def _fill(self, now: float) -> None:
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now


class Shares(Generic[Payer]):
    """A bucket for each payer.

    Memory is bounded, and a payer gains nothing when its bucket is dropped: only full buckets are dropped, and a new
    bucket is full too. If all `kept` buckets are in use, payers without one share a single bucket until there is room.

    Args:
        rate: units a second for each payer; 0 means no limit.
        burst: units at once; by default what `BURST_SECONDS` bring.
        kept: buckets kept.
    """

    _LOOKS = 4
    """Buckets that are examined, least recently used first, to find a full one when there is no room. The work is
    constant.
    """

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
        """Return the seconds until the payer may spend `cost`; 0 if it may now. Nothing is charged."""
        return self._bucket(payer).wait(self._clock(), cost) if self.rate else 0.0

    def take(self, payer: Payer, cost: float = 1.0) -> float:
        """Charge the payer and return 0, or return the seconds after which a retry makes sense."""
        return self._bucket(payer).take(self._clock(), cost) if self.rate else 0.0

    def overdraw(self, payer: Payer, cost: float) -> float:
        """See `Bucket.overdraw`."""
        return self._bucket(payer).overdraw(self._clock(), cost) if self.rate else 0.0

    def spend(self, payer: Payer, cost: float) -> None:
        """Charge the payer for a request that turned out to cost more."""
        if self.rate:
            self._bucket(payer).spend(cost)

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, payer: Payer) -> Bucket:
        """Return the payer's bucket. If there is no room for another one, new payers share one bucket."""
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
        """Remove one full bucket among the least recently used ones. Returns whether there was one."""
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
        """See `Shares.take`. Neither bucket is charged unless both have enough."""
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
    """Limits how many of something may exist at once: `each` for one holder, `total` for all."""

    def __init__(self, total: int, each: int) -> None:
        assert 0 < each <= total
        self.total = total
        self.each = each
        self.taken = 0
        self._held: dict[Payer, int] = {}

    def enter(self, holder: Payer) -> bool:
        """Take a place. Returns False, and takes nothing, if there is none. Each True needs one `leave`."""
        held = self._held.get(holder, 0)
        if held >= self.each or self.taken >= self.total:
            return False
        self._held[holder] = held + 1
        self.taken += 1
        return True

    def leave(self, holder: Payer) -> None:
        """Give a place back."""
        held = self._held[holder]
        assert held > 0, "a place that is given back was taken"
        self.taken -= 1
        if held == 1:
            del self._held[holder]
        else:
            self._held[holder] = held - 1

    def held(self, holder: Payer) -> int:
        """Return how many places a holder has."""
        return self._held.get(holder, 0)


def caller_of(address: str) -> str:
    """Return the caller behind an address, as far as it can be known: the IPv4 address, or the /64 of an IPv6 address.
    Other text is returned as it is.
    """
    return networks(address)[0]


@lru_cache(maxsize=4_096)
def networks(address: str) -> tuple[str, str]:
    """Return `caller_of` an address, and the /48 of an IPv6 address ("" for other addresses)."""
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

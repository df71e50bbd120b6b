"""How much a caller may ask: buckets that fill with time and are emptied by requests."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from node.gateway.errors import ApiError

CALLERS_KEPT = 10_000
"""Callers remembered of each kind; one that was forgotten begins with a full bucket."""

BURST_SECONDS = 2.0
"""A caller that was quiet may ask at once what it could have asked in that time."""


class Bucket:
    """`rate` a second on average, `burst` at once. Times are seconds of any clock that does not run backwards."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until one more is allowed; 0 when it is."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._left) / self._rate)

    def spend(self, count: float = 1.0) -> None:
        """Count what was done, also beyond what is left: the next wait is longer."""
        self._left -= count

    def take(self, now: float) -> float:
        """Count one if it is allowed; else the seconds to wait."""
        seconds = self.wait(now)
        if not seconds:
            self.spend()
        return seconds


@dataclass
class Callers:
    """A bucket a caller. `rate` a second each; 0: no limit. `message` is what a refused one reads."""

    rate: float
    message: str
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)

    def take(self, caller: str) -> None:
        """Count a request. Raises ApiError 429, with the time to wait in whole seconds."""
        if not self.rate:
            return
        seconds = self._bucket(caller).take(self.clock())
        if seconds:
            headers = {"Retry-After": str(math.ceil(seconds))}
            raise ApiError(429, self.message, reason="rate_limit", detail=f"at most {self.rate:g} a second", headers=headers)

    def spend(self, caller: str, count: int) -> None:
        """Count what a request contained beyond itself."""
        if self.rate:
            self._bucket(caller).spend(count)

    def _bucket(self, caller: str) -> Bucket:
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = Bucket(self.rate, max(1.0, self.rate * BURST_SECONDS), self.clock())
            if len(self._buckets) > CALLERS_KEPT:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(caller)
        return bucket


class Limits:
    """The limits of a gateway process: requests of a key, and of an address without one."""

    def __init__(self, per_key: float, per_address: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = Callers(per_key, "Private rate limit exceeded", clock)
        self.addresses = Callers(per_address, "Public rate limit exceeded", clock)

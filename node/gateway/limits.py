"""How much a key, and an address without one, may ask of a gateway: `node.budget` in the words of HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from node.budget import AddressShares, Shares
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

    def spend(self, caller: str, cost: float) -> None:
        """Charge what a request turned out to cost beyond what was taken."""
        self._shares.spend(caller, cost)


class Limits:
    """The limits of a gateway process: units a second of a key, and of an address without one; 0 means no limit."""

    def __init__(self, per_key: float, per_address: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = Callers(Shares(per_key, clock=clock), "Private rate limit exceeded")
        self.addresses = Callers(AddressShares(per_address, clock=clock), "Public rate limit exceeded")

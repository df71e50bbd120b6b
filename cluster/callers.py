"""Rate limits of the Raft port: how often an address may connect, and how many refusals are logged.

A TLS handshake costs about 1.3 ms of a core, in another thread than Raft's, and everyone who reaches the port can begin
one. So each address has a rate, and a limit of callers that are not identified yet. All addresses that belong to no
peer also share a rate. A caller beyond these limits is refused before its handshake begins.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable

log = logging.getLogger(__name__)

NON_PEER_RATE, NON_PEER_BURST = 10.0, 20.0
"""Handshakes a second of one address that belongs to no peer, and how many at once: one node that starts calls about
six times in its first second.
"""

PEER_RATE, PEER_BURST = 50.0, 100.0
"""The same for the address of a peer, which several nodes may share: at most 7 % of a core."""

NON_PEERS_RATE, NON_PEERS_BURST = 50.0, 100.0
"""The same for all addresses together that belong to no peer."""

ADDRESSES_MAX = 4_096
"""Addresses that are stored. The one that has been quiet for longest is dropped first, because its budget is full again
by then, or nearly.
"""

UNKNOWN_CALLERS_MAX = 64
"""Connections at a time that are not identified yet."""

UNKNOWN_OF_ADDRESS_MAX = 32
"""Connections of one address among these."""

REPEATED_EVERY = 600.0
"""Seconds after which an unchanged refusal is logged again."""

LINES_RATE, LINES_BURST = 0.2, 20.0
"""Log lines a second about refusals, and how many at once."""


class Allowance:
    """A token bucket: `rate` a second, at most `burst` at once."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._since = now

    def take(self, now: float) -> bool:
        """Take a token; whether there was one."""
        self._left = min(self._burst, self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def caller_of(host: str) -> str:
    """Return the address that a rate belongs to: of IPv6 the network of 64 bits, since one host has all of it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Doorkeeper:
    """Decides whether a caller may connect. `clock` gives seconds.

    Attributes:
        peers: the addresses of peers, as `caller_of` gives them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._allowances: OrderedDict[tuple[str, bool], Allowance] = OrderedDict()
        self._non_peers = Allowance(NON_PEERS_RATE, NON_PEERS_BURST, clock())
        self._unknown: Counter[str] = Counter()
        self.peers: frozenset[str] = frozenset()

    def refusal(self, host: str) -> tuple[str, str] | None:
        """Return the kind and text of the refusal of a caller from `host`. None: it may begin its handshake, and
        `leaves` must be called later.
        """
        caller, now = caller_of(host), self._clock()
        if self._unknown.total() >= UNKNOWN_CALLERS_MAX or self._unknown[caller] >= UNKNOWN_OF_ADDRESS_MAX:
            return "too_many", "too many callers that do not say who they are"
        peer = caller in self.peers
        if not self._allowance(caller, now, peer=peer).take(now) or not (peer or self._non_peers.take(now)):
            return "too_often", "too many calls"
        self._unknown[caller] += 1
        return None

    @property
    def unknown(self) -> int:
        """The number of callers that are not identified yet."""
        return self._unknown.total()

    def leaves(self, host: str) -> None:
        """Record that the caller is identified or was refused."""
        caller = caller_of(host)
        self._unknown[caller] -= 1
        if not self._unknown[caller]:
            del self._unknown[caller]

    def _allowance(self, caller: str, now: float, *, peer: bool) -> Allowance:
        """Return the allowance of a caller; it is created on first use, in place of the one that was unused for
        longest.
        """
        key = (caller, peer)
        allowance = self._allowances.get(key)
        if allowance is None:
            allowance = Allowance(PEER_RATE, PEER_BURST, now) if peer else Allowance(NON_PEER_RATE, NON_PEER_BURST, now)
            self._allowances[key] = allowance
            if len(self._allowances) > ADDRESSES_MAX:
                self._allowances.popitem(last=False)
        self._allowances.move_to_end(key)
        return allowance


class RefusalLog:
    """Logs refusals when they change: one line for each peer and reason, not one for each attempt. `clock` gives
    seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: OrderedDict[str, tuple[str, float, int]] = OrderedDict()
        self._lines = Allowance(LINES_RATE, LINES_BURST, clock())
        self._unsaid = 0

    def note(self, who: str, text: str) -> None:
        """`who` (a peer's id, or an address) was refused."""
        now = self._clock()
        last, at, count = self._last.get(who, ("", -REPEATED_EVERY, 0))
        if last == text and now - at < REPEATED_EVERY:
            self._last[who] = (text, at, count + 1)
            return
        self._last[who] = (text, now, 0)
        self._last.move_to_end(who)
        if len(self._last) > ADDRESSES_MAX:
            self._last.popitem(last=False)
        if not self._lines.take(now):
            self._unsaid += 1
            return
        again = f" ({count} more times in the last {now - at:.0f} s)" if last == text and count else ""
        unsaid, self._unsaid = self._unsaid, 0
        others = f"; {unsaid} other refusals were not logged" if unsaid else ""
        log.warning("raft port: refused %s: %s%s%s", who, text, again, others)

    def connected(self, peer: str) -> None:
        """Record that a peer was accepted, so that its next refusal is logged."""
        if self._last.pop(peer, None) is not None:
            log.info("raft port: %s is connected, it was refused before", peer)

"""What the FIX process counts, for Prometheus."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from node.fix.logon import Service
from node.fix.tags import ADMIN
from node.fix.wire import type_of
from node.system.counts import Family

TYPES = ADMIN | frozenset("4DFGHqeVrWXYfj89")
"""Message types that are counted by name. All other types share one counter, because a client can send any type."""
OTHER = "other"

_SERVICES = {Service.ORDERS: "orders", Service.DROP_COPY: "drop_copy", Service.MARKET: "market_data"}


class FixCounts:
    """Counters of one FIX process since its start."""

    def __init__(self) -> None:
        self.sessions: Counter[Service] = Counter()
        """Logged-on sessions by service."""
        self.connections = 0
        """Open connections, logged on or not."""
        self.refused_logons = 0
        self.refused_connections = 0
        """Connections refused because no place was free, or because their address exceeded its rate."""
        self.garbled = 0
        """Messages that were ignored because BodyLength or CheckSum was wrong."""
        self._received: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()

    @contextlib.contextmanager
    def session(self, service: Service) -> Iterator[None]:
        """Count a session while it is served."""
        self.sessions[service] += 1
        try:
            yield
        finally:
            self.sessions[service] -= 1

    def received(self, kind: str) -> None:
        """Count a message of a client, of this MsgType."""
        self._received[kind if kind in TYPES else OTHER] += 1

    def sent(self, data: bytes) -> None:
        """Count an encoded message to a client."""
        kind = type_of(data)
        self._sent[kind if kind in TYPES else OTHER] += 1

    def families(self) -> list[Family]:
        """Return all counters as metric families."""
        sessions = {name: float(self.sessions[service]) for service, name in _SERVICES.items()}
        return [
            Family("fix_sessions", "FIX sessions that are logged on, by service", sessions, label="service"),
            Family("fix_connections", "Open FIX connections", {"": self.connections}),
            Family(
                "fix_messages_received",
                "FIX messages of clients, by MsgType",
                _floats(self._received),
                counter=True,
                label="type",
            ),
            Family(
                "fix_messages_sent",
                "FIX messages to clients, by MsgType: 3 and j are rejects, 2 asks for a resend",
                _floats(self._sent),
                counter=True,
                label="type",
            ),
            Family("fix_logons_refused", "FIX Logons that were rejected", {"": self.refused_logons}, counter=True),
            Family("fix_connections_refused", "FIX connections without a place", {"": self.refused_connections}, counter=True),
            Family("fix_messages_garbled", "FIX messages with a wrong BodyLength or CheckSum", {"": self.garbled}, counter=True),
        ]


def _floats(counts: Counter[str]) -> dict[str, float]:
    return {name: float(count) for name, count in counts.items()}

"""A network in memory: connections that break and lose messages in flight, delays, stalls, silent losses in one
direction, late copies.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator

Pair = frozenset[str]


class Network:
    """Carries messages between nodes by the clock of the world.

    Messages keep their order while a connection lasts, as with TCP. Late copies go beyond TCP: a message may arrive
    once more, soon or much later, even over another connection. The protocol must tolerate this.

    Attributes:
        links: connections that are up.
        cut: pairs that cannot connect.
        deaf: directions in which everything is lost silently.
        latency: the mean time of a message in seconds.
        copies: the chance that a message arrives once more.
        sent, delivered: the numbers of messages so far.
    """

    def __init__(self, rng: random.Random, *, latency: float, copies: float) -> None:
        self._rng = rng
        self._latency = latency
        self._copies = copies
        self.now = 0.0
        self.links: set[Pair] = set()
        self.cut: set[Pair] = set()
        self.deaf: set[tuple[str, str]] = set()
        self._queues: dict[str, dict[str, deque[tuple[float, bytes]]]] = {}
        self._stalled: dict[tuple[str, str], float] = {}
        self._late: list[tuple[float, str, str, bytes]] = []
        self.sent = 0
        self.delivered = 0

    def _queue(self, sender: str, receiver: str) -> deque[tuple[float, bytes]]:
        return self._queues.setdefault(receiver, {}).setdefault(sender, deque())

    def send(self, sender: str, receiver: str, data: bytes) -> bool:
        if frozenset((sender, receiver)) not in self.links:
            return False
        self.sent += 1
        way = (sender, receiver)
        if way not in self.deaf:
            queue = self._queue(sender, receiver)
            earliest = max(queue[-1][0] if queue else 0.0, self._stalled.get(way, 0.0))
            queue.append((max(earliest, self.now + self._rng.expovariate(1 / self._latency)), data))
            if self._copies and self._rng.random() < self._copies:
                delay = self._rng.choice((self._latency, 1.0))
                self._late.append((self.now + self._rng.expovariate(1 / delay), sender, receiver, data))
        return True

    def connect(self, one: str, other: str) -> bool:
        """Connect a pair. Returns whether it was not connected before."""
        pair = frozenset((one, other))
        if pair in self.links or pair in self.cut:
            return False
        self.links.add(pair)
        for way in ((one, other), (other, one)):
            self._queue(*way).clear()
            self._stalled.pop(way, None)
        return True

    def disconnect(self, one: str, other: str) -> bool:
        """Disconnect a pair. Returns whether it was connected. Messages in flight are lost."""
        pair = frozenset((one, other))
        if pair not in self.links:
            return False
        self.links.remove(pair)
        self.deaf -= {(one, other), (other, one)}
        return True

    def stall(self, sender: str, receiver: str, seconds: float) -> None:
        """Let nothing arrive for a while, and then everything at once."""
        until = self.now + seconds
        self._stalled[(sender, receiver)] = until
        queue = self._queue(sender, receiver)
        held = [(max(until, at), data) for at, data in queue]
        queue.clear()
        queue.extend(held)

    def arrivals(self, receiver: str) -> Iterator[tuple[str, bytes, bool]]:
        """Return the messages that have arrived at a node, with their senders, and whether the next one of the same
        sender has arrived too.
        """
        for sender, queue in self._queues.get(receiver, {}).items():
            while queue and queue[0][0] <= self.now:
                self.delivered += 1
                data = queue.popleft()[1]
                yield sender, data, bool(queue) and queue[0][0] <= self.now

    def late(self, receiver: str, deliver: Callable[[str, bytes], None]) -> None:
        """Deliver the copies that are due at a node and whose sender is connected to it."""
        due = [copy for copy in self._late if copy[0] <= self.now and copy[2] == receiver]
        if due:
            self._late = [copy for copy in self._late if copy not in due]
            for _, sender, _, data in due:
                if frozenset((sender, receiver)) in self.links:
                    self.delivered += 1
                    deliver(sender, data)

    def calm(self) -> None:
        """End all copies and stalls."""
        self._copies = 0.0
        self._late.clear()
        self._stalled.clear()

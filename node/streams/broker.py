"""What a stream needs of a broker: a small interface, so that Kafka and NATS JetStream are one to the rest.

A broker keeps the stream's place itself, beside the records and changed together with them. So nothing that is
remembered here can contradict it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Record(msgspec.Struct, frozen=True):
    """A message. Records with the same key of a topic keep their order. `sequence` grows with the key: a consumer may
    compare it.

    `index` and `ordinal`: the log entry that it comes from, and its number among the records of that entry. They are
    the same on every node.
    """

    topic: str
    key: str
    value: bytes
    sequence: int
    kind: str
    index: int = 0
    ordinal: int = 0


class Place(msgspec.Struct, frozen=True):
    """How far the stream is: the last log entry that is published whole, its term, and the cluster whose log it is. The
    term is 0 directly after a cut.
    """

    cluster_id: str
    index: int
    term: int
    node_id: str = ""


class BrokerError(Exception):
    """The broker did not take or give something now; it may do so later."""


class FencedError(BrokerError):
    """Another process streams this cluster, so this one must not publish any more."""


class Broker(Protocol):
    """Where records go."""

    def begin(self) -> Place | None:
        """Become the only one that streams this cluster (any other is fenced from now on); how far the stream is, None
        where it has not begun.

        Raises:
            BrokerError: it cannot be reached, or refuses.
        """

    def publish(self, records: Sequence[Record], place: Place) -> None:
        """Publish records, and the place when they are there. What a batch that failed left behind is not published
        again.

        Raises:
            FencedError: another process has begun since.
            BrokerError: it did not become visible; `begin` says how far the stream is.
        """

    def cut(self, records: Sequence[Record], place: Place) -> None:
        """Publish each of these records in every partition of its topic, whatever is there, and the place when they are
        there: a rollback undid what lies behind that place. If it fails, it may be tried again, and consumers may see
        the records twice.

        Raises:
            FencedError, BrokerError: as `publish`.
        """

    def standing(self) -> Place | None:
        """How far the stream is, without fencing anybody. Raises BrokerError."""

    def close(self) -> None:
        """Let go of all connections. What is not published is in the log."""

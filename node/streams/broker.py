"""The interface of a broker, which Kafka and NATS JetStream implement.

The broker stores the stream's position beside the records, and changes both together. The stream keeps no position of
its own that could contradict it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Record(msgspec.Struct, frozen=True):
    """A message. Records of a topic with the same key keep their order, and `sequence` never falls for a key. It
    increases with each record, except for balances that change with time alone: they have the number of the command
    before it.

    `index` is the log entry that the record comes from, and `ordinal` its number among the records of that entry. Both
    are the same on every node.
    """

    topic: str
    key: str
    value: bytes
    sequence: int
    kind: str
    index: int = 0
    ordinal: int = 0

    def headers(self) -> dict[str, str]:
        """Return the headers, with which a consumer recognises a record that it has already."""
        return {"sequence": str(self.sequence), "type": self.kind, "place": f"{self.index}.{self.ordinal}"}


class StreamProgress(msgspec.Struct, frozen=True):
    """The progress of the stream: the last log entry that is published completely, its term, and the id of the cluster.
    The term is 0 directly after a cut.
    """

    cluster_id: str
    index: int
    term: int
    node_id: str = ""


class BrokerError(Exception):
    """A request to the broker failed. A later attempt may succeed."""


class FencedError(BrokerError):
    """Another process streams this cluster, so this one must stop publishing."""


class Broker(Protocol):
    """The destination of records."""

    def begin(self) -> StreamProgress | None:
        """Become the only process that streams this cluster, and fence any other. Returns the stream's position, or
        None if nothing was published yet.

        Raises:
            BrokerError: the broker cannot be reached, or refuses.
        """

    def publish(self, records: Sequence[Record], position: StreamProgress) -> None:
        """Publish records, and then the position. Records that a failed batch already published are not published
        again.

        Raises:
            FencedError: another process has begun in the meantime.
            BrokerError: the batch did not become visible. `begin` returns the stream's position.
        """

    def cut(self, records: Sequence[Record], position: StreamProgress) -> None:
        """Publish each of these records in every partition of its topic, and then the position, after a rollback undid
        all later entries. After a failure the call may be repeated; consumers may then see the records twice.

        Raises:
            FencedError, BrokerError: as `publish`.
        """

    def standing(self) -> StreamProgress | None:
        """Return the stream's position without fencing another process. Raises BrokerError."""

    def close(self) -> None:
        """Close all connections. Unpublished entries remain in the log."""

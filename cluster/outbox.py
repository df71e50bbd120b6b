"""The outbox: it sends a message to a peer after the log, term and vote that the message reports are durable."""

from __future__ import annotations

from cluster import messages as m
from cluster.ports import Wire
from cluster.raft_log import RaftLog


class Outbox:
    """The only sender of messages to the wire."""

    def __init__(self, raft_log: RaftLog, wire: Wire) -> None:
        self._raft_log = raft_log
        self._wire = wire

    def send(self, peer: str, message: m.AnyMessage) -> bool:
        """Make log, term and vote durable, then send a message. Returns False if it certainly does not arrive."""
        self._raft_log.sync()
        return self._wire.send(peer, m.encode(message))

    def send_entries(self, peer: str, message: bytes) -> bool:
        """Send an encoded AppendEntries. It may leave before its entries are durable here (thesis, section 10.2.1);
        term and vote may not.
        """
        if self._raft_log.state_dirty:
            self._raft_log.sync()
        return self._wire.send(peer, message)

"""Sending a snapshot to a node that is behind the log, and receiving one (Raft paper, section 7).

A snapshot is sent in chunks, a few in flight at a time, so that it shares the link with heartbeats and entries. The
follower acknowledges how many bytes it has without a gap. Sending restarts after a broken connection. The snapshot is
not visible before it is complete and checked.

If a peer does not install a snapshot, this node checks whether the snapshot is damaged on its disk. If so, a new one is
taken and sent.

Verifying a received snapshot takes seconds and runs beside heartbeats. Until it is done, the follower withholds the
last acknowledgement and repeats the one before, so the leader neither gives up nor compacts its log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from cluster import messages as m
from cluster.ports import (
    Clock,
    SnapshotMark,
    SnapshotRefusedError,
    Snapshots,
    SnapshotSink,
    SnapshotUnreadableError,
)
from cluster.progress import Delivered, Peers, Progress, Sending
from cluster.settings import (
    CHUNK_BYTES,
    CHUNKS_IN_FLIGHT,
    OFFER_AGAIN,
    TAKING_TIMEOUT,
    TRANSFER_BYTES_PER_SECOND,
    TRANSFER_TIMEOUT,
)

log = logging.getLogger(__name__)


class Senders:
    """The snapshots that this leader is sending, at most one to each peer. The peers' records hold them.

    Attributes:
        not_taken: how often a peer received a complete snapshot and did not install it.
    """

    def __init__(self, snapshots: Snapshots, peers: Peers, clock: Clock) -> None:
        self._snapshots = snapshots
        self._peers = peers
        self._clock = clock
        self._examined_at = -OFFER_AGAIN
        self.not_taken = 0

    @property
    def any(self) -> bool:
        """Whether a snapshot is being sent. The entries after it must not be compacted before it arrives."""
        return any(peer.sending is not None for peer in self._peers)

    def start(self, peer: Progress, term: int) -> bool:
        """Begin to send a snapshot, unless one is being sent. Returns whether one is being sent. A damaged snapshot is
        not sent. A snapshot that the peer did not install is not sent again soon.
        """
        if peer.sending is not None:
            return True
        if self._snapshots.damaged or not self._may_offer(peer):
            return False
        try:
            source = self._snapshots.open_source()
        except SnapshotUnreadableError as error:
            self._examine(str(error))
            return False
        log.info("sending the snapshot at index %d (%d bytes) to %s", source.mark.index, source.size, peer.node_id)
        peer.sending = Sending(source, term, heard=self._clock(), begun=self._clock())
        return True

    def _may_offer(self, peer: Progress) -> bool:
        """Return whether the peer needs the newest snapshot and has not just received it."""
        last = peer.delivered
        if last is None or peer.next_index > last.index:
            return True
        waited = self._clock() - last.at
        if waited < TAKING_TIMEOUT:
            return False
        if not last.not_taken:
            last.not_taken = True
            self.not_taken += 1
            self._examine(f"{peer.node_id} has not taken the snapshot at index {last.index} (its log says why)")
        newest = self._snapshots.newest()
        return waited >= OFFER_AGAIN or (newest is not None and newest.index > last.index)

    def _examine(self, reason: str) -> None:
        """Check the newest snapshot for damage, unless it was checked a moment ago."""
        if self._clock() - self._examined_at >= OFFER_AGAIN:
            self._examined_at = self._clock()
            log.warning("%s: checking the newest one for damage", reason)
            self._snapshots.examine()

    def stop(self) -> None:
        """Abort all transfers."""
        for peer in self._peers:
            peer.stop_sending()

    def acknowledged(self, peer: Progress, ack: m.SnapshotAck) -> list[m.SnapshotChunk]:
        """Handle an acknowledgement. Returns the chunks to send next."""
        sending = peer.sending
        if sending is None or ack.index != sending.source.mark.index:
            return []
        sending.heard = self._clock()
        if ack.received >= sending.source.size:
            peer.delivered = Delivered(sending.source.mark.index, self._clock())
            peer.stop_sending()
            return []
        if ack.received < sending.acknowledged or ack.received > sending.sent:
            sending.sent = ack.received
        sending.acknowledged = ack.received
        return list(self._chunks(peer, sending))

    def due(self, term: int) -> Iterator[tuple[str, m.SnapshotChunk]]:
        """Return the chunks that are due. Transfers of an older term, and those without an answer, are aborted."""
        for peer in self._peers:
            sending = peer.sending
            if sending is None:
                continue
            if sending.term != term or self._clock() - sending.heard > TRANSFER_TIMEOUT:
                peer.stop_sending()
            else:
                for chunk in self._chunks(peer, sending):
                    yield peer.node_id, chunk

    def _chunks(self, peer: Progress, sending: Sending) -> Iterator[m.SnapshotChunk]:
        """Return the next chunks of a snapshot. The transfer is aborted if the source cannot be read."""
        source, mark = sending.source, sending.source.mark
        burst = CHUNK_BYTES * CHUNKS_IN_FLIGHT
        paced = burst + int(TRANSFER_BYTES_PER_SECOND * (self._clock() - sending.begun))
        end = min(source.size, paced, burst + sending.acknowledged)
        while sending.sent < end:
            try:
                data = source.read(sending.sent, CHUNK_BYTES)
            except SnapshotUnreadableError as error:
                peer.stop_sending()
                self._examine(str(error))
                return
            assert data, "a source has as many bytes as it says"
            yield m.SnapshotChunk(sending.term, mark.index, mark.last.term, source.size, sending.sent, data)
            sending.sent += len(data)


class Incoming(msgspec.Struct, frozen=True):
    """A completely received snapshot. `held` is the number of bytes to acknowledge until it is checked."""

    peer: str
    term: int
    index: int
    index_term: int
    size: int
    held: int


class Receiver:
    """The snapshot that this follower is receiving, one at a time.

    Attributes:
        whole: the completely received snapshot that is being checked.
        refused: the number of snapshots that were not installed.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._sink: SnapshotSink | None = None
        self._from: tuple[str, int, int] = ("", 0, 0)
        self._received = 0
        self.whole: Incoming | None = None
        self.refused = 0

    def drop(self, peer: str) -> None:
        """Handle the loss of the sender."""
        if self._from[0] == peer:
            self.abort()

    def abort(self) -> None:
        """Discard the received bytes."""
        if self._sink is not None:
            self._sink.abort()
        self._sink = self.whole = None
        self._received = 0

    def take(self, peer: str, chunk: m.SnapshotChunk) -> int:
        """Handle a chunk. Returns the number of bytes to acknowledge. The last chunk begins the check; see `poll`."""
        sender = (peer, chunk.term, chunk.index)
        if chunk.offset == 0 and (self._from != sender or self._received == 0):
            self.abort()
            self._sink = self._snapshots.open_sink()
            self._from = sender
        if self._sink is None or self._from != sender:
            return 0
        if self.whole is not None:
            return self.whole.held
        if chunk.offset != self._received:
            return self._received
        self._sink.write(chunk.data)
        self._received += len(chunk.data)
        if self._received < chunk.size:
            return self._received
        self._sink.finish()
        self.whole = Incoming(peer, chunk.term, chunk.index, chunk.index_term, chunk.size, chunk.offset)
        return self.whole.held

    def poll(self) -> tuple[Incoming, SnapshotMark | None] | None:
        """Return a received snapshot once, after its check: with its position if it is durable, or with None if it was
        refused.
        """
        whole, sink = self.whole, self._sink
        if whole is None or sink is None:
            return None
        try:
            mark = sink.poll()
        except SnapshotRefusedError as error:
            log.error("the snapshot at index %d from %s was refused: %s", whole.index, whole.peer, error)
            return self._refuse(whole)
        if mark is None:
            return None
        if mark.index != whole.index or mark.last.term != whole.index_term:
            log.error("the snapshot from %s has index %d, but %d was announced", whole.peer, mark.index, whole.index)
            return self._refuse(whole)
        self.abort()
        log.info("received the snapshot at index %d from %s", mark.index, whole.peer)
        return whole, mark

    def _refuse(self, whole: Incoming) -> tuple[Incoming, None]:
        self.refused += 1
        self.abort()
        return whole, None

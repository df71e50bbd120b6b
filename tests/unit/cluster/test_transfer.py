"""Transfers of snapshots to a peer and from a peer."""

from __future__ import annotations

import random

import msgspec
import pytest

from cluster import messages as m
from cluster import transfer
from cluster.ports import SnapshotMark, SnapshotUnreadableError
from cluster.progress import Flow, Peers
from cluster.settings import OFFER_AGAIN, TAKING_TIMEOUT, TRANSFER_TIMEOUT
from cluster.transfer import Receiver, Senders
from tests.simulation.disk import SimDisk
from tests.simulation.parts import Machine, SimSource, Stored
from tests.unit.cluster.fakes import Snapshots, chunk_of, command, stored
from tests.waiting import Clock


class ToPeers:
    """Senders to n2 and n3, by the ids of the peers."""

    def __init__(self, store: Snapshots, clock: Clock) -> None:
        self._peers = Peers(clock)
        self._peers.set_members(["n2", "n3"], [], 100)
        self._senders = Senders(store, self._peers, clock)
        self.due = self._senders.due

    @property
    def any(self) -> bool:
        return self._senders.any

    @property
    def not_taken(self) -> int:
        return self._senders.not_taken

    def start(self, peer: str, term: int, next_index: int) -> bool:
        self._peers[peer].next_index = next_index
        return self._senders.start(self._peers[peer], term)

    def acknowledged(self, peer: str, ack: m.SnapshotAck) -> list[m.SnapshotChunk]:
        return self._senders.acknowledged(self._peers[peer], ack)

    def busy(self, peer: str) -> bool:
        return self._peers[peer].flow is Flow.SNAPSHOT

    def drop(self, peer: str) -> None:
        self._peers[peer].stop_sending()

    def disconnected(self, peer: str) -> None:
        self._peers[peer].disconnected()

    def size(self, peer: str) -> int:
        sending = self._peers[peer].sending
        return 0 if sending is None else sending.source.size


BIG = stored(40, 3, commands=39)
SIZE = SimSource(BIG).size


def snapshots(*store: Stored) -> Snapshots:
    return Snapshots(list(store), Machine(), SimDisk(random.Random(1)))


def sending_from(monkeypatch: pytest.MonkeyPatch, snapshot: Stored = BIG, rate: int = 10**9) -> tuple[ToPeers, Clock, Snapshots]:
    """Begin a transfer of the snapshot to n2. Three pieces of 64 bytes may be in transit."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(transfer, "CHUNKS_IN_FLIGHT", 3)
    monkeypatch.setattr(transfer, "TRANSFER_BYTES_PER_SECOND", rate)
    clock = Clock()
    store = snapshots(snapshot)
    senders = ToPeers(store, clock)
    senders.start("n2", 5, 2)
    clock.now += 0.01
    return senders, clock, store


def sending(monkeypatch: pytest.MonkeyPatch, snapshot: Stored = BIG, rate: int = 10**9) -> tuple[ToPeers, Clock]:
    """Make the same sender, for a caller that does not need the directory of snapshots."""
    return sending_from(monkeypatch, snapshot, rate)[:2]


def damaged(snapshot: Stored) -> Stored:
    """Return the snapshot with a flipped bit."""
    return msgspec.structs.replace(snapshot, sound=False)


def test_a_snapshot_is_sent_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, _ = sending(monkeypatch)
    receiver = Receiver(target := snapshots())
    waiting = [chunk for _, chunk in senders.due(5)]
    assert [chunk.offset for chunk in waiting] == [0, 64, 128]
    while waiting:
        received = receiver.take("n1", waiting.pop(0))
        judged = receiver.poll()
        received = judged[0].size if judged else received
        assert senders.size("n2") in (SIZE, 0)
        waiting += senders.acknowledged("n2", m.SnapshotAck(5, 40, received))
        assert len(waiting) <= 3
    assert judged is not None
    assert judged[1] == BIG.mark
    assert not senders.any
    assert target.newest() == BIG.mark


def test_a_transfer_begins_once_for_each_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, _ = sending(monkeypatch)
    list(senders.due(5))
    senders.start("n2", 5, 2)
    assert list(senders.due(5)) == []
    assert senders.busy("n2")
    assert not senders.busy("n3")


@pytest.mark.parametrize("reason", ["another term", "silence", "gone"])
def test_a_transfer_that_leads_nowhere_is_given_up(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    senders, clock = sending(monkeypatch)
    list(senders.due(5))
    if reason == "silence":
        clock.now += TRANSFER_TIMEOUT + 0.1
    if reason == "gone":
        senders.drop("n2")
    assert list(senders.due(6 if reason == "another term" else 5)) == []
    assert not senders.any


def test_a_transfer_is_no_faster_than_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds however quickly the peer answers, because commits need the link, the disks and the processors too."""
    large = stored(400, 3, commands=399)
    senders, clock = sending(monkeypatch, large, rate=640)
    sent, begun, size = 0, clock.now - 0.01, SimSource(large).size
    while senders.busy("n2"):
        due = [chunk for _, chunk in senders.due(5)]
        while due:
            sent += sum(len(chunk.data) for chunk in due)
            assert sent < 3 * 64 + 64 + 640 * (clock.now - begun)
            due = senders.acknowledged("n2", m.SnapshotAck(5, 400, sent))
        clock.now += 0.01
    assert sent == size
    assert (size - 4 * 64) / 640 < clock.now - begun < size / 640


def test_answers_keep_a_transfer_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, clock = sending(monkeypatch)
    list(senders.due(5))
    for _ in range(3):
        clock.now += TRANSFER_TIMEOUT * 0.9
        senders.acknowledged("n2", m.SnapshotAck(5, 40, 64))
        list(senders.due(5))
    assert senders.busy("n2")


def test_after_a_loss_the_transfer_continues_from_the_acknowledged_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, _ = sending(monkeypatch)
    list(senders.due(5))
    assert [chunk.offset for chunk in senders.acknowledged("n2", m.SnapshotAck(5, 40, 128))] == [192, 256]
    assert SIZE > 256
    assert [chunk.offset for chunk in senders.acknowledged("n2", m.SnapshotAck(5, 40, 64))] == [64, 128, 192]


def test_answers_about_another_snapshot_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, _ = sending(monkeypatch)
    assert senders.acknowledged("n2", m.SnapshotAck(5, 39, SIZE)) == []
    assert senders.acknowledged("n3", m.SnapshotAck(5, 40, SIZE)) == []
    assert senders.busy("n2")


class Unreadable:
    """A reader of an intact snapshot that fails when it is made."""

    def __init__(self, *_: object) -> None:
        raise SnapshotUnreadableError("SEAL: cannot be read")


def test_an_unreadable_source_is_given_up_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimSource, "read", Unreadable)
    senders, clock, store = sending_from(monkeypatch, damaged(BIG))
    assert list(senders.due(5)) == []
    assert not senders.any
    assert store.damaged
    clock.now += OFFER_AGAIN
    assert not senders.start("n2", 5, 2)


def test_an_unreadable_snapshot_is_examined_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not examined each time that a peer asks, because the comparison of all files with their digests may take
    seconds.
    """
    senders, clock, store = sending_from(monkeypatch, BIG)
    senders.drop("n2")
    monkeypatch.setattr("tests.simulation.parts.SimSource", Unreadable)
    for looks in (1, 1, 2):
        assert not senders.start("n2", 5, 2)
        assert store.looks == looks
        clock.now += OFFER_AGAIN * 0.6


def pieces(snapshot: Stored, term: int = 5) -> list[m.SnapshotChunk]:
    whole = chunk_of(snapshot, term)
    return [
        m.SnapshotChunk(term, whole.index, whole.index_term, whole.size, offset, whole.data[offset : offset + 100])
        for offset in range(0, whole.size, 100)
    ]


def judged_mark(receiver: Receiver) -> SnapshotMark | None:
    judged = receiver.poll()
    assert judged is not None
    assert receiver.poll() is None, "a result is reported once"
    return judged[1]


def test_while_it_is_checked_the_last_piece_is_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader waits and sends nothing more. It keeps the transfer, and with it its log, as long as answers arrive."""
    senders, clock = sending(monkeypatch)
    target = snapshots()
    target.check_polls = 5
    receiver = Receiver(target)
    waiting = [chunk for _, chunk in senders.due(5)]
    while waiting:
        held = receiver.take("n1", waiting.pop(0))
        waiting += senders.acknowledged("n2", m.SnapshotAck(5, 40, held))
    for _ in range(5):
        assert receiver.poll() is None
        assert receiver.whole is not None
        assert receiver.whole.held == held < SIZE
        clock.now += TRANSFER_TIMEOUT * 0.9
        assert senders.acknowledged("n2", m.SnapshotAck(5, 40, held)) == []
        assert list(senders.due(5)) == []
        assert senders.busy("n2")
        assert target.newest() is None
    assert judged_mark(receiver) == BIG.mark


def test_a_leader_that_gave_up_too_soon_learns_the_position() -> None:
    target = snapshots()
    target.check_polls = 1
    receiver = Receiver(target)
    sent = pieces(BIG)
    held = [receiver.take("n1", piece) for piece in sent][-1]
    assert [receiver.take("n1", piece) for piece in sent] == [held] * len(sent)
    assert receiver.poll() is None
    assert judged_mark(receiver) == BIG.mark


@pytest.mark.parametrize("what", ["disconnect", "newer snapshot", "stop"])
def test_a_cancelled_check_changes_nothing(what: str) -> None:
    target = snapshots()
    target.check_polls = 1
    receiver = Receiver(target)
    for piece in pieces(BIG):
        receiver.take("n1", piece)
    if what == "disconnect":
        receiver.drop("n1")
    elif what == "stop":
        receiver.abort()
    else:
        assert receiver.take("n1", pieces(stored(50, 3, commands=49))[0]) == 100
    assert receiver.whole is None
    assert receiver.poll() is None
    assert target.newest() is None


def test_pieces_out_of_order_and_twice_are_passed_over() -> None:
    receiver = Receiver(snapshots())
    first, second, *rest = pieces(BIG)
    assert receiver.take("n1", second) == 0
    assert receiver.take("n1", first) == 100
    assert receiver.take("n1", rest[0]) == 100
    assert receiver.take("n1", first) == 100
    assert receiver.take("n1", second) == 200
    results = [receiver.take("n1", piece) for piece in rest]
    assert results[-1] == SIZE - SIZE % 100, "the last piece is acknowledged when all is checked"
    assert judged_mark(receiver) == BIG.mark


def test_another_leader_begins_again() -> None:
    receiver = Receiver(snapshots())
    first, second, *_ = pieces(BIG)
    receiver.take("n1", first)
    assert receiver.take("n3", pieces(BIG, term=6)[0]) == 100
    assert receiver.take("n1", second) == 0


@pytest.mark.parametrize("who", ["n1", "n3"])
def test_a_lost_connection_forgets_only_its_own(who: str) -> None:
    receiver = Receiver(snapshots())
    first, second, *_ = pieces(BIG)
    receiver.take("n1", first)
    receiver.drop(who)
    assert receiver.take("n1", second) == (0 if who == "n1" else 200)


def test_a_damaged_snapshot_is_refused_and_may_come_again() -> None:
    target = snapshots()
    receiver = Receiver(target)
    whole = chunk_of(BIG, 5)
    damaged = m.SnapshotChunk(5, 40, 3, whole.size, 0, b"\xc1" + whole.data[1:])
    assert receiver.take("n1", damaged) == 0
    assert judged_mark(receiver) is None
    assert receiver.refused == 1
    assert target.newest() is None
    receiver.take("n1", whole)
    assert judged_mark(receiver) == BIG.mark


def test_a_snapshot_of_another_index_than_announced_is_refused() -> None:
    receiver = Receiver(snapshots())
    whole = chunk_of(BIG, 5)
    receiver.take("n1", m.SnapshotChunk(5, 41, 3, whole.size, 0, whole.data))
    assert judged_mark(receiver) is None
    assert receiver.refused == 1
    assert BIG.mark.last == command(40, 3)


def test_a_snapshot_that_a_peer_does_not_take_is_not_offered_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, clock = sending(monkeypatch)
    list(senders.due(5))
    senders.acknowledged("n2", m.SnapshotAck(5, 40, SIZE))
    assert not senders.start("n2", 5, 2), "the peer has the snapshot, and still asks for its entries"
    assert not senders.any
    clock.now += TAKING_TIMEOUT - 0.1
    assert not senders.start("n2", 5, 40)
    assert senders.not_taken == 0, "the peer may still be installing it"
    clock.now += 0.2
    assert not senders.start("n2", 5, 40)
    assert senders.not_taken == 1
    clock.now += OFFER_AGAIN - TAKING_TIMEOUT - 0.2
    assert not senders.start("n2", 5, 40)
    clock.now += 0.2
    assert senders.start("n2", 5, 2)
    assert senders.not_taken == 1


def test_a_newer_one_is_offered_at_once_to_a_peer_that_did_not_take_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, clock, store = sending_from(monkeypatch, damaged(BIG))
    list(senders.due(5))
    senders.acknowledged("n2", m.SnapshotAck(5, 40, SimSource(damaged(BIG)).size))
    clock.now += TAKING_TIMEOUT
    assert not senders.start("n2", 5, 2)
    found = store.damaged
    assert found
    store.keep(stored(50, 3, commands=49))
    assert not store.damaged
    assert senders.start("n2", 5, 2)
    assert senders.size("n2") == SimSource(stored(50, 3, commands=49)).size


def test_a_snapshot_that_was_taken_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, _ = sending(monkeypatch)
    list(senders.due(5))
    senders.acknowledged("n2", m.SnapshotAck(5, 40, SIZE))
    assert senders.start("n2", 5, 41)
    assert senders.not_taken == 0


def test_a_peer_that_was_away_is_offered_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, _ = sending(monkeypatch)
    list(senders.due(5))
    senders.acknowledged("n2", m.SnapshotAck(5, 40, SIZE))
    senders.disconnected("n2")
    assert senders.start("n2", 5, 2)

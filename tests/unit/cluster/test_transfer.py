"""Snapshots on their way to a peer, and from one."""

from __future__ import annotations

import random

import pytest

from cluster import messages as m
from cluster import transfer
from cluster.errors import RaftFatalError
from cluster.ports import SnapshotMark
from cluster.settings import OFFER_AGAIN, TRANSFER_TIMEOUT
from cluster.transfer import Receiver, Senders
from tests.simulation.disk import SimDisk
from tests.simulation.parts import Machine, SimSource, Stored
from tests.unit.cluster.fakes import Snapshots, chunk_of, command, stored


class Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


BIG = stored(40, 3, commands=39)
SIZE = SimSource(BIG).size


def snapshots(*store: Stored) -> Snapshots:
    return Snapshots(list(store), Machine(), SimDisk(random.Random(1)))


def sending(monkeypatch: pytest.MonkeyPatch) -> tuple[Senders, Clock]:
    """A transfer of the snapshot to n2 that has just begun; three pieces of 64 bytes may be under way."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(transfer, "CHUNKS_IN_FLIGHT", 3)
    clock = Clock()
    senders = Senders(snapshots(BIG), clock)
    senders.start("n2", 5, 2)
    return senders, clock


def test_a_snapshot_goes_over_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, _ = sending(monkeypatch)
    receiver = Receiver(target := snapshots())
    mark: SnapshotMark | None = None
    waiting = [chunk for _, chunk in senders.due(5)]
    assert [chunk.offset for chunk in waiting] == [0, 64, 128]
    while waiting:
        received, mark = receiver.take("n1", waiting.pop(0))
        assert senders.progress().get("n2", (0, SIZE))[1] == SIZE
        waiting += senders.acknowledged("n2", m.SnapshotAck(5, 40, received))
        assert len(waiting) <= 3
    assert mark == BIG.mark
    assert not senders.any
    assert target.newest() == BIG.mark


def test_it_begins_once_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_answers_keep_a_transfer_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, clock = sending(monkeypatch)
    list(senders.due(5))
    for _ in range(3):
        clock.now += TRANSFER_TIMEOUT * 0.9
        senders.acknowledged("n2", m.SnapshotAck(5, 40, 64))
        list(senders.due(5))
    assert senders.busy("n2")


def test_after_a_loss_it_goes_on_from_what_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_source_that_ends_early_stops_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that shrank under us; asking for the rest for ever would stop the node as well, and silently."""
    monkeypatch.setattr(SimSource, "read", lambda *_: b"")
    senders, _ = sending(monkeypatch)
    with pytest.raises(RaftFatalError, match=f"ends at byte 0 of {SIZE}"):
        list(senders.due(5))


def pieces(snapshot: Stored, term: int = 5) -> list[m.SnapshotChunk]:
    whole = chunk_of(snapshot, term)
    return [
        m.SnapshotChunk(term, whole.index, whole.index_term, whole.size, offset, whole.data[offset : offset + 100])
        for offset in range(0, whole.size, 100)
    ]


def test_pieces_out_of_order_and_twice_are_passed_over() -> None:
    receiver = Receiver(snapshots())
    first, second, *rest = pieces(BIG)
    assert receiver.take("n1", second) == (0, None)
    assert receiver.take("n1", first) == (100, None)
    assert receiver.take("n1", rest[0]) == (100, None)
    assert receiver.take("n1", first) == (100, None)
    assert receiver.take("n1", second) == (200, None)
    results = [receiver.take("n1", piece) for piece in rest]
    assert results[-1] == (SIZE, BIG.mark)


def test_another_leader_begins_anew() -> None:
    receiver = Receiver(snapshots())
    first, second, *_ = pieces(BIG)
    receiver.take("n1", first)
    assert receiver.take("n3", pieces(BIG, term=6)[0]) == (100, None)
    assert receiver.take("n1", second) == (0, None)


@pytest.mark.parametrize("who", ["n1", "n3"])
def test_a_lost_connection_forgets_only_its_own(who: str) -> None:
    receiver = Receiver(snapshots())
    first, second, *_ = pieces(BIG)
    receiver.take("n1", first)
    receiver.drop(who)
    assert receiver.take("n1", second) == ((0, None) if who == "n1" else (200, None))


def test_a_damaged_snapshot_is_refused_and_may_come_again() -> None:
    target = snapshots()
    receiver = Receiver(target)
    whole = chunk_of(BIG, 5)
    damaged = m.SnapshotChunk(5, 40, 3, whole.size, 0, b"\xc1" + whole.data[1:])
    assert receiver.take("n1", damaged) == (whole.size, None)
    assert receiver.refused == 1
    assert target.newest() is None
    assert receiver.take("n1", whole) == (whole.size, BIG.mark)


def test_a_snapshot_of_another_index_than_announced_is_refused() -> None:
    receiver = Receiver(snapshots())
    whole = chunk_of(BIG, 5)
    assert receiver.take("n1", m.SnapshotChunk(5, 41, 3, whole.size, 0, whole.data)) == (whole.size, None)
    assert receiver.refused == 1
    assert BIG.mark.last == command(40, 3)


def test_a_snapshot_that_a_peer_does_not_take_is_not_offered_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    senders, clock = sending(monkeypatch)
    list(senders.due(5))
    senders.acknowledged("n2", m.SnapshotAck(5, 40, SIZE))
    assert not senders.start("n2", 5, 2), "it has it, and still asks for what is in it"
    assert not senders.any
    clock.now += OFFER_AGAIN - 0.1
    assert not senders.start("n2", 5, 40)
    assert senders.not_taken == 0
    clock.now += 0.2
    assert senders.start("n2", 5, 2)
    assert senders.not_taken == 1


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

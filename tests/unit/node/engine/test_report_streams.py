"""Report streams in the feed: a stream may begin with any number, and an ended one takes no memory."""

from __future__ import annotations

import pytest

from node.engine import replicated_engine
from node.engine.feed import Feed
from node.engine.replicated_engine import ReplicatedEngine
from statemachine.commands import AnyCommand, Batch, NoteStream, OpenAccount, encode_batch
from statemachine.events import StreamNoted
from statemachine.limits import OPERATOR, STREAMS_ACTIVE, STREAMS_PER_ACCOUNT
from tests.unit.node.engine.test_feed import Reader, encoded, subscribe

STREAM = "alice-key/o"


def note(sequence: int, stream_id: str = STREAM) -> StreamNoted:
    return StreamNoted(stream_id, sequence, 0, "n1", "35=0", 0)


def test_a_stream_may_begin_with_any_number_and_again_under_its_name() -> None:
    feed, early, live, late = Feed(100), Reader(), Reader(), Reader()
    subscribe(feed, early, 41, STREAM)
    feed.publish(*encoded(note(41), note(42)))
    assert early.sequences == [41, 42]
    subscribe(feed, live, 43, STREAM)
    feed.publish(*encoded(note(90)))
    assert (live.ended, live.sequences) == (["events before sequence 90 are not kept any more"], [])
    subscribe(feed, late, 90, STREAM)
    assert late.sequences == [90]


def test_a_gap_backwards_is_a_fault() -> None:
    feed = Feed(100)
    feed.publish(*encoded(note(5)))
    with pytest.raises(AssertionError, match="no gap"):
        feed.publish(*encoded(note(4)))


def test_ended_streams_leave_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state ends a stream where another one begins. Each ring has up to 5 MB."""
    monkeypatch.setattr(replicated_engine, "STREAMS", STREAMS_PER_ACCOUNT)
    feed, reader = Feed(100), Reader()
    machine = ReplicatedEngine(feed)
    index = 0

    def apply(command: AnyCommand) -> None:
        nonlocal index
        index += 1
        machine.apply(index, encode_batch(Batch(index, [command])))

    apply(OpenAccount(OPERATOR, "open", "alice"))
    for number in range(3 * STREAMS_PER_ACCOUNT):
        apply(NoteStream("alice", f"n{number}", f"k{number}/o", "n1", "35=A", open=True))
        if number == 0:
            subscribe(feed, reader, 1, "k0/o")
    names = {name for name in machine.engine.sequences() if "/" in name}
    assert (len(names), feed.streams) == (STREAMS_PER_ACCOUNT, STREAMS_PER_ACCOUNT)
    assert reader.ended == ["the report stream has ended"]
    last = machine.engine.stream(f"k{3 * STREAMS_PER_ACCOUNT - 1}/o")
    assert last is not None
    assert (last.base, last.sequence, last.active) == (3 * STREAMS_PER_ACCOUNT - 1, 3 * STREAMS_PER_ACCOUNT, True)
    assert STREAMS_ACTIVE < STREAMS_PER_ACCOUNT
    feed.restart(machine.engine.sequences())
    assert feed.streams == STREAMS_PER_ACCOUNT

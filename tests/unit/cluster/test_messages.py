"""Bytes from the network are decoded to a message of the protocol or refused. Nothing else is ever raised."""

from __future__ import annotations

import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import messages as m
from cluster.errors import WireRefusedError
from cluster.ports import LogEntry
from tests.unit.cluster.fakes import Bomb, command, no_op

EXAMPLES = [
    m.AppendEntries(3, 4, 1, 0, [no_op(2, 1), command(3, 3)]),
    m.Heartbeat(3),
    m.AppendReply(3, 5, False, True, True),
    m.RequestVote(3, 8, 2),
    m.Vote(3),
    m.PreVote(4, 8, 2),
    m.PreVoteReply(4, True, 3),
    m.TimeoutNow(3),
    m.SnapshotChunk(3, 100, 2, 10, 5, b"bytes"),
    m.SnapshotAck(3, 100, 10),
    m.Recovered(3, 9),
    m.StaleTerm(7),
    m.StateDigest(3, 640, "n2", bytes(16)),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back(message: m.AnyMessage) -> None:
    assert m.decode(m.encode(message)) == message


def refused(data: bytes) -> bool:
    try:
        m.decode(data)
    except WireRefusedError as error:
        return error.kind == "malformed"
    return False


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    try:
        message = m.decode(data)
    except WireRefusedError:
        return
    assert m.decode(m.encode(message)) == message


@given(st.sampled_from(EXAMPLES), st.data())
def test_changed_bytes_are_refused_or_another_message(message: m.AnyMessage, data: st.DataObject) -> None:
    encoded = bytearray(m.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    if not refused(bytes(encoded)):
        assert m.decode(bytes(encoded)).term >= 0


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_cut_short_is_refused(message: m.AnyMessage) -> None:
    encoded = m.encode(message)
    assert all(refused(encoded[:size]) for size in range(len(encoded)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_read(protocol: int) -> None:
    assert refused(pickle.dumps({"type": "append_entries", "bomb": Bomb()}, protocol))
    assert not Bomb.fired


@pytest.mark.parametrize(
    "content",
    [
        [1, "3", 4, 1, 0, []],
        [1, -1, 4, 1, 0, []],
        [1, 3, -4, 1, 0, []],
        [1, 3, 4, 1, 0, [["text", 2, 1]]],
        [1, 3, 4, 1, 0, [[b"\0", 2.5, 1]]],
        [1, 3, 4, 1, 0],
        [1, 3, 4, 1, 0, [], "more"],
        [3, 3, 5, 1, 0, True],
        [10, 3, 100, -1],
        [9, 3, 100, 2, 10, 8, b"three"],
        [9, 3, 100, 2, 10, 5, b""],
        [12, 2**63],
        [13, 3, 640, "", b"digest"],
        [13, 3, 640, "n2", b""],
        [13, 3, 640, "n2", bytes(65)],
        [99, 3],
        ["1", 3],
        [],
        {},
        None,
        3,
        {"type": "append_entries"},
    ],
)
def test_wrong_types_and_numbers_are_refused(content: object) -> None:
    assert refused(msgspec.msgpack.encode(content))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([command(3, 3)], "entry 3 stands where 2 belongs"),
        ([command(2, 3), command(4, 3)], "entry 4 stands where 3 belongs"),
        ([command(2, 3), command(2, 3)], "entry 2 stands where 3 belongs"),
        ([command(2, 4)], "of term 4, between 1 and 3"),
        ([command(2, 0)], "of term 0, between 1 and 3"),
        ([command(2, 3), command(3, 2)], "of term 2, between 3 and 3"),
        ([LogEntry(b"", 2, 3)], "neither a command nor a no-op"),
        ([LogEntry(b"\x02membership", 2, 3)], "neither a command nor a no-op"),
    ],
)
def test_entries_that_no_leader_sends_are_refused(entries: list[LogEntry], text: str) -> None:
    with pytest.raises(WireRefusedError, match=text):
        m.decode(m.encode(m.AppendEntries(3, 1, 1, 1, entries)))

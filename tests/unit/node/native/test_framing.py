"""Frames: the same messages are decoded however the stream is cut, and errors are explained."""

from __future__ import annotations

import itertools
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.errors import FramingError
from node.native.framing import FrameSplitter, MalformedError, decode_request, explain, pack, request_id_of
from node.native.protocol import COMMANDS_MAX, FRAME_MAX, AnyRequest, Hello, Query, StatusQuery, frame, request_decoder


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@given(
    bodies=st.lists(st.binary(min_size=1, max_size=300), max_size=20),
    cuts=st.lists(st.integers(0, 6_100), max_size=40),
)
def test_any_cut_of_the_stream_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(framed(body) for body in bodies)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    splitter = FrameSplitter()
    out: list[bytes] = []
    for start, end in itertools.pairwise(places):
        out += splitter.feed(stream[start:end])
    assert out == bodies


@given(bodies=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5))
def test_frames_are_found_byte_by_byte(bodies: list[bytes]) -> None:
    splitter = FrameSplitter()
    out: list[bytes] = []
    for byte in b"".join(framed(body) for body in bodies):
        out += splitter.feed(bytes([byte]))
    assert out == bodies


@pytest.mark.parametrize("length", [0, 101, 2**32 - 1])
def test_impossible_lengths_are_refused_before_anything_is_kept(length: int) -> None:
    splitter = FrameSplitter(limit=100)
    with pytest.raises(FramingError, match=f"{length} bytes was announced"):
        splitter.feed(length.to_bytes(4, "big"))


def test_a_frame_of_the_limit_is_taken() -> None:
    assert FrameSplitter(limit=100).feed(framed(b"x" * 100)) == [b"x" * 100]


def test_pack_and_frame_are_the_same_bytes() -> None:
    message = Query(7, StatusQuery())
    assert pack(message) == frame(message)
    assert request_decoder.decode(FrameSplitter().feed(pack(message))[0]) == message


ORDER = [7, "alice", "c:1", "BTC-USD", 1, 1, 100, 5]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ([2, 9, [[*ORDER[:6], "100", 5]]], "commands[0].price: Expected `int`, got `str`"),
        ([2, 9, [ORDER, [*ORDER[:4], 3, 1, 100, 5]]], "commands[1].side: Invalid enum value 3"),
        ([2, 9, [[77, "alice"]]], "commands[0].tag: Invalid value 77"),
        ([2, 9, [[7, "alice"]]], "commands[0]: Expected `array` of at least length 8, got 2"),
        ([2, "nine", []], "request_id: Expected `int`, got `str`"),
        ([3, 9, [7, 5, 1]], "query.product_id: Expected `str`, got `int`"),
        ([99], "tag: Invalid value 99"),
        ([], "Expected `array` of at least length 1, got 0"),
        ("hello", "Expected `array`, got `str`"),
        ([1, 1, "me", "", "", "", "", 5], "Expected `array` of at most length 6, got 7"),
    ],
)
def test_an_error_names_the_field(message: Any, text: str) -> None:
    body = msgspec.msgpack.encode(message)
    with pytest.raises(msgspec.DecodeError) as caught:
        request_decoder.decode(body)
    assert explain(caught.value, body) == text


def decodes(body: bytes) -> bool:
    """Return False if the body is refused with an explanation."""
    try:
        decode_request(body)
    except MalformedError as error:
        return not error.text
    return True


@given(body=st.binary(max_size=80))
@example(b"\xa5\x00\x00\x00\x00\x80")
@example(b"\x92\x01\x81\x90\x01")
@example(b"\x92\x01\xd6\xff\xff\xff\xff\xff")
def test_garbage_is_a_malformed_request_and_nothing_else(body: bytes) -> None:
    assert not decodes(body)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(tag=st.integers(1, 7), rest=st.lists(VALUES, max_size=6))
def test_well_formed_nonsense_is_a_request_or_malformed(tag: int, rest: list[Any]) -> None:
    body = msgspec.msgpack.encode([tag, *rest])
    if decodes(body):
        assert tag < 7


def test_deep_nesting_is_an_error_like_any_other() -> None:
    body = b"\x91" * 100_000 + b"\x01"
    with pytest.raises(MalformedError) as caught:
        decode_request(body)
    assert caught.value.request_id == 0


def test_the_request_id_is_found_where_it_can_be() -> None:
    assert request_id_of(msgspec.msgpack.encode([2, 41, "nonsense"])) == 41
    assert request_id_of(msgspec.msgpack.encode([1, 41, "me"])) == 0, "Hello has none"
    assert request_id_of(msgspec.msgpack.encode([2, True])) == 0
    assert request_id_of(msgspec.msgpack.encode(Hello(1, "me"))) == 0
    assert request_id_of(b"") == 0
    assert request_id_of(b"\x93\x02\xcd\x01") == 0, "it ends within the id"


@pytest.mark.parametrize("kind", typing.get_args(AnyRequest))
def test_every_request_but_the_greeting_is_answered_with_its_id(kind: type[msgspec.Struct]) -> None:
    body = msgspec.msgpack.encode([kind.__struct_config__.tag, 41, *["nonsense"] * 20])
    with pytest.raises(MalformedError) as caught:
        decode_request(body)
    assert caught.value.request_id == (0 if kind is Hello else 41)


@given(request_id=st.integers(-(2**63), 2**64 - 1), form=st.sampled_from(["short", "list 16", "list 32"]))
def test_any_request_id_is_found(request_id: int, form: str) -> None:
    head = {"short": b"\x93", "list 16": b"\xdc\x00\x03", "list 32": b"\xdd\x00\x00\x00\x03"}[form]
    assert request_id_of(head + b"\x02" + msgspec.msgpack.encode(request_id) + b"rest") == request_id


def built(monkeypatch: pytest.MonkeyPatch, body: bytes) -> tuple[MalformedError, int]:
    """Return the answer to a malformed body, and how many of its elements were made into objects for that answer."""
    count = 0

    class Counting:
        def decode(self, data: Any) -> list[msgspec.Raw]:
            nonlocal count
            elements = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
            count += len(elements)
            return elements

    monkeypatch.setattr("node.native.framing._raw_elements", Counting())
    with pytest.raises(MalformedError) as caught:
        decode_request(body)
    return caught.value, count


def test_a_long_list_of_nonsense_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = FRAME_MAX - 64
    error, count = built(monkeypatch, b"\x93\x02\x29\xdd" + many.to_bytes(4, "big") + b"\x90" * many)
    assert error.text == f"commands: Expected `array` of length <= {COMMANDS_MAX}"
    assert error.request_id == 41
    assert count <= 3


@pytest.mark.parametrize("junk", [b"\x90", b"\x80", b"\xa0", b"\x91\x91\x91"])
def test_a_malformed_request_is_decoded_only_up_to_its_fault(monkeypatch: pytest.MonkeyPatch, junk: bytes) -> None:
    many = (FRAME_MAX - 64) // len(junk)
    inside = b"\xdd" + many.to_bytes(4, "big") + junk * many
    order = msgspec.msgpack.encode(ORDER)[1:]
    for body in (b"\x93\x02\x29" + inside, b"\x93\x02\x29\x91" + inside, b"\x93\x02\x29\x91\x99" + order + inside, inside):
        assert len(body) <= FRAME_MAX
        error, count = built(monkeypatch, body)
        assert error.text
        assert count <= 3 * COMMANDS_MAX, error.text

"""Messages as bytes.

A frame is `8=...|9=LENGTH|`, LENGTH bytes, and `10=CHECKSUM|`. Other bytes are garbled: they are ignored, as the
standard requires, and reading continues at the next `8=`. `simplefix` splits a frame into fields and joins fields to a
frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import simplefix
from simplefix.errors import ParsingError

from node.errors import QuorumbookError
from node.fix.tags import BEGIN_STRING, MSG_SEQ_NUM, MSG_TYPE, ORIG_SENDING_TIME, POSS_DUP, SENDER, SENDING_TIME, TARGET

Fields = list[tuple[int, str]]
"""A message without header and trailer: its type (35) first."""

SOH = "\x01"
MESSAGE_MAX = 8_192
"""Bytes of a client's message. The longest useful one, a request for the market data of `market.SYMBOLS_MAX` products,
is shorter.
"""

VALUE_MAX = 256
"""Characters of a value in a note. Values of clients are checked to be shorter; the exchange would reject a note of more
than `limits.NOTE_MAX` characters, and the session could not go on.
"""

FIELDS_MAX = 256
"""Fields of a client's message. Splitting a field takes 3 us, and a request for the market data of 100 products has
about 120.
"""
FIELDS_READ = 12
"""Fields that are read of a message with more: enough for the header."""
GARBLED_MAX = 100
"""Garbled parts in one read after which the connection cannot go on. The server ends it after fewer, but each costs
time before it is counted.
"""

_HEAD = re.compile(rb"8=([^\x01]{1,16})\x019=([0-9]{1,7})\x01")
_HEAD_MAX = 32
"""Bytes within which a frame's first two fields end."""
_TAIL = re.compile(rb"10=([0-9]{3})\x01")
_TAIL_SIZE = 7
_NUMBER = re.compile(rb"\x0134=([0-9]{1,18})\x01")


class WireError(QuorumbookError):
    """The connection cannot go on: a frame is longer than `MESSAGE_MAX`, or too much is garbled."""


class FixFrame:
    """A frame with correct length and checksum: its fields, or the `fault` if they could not be split."""

    __slots__ = ("fault", "pairs", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.pairs: list[tuple[int, bytes]] = []
        self.fault = ""
        parser = simplefix.FixParser(allow_empty_values=True)
        crowded = raw.count(b"\x01") > FIELDS_MAX
        parser.append_buffer(_beginning(raw) if crowded else raw)
        try:
            message = parser.get_message()
        except ParsingError as error:
            self.fault = f"{type(error).__name__}: {error}"
            self.pairs = _first_three(raw)
            return
        if message is None:
            self.fault = "a field has no end"
            self.pairs = _first_three(raw)
        else:
            self.fault = f"more than {FIELDS_MAX} fields" if crowded else ""
            self.pairs = [(int(tag), value) for tag, value in message.pairs]

    @property
    def number(self) -> int:
        """MsgSeqNum, or 0 if it cannot be read."""
        found = _NUMBER.search(self.raw)
        return int(found.group(1)) if found is not None else 0


def _beginning(raw: bytes) -> bytes:
    """Return the first fields of a frame, with a trailer at which the parser ends."""
    return b"\x01".join([*raw.split(b"\x01", FIELDS_READ)[:FIELDS_READ], b"10=000", b""])


def _first_three(raw: bytes) -> list[tuple[int, bytes]]:
    """Return BeginString, BodyLength and MsgType of a frame whose other fields cannot be split."""
    parts = [part.partition(b"=") for part in raw.split(b"\x01", 3)[:3]]
    return [(int(tag), value) for tag, _, value in parts]


class Framer:
    """Splits incoming bytes into frames. `garbled` counts the ignored parts. The buffer holds at most one frame and the
    bytes that arrived with it.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.garbled = 0

    @property
    def waiting(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[FixFrame]:
        """Add bytes, and return the frames that are complete. Raises WireError."""
        self._buffer += data
        frames: list[FixFrame] = []
        most = self.garbled + GARBLED_MAX
        while self._buffer:
            if self.garbled > most:
                raise WireError("too many garbled messages")
            size = self._size()
            if size < 0:
                break
            if size:
                raw = bytes(self._buffer[:size])
                del self._buffer[:size]
                if sum(raw[:-_TAIL_SIZE]) % 256 == int(raw[-4:-1]) and _type_is_third(raw):
                    frames.append(FixFrame(raw))
                else:
                    self.garbled += 1
            else:
                self._skip()
        return frames

    def _size(self) -> int:
        """Return the size of the first frame in bytes, -1 if it is incomplete, or 0 if the bytes are not a frame."""
        head = _HEAD.match(self._buffer)
        if head is None:
            begins = bytes(self._buffer[:2])
            return -1 if len(self._buffer) < _HEAD_MAX and b"8=".startswith(begins) else 0
        length = int(head.group(2))
        if length > MESSAGE_MAX:
            raise WireError(f"a message of {length} bytes passes the limit of {MESSAGE_MAX}")
        size = head.end() + length + _TAIL_SIZE
        if len(self._buffer) < size:
            return -1
        return size if _TAIL.fullmatch(self._buffer, size - _TAIL_SIZE, size) else 0

    def _skip(self) -> None:
        """Discard bytes up to where the next frame may begin."""
        self.garbled += 1
        at = self._buffer.find(b"8=FIX", 1)
        del self._buffer[: at if at > 0 else max(1, len(self._buffer) - len(b"8=FI"))]


def _type_is_third(raw: bytes) -> bool:
    head = _HEAD.match(raw)
    return head is not None and raw[head.end() : head.end() + 3] == b"35="


def type_of(encoded: bytes) -> str:
    """Return the MsgType of a message that `encode` made."""
    head = _HEAD.match(encoded)
    assert head is not None, "encoded here"
    begin = head.end() + len(b"35=")
    return encoded[begin : encoded.index(b"\x01", begin)].decode()


def encode(sender: str, target: str, number: int, fields: Sequence[tuple[int, str]], now_ns: int, first_ns: int = 0) -> bytes:
    """Return a message as bytes. With `first_ns` it is a repetition of a message first sent at that time, in nanoseconds."""
    message = simplefix.FixMessage()
    message.append_pair(8, BEGIN_STRING)
    message.append_pair(MSG_TYPE, fields[0][1])
    message.append_pair(SENDER, sender)
    message.append_pair(TARGET, target)
    message.append_pair(MSG_SEQ_NUM, str(number))
    message.append_pair(SENDING_TIME, timestamp(now_ns))
    if first_ns:
        message.append_pair(POSS_DUP, "Y")
        message.append_pair(ORIG_SENDING_TIME, timestamp(first_ns))
    for tag, value in fields[1:]:
        message.append_pair(tag, value)
    encoded: bytes = message.encode()
    return encoded


def join(fields: Iterable[tuple[int, str]]) -> str:
    """Return fields as the text of a note (`commands.NoteStream`). An SOH in a value becomes a space, and a value is cut
    at `VALUE_MAX`.
    """
    return SOH.join(f"{tag}={value[:VALUE_MAX].replace(SOH, ' ')}" for tag, value in fields)


def split(text: str) -> Fields:
    """Return the fields of a note's text."""
    pairs = [part.partition("=") for part in text.split(SOH)]
    return [(int(tag), value) for tag, _, value in pairs]


def timestamp(time_ns: int) -> str:
    """Return a UTCTimestamp with milliseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H:%M:%S}.{rest // 1_000_000:03d}"

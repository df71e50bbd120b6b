"""Messages as bytes.

A frame is `8=...|9=LENGTH|`, so many bytes, and `10=CHECKSUM|`. What does not fit that is garbled: the standard has it
passed over, and what follows is read from the next `8=` on. `simplefix` splits a frame into fields and joins fields to
a frame.
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
"""Bytes of a client's message. The longest that means something, a request for the market data of `market.SYMBOLS_MAX`
products, has fewer.
"""

_HEAD = re.compile(rb"8=([^\x01]{1,16})\x019=([0-9]{1,7})\x01")
_HEAD_MAX = 32
"""Bytes within which a frame's first two fields end."""
_TAIL = re.compile(rb"10=([0-9]{3})\x01")
_TAIL_SIZE = 7
_NUMBER = re.compile(rb"\x0134=([0-9]{1,18})\x01")


class WireError(QuorumbookError):
    """The connection cannot go on: a frame is longer than `MESSAGE_MAX`."""


class Frame:
    """A frame that fits: its fields, and `fault` where they could not be split."""

    __slots__ = ("fault", "pairs", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.pairs: list[tuple[int, bytes]] = []
        self.fault = ""
        parser = simplefix.FixParser(allow_empty_values=True)
        parser.append_buffer(raw)
        try:
            message = parser.get_message()
        except ParsingError as error:
            self.fault = f"{type(error).__name__}: {error}"
            return
        if message is None:
            self.fault = "a field has no end"
        else:
            self.pairs = [(int(tag), value) for tag, value in message.pairs]

    @property
    def number(self) -> int:
        """MsgSeqNum as far as it can be found; 0 where it cannot."""
        found = _NUMBER.search(self.raw)
        return int(found.group(1)) if found is not None else 0


class Framer:
    """Cuts what arrives into frames. `garbled` counts what was passed over. Never holds more than a frame and what came
    with it.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.garbled = 0

    @property
    def waiting(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises WireError."""
        self._buffer += data
        frames: list[Frame] = []
        while self._buffer:
            size = self._size()
            if size < 0:
                break
            if size:
                raw = bytes(self._buffer[:size])
                del self._buffer[:size]
                if sum(raw[:-_TAIL_SIZE]) % 256 == int(raw[-4:-1]) and _type_is_third(raw):
                    frames.append(Frame(raw))
                else:
                    self.garbled += 1
            else:
                self._skip()
        return frames

    def _size(self) -> int:
        """Bytes of the frame in front; -1 while it is not complete, 0 where there is none."""
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
        """Pass over what is in front, to where the next frame may begin."""
        self.garbled += 1
        at = self._buffer.find(b"8=FIX", 1)
        del self._buffer[: at if at > 0 else max(1, len(self._buffer) - len(b"8=FI"))]


def _type_is_third(raw: bytes) -> bool:
    head = _HEAD.match(raw)
    return head is not None and raw[head.end() : head.end() + 3] == b"35="


def type_of(encoded: bytes) -> str:
    """The MsgType of a message as `encode` makes it."""
    head = _HEAD.match(encoded)
    assert head is not None, "encoded here"
    begin = head.end() + len(b"35=")
    return encoded[begin : encoded.index(b"\x01", begin)].decode()


def encode(sender: str, target: str, number: int, fields: Sequence[tuple[int, str]], now_ns: int, first_ns: int = 0) -> bytes:
    """A message as bytes. With `first_ns` it is one that was sent before, at that time."""
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
    """Fields as the text of a note (`commands.NoteStream`). A value loses what would end it."""
    return SOH.join(f"{tag}={value.replace(SOH, ' ')}" for tag, value in fields)


def split(text: str) -> Fields:
    """The fields of a note."""
    pairs = [part.partition("=") for part in text.split(SOH)]
    return [(int(tag), value) for tag, _, value in pairs]


def timestamp(time_ns: int) -> str:
    """A UTCTimestamp with milliseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H:%M:%S}.{rest // 1_000_000:03d}"

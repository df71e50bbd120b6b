"""Frames of the native protocol: it splits a stream into messages, and describes the fault of a malformed message.

A frame is a 4-byte big-endian length and that many bytes of msgpack. What a client sends is at most
`protocol.FRAME_MAX` long; what a node sends may be longer (the answer to a `CancelAll` of ten thousand orders, a book
at level 3), up to `RESPONSE_MAX`.

The pipe of `snapshots.frames` and Raft's connections (`cluster.channel`) have the same four bytes in front. They share
no code with this module: their limits, their errors and what an incomplete frame means differ, and the layers below do
not know this protocol.
"""

from __future__ import annotations

import re
import typing
from types import UnionType

import msgspec

from node.errors import FramingError, QuorumbookError
from node.native.protocol import COMMANDS_MAX, FRAME_MAX, LENGTH_BYTES, AnyRequest, request_decoder

RESPONSE_MAX = 64 * 1024 * 1024
"""Bytes of one frame that a node sends. A book of 100,000 orders a side at level 3 is about 6 MB."""

UNDECODABLE = (msgspec.DecodeError, ValueError, TypeError, OverflowError, RecursionError)
"""Exceptions that decoding hostile bytes may raise: text that is not UTF-8, numbers and times out of range, maps with
impossible keys, endless nesting.
"""

EXPLAINED_MAX = 64 * 1024
"""Longest message, in bytes, for which the error always names the field. The decoder skips the bytes before the field,
which takes 0.4 ms for such a message.
"""

_encode = msgspec.msgpack.Encoder().encode
_raw_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])
_PATH_STEP = re.compile(r"\[(\d+|\.\.\.)\]")


def pack(message: msgspec.Struct) -> bytes:
    """Encode a message that a node sends as a frame.

    Raises:
        FramingError: it is longer than `RESPONSE_MAX`.
    """
    body = _encode(message)
    if len(body) > RESPONSE_MAX:
        raise FramingError(f"an answer of {len(body)} bytes passes the limit of {RESPONSE_MAX}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def array_head(count: int) -> bytes:
    """Return the header of a msgpack array of so many elements, in the shortest form, as the encoder writes it."""
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 65_536 else b"\xdd" + count.to_bytes(4, "big")


class FrameSplitter:
    """Splits the bytes of one connection into frames.

    `feed` returns the complete frames and keeps the rest. Memory is bounded by `limit`, the longest frame in bytes, and
    one read of the transport. `limit` may be changed between frames.
    """

    def __init__(self, limit: int = FRAME_MAX) -> None:
        self.limit = limit
        self._rest = bytearray()
        self._needed = LENGTH_BYTES

    @property
    def waiting(self) -> int:
        """Bytes received of an incomplete frame."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies of the frames that `data` completes, in order.

        Raises:
            FramingError: a frame's length is zero or above the limit. The splitter cannot be used after that.
        """
        rest = self._rest
        if not rest:
            frames, used = self._cut(data)
            rest += memoryview(data)[used:]
            return frames
        rest += data
        if len(rest) < self._needed:
            return []
        joined = bytes(rest)
        frames, used = self._cut(joined)
        del rest[:used]
        return frames

    def _cut(self, data: bytes) -> tuple[list[bytes], int]:
        """Return the complete frames in the bytes, and where the rest begins."""
        frames: list[bytes] = []
        start, end = 0, len(data)
        while True:
            body = start + LENGTH_BYTES
            if body > end:
                self._needed = LENGTH_BYTES
                return frames, start
            high = data[start]  # a number of 64 bits in the compiled module
            length = (high << 24) | (data[start + 1] << 16) | (data[start + 2] << 8) | data[start + 3]
            if not 0 < length <= self.limit:
                raise FramingError(f"a frame of {length} bytes was announced; 1 to {self.limit} are allowed")
            if body + length > end:
                self._needed = LENGTH_BYTES + length
                return frames, start
            frames.append(data[body : body + length])
            start = body + length


class MalformedError(QuorumbookError):
    """A complete frame that is not a request. `text` names the fault and its place. `request_id` is 0 if it cannot be
    read.
    """

    def __init__(self, text: str, request_id: int) -> None:
        super().__init__(text)
        self.text = text
        self.request_id = request_id


def decode_request(body: bytes) -> AnyRequest:
    """Return the request in a frame.

    Raises:
        MalformedError: the frame is not a request.
    """
    try:
        request: AnyRequest = request_decoder.decode(body)
    except UNDECODABLE as error:
        raise MalformedError(explain(error, body), request_id_of(body)) from error
    return request


def request_id_of(body: bytes) -> int:
    """Return the request id of a message, or 0 if it has none. Only its first bytes are read."""
    try:
        head = _array(body)
        if head is None or head[0] < 2:
            return 0
        tag, at = _integer(body, head[1])
        return _integer(body, at)[0] if tag in _WITH_ID else 0
    except IndexError:  # the message ends before the id does
        return 0


def response_id_of(body: bytes) -> int:
    """Return the request id of a node's `Results`, `Failed` or `Answer`, or 0 if the message ends before it."""
    try:
        return _integer(body, 2)[0]
    except IndexError:
        return 0


_WITH_ID = {kind.__struct_config__.tag for kind in typing.get_args(AnyRequest) if kind.__struct_fields__[:1] == ("request_id",)}
"""Tags of the requests whose first field is the request id."""

_INTEGERS = {0xCC: (1, False), 0xCD: (2, False), 0xCE: (4, False), 0xCF: (8, False)} | {
    0xD0: (1, True),
    0xD1: (2, True),
    0xD2: (4, True),
    0xD3: (8, True),
}
"""Formats of msgpack integers: how many bytes follow, and whether they are signed."""


def _array(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return the number of elements of the msgpack array at the start of `data`, and the offset of the first one.
    Returns None if it is not an array.
    """
    first = data[0]
    if first & 0xF0 == 0x90:
        return first & 0x0F, 1
    width = {0xDC: 2, 0xDD: 4}.get(first)
    if width is None or len(data) <= width:
        return None
    return int.from_bytes(data[1 : 1 + width], "big"), 1 + width


def _integer(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the msgpack integer at an offset and the offset of its end, or (0, the offset) if there is no integer.
    Raises IndexError at the end of the data.
    """
    first = data[at]
    if first < 0x80:
        return first, at + 1
    if first >= 0xE0:
        return first - 0x100, at + 1
    width, signed = _INTEGERS.get(first, (0, False))
    if at + width >= len(data):
        raise IndexError(at)
    return int.from_bytes(data[at + 1 : at + 1 + width], "big", signed=signed), at + 1 + width if width else at


def explain(error: Exception, body: bytes) -> str:
    """Describe a decoding error with the path of the field: "commands[0].price: Expected `int`, got `str`".

    It uses the decoder's own text if the path cannot be followed or the fault is
    deep inside a long message. It reads only the elements along the path, and only of arrays of at most `COMMANDS_MAX`
    elements, so malformed messages cause bounded work.
    """
    text = str(error) or type(error).__name__
    problem, found, path = text.partition(" - at `$")
    if not found or (len(body) > EXPLAINED_MAX and path.count("[") > 1):
        return text
    steps = [int(step) for step in _PATH_STEP.findall(path) if step != "..."]
    return f"{_name_path(steps, body, AnyRequest)}: {problem}"


def _elements(data: bytes | memoryview | None) -> list[msgspec.Raw]:
    """Return the undecoded elements of an array; an empty result if it is too long or not an array."""
    head = _array(data) if data else None
    if data is None or head is None or head[0] > COMMANDS_MAX:
        return []
    try:
        return _raw_elements.decode(data)
    except UNDECODABLE:
        return []


def _name_path(steps: list[int], body: bytes, kind: object) -> str:
    """Return the path to a field as text, such as `commands[2].price`."""
    name = ""
    left = len(steps)
    value: bytes | memoryview | None = body
    for step in steps:
        struct = _struct_of(kind, value)
        if struct is None:
            kind = (typing.get_args(kind) or (None,))[0]
            name += f"[{step}]"
        else:
            label, kind = _field(struct, step)
            name += f".{label}"
        left -= 1
        elements = _elements(value) if left else []
        value = memoryview(elements[step]) if step < len(elements) else None
    return name.lstrip(".") or "message"


def _struct_of(kind: object, value: bytes | memoryview | None) -> type[msgspec.Struct] | None:
    """Return the struct that `value` is an array of, chosen by its tag if `kind` is a union."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if not isinstance(kind, UnionType):
        return None
    tag = _tag_of(value)
    members: list[type[msgspec.Struct]] = [member for member in typing.get_args(kind) if issubclass(member, msgspec.Struct)]
    for member in members:
        if member.__struct_config__.tag == tag:
            return member
    return members[0] if members else None


def _tag_of(value: bytes | memoryview | None) -> int | None:
    """Return the first element of an array, or None if it is not an integer."""
    try:
        head = _array(value) if value else None
        if value is None or not head or not head[0]:
            return None
        tag, end = _integer(value, head[1])
    except IndexError:
        return None
    return tag if end > head[1] else None


def _field(struct: type[msgspec.Struct], step: int) -> tuple[str, object]:
    """Return the name and type of the field at position `step` of the struct's array."""
    tagged = struct.__struct_config__.tag is not None
    if tagged and step == 0:
        return "tag", int
    place = step - 1 if tagged else step
    names = struct.__struct_fields__
    if place >= len(names):
        return f"[{step}]", None
    return names[place], typing.get_type_hints(struct)[names[place]]

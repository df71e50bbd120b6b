"""The protocol of the pipe to the writer: length-prefixed msgpack frames.

A snapshot is a `Begin`, then changes of tables in chunks and in any order (`Rows`, `Deleted`, `Purged`), attachments in
chunks (`Attached`), then an `End`. If the pipe ends before `End`, the parent died or cancelled, and the writer discards
the snapshot. A frame has no limit of its length, because both ends of the pipe are this program. `cluster.channel` and
`node.native.framing` frame messages of other machines: they have limits, and share no code with this module.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import BinaryIO

import msgspec

from snapshots.manifest import Row, SnapshotFields
from statemachine.freezing import RowChunk

FRAME_ROW_BYTES = 64 * 1024
"""Bytes of a chunk of rows, about the capacity of a pipe. Encoding one chunk does not hold the interpreter lock for
long.
"""

_HEADER = 4


class Begin(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first frame. `tables` in their order; `base` is the index of the snapshot that the changes are made to, 0 for
    an empty one.
    """

    fields: SnapshotFields
    abi: str
    tables: list[str]
    base: int = 0


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Rows to add or replace."""

    table: str
    rows: list[tuple[bytes, bytes]]


class Deleted(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Keys to delete."""

    table: str
    keys: list[bytes]


class Purged(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Half-open ranges of keys to delete. They apply to existing rows only, not to rows of this frame or later ones."""

    table: str
    ranges: list[tuple[bytes, bytes]]


class End(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The end of the snapshot, with the number of rows that each table must have."""

    counts: dict[str, int]


class Attached(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The next chunk of an attachment: a file beside the tables that is not part of the state. See `ATTACHMENTS`."""

    name: str
    data: bytes


ATTACHMENTS = frozenset({"MARKET"})
"""The files that a snapshot may have beside its database. Each is written again for each snapshot, and checked and sent
like the others. All are optional.
"""

AnyFrame = Begin | Rows | Deleted | Purged | End | Attached

_decoder = msgspec.msgpack.Decoder(AnyFrame)
_encode = msgspec.msgpack.Encoder().encode


def frames(begin: Begin, tables: Mapping[str, Collection[Row]]) -> Iterator[bytes]:
    """Yield the frames of a complete snapshot, as bytes."""
    chunks = (RowChunk(name, list(tables[name]), [], []) for name in begin.tables)
    return change_frames(begin, {name: len(tables[name]) for name in begin.tables}, chunks)


def change_frames(
    begin: Begin,
    counts: Mapping[str, int],
    chunks: Iterable[RowChunk],
    attachments: Mapping[str, Callable[[], bytes]] | None = None,
) -> Iterator[bytes]:
    """Yield the frames of changes, as bytes.

    Args:
        attachments: the function that makes each attachment, by name; called where the frames are iterated.
    """
    yield _framed(begin)
    waiting: dict[str, tuple[list[Row], list[int]]] = {name: ([], [0]) for name in begin.tables}
    for chunk in chunks:
        if chunk.purged:
            yield _framed(Purged(chunk.table, chunk.purged))
        if chunk.deleted:
            yield _framed(Deleted(chunk.table, chunk.deleted))
        rows, size = waiting[chunk.table]
        for row in chunk.rows:
            rows.append(row)
            size[0] += len(row[0]) + len(row[1])
            if size[0] >= FRAME_ROW_BYTES:
                yield _framed(Rows(chunk.table, rows))
                rows.clear()
                size[0] = 0
    for name, (rows, _) in waiting.items():
        if rows:
            yield _framed(Rows(name, rows))
    for name, make in (attachments or {}).items():
        assert name in ATTACHMENTS
        data = make()
        for at in range(0, len(data), FRAME_ROW_BYTES):
            yield _framed(Attached(name, data[at : at + FRAME_ROW_BYTES]))
    yield _framed(End(dict(counts)))


def _framed(frame: AnyFrame) -> bytes:
    body = _encode(frame)
    return len(body).to_bytes(_HEADER, "big") + body


def read_frames(stream: BinaryIO) -> Iterator[AnyFrame]:
    """Yield the frames of a pipe, until the pipe ends, which may be within a frame.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: the bytes are not a frame.
    """
    while True:
        header = stream.read(_HEADER)
        if len(header) < _HEADER:
            return
        size = int.from_bytes(header, "big")
        body = stream.read(size)
        if len(body) < size:
            return
        yield _decoder.decode(body)

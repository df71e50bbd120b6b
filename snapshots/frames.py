"""What goes down the pipe to the writer: length-prefixed msgpack frames.

`Begin`, then for each table `Table` and its rows in pieces (`Rows`), then `End`. A pipe that ends before `End` is a parent that died or changed
its mind: the writer throws away what it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import BinaryIO

import msgspec

from snapshots.manifest import Row, SnapshotFields

FRAME_ROW_BYTES = 64 * 1024
"""Rows are sent in pieces of about that many bytes: what a pipe holds. Encoding one does not hold the interpreter for long."""

_HEADER = 4


class Begin(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first frame. `tables` in their order."""

    fields: SnapshotFields
    abi: str
    tables: list[str]


class Table(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The rows of a table follow, that many."""

    name: str
    rows: int


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Rows of the current table, sorted by key."""

    rows: list[tuple[bytes, bytes]]


class End(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All has been said."""


AnyFrame = Begin | Table | Rows | End

_decoder = msgspec.msgpack.Decoder(AnyFrame)
_encode = msgspec.msgpack.Encoder().encode


def frames(begin: Begin, tables: Mapping[str, Collection[Row]]) -> Iterator[bytes]:
    """The frames of a whole snapshot, as bytes."""
    yield _framed(begin)
    for name in begin.tables:
        rows = tables[name]
        yield _framed(Table(name, len(rows)))
        for piece in _pieces(rows):
            yield _framed(Rows(piece))
    yield _framed(End())


def _framed(frame: AnyFrame) -> bytes:
    body = _encode(frame)
    return len(body).to_bytes(_HEADER, "big") + body


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    piece: list[Row] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += len(row[0]) + len(row[1])
        if size >= FRAME_ROW_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def read_frames(stream: BinaryIO) -> Iterator[AnyFrame]:
    """The frames of a pipe, until it ends, also in the middle of one.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: what came is no frame.
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

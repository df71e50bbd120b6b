"""Writes records as msgpack, field by field. Outcomes and events are encoded once, and no object is created between a
field and its bytes.

This is the plain form. The compiled core has `writer.pyx` in its place: the same methods and the same bytes, written
into a block of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

_encode = msgspec.msgpack.Encoder().encode


class Writer:
    """Appends msgpack values: in the order of the calls `array`, `number`, `text`, `flag`, `nothing`, and `raw` for
    what is encoded already.

    `number` takes -2**63 to 2**64 - 1. An array's header says how many values follow.
    """

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self._size = 0
        self._ends: list[int] = []
        self._values: list[int | str | bool | None] = []
        append: Callable[[int | str | bool | None], None] = self._values.append
        self.number: Callable[[int], None] = append
        self.text: Callable[[str], None] = append

    def nothing(self) -> None:
        """Write that there is no value."""
        self._values.append(None)

    def flag(self, value: bool) -> None:
        """Write true or false."""
        self._values.append(bool(value))

    def array(self, count: int) -> None:
        """Write the header of an array of `count` values."""
        self._flush()
        self._append(_encode([None] * count)[:-count] if count else b"\x90")

    def raw(self, encoded: bytes) -> None:
        """Append bytes as they are."""
        self._flush()
        self._append(encoded)

    def copy(self, other: Writer, start: int) -> None:
        """Append what `other` has written from position `start` on."""
        self.raw(other.since(start))

    def mark(self) -> None:
        """Record that a record ends here."""
        self._ends.append(self.size())

    def ends(self) -> Sequence[int]:
        """Return the positions of the marks."""
        return list(self._ends)

    def size(self) -> int:
        """Return the number of bytes written so far."""
        self._flush()
        return self._size

    def since(self, start: int) -> bytes:
        """Return the bytes from position `start` on."""
        written = self._join()
        return written[start:] if start else written

    def clear(self) -> None:
        """Begin again, with nothing written."""
        self._written.clear()
        self._values.clear()
        self._ends.clear()
        self._size = 0

    def _append(self, encoded: bytes) -> None:
        self._written.append(encoded)
        self._size += len(encoded)

    def _join(self) -> bytes:
        self._flush()
        if len(self._written) > 1:
            self._written[:] = [b"".join(self._written)]
        return self._written[0] if self._written else b""

    def _flush(self) -> None:
        """Encode the values written so far in one call."""
        count = len(self._values)
        if count:
            header = 1 if count < 16 else 3
            self._append(_encode(self._values)[header:])
            self._values.clear()

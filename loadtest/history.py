"""The history of a run in a file: all requests and answers of clients, with their times, as `linearizability` checks
them.

Each operation is a line of JSON. Times are monotonic seconds of the recording process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from loadtest.errors import RecordError
from loadtest.linearizability import Operation, Write
from node.system.files import decoded_lines

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Operation)


class History:
    """Writes operations to a file, the first `most` of them.

    Attributes:
        complete: whether no operation was left out.
        last_sequence: the largest sequence in an answer.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self.written = 0
        self.complete = True
        self.last_sequence = 0
        self._most = most
        self._file: TextIO | None = path.open("w", encoding="ascii")

    def add(self, operation: Operation) -> None:
        """Write an operation."""
        if self.written >= self._most:
            self.complete = False
        elif self._file is not None:
            self._file.write(_encode(operation).decode("ascii") + "\n")
            self.written += 1
            if isinstance(operation, Write) and operation.outcome is not None:
                self.last_sequence = max(self.last_sequence, operation.outcome.sequence)

    def flush(self) -> None:
        """Flush everything to the operating system, so that another process can read it."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file. A second call has no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None


def operations(path: Path) -> Iterator[Operation]:
    """Yield the operations in a file of a `History`.

    Raises:
        RecordError: a line is not an operation.
        OSError: the file cannot be read.
    """
    return decoded_lines(path, _decoder, RecordError)

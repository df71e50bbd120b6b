"""Pieces of the log on disk, for the histories of other nodes.

The event loop only hands over and sends: a thread opens the segment, reads 256 KiB and closes it. One piece is read at a time, whoever asks, so
that however many ask costs the node one read and one frame at a time; nothing is parsed, checked or kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from cluster.tail import TRIES, first_index, segment_with
from node.config.settings import NodeConfig
from node.errors import RequestFailed
from node.migration import switch
from node.migration.found import LOG
from node.native.protocol import FailCode, LogPiece, LogQuery

PIECE_BYTES = 256 * 1024

Found = Callable[[LogPiece | RequestFailed], None]


class LogPieces:
    """Reads one piece at a time."""

    def __init__(self, config: NodeConfig) -> None:
        self._directories = (config.data_path / LOG, config.data_path / switch.ARCHIVE)
        self._reading = False

    def read(self, query: LogQuery, applied_index: int, found: Found) -> None:
        """Read; `found` gets the piece, or why there is none, exactly once, in the event loop."""
        if query.index < 1 or query.offset < 0:
            found(RequestFailed(FailCode.BAD_REQUEST, "query: index must be 1 or more, and offset 0 or more"))
        elif query.index > applied_index:
            found(LogPiece(applied_index))
        elif self._reading:
            found(RequestFailed(FailCode.OVERLOADED, "another piece of the log is being read"))
        else:
            self._reading = True
            reading = asyncio.get_running_loop().run_in_executor(None, self._piece, query, applied_index)
            reading.add_done_callback(lambda done: self._done(done, found))

    def _done(self, reading: asyncio.Future[LogPiece | None], found: Found) -> None:
        self._reading = False
        if reading.cancelled():
            return
        error = reading.exception()
        piece = reading.result() if error is None else None
        text = "this node has that log entry no more" if error is None else f"the log cannot be read: {error}"
        found(RequestFailed(FailCode.NOT_FOUND, text) if piece is None else piece)

    def _piece(self, query: LogQuery, applied_index: int) -> LogPiece | None:
        opened = self._open(query.index)
        if opened is None:
            return None
        path, file = opened
        try:
            data = os.pread(file, PIECE_BYTES, query.offset)
            status = os.fstat(file)
        finally:
            os.close(file)
        # A segment that was removed before it was read may end with what another leader's entries have replaced.
        return LogPiece(applied_index, first_index(path), status.st_size, data) if status.st_nlink else None

    def _open(self, index: int) -> tuple[Path, int] | None:
        """The segment that an entry must be in, looked for again where it moves to the archive at this moment."""
        for _ in range(TRIES):
            path = segment_with(self._directories, index)
            if path is None:
                return None
            with contextlib.suppress(FileNotFoundError):
                return path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return None

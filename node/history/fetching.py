"""Fetches log segments from other nodes, for a history whose own node no longer has them because it installed a
snapshot.

A segment is copied byte for byte from the other node's disk. The entries that are missing here, and that the other node
has applied, become a segment beside the node's own log, and the history reads it like any other segment. Nodes ask each
other over the native protocol with certificates on both sides. They transfer chunks of 256 KiB and at most
`BYTES_PER_SECOND`, so the other node's engine reads and sends at most 16 chunks a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

import msgspec

from cluster.errors import LogDamagedError
from cluster.log import SEGMENT_BYTES, encode_header, entry_size, read_header, read_record, segment_name
from node.config.settings import NodeConfig
from node.errors import ConnectionLost, RequestFailed
from node.native.connection import NativeConnection
from node.native.framing import UNDECODABLE
from node.native.protocol import FailCode, LogChunk, LogQuery, MemberStatus
from node.tls.pki import client_context
from snapshots.levels.level import ACCEPTED

log = logging.getLogger(__name__)

SEGMENT_MAX = 2 * SEGMENT_BYTES
"""Upper bound of a segment's size: a segment ends soon after `SEGMENT_BYTES`."""
BYTES_PER_SECOND = 4 * 1024 * 1024
REJECTS = (FailCode.NOT_FOUND, FailCode.BAD_REQUEST)
"""Answers of a node that has not kept the entry, and of an earlier version, which does not know the request."""
ANSWER_TIMEOUT = 10.0
"""Seconds for one chunk."""
CHUNK_RETRY_S = 0.05
"""Seconds before a node that is reading a chunk for another node is asked again."""


class FetchResult(Enum):
    """The result of asking the other nodes."""

    HERE = "the segment is here"
    NOWHERE = "no node has the entry"
    PERHAPS = "a node that was not reached, or has not applied the entry yet, may have it"


class Fetcher:
    """Asks other nodes for segments.

    Args:
        config: the node's.
        directory: where the segments go.
    """

    def __init__(self, config: NodeConfig, directory: Path) -> None:
        self._config = config
        self._directory = directory
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, index: int, members: Iterable[MemberStatus]) -> FetchResult:
        """Get the segment with entry `index` from the first member that has it.

        Raises:
            OSError: it cannot be written.
        """
        found = FetchResult.NOWHERE
        for member in members:
            try:
                answer = await self._fetch_from(member, index)
            except (ConnectionLost, TimeoutError) as error:
                log.info("%s cannot be asked for log entry %d: %s", member.node_id, index, str(error) or "no answer")
                answer = FetchResult.PERHAPS
            except (LogDamagedError, *UNDECODABLE) as error:
                log.error("%s sent data that is not a log segment: %s", member.node_id, error)
                answer = FetchResult.NOWHERE
            if answer is FetchResult.HERE:
                return answer
            if answer is FetchResult.PERHAPS:
                found = answer
        return found

    async def _fetch_from(self, member: MemberStatus, index: int) -> FetchResult:
        """Fetch missing entries from a member."""
        self._tls = self._tls or client_context(self._config)
        connection = await NativeConnection.open(member.native, tls=self._tls, client=f"history of {self._config.node_id}")
        try:
            return await self._copy(connection, member.node_id, index)
        except RequestFailed as error:
            log.info("%s does not give log entry %d: %s", member.node_id, index, error)
            return FetchResult.NOWHERE if error.code in REJECTS else FetchResult.PERHAPS
        finally:
            await connection.close()

    async def _copy(self, connection: NativeConnection, node_id: str, index: int) -> FetchResult:
        """Copy the whole segment. If it was removed in the meantime, another node is asked."""
        begun = await self._chunk(connection, index, 0)
        if not begun.data:
            return FetchResult.PERHAPS
        header = read_header(segment_name(begun.first_index), begun.data)
        if header is None or header[0].abi not in ACCEPTED:
            return FetchResult.NOWHERE
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / segment_name(index)
        draft = path.with_suffix(".tmp")
        with contextlib.ExitStack() as undo:
            undo.callback(draft.unlink, missing_ok=True)
            with draft.open("wb") as file:
                chunk, copied = begun, 0
                while chunk.data and chunk.first_index == begun.first_index and copied < min(begun.size, SEGMENT_MAX):
                    file.write(chunk.data)
                    copied += len(chunk.data)
                    await asyncio.sleep(len(chunk.data) / BYTES_PER_SECOND)
                    chunk = await self._chunk(connection, begun.first_index, copied)
            if not await asyncio.to_thread(cut, draft, begun.applied_index, index):
                return FetchResult.NOWHERE
            draft.replace(path)
        log.info("log entry %d and its neighbours were fetched from %s (%d bytes)", index, node_id, copied)
        return FetchResult.HERE

    async def _chunk(self, connection: NativeConnection, index: int, offset: int) -> LogChunk:
        """Return a part of a log entry. Asks again while the member is overloaded."""
        async with asyncio.timeout(ANSWER_TIMEOUT):
            while True:
                try:
                    return await connection.query(LogQuery(index, offset))
                except RequestFailed as error:
                    if error.code is not FailCode.OVERLOADED:
                        raise
                await asyncio.sleep(CHUNK_RETRY_S)


def cut(segment: Path, applied_index: int, wanted: int) -> bool:
    """Keep the part of a segment that begins with entry `wanted` and ends with the last sound entry up to
    `applied_index`. Returns whether anything is left.

    Segments begin at different entries on every node. A segment that began before `wanted` could have the name of a
    local one that ends earlier.

    Raises:
        LogDamagedError: the data is not a segment.
    """
    data = segment.read_bytes()
    read = read_header(segment.name, data)
    if read is None:
        return False
    header, offset = read
    begin = 0
    following = header.first_index
    while following <= applied_index and (entry := read_record(data, offset)) is not None and entry.index == following:
        if following == wanted:
            begin = offset
        offset += entry_size(entry)
        following += 1
    if not begin:
        return False
    segment.write_bytes(encode_header(msgspec.structs.replace(header, first_index=wanted)) + data[begin:offset])
    return True

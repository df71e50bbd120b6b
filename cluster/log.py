"""The Raft log on disk: entries are appended, then one fdatasync makes them durable before any message reports them.

The log is stored in segment files `log-<first index>.seg`. A segment is a header and records, one per entry:

    header   magic "QBLOG1\\n\\0", u32 length, u32 crc32 of magic and length, msgpack SegmentHeader, u32 crc32 of it
    record   u32 length of payload, u64 index, u64 term, u32 crc32 of that, u32 crc32 of the payload, payload     (little-endian)

Entries follow each other without gaps, across segments too. Only the end of the last segment may be torn by a crash:
the lost part had not been synced, so no message had reported it. Every other wrong checksum is damage, and damage is
never skipped:

- a record that is cut off by the end of the file (its head has a right checksum, or is cut off itself), or an end of
  zeros, is a torn write and is removed, and so is a last segment that is cut off within its header;
- a last record that is complete but has a wrong checksum may be a torn write or a later bit flip. It is removed, and
  the log is `doubtful`: the node may have lost an entry that it acknowledged, and must not vote until it has caught up.
  `load` leaves the file as it is, so that the doubt can be made durable before `cut_torn_end` removes the cause;
- a bad record with a good one behind it is damage: `LogDamagedError`.

Removal at the front is by whole segments, so it is atomic; removal at the end is a truncation that is synced before the
next record is.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from cluster.errors import LogAbiError, LogDamagedError
from cluster.membership import Membership, decode_members
from cluster.messages import COMMAND, MEMBERS
from cluster.ports import Disk, DiskFile, LogEntry, Schemas

MAGIC = b"QBLOG1\n\0"
SEGMENT_BYTES = 32 * 1024 * 1024
"""A new segment begins when the last one is longer than this. Old segments are removed as a whole."""

HEADER_BYTES_MAX = 4096
_RECORD = struct.Struct("<IQQII")
_HEAD = struct.Struct("<IQQ")
_U32 = struct.Struct("<I")
_FRONT = struct.Struct("<II")


class SegmentHeader(msgspec.Struct, frozen=True, array_like=True):
    """The header of a segment. `abi` is the schema of its first command, and of the following ones up to a command that
    names another schema.
    """

    format: int
    node_id: str
    abi: str
    first_index: int


class _Segment:
    """A segment in memory: its name, first index, and where each record begins."""

    __slots__ = ("first_index", "name", "offsets", "size")

    def __init__(self, name: str, first_index: int, size: int) -> None:
        self.name = name
        self.first_index = first_index
        self.size = size
        self.offsets: list[int] = []

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.offsets) - 1


def segment_name(first_index: int) -> str:
    """Return the file name of the segment that begins with `first_index`."""
    return f"log-{first_index:020d}.seg"


def _encode_record(entry: LogEntry) -> bytes:
    head = _HEAD.pack(len(entry.payload), entry.index, entry.term)
    return head + _U32.pack(zlib.crc32(head)) + _U32.pack(zlib.crc32(entry.payload)) + entry.payload


def encode_header(header: SegmentHeader) -> bytes:
    """Return the first bytes of a segment; `read_header` reads them."""
    body = msgspec.msgpack.encode(header)
    front = MAGIC + _U32.pack(len(body))
    return front + _U32.pack(zlib.crc32(front)) + body + _U32.pack(zlib.crc32(body))


def read_header(name: str, data: bytes) -> tuple[SegmentHeader, int] | None:
    """Return the header and where the records begin; None when the file ends within the header, or nothing but zeros
    was written.
    """
    start = len(MAGIC) + 8
    if len(data) < start or not any(data):
        return None
    if data[: len(MAGIC)] != MAGIC:
        raise LogDamagedError(f"{name}: offset 0: not a log segment (wrong magic)")
    length, front_crc = _FRONT.unpack_from(data, len(MAGIC))
    if front_crc != zlib.crc32(data[: len(MAGIC) + 4]) or length > HEADER_BYTES_MAX:
        raise LogDamagedError(f"{name}: offset {len(MAGIC)}: the header's length does not match its checksum")
    end = start + length + 4
    if len(data) < end:
        return None
    body = data[start : start + length]
    if _U32.unpack_from(data, start + length)[0] != zlib.crc32(body):
        raise LogDamagedError(f"{name}: offset {start}: the header does not match its checksum")
    return msgspec.msgpack.decode(body, type=SegmentHeader), end


def entry_size(entry: LogEntry) -> int:
    """Return the size in bytes of the record of an entry."""
    return _RECORD.size + len(entry.payload)


def read_record(data: bytes, offset: int) -> LogEntry | None:
    """Return the record at `offset`, or None if there is no valid one."""
    if offset + _RECORD.size > len(data):
        return None
    length, index, term, head_crc, payload_crc = _RECORD.unpack_from(data, offset)
    start = offset + _RECORD.size
    if head_crc != zlib.crc32(data[offset : offset + _HEAD.size]) or start + length > len(data):
        return None
    payload = data[start : start + length]
    return LogEntry(payload, index, term) if zlib.crc32(payload) == payload_crc else None


def _cut_off(data: bytes, offset: int) -> bool:
    """Return whether the invalid record at `offset` was never completely written: the file ends within it, or ends with
    zeros.
    """
    if offset + _RECORD.size > len(data) or not any(data[offset:]):
        return True
    length, _, _, head_crc, _ = _RECORD.unpack_from(data, offset)
    sound = bool(head_crc == zlib.crc32(data[offset : offset + _HEAD.size]))
    return sound and bool(offset + _RECORD.size + length > len(data))


def _good_record_behind(data: bytes, offset: int, expected: int) -> int | None:
    """Return the offset of a valid record with a later index after an invalid one at `offset`, or None."""
    for index in range(expected + 1, expected + 65):
        needle = struct.pack("<Q", index)
        at = data.find(needle, offset + 1)
        while at != -1:
            if at >= 4:
                entry = read_record(data, at - 4)
                if entry is not None and entry.index == index:
                    return at - 4
            at = data.find(needle, at + 1)
    return None


def scan(name: str, data: bytes, *, last: bool) -> tuple[SegmentHeader | None, list[LogEntry], list[int], int, bool]:
    """Read a segment: header, entries, their offsets, the length of the valid part, and whether the rest is doubtful.

    Raises:
        LogDamagedError: there is damage that is not a torn end.
    """
    read = read_header(name, data)
    if read is None:
        if last:
            return None, [], [], 0, False
        raise LogDamagedError(f"{name}: offset 0: the file ends within its header")
    header, offset = read
    entries: list[LogEntry] = []
    offsets: list[int] = []
    expected = header.first_index
    while offset < len(data):
        entry = read_record(data, offset)
        if entry is not None and entry.index != expected:
            raise LogDamagedError(f"{name}: offset {offset}: entry {entry.index} stands where {expected} belongs")
        if entry is None:
            torn = last and _cut_off(data, offset)
            if not torn and (not last or _good_record_behind(data, offset, expected) is not None):
                raise LogDamagedError(
                    f"{name}: offset {offset}: entry {expected} does not match its checksum and is not the last one. "
                    "Nothing behind it is read"
                )
            return header, entries, offsets, offset, not torn
        entries.append(entry)
        offsets.append(offset)
        offset += entry_size(entry)
        expected += 1
    return header, entries, offsets, offset, False


class DurableLog:
    """The segments of one node. Appends are buffered by the system until `sync`.

    Args:
        abi: the schema of the commands, if there is only one.
        schemas: the schemas, if the log may change from one to another. A segment ends with the entry that changes the
            schema.

    Attributes:
        doubtful: the last record did not check and was dropped; see the module's text.
        dirty: something was appended or cut since the last `sync`.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        node_id: str,
        abi: str = "",
        segment_bytes: int = SEGMENT_BYTES,
        schemas: Schemas | None = None,
    ) -> None:
        self._disk = disk
        self._node_id = node_id
        self._schemas = schemas or Schemas(lambda: abi, frozenset({abi}))
        self._abis: list[tuple[int, str]] = []
        """The index from which on commands are in a schema, and the schema; the first pair is that of the first
        segment.
        """
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._file: DiskFile | None = None
        self._torn: str | None = None
        self.doubtful = False
        self.dirty = False

    def load(self, owner: str = "") -> list[LogEntry]:
        """Read every segment and return all entries in order. Changes nothing on disk; call `cut_torn_end` before the
        first `append`.

        Args:
            owner: the node whose segments they must be; "" takes any.

        Raises:
            LogDamagedError: there is damage that is not a torn end, or a gap between segments.
            LogAbiError: a segment is of another schema.
        """
        entries: list[LogEntry] = []
        names = [name for name in self._disk.names() if name.startswith("log-") and name.endswith(".seg")]
        for position, name in enumerate(names):
            data = self._disk.read(name)
            last = position == len(names) - 1
            header, found, offsets, good, doubtful = scan(name, data, last=last)
            if header is None:
                self._torn = name
                continue
            if owner and header.node_id != owner:
                raise LogDamagedError(f"{name}: offset 0: is a segment of the log of {header.node_id}, and this is {owner}")
            if header.abi not in self._schemas.accepted:
                raise LogAbiError(name, header.abi, self._schemas.in_force())
            if entries and header.first_index != entries[-1].index + 1:
                raise LogDamagedError(f"{name} begins with entry {header.first_index}, {entries[-1].index + 1} belongs there")
            segment = _Segment(name, header.first_index, good)
            segment.offsets = offsets
            self._segments.append(segment)
            if not self._abis:
                self._abis.append((header.first_index, header.abi))
            for entry in found:
                self._note_schema(entry)
            entries.extend(found)
            if last and good < len(data):
                self._torn = name
                self.doubtful = doubtful
        return entries

    def cut_torn_end(self) -> None:
        """Remove the end of the last segment that `load` did not accept."""
        torn, self._torn = self._torn, None
        if torn is None:
            return
        if not self._segments or self._segments[-1].name != torn:
            self._disk.remove(torn)
            self._disk.sync_names()
            return
        file = self._open_last()
        file.truncate(self._segments[-1].size)
        file.sync()

    @property
    def last_index(self) -> int:
        """Index of the last entry on disk, 0 when there is none."""
        return self._segments[-1].last_index if self._segments else 0

    def append(self, entry: LogEntry) -> None:
        """Append an entry. The first one may have any index, the others follow without gaps."""
        segment = self._segments[-1] if self._segments else None
        assert self._torn is None, "cut_torn_end comes before the first append"
        assert segment is None or entry.index == segment.last_index + 1, f"entry {entry.index} does not follow the log's end"
        if segment is None:
            self._abis = [(entry.index, self._schemas.in_force())]
        if segment is None or segment.size >= self._segment_bytes or self._abis[-1][0] == entry.index > segment.first_index:
            segment = self._begin_segment(entry.index)
        record = _encode_record(entry)
        self._open_last().append(record)
        segment.offsets.append(segment.size)
        segment.size += len(record)
        self._note_schema(entry)
        self.dirty = True

    def _note_schema(self, entry: LogEntry) -> None:
        command = command_of(entry)
        behind = self._schemas.behind(command) if command is not None else None
        if behind is not None:
            self._abis.append((entry.index + 1, behind))

    @property
    def abi_at_end(self) -> str:
        """The schema of the next command that is appended."""
        return self._abis[-1][1] if self._segments else self._schemas.in_force()

    @property
    def abi_at_start(self) -> str:
        """The schema of the first command in the log."""
        return self._abis[0][1] if self._segments else self._schemas.in_force()

    def _begin_segment(self, first_index: int) -> _Segment:
        """Begin a segment file, and write its header."""
        self._close_last()
        segment = _Segment(segment_name(first_index), first_index, 0)
        self._segments.append(segment)
        header = encode_header(SegmentHeader(1, self._node_id, self._abis[-1][1], first_index))
        self._open_last().append(header)
        segment.size = len(header)
        self._disk.sync_names()
        return segment

    def _open_last(self) -> DiskFile:
        if self._file is None:
            self._file = self._disk.open(self._segments[-1].name)
        return self._file

    def _close_last(self) -> None:
        if self._file is not None:
            self._file.sync()
            self._file.close()
            self._file = None

    def sync(self) -> None:
        """Make everything durable. An OSError here ends the process, because the contents of the disk are unknown then."""
        if self.dirty:
            if self._file is not None:
                self._file.sync()
            self.dirty = False

    def cut_from(self, index: int) -> None:
        """Remove the entries from `index` on (they were never committed)."""
        while len(self._abis) > 1 and self._abis[-1][0] > index:
            self._abis.pop()
        while self._segments and self._segments[-1].first_index >= index:
            self._close_last()
            self._disk.remove(self._segments.pop().name)
            self._disk.sync_names()
        if self._segments and self._segments[-1].last_index >= index:
            segment = self._segments[-1]
            keep = index - segment.first_index
            segment.size = segment.offsets[keep]
            del segment.offsets[keep:]
            file = self._open_last()
            file.truncate(segment.size)
            file.sync()

    def clear(self) -> None:
        """Remove everything, because a durable snapshot covers more than the log has."""
        self.cut_from(0)
        self.dirty = False

    def compact_to(self, index: int) -> None:
        """Archive the segments that have no entry from `index` on. The last segment stays; a new one begins with the
        next entry.
        """
        firsts = [segment.first_index for segment in self._segments]
        gone = max(0, bisect_right(firsts, index) - 1)
        for segment in self._segments[:gone]:
            self._disk.archive(segment.name)
        del self._segments[:gone]
        while len(self._abis) > 1 and self._abis[1][0] <= self._segments[0].first_index:
            del self._abis[0]
        if gone:
            self._disk.sync_names()

    def roll(self) -> None:
        """Let the next entry begin a new segment, so that the present ones can be removed as a whole later."""
        if self._segments and self._segments[-1].offsets:
            self._begin_segment(self._segments[-1].last_index + 1)

    def close(self) -> None:
        """Sync and close."""
        self._close_last()
        self.dirty = False


def read_segments(*directories: Path, abis: Collection[str] | None = None) -> Iterator[LogEntry]:
    """Yield all entries in the segment files of the directories (a log and its archive), by index; for audits, while no
    node writes them.

    A torn end is skipped, as a node does. With `abis`, segments of other schemas are skipped too.

    Raises:
        LogDamagedError: see `scan`.
    """
    paths = sorted(
        (path for directory in directories if directory.is_dir() for path in directory.glob("log-*.seg")), key=lambda p: p.name
    )
    for position, path in enumerate(paths):
        header, entries, _, _, _ = scan(str(path), path.read_bytes(), last=position == len(paths) - 1)
        if abis is None or (header is not None and header.abi in abis):
            yield from entries


def segment_abis(directory: Path) -> dict[str, str]:
    """Return the ABI of each segment file in a directory, by name; a file that was torn within its header has none and
    is left out.

    Raises:
        LogDamagedError: a file is not a segment.
    """
    headers = {}
    for path in sorted(directory.glob("log-*.seg")):
        with path.open("rb") as file:
            read = read_header(str(path), file.read(HEADER_BYTES_MAX + len(MAGIC) + 12))
        if read is not None:
            headers[path.name] = read[0].abi
    return headers


def members_of(entry: LogEntry) -> Membership | None:
    """Return the membership in an entry; None for any other kind of entry.

    Raises:
        ValueError: the membership is invalid.
    """
    return decode_members(entry.payload[1:], entry.index) if entry.payload[0] == MEMBERS else None


def command_of(entry: LogEntry) -> bytes | None:
    """Return the command that an entry carries; None for a no-op or a barrier."""
    if entry.payload[0] != COMMAND or len(entry.payload) == 1:
        return None
    return entry.payload[1:]

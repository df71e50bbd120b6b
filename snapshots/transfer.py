"""Sending a snapshot to another node, and receiving one, as a sequence of bytes.

The sequence is a 4-byte big-endian length, that many bytes of SEAL (`seal`), and the contents of the files that it
lists, in its order. The receiver has at most SEAL and one chunk in memory, and trusts nothing: it checks names,
compares checksums, and reads the whole database before it gives the snapshot its name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from snapshots import durable
from snapshots.errors import SnapshotDamagedError, SnapshotRefusedError
from snapshots.manifest import Manifest, Row
from snapshots.naming import snapshot_path
from snapshots.rocks import Keep, read_tables
from snapshots.seal import Seal, decode_seal, encode_seal, new_digest, read_attachment, read_seal, write_seal

LENGTH_BYTES = 4
SEAL_BYTES_MAX = 16 * 1024 * 1024
"""The largest accepted size of SEAL, which has about 60 bytes per file."""


class Source:
    """A snapshot to send. Its files stay open, so deleting the snapshot does not disturb the sending.

    Attributes:
        manifest: of the snapshot.
        size: of the run, in bytes.

    Raises:
        SnapshotDamagedError: a file of it is missing, or its seal does not check.
    """

    def __init__(self, path: Path) -> None:
        seal = read_seal(path)
        encoded = encode_seal(seal)
        self.manifest: Manifest = seal.manifest
        self._header = len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded
        self._files: list[BinaryIO] = []
        try:
            for entry in seal.files:
                self._files.append((path / entry.name).open("rb"))
        except OSError as error:
            self.close()
            raise SnapshotDamagedError(str(path / entry.name), f"cannot be read: {error.strerror}") from error
        self._starts = list(accumulate((entry.size for entry in seal.files), initial=len(self._header)))
        self.size = self._starts[-1]

    def read(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes from `offset` on, fewer only at the end.

        Raises:
            SnapshotDamagedError: a file became shorter.
        """
        end = min(offset + length, self.size)
        parts = []
        while offset < end:
            part = self._read_part(offset, end)
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _read_part(self, offset: int, end: int) -> bytes:
        """Read bytes from the header or from one file."""
        if offset < len(self._header):
            return self._header[offset:end]
        position = bisect_right(self._starts, offset) - 1
        start, stop = self._starts[position], min(self._starts[position + 1], end)
        part = os.pread(self._files[position].fileno(), stop - offset, offset - start)
        if not part:
            raise SnapshotDamagedError(str(self._files[position].name), "has become shorter")
        return part

    def close(self) -> None:
        """Close the files. May be called again."""
        for file in self._files:
            file.close()
        self._files = []


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn every error of an incoming snapshot or of the disk into `SnapshotRefusedError`."""
    try:
        yield
    except SnapshotDamagedError as error:
        raise SnapshotRefusedError(f"the incoming snapshot is refused: {error.place}: {error.what}") from error
    except OSError as error:
        raise SnapshotRefusedError(f"the incoming snapshot is refused: {error}") from error


class Sink:
    """An incoming snapshot. `write` takes chunks of any size; `verify` reports their errors.

    Args:
        accepts: the ABIs that a snapshot may have.
        on_done: called with the manifest once the snapshot has its name.
    """

    def __init__(self, directory: Path, accepts: Collection[str], on_done: Callable[[Manifest], None]) -> None:
        self._directory = directory
        self._accepts = accepts
        self._on_done = on_done
        self._draft = directory / f"{secrets.token_hex(8)}{durable.INCOMING}"
        self._head = bytearray()
        self._seal: Seal | None = None
        self._position = 0
        self._file: BinaryIO | None = None
        self._left = 0
        self._digest = new_digest()
        self._fault = ""
        self._verified = False
        self._ended = False

    def write(self, data: bytes) -> None:
        """Append bytes. After an error further bytes are ignored."""
        assert not self._ended
        if self._fault:
            return
        try:
            rest = memoryview(data) if self._seal is not None else self._take_head(data)
            while rest:
                rest = self._take(rest)
        except (ValueError, OSError) as error:
            self._fault = str(error)
            self._remove()

    def finish(self) -> Manifest:
        """`verify` and `publish` in one."""
        self.verify()
        return self.publish()

    def verify(self, keep: Keep | None = None) -> Manifest:
        """Check the complete snapshot and make it durable, without its name. Returns its manifest. O(everything).

        This method may run in another thread. `abort` then ends it at its next chunk.

        Args:
            keep: takes the rows, in chunks; rows that it got before an error must not be used.

        Raises:
            SnapshotRefusedError: it is incomplete, damaged, or of another schema; nothing of it was kept.
        """
        try:
            if self._fault:
                raise SnapshotRefusedError(f"the incoming snapshot is refused: {self._fault}")
            return self._verify(keep)
        except BaseException:
            self.abort()
            raise

    def _verify(self, keep: Keep | None) -> Manifest:
        """Check the complete snapshot, pass its rows to `keep`, and write its seal. Raises SnapshotRefusedError."""
        if self._seal is None or self._file is not None or self._position < len(self._seal.files):
            raise SnapshotRefusedError("the incoming snapshot is refused: it is incomplete")

        def wanted(table: str, rows: list[Row]) -> None:
            if self._ended:
                raise SnapshotRefusedError("the transfer of the incoming snapshot was ended")
            if keep is not None:
                keep(table, rows)

        with _refusals():
            read_tables(self._draft, self._seal.manifest, wanted)
            write_seal(self._draft, self._seal)
        self._verified = True
        return self._seal.manifest

    def attachment(self, name: str) -> bytes | None:
        """Return a file beside the tables of the verified snapshot, None where it has none of that name. May run in the
        thread of `verify`.

        Raises:
            SnapshotRefusedError: it cannot be read.
        """
        assert self._verified
        with _refusals():
            return read_attachment(self._draft, name)

    def publish(self) -> Manifest:
        """Give the verified snapshot its name.

        Raises:
            SnapshotRefusedError: a write fails; nothing of it was kept.
        """
        assert self._verified
        assert not self._ended
        assert self._seal is not None
        manifest = self._seal.manifest
        try:
            with _refusals():
                durable.publish(self._draft, snapshot_path(self._directory, manifest.index))
        finally:
            self.abort()
        self._on_done(manifest)
        return manifest

    def abort(self) -> None:
        """Discard the snapshot. May be called again, during `verify` in another thread, and after `publish`."""
        self._ended = True
        self._remove()

    def _remove(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        shutil.rmtree(self._draft, ignore_errors=True)

    def _take_head(self, data: bytes) -> memoryview:
        """Collect the seal. Returns the bytes after it."""
        self._head += data
        if len(self._head) < LENGTH_BYTES:
            return memoryview(b"")
        size = int.from_bytes(self._head[:LENGTH_BYTES], "big")
        if size > SEAL_BYTES_MAX:
            raise ValueError(f"its header announces {size} bytes, more than {SEAL_BYTES_MAX}")
        end = LENGTH_BYTES + size
        if len(self._head) < end:
            return memoryview(b"")
        self._seal = decode_seal(bytes(self._head[LENGTH_BYTES:end]))
        found = self._seal.manifest
        if found.abi not in self._accepts:
            known = ", ".join(self._accepts)
            raise ValueError(f"it is of software {found.software} with ABI {found.abi}, and this software reads ABI {known}")
        self._draft.mkdir(mode=0o700)
        self._open_next()
        return memoryview(bytes(self._head[end:]))

    def _take(self, data: memoryview) -> memoryview:
        """Write to the current file. Returns the bytes of the next files."""
        if self._file is None:
            raise ValueError("there is more of it than its header lists")
        part = data[: self._left]
        self._file.write(part)
        self._digest.update(part)
        self._left -= len(part)
        if self._left == 0:
            self._close_file()
            self._open_next()
        return data[len(part) :]

    def _open_next(self) -> None:
        """Open the next file that has contents, and create the empty files before it."""
        assert self._seal is not None
        while self._position < len(self._seal.files):
            entry = self._seal.files[self._position]
            self._file = (self._draft / entry.name).open("xb")
            self._left = entry.size
            self._digest = new_digest()
            if self._left:
                return
            self._close_file()

    def _close_file(self) -> None:
        """Check the digest of the current file, make it durable, and continue with the next. Raises ValueError."""
        assert self._seal is not None
        assert self._file is not None
        entry = self._seal.files[self._position]
        if self._digest.digest() != entry.digest:
            raise ValueError(f"{entry.name}: its digest differs")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._position += 1

"""The file SEAL: the list of a snapshot's files with their sizes and checksums, and the manifest. It is written after
all other files are on the disk.

RocksDB checks its blocks when it reads them, but not all of its files, and its errors do not always name a file. The
checksums are compared before the database is opened: an error names the file that changed, and nothing is read from it.
SEAL is also the header of a snapshot that is sent to another node.

The file is a magic line, the 32-byte blake2b checksum of the rest, and the rest: msgpack of `Seal`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from snapshots.durable import sync_path, sync_tree
from snapshots.errors import SnapshotDamagedError
from snapshots.manifest import FORMAT, Manifest

SEAL = "SEAL"
MAGIC = b"quorumbook snapshot 1\n"
DIGEST_BYTES = 32

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """A file of a snapshot: name (no path), size in bytes, blake2b digest."""

    name: str
    size: int
    digest: bytes


class Seal(msgspec.Struct, frozen=True, array_like=True):
    """The manifest and all files, sorted by name."""

    manifest: Manifest
    files: list[FileEntry]


_decoder = msgspec.msgpack.Decoder(Seal)


def encode_seal(seal: Seal) -> bytes:
    """Return the bytes of a seal file."""
    body = msgspec.msgpack.encode(seal)
    return MAGIC + hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() + body


def decode_seal(data: bytes) -> Seal:
    """Return the seal in the bytes of a seal file.

    Raises:
        ValueError: it is damaged, of another format, or names files that no snapshot has.
    """
    if not data.startswith(MAGIC):
        raise ValueError("it does not begin with the first line of a seal of this format")
    digest = data[len(MAGIC) : len(MAGIC) + DIGEST_BYTES]
    body = data[len(MAGIC) + DIGEST_BYTES :]
    if hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() != digest:
        raise ValueError("its checksum differs")
    try:
        seal = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
    if seal.manifest.format != FORMAT or seal.manifest.index < 1:
        raise ValueError(f"format {seal.manifest.format}, index {seal.manifest.index}: not a snapshot of this format")
    _check_names(seal.files)
    return seal


def _check_names(files: list[FileEntry]) -> None:
    """Check the names and sizes of the files that a seal lists. Raises ValueError."""
    names = [entry.name for entry in files]
    if len(set(names)) != len(names):
        raise ValueError("a file comes twice")
    for entry in files:
        if _FILE_NAME.fullmatch(entry.name) is None or entry.name == SEAL:
            raise ValueError(f"{entry.name!r} is not the name of a snapshot's file")
        if entry.size < 0:
            raise ValueError(f"{entry.name}: a size of {entry.size}")


def seal_directory(directory: Path, manifest: Manifest) -> Seal:
    """Sync all files, compute their checksums, and write SEAL. Everything is on the disk on return."""
    sync_tree(directory)
    entries = []
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            entries.append(FileEntry(path.name, size, hashlib.file_digest(file, new_digest).digest()))
    seal = Seal(manifest, entries)
    write_seal(directory, seal)
    return seal


def new_digest(data: bytes = b"") -> hashlib.blake2b:
    """Return a new hash for a file's digest."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES)


def write_seal(directory: Path, seal: Seal) -> None:
    """Write a seal file, durable on return."""
    path = directory / SEAL
    path.write_bytes(encode_seal(seal))
    sync_path(path)
    sync_path(directory)


def read_seal(directory: Path) -> Seal:
    """Return a snapshot's seal.

    Raises:
        SnapshotDamagedError: it is missing or damaged.
    """
    path = directory / SEAL
    try:
        return decode_seal(path.read_bytes())
    except OSError as error:
        raise SnapshotDamagedError(str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SnapshotDamagedError(str(path), str(error)) from error


def check_files(directory: Path) -> Seal:
    """Compare every file of a snapshot with its seal, and return the seal. O(bytes).

    Raises:
        SnapshotDamagedError: a file is missing or differs from what was written.
    """
    seal = read_seal(directory)
    for entry in seal.files:
        path = directory / entry.name
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, new_digest).digest() if size == entry.size else b""
        except OSError as error:
            raise SnapshotDamagedError(str(path), f"cannot be read: {error.strerror}") from error
        if size != entry.size:
            raise SnapshotDamagedError(str(path), f"has {size} bytes, and {entry.size} were written")
        if digest != entry.digest:
            raise SnapshotDamagedError(str(path), "is not what was written (its digest differs)")
    return seal


def read_attachment(directory: Path, name: str) -> bytes | None:
    """Return a file of a snapshot that is not part of its database, compared with the seal; None if there is no file of
    that name.

    Raises:
        SnapshotDamagedError: it is not what was written.
    """
    for entry in read_seal(directory).files:
        if entry.name == name:
            path = directory / name
            try:
                data = path.read_bytes()
            except OSError as error:
                raise SnapshotDamagedError(str(path), f"cannot be read: {error.strerror}") from error
            if new_digest(data).digest() != entry.digest:
                raise SnapshotDamagedError(str(path), "is not what was written (its digest differs)")
            return data
    return None

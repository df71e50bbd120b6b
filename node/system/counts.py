"""Figures that a process of a node leaves for the gateway, which serves them at /metrics.

The FIX process and the stream have no HTTP port of their own. Each writes its figures into a file of the data directory
every few seconds, and the gateway reads it for each request. The file needs no fsync: after a crash the process counts
from 0, as Prometheus expects of counters.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

WRITE_S = 2.0
"""Seconds between two writes."""
STALE_S = 15.0
"""Seconds after which a file is ignored, because its process has stopped or hangs."""
SIZE_MAX = 256 * 1024
"""Bytes of a file that are read. A process has some ten figures."""


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A metric: one value for each value of its label, or one value under "" if it has no label.

    Attributes:
        name: without the prefix `quorumbook_` and without `_total`.
        text: its meaning, for people.
        counter: it only rises until its process restarts. Otherwise it is a gauge.
        label: the name of the label; "" for none.
    """

    name: str
    text: str
    values: dict[str, float]
    counter: bool = False
    label: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of the file, with the time of writing in Unix seconds."""

    written_at: float
    families: list[Family]


def counts_file(data_path: Path, process: str) -> Path:
    """Return the file of the process with this name."""
    return data_path / f"{process}.counts"


def write(path: Path, families: Sequence[Family]) -> None:
    """Replace the file, whole at any moment. Raises OSError."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(msgspec.json.encode(_File(time.time(), list(families))))
    os.replace(draft, path)


def read(path: Path) -> list[Family] | None:
    """Return the figures of the file; None where there are none, or they are old or damaged."""
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(SIZE_MAX), type=_File)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found.families if abs(time.time() - found.written_at) < STALE_S else None


async def keep_writing(path: Path, families: Callable[[], Sequence[Family]]) -> None:
    """Write the figures until this is cancelled, and remove the file then. A full disk is logged and does no harm."""
    try:
        while True:
            try:
                write(path, families())
            except OSError as error:
                log.warning("the figures for /metrics cannot be written: %s", error)
            await asyncio.sleep(WRITE_S)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()

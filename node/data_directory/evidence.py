"""Evidence in a data directory that forbids a start on it.

`diverged.json`: the node's state diverged from the majority's. A restart would serve the same wrong state, or a right
one by chance, and the cause could no longer be found.

`stale.json`: the directory is an old copy, or a copy of it ran elsewhere. Such a node has forgotten entries that it
acknowledged and votes that it gave, and otherwise looks like any node that was down. Therefore nodes count their starts
and send the count to each other (`engine.introductions`). A peer knows that a directory is stale when it meets an
earlier start of it than before, or when the node's log ends before an entry that it acknowledged.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from cluster.errors import DivergedError
from node.errors import DataDirectoryError
from node.system import files

DIVERGED = "diverged.json"
STALE = "stale.json"
STARTS = "starts.json"

DIVERGED_REMEDY = (
    "Keep it as evidence: compare the nodes' logs and states with `quorumbook audit`, then move the directory away. The node comes back on a "
    "new data directory: quorumbook node start --rejoin"
)

STALE_REMEDY = (
    "Do not start anything on it. If another process runs on a copy of it, stop that process. Move the directory away and start the node with: "
    "quorumbook node start --rejoin. The node then gets everything from the others, and votes when it has caught up"
)


class Divergence(msgspec.Struct, frozen=True):
    """The contents of `diverged.json`. Hashes are hex; `agreeing` are the nodes that had `majority_hash` at `index`."""

    node_id: str
    index: int
    term: int
    state_hash: str
    majority_hash: str
    agreeing: tuple[str, ...]
    found_at: str


class Staleness(msgspec.Struct, frozen=True):
    """The contents of `stale.json`: the node that noticed, and what it noticed."""

    node_id: str
    noticed_by: str
    what: str


class Starts(msgspec.Struct, frozen=True):
    """The contents of `starts.json`: how often an engine was started on this directory."""

    starts: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


_Evidence = TypeVar("_Evidence", Divergence, Staleness)


def keep_divergence(directory: Path, error: DivergedError, now: float) -> Path:
    """Write `diverged.json` and return its path; it is durable on return. `now` is seconds since the epoch.

    Raises:
        OSError: the file cannot be written.
    """
    found = Divergence(
        node_id=error.node_id,
        index=error.index,
        term=error.term,
        state_hash=error.own.hex(),
        majority_hash=error.majority.hex(),
        agreeing=error.agreeing,
        found_at=datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
    )
    return _keep(directory / DIVERGED, found)


def keep_staleness(directory: Path, found: Staleness) -> Path:
    """Write `stale.json` and return its path; it is durable on return.

    Raises:
        OSError: the file cannot be written.
    """
    return _keep(directory / STALE, found)


def refuse_start(directory: Path) -> None:
    """Check that the directory holds no evidence against a start.

    Raises:
        DataDirectoryError: the state has diverged, or the directory is stale.
    """
    path, general = directory / DIVERGED, "the state in this data directory has diverged"
    if diverged := _read(path, Divergence, f"{general}. {DIVERGED_REMEDY}"):
        raise DataDirectoryError(
            f"{path}: {general}. At index {diverged.index} its hash was {diverged.state_hash}, that of "
            f"{', '.join(diverged.agreeing)} {diverged.majority_hash} (found {diverged.found_at}, term {diverged.term}). {DIVERGED_REMEDY}"
        )
    path = directory / STALE
    if stale := _read(path, Staleness, f"this data directory is an old or a second copy. {STALE_REMEDY}"):
        raise DataDirectoryError(f"{path}: {stale.noticed_by} noticed: {stale.what}. {STALE_REMEDY}")


def count_start(directory: Path) -> int:
    """Count this start and return its number, the first being 1; the count is durable on return.

    Raises:
        DataDirectoryError: the count cannot be read.
        OSError: the count cannot be written.
    """
    path = directory / STARTS
    try:
        number = msgspec.json.decode(path.read_bytes(), type=Starts).starts + 1
    except FileNotFoundError:
        number = 1
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataDirectoryError(f"{path} is damaged: {error}. Move the data directory away, and start with --rejoin") from error
    files.replace(path, msgspec.json.encode(Starts(number)) + b"\n")
    return number


def _keep(path: Path, found: msgspec.Struct) -> Path:
    files.replace(path, msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return path


def _read(path: Path, kind: type[_Evidence], if_damaged: str) -> _Evidence | None:
    """Return the evidence in a file, None where there is no such file. Damaged evidence still forbids a start."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DataDirectoryError(f"{path}: {if_damaged}") from None

"""A node whose state diverged keeps the evidence: a file in its data directory, because of which it does not start on
it again.

Started again, it would serve the same wrong state, or a right one by chance, and nobody could find out any more what
went wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cluster.errors import DivergedError
from node.errors import DataDirectoryError
from node.system import files

FILE = "diverged.json"

WAY_BACK = (
    "Keep it as evidence: compare the nodes' logs and states with `quorumbook audit`, then move the directory away. The node comes back on a "
    "new data directory: quorumbook node start --rejoin"
)


class Evidence(msgspec.Struct, frozen=True):
    """The contents of `diverged.json`. Hashes are hex; `agreeing` are the nodes that had `majority_hash` at `index`."""

    node_id: str
    index: int
    term: int
    state_hash: str
    majority_hash: str
    agreeing: tuple[str, ...]
    found_at: str


def keep(directory: Path, error: DivergedError, now: float) -> Path:
    """Write the evidence, durable on return; its path. `now` is seconds since the epoch.

    Raises:
        OSError: it could not be written.
    """
    evidence = Evidence(
        node_id=error.node_id,
        index=error.index,
        term=error.term,
        state_hash=error.own.hex(),
        majority_hash=error.majority.hex(),
        agreeing=error.agreeing,
        found_at=datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
    )
    path = directory / FILE
    files.replace(path, msgspec.json.format(msgspec.json.encode(evidence)) + b"\n")
    return path


def refuse_start(directory: Path) -> None:
    """Do nothing, unless the state in this data directory has diverged.

    Raises:
        DataDirectoryError: it has, and nothing must be started on it.
    """
    path = directory / FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Evidence)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DataDirectoryError(f"{path}: the state in this data directory has diverged. {WAY_BACK}") from None
    raise DataDirectoryError(
        f"{path}: the state in this data directory has diverged. At index {found.index} its hash was {found.state_hash}, that of "
        f"{', '.join(found.agreeing)} {found.majority_hash} (found {found.found_at}, term {found.term}). {WAY_BACK}"
    )

"""A data directory that is an old copy, or a copy that ran elsewhere: noted in it, so that no start serves from it
again.

A node that goes back in time has forgotten what it acknowledged and whom it voted for. It looks like any other node
that was down, so the nodes number their starts and tell each other (`engine.introductions`): who meets an earlier start
of a directory than one it has met before, or a follower whose log ends before what that has acknowledged, knows that
the directory is not what it was.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from node.errors import DataDirectoryError
from node.system import files

FILE = "stale.json"
STARTS = "starts.json"

WAY_BACK = (
    "Nothing must be started on it. If another process runs on a copy of it, stop that one. Move the directory away and start the node with: "
    "quorumbook node start --rejoin. It takes everything from the others, and votes when it has caught up"
)


class Evidence(msgspec.Struct, frozen=True):
    """The contents of `stale.json`: who noticed, and what."""

    node_id: str
    noticed_by: str
    what: str


class Starts(msgspec.Struct, frozen=True):
    """The contents of `starts.json`: how often an engine was started on this directory."""

    starts: int


def keep(directory: Path, evidence: Evidence) -> Path:
    """Write the evidence, durable on return; its path.

    Raises:
        OSError: it could not be written.
    """
    path = directory / FILE
    files.replace(path, msgspec.json.format(msgspec.json.encode(evidence)) + b"\n")
    return path


def refuse_start(directory: Path) -> None:
    """Do nothing, unless it is known that this data directory is an old or a second copy.

    Raises:
        DataDirectoryError: it is.
    """
    path = directory / FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Evidence)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DataDirectoryError(f"{path}: this data directory is an old or a second copy. {WAY_BACK}") from None
    raise DataDirectoryError(f"{path}: {found.noticed_by} noticed: {found.what}. {WAY_BACK}")


def count_start(directory: Path) -> int:
    """The number of this start, from 1 on; durable on return.

    Raises:
        DataDirectoryError: the count cannot be read.
        OSError: it cannot be written.
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

"""What a test tells the file system, and where the file system leaves what it knows. Needs no FUSE library."""

from __future__ import annotations

import msgspec

PATHS = "paths.json"
"""Beside the model: where files with waiting writes lay when the file system was unmounted, by id."""


class Control(msgspec.Struct):
    """What goes wrong with a sync of a file whose name begins with `prefix`: it takes longer, by seconds between
    `delay[0]` and `delay[1]`; it fails with EIO, `failures` times; it does nothing and says that it did (`lies`); or it
    ends only when the control does not say so any more, and does nothing either (`holds`): whoever asked for it was
    killed meanwhile."""

    prefix: str = ""
    delay: tuple[float, float] = (0.0, 0.0)
    failures: int = 0
    lies: bool = False
    holds: bool = False

"""Which core runs: the compiled one, or these sources as they are.

The sources of this package are plain Python. With the types in their `.pxd` files Cython compiles the same sources
(`setup.py`). What it makes lies in `_compiled/<digest>/`, where the digest is that of all sources it was made of. So a
compiled core is taken only if it was made of exactly these sources; after any change the plain core runs until it is
compiled again. The environment variable QUORUMBOOK_CORE chooses:

- `plain`: the sources as they are;
- `compiled`: the compiled core, or an error;
- not set: the compiled core if there is one.
"""

from __future__ import annotations

import os  # pure: only to choose the core, before anything runs
import sys  # pure: as above
from hashlib import sha256
from pathlib import Path  # pure: as above

MODULES = (
    *("exact", "writer", "entry"),
    *("reply_cache", "entities", "book", "changes", "state"),
    *("validation", "emit", "answer", "matching", "handlers", "engine"),
)
"""What is compiled: what every order passes. `writer` and `entry` have a twin, `<name>.pyx`, that is compiled instead."""

CHOICE = "QUORUMBOOK_CORE"
PLAIN, COMPILED = "plain", "compiled"

_HERE = Path(__file__).parent


class CoreError(ImportError):
    """The core that was asked for is not there."""


def source_digest() -> str:
    """Names the sources of the compiled core, and what they were compiled with."""
    digest = sha256()
    for name in MODULES:
        for suffix in (".py", ".pyx", ".pxd"):
            source = _HERE.joinpath(name + suffix)
            if source.exists():
                digest.update(f"{source.name}\n".encode())
                digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def compiled_directory() -> Path:
    """Where the compiled core of these sources is, or belongs."""
    return _HERE.joinpath("_compiled", source_digest())


def choose(package_path: list[str]) -> str:
    """Put the compiled core before the sources on a package's path, if it is there and wanted; which of the two runs.

    Raises:
        CoreError: QUORUMBOOK_CORE is none of the two, or asks for a compiled core that is not there.
    """
    wanted = os.environ.get(CHOICE, "")  # pure: as above
    if wanted not in ("", PLAIN, COMPILED):
        raise CoreError(f"{CHOICE}: expected {PLAIN} or {COMPILED}, not {wanted!r}")
    if wanted == PLAIN:
        return PLAIN
    directory = compiled_directory()
    if all(any(directory.glob(f"{name}.{sys.implementation.cache_tag}-*.so")) for name in MODULES):
        package_path.insert(0, str(directory))
        return COMPILED
    if wanted == COMPILED:
        raise CoreError(
            f"{CHOICE} asks for the compiled core, and there is none of these sources for this Python: run `make core`"
        )
    return PLAIN

"""The choice between the compiled core and the plain sources.

The sources of this package are plain Python. Cython compiles the same sources with the types in their `.pxd` files
(`setup.py`). The output is in `_compiled/<digest>/`, where the digest covers all compiled sources. So a compiled core
is used only if it was made from exactly these sources. After any change the plain core runs until the core is compiled
again. The environment variable QUORUMBOOK_CORE chooses:

- `plain`: the sources as they are;
- `compiled`: the compiled core, or an error;
- not set: the compiled core if there is one.
"""

from __future__ import annotations

import os  # pure: only to choose the core, before anything runs
import sys  # pure: as above
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path  # pure: as above

MODULES = (
    *("exact", "writer", "entry"),
    *("reply_cache", "entities", "order_index", "book", "changes", "state"),
    *("validation", "emit", "answer", "matching", "handlers", "engine"),
    *("order_rows", "invariants", "loading"),
)
"""The compiled modules: every order or every order of a snapshot uses them. `writer`, `entry`, `reply_cache`,
`order_index` and `order_rows` have a twin, `<name>.pyx`, that is compiled instead.
"""

CHOICE = "QUORUMBOOK_CORE"
PLAIN, COMPILED = "plain", "compiled"

_HERE = Path(__file__).parent


class CoreError(ImportError):
    """The requested core does not exist."""


def source_digest(root: Path = _HERE, modules: Sequence[str] = MODULES) -> str:
    """Return the digest of the sources of the compiled modules. `root` is the directory of their package."""
    digest = sha256()
    for name in modules:
        for suffix in (".py", ".pyx", ".pxd"):
            source = root.joinpath(name.replace(".", "/") + suffix)
            if source.exists():
                digest.update(f"{source.name}\n".encode())
                digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def compiled_directory(root: Path = _HERE, modules: Sequence[str] = MODULES) -> Path:
    """Return the directory of the compiled modules of these sources."""
    return root.joinpath("_compiled", source_digest(root, modules))


def choose(package_path: list[str], root: Path = _HERE, modules: Sequence[str] = MODULES) -> str:
    """Put the compiled core before the sources on a package's path, if it exists and is allowed. Returns the name of
    the core that runs.

    `node/compiled.py` chooses other modules by the same rules, and passes the directory of their package and their
    names.

    Raises:
        CoreError: QUORUMBOOK_CORE has another value, or requires a compiled core that does not exist.
    """
    wanted = os.environ.get(CHOICE, "")  # pure: as above
    if wanted not in ("", PLAIN, COMPILED):
        raise CoreError(f"{CHOICE}: expected {PLAIN} or {COMPILED}, not {wanted!r}")
    if wanted == PLAIN:
        return PLAIN
    directory = compiled_directory(root, modules)
    if all(any(directory.glob(f"{name.replace('.', '/')}.{sys.implementation.cache_tag}-*.so")) for name in modules):
        package_path.insert(0, str(directory))
        return COMPILED
    if wanted == COMPILED:
        raise CoreError(
            f"{CHOICE} asks for the compiled core, and there is none of these sources for this Python: run `make core`"
        )
    return PLAIN

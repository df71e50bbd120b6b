"""The choice between the compiled modules of the gateway and their plain sources.

Nearly every request over HTTP goes through these modules. Their sources are plain Python, and Cython compiles them with
the types in their `.pxd` files (`setup.py`), by the same rules as the core (`statemachine/core.py`): the digest in
`_compiled/<digest>/` covers all sources of the set, after any change the plain modules run, and the environment
variable QUORUMBOOK_CORE chooses. ADR 0062 says why these modules and no others.
"""

from __future__ import annotations

from pathlib import Path

MODULES = (
    *("native.framing", "native.arrivals", "native.submissions"),
    *("gateway.http.messages", "gateway.http.connection", "gateway.plain_order", "gateway.direct"),
)
"""The compiled modules, named from this package on. `gateway.plain_order` has a twin, `plain_order.pyx`, that is
compiled instead.
"""

ROOT = Path(__file__).parent


def choose(package: str, package_path: list[str]) -> str:
    """Put the compiled modules of a package of `node` before its sources on its path, if all modules of the set are
    compiled and allowed. Returns `plain` or `compiled`.

    Raises:
        CoreError: QUORUMBOOK_CORE has another value, or requires compiled modules that do not exist.
    """
    from statemachine import core  # here, because setup.py reads MODULES before anything is compiled

    found: list[str] = []
    chosen = core.choose(found, ROOT, MODULES)
    package_path[:0] = [str(Path(directory, *package.split(".")[1:])) for directory in found]
    return chosen

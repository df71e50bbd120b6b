"""Write `deploy/requirements.lock`: of requirements.lock what a running node needs. No test tools, no load generator.

    python deploy/runtime_lock.py > deploy/requirements.lock

Run it in the environment of `make setup` whenever requirements.lock changes; a test compares.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_ON_NODES = frozenset({"locust"})
"""Dependencies of the project that only load tests need."""
EXTRAS = ("fix",)
"""Extras that are in the image: FIX is one small package of pure Python, and the manifests open its port."""


def closure(wanted: list[str]) -> set[str]:
    """Return the names of these requirements and of all that they need on this machine."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in NOT_ON_NODES or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        if name in found:
            continue
        found.add(name)
        try:
            waiting += [Requirement(text) for text in requires(requirement.name) or ()]
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed here: make setup") from None
    return found


def lock() -> str:
    """Return the text of the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [text for name in EXTRAS for text in project["project"]["optional-dependencies"][name]]
    needed = closure([*project["project"]["dependencies"], *extras, *project["build-system"]["requires"]])
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    kept = [block for block in blocks if (name := re.match(r"[A-Za-z0-9._-]+", block)) and canonicalize_name(name[0]) in needed]
    return "# Written by deploy/runtime_lock.py from requirements.lock: what a running node needs.\n" + "".join(kept)


if __name__ == "__main__":
    sys.stdout.write(lock())

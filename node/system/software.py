"""Which software this is: its version and, where it runs from a checkout, the commit."""

from __future__ import annotations

import functools
import subprocess
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent


def version() -> str:
    """The version that is installed."""
    return metadata.version("quorumbook")


@functools.cache
def commit() -> str:
    """The first digits of the checkout's commit; "" where there is none."""
    if not (_ROOT / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def title() -> str:
    """Version and commit in a line."""
    return f"{version()} (commit {commit()})" if commit() else version()

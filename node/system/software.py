"""The running software: its version and, in a checkout, the commit."""

from __future__ import annotations

import functools
import subprocess
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent


def version() -> str:
    """Return the installed version."""
    return metadata.version("quorumbook")


@functools.cache
def commit() -> str:
    """Return the first digits of the checkout's commit; "" outside a checkout."""
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
    """Return version and commit as one line."""
    return f"{version()} (commit {commit()})" if commit() else version()

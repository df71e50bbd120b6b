"""Programs of the system that faults are made with."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.chaos.errors import CommandFailedError, NotPossibleError

COMMAND_SECONDS = 30


def call(*argv: str) -> str:
    """Run a program that must succeed; what it prints. Raises `CommandFailedError` with its words when it does not."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode:
        raise CommandFailedError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def need_root(*tools: str) -> None:
    """Raise `NotPossibleError` unless this process is root and has these programs."""
    if os.geteuid() != 0:
        raise NotPossibleError("needs root")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise NotPossibleError(f"needs {', '.join(missing)}")

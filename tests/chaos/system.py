"""The system's programs that the faults use."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from tests.chaos.errors import CommandFailedError, NotPossibleError

COMMAND_SECONDS = 30


def call(*argv: str) -> str:
    """Run a program, and return its output. Raises `CommandFailedError` with the output if it fails."""
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


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

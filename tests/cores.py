"""Runs the same code with both cores, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from statemachine.core import CHOICE, COMPILED, PLAIN, compiled_directory

ROOT = Path(__file__).parents[1]
CORES = (PLAIN, COMPILED)

needs_compiled_core = pytest.mark.skipif(
    not compiled_directory().exists(), reason="no compiled core of these sources: `make core` makes one where a C compiler is"
)


def run(core: str, *arguments: str, timeout: float = 100) -> str:
    """Return what `python arguments` prints with one of the cores."""
    environment = {**os.environ, CHOICE: core, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{core}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def both(*arguments: str, timeout: float = 100) -> tuple[Any, Any]:
    """Return what each core prints, decoded from JSON."""
    plain, compiled = (json.loads(run(core, *arguments, timeout=timeout)) for core in CORES)
    return plain, compiled

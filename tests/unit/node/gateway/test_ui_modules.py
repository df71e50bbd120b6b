"""The parts of the page that need no browser: `ui_modules.mjs`, run by Node.js."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ui_modules.mjs")
SECONDS = 60


def test_the_tests_of_the_modules_pass_without_a_browser() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    done = subprocess.run([node, "--test", str(SCRIPT)], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

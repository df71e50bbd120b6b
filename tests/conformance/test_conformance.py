"""The engine passes the profile `fifo-full-v1` of a foreign judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TRACES = 12
EVENTS = 60


def test_the_engine_is_qualified(tmp_path: Path) -> None:
    judge = Path(sys.executable).with_name("tracebook-conformance")
    report = tmp_path / "report"
    options = ["--profile", "fifo-full-v1", "--traces", str(TRACES), "--events-per-trace", str(EVENTS), "--timeout", "60"]
    command = [
        str(judge),
        "qualify",
        "--output-dir",
        str(report),
        *options,
        "--candidate",
        sys.executable,
        "-m",
        "tests.conformance.adapter",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((report / "qualification.json").read_text(encoding="utf-8"))
    assert found["qualified"]
    assert found["profile"]["name"] == "fifo-full-v1"

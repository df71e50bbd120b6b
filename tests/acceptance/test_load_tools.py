"""The tools that a person starts: Locust's users and the demonstration, in short."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_cluster import Exchange

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]


def run(arguments: list[str], seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python program's end. Killed, with what it started in its session, after `seconds`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def test_locust_trades_without_a_failure(shared_exchange: Exchange, tmp_path: Path) -> None:
    follower = next(
        url for name, url in shared_exchange.access.https.items() if name != asyncio.run(shared_exchange.cluster.leader())
    )
    ended = run(
        [
            "-m",
            "locust",
            "-f",
            "loadtest/locustfile.py",
            "--host",
            follower,
            "--headless",
            "-u",
            "6",
            "-r",
            "6",
            "-t",
            "6s",
            "--json-file",
            str(tmp_path / "stats"),
            "--exit-code-on-error",
            "1",
        ],
        60,
        QUORUMBOOK_CLUSTER=str(shared_exchange.directory),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    stats = json.loads((tmp_path / "stats.json").read_text(encoding="utf-8"))
    orders = [entry for entry in stats if entry["name"] == "POST /orders"]
    assert orders, ended.stdout + ended.stderr
    assert orders[0]["num_requests"] > 50
    assert sum(entry["num_failures"] for entry in stats) == 0


def test_the_demonstration_holds(tmp_path: Path) -> None:
    ended = run(
        [
            "-m",
            "loadtest.demo",
            "--seconds",
            "8",
            "--seed",
            "3",
            "--directory",
            str(tmp_path / "demo"),
            "--results",
            str(tmp_path / "runs.jsonl"),
        ],
        100,
        TERM="dumb",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "\x1b" not in ended.stdout, "no control characters without a terminal"
    assert "FAILS" not in ended.stdout
    assert "gap in acknowledgements" in ended.stdout
    result = json.loads((tmp_path / "runs.jsonl").read_text(encoding="utf-8"))
    assert result["holds"] is True
    assert 0 < result["gap"] < 5
    assert result["acknowledged"] > 1000

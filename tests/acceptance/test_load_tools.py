"""Short runs of the tools that a person starts: the load test with Locust and the demonstration."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.traffic.report import read
from loadtest.watch import reached
from tests.real_cluster import Exchange

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]

GAP_MAX_S = 10.0
"""Seconds without an answer after a leader's death, on a machine that does much else. docs/reliability.md has the
figures of a quiet one.
"""


def run(arguments: list[str], seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program. Raises TimeoutExpired, after it has killed the program, if it runs longer than `seconds`."""
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
    stats = tmp_path / "stats"
    options = ["--host", follower, "--headless", "-u", "6", "-r", "6", "-t", "60s", "--only-summary"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "locust",
            "-f",
            "loadtest/locustfile.py",
            *options,
            "--csv",
            str(stats),
            "--json-file",
            str(stats),
        ],
        cwd=ROOT,
        env={**os.environ, "QUORUMBOOK_CLUSTER": str(shared_exchange.directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            ended = asyncio.run(reached(lambda: orders(tmp_path / "stats_stats.csv") > 50 or process.poll() is not None, 60))
            process.terminate()
            output, _ = process.communicate(timeout=40)
        finally:
            process.kill()
    assert ended, output
    assert process.returncode == 0, output
    entries = json.loads((tmp_path / "stats.json").read_text(encoding="utf-8"))
    assert sum(entry["num_failures"] for entry in entries) == 0, output
    assert any(entry["name"].startswith("place") and entry["num_requests"] > 10 for entry in entries), output
    assert f"{asyncio.run(shared_exchange.leader_url())} leads" in output, "users ask the leader, whichever node was named"
    assert "longest time without an answer" in output
    assert "holds:" in output


@pytest.mark.timeout(200)
def test_the_load_test_survives_the_death_of_the_leader(tmp_path: Path) -> None:
    """All that `make loadtest` does: three protocols, an open loop, a master and two workers, a recorded day, a killed
    leader, the generator's own limit, the verdict and the report.
    """
    results = tmp_path / "results"
    options = ["--users", "14", "--minutes", "0.15", "--processes", "2", "--arrivals", "80", "--kill-leader"]
    ended = run(["-m", "loadtest.traffic", *options, "--results", str(results)], 180, TERM="dumb", QUORUMBOOK_DATA="")
    log = (results / "locust.log").read_text(encoding="utf-8") if (results / "locust.log").exists() else ""
    assert ended.returncode == 0, ended.stdout + ended.stderr + log
    assert "2 workers connected" in log
    assert "FAILS" not in ended.stdout
    assert "the leader, was killed" in ended.stdout
    assert "requests/s on this machine" in ended.stdout
    found = read(results)
    assert {one.protocol for one in found.bins} == {"HTTP", "WebSocket", "native", "reads", "feed"}
    assert 0 < found.gap_at(found.marks[0]).seconds < GAP_MAX_S
    claims = " ".join(check.claim for check in found.checks)
    for claim in ("exactly once", "books rebuilt from the feeds", "state hashes", "killed and started again"):
        assert claim in claims
    page = (results / "report.html").read_text(encoding="utf-8")
    assert page.count('class="mark"') == 2
    assert (results / "locust.html").exists()
    with (results / "locust_stats.csv").open(newline="", encoding="utf-8") as file:
        names = {row["Name"].partition(" (")[0] for row in csv.DictReader(file)}
    assert {"place", "cancel", "open orders", "feed", "recorded day"} <= names


def test_a_load_test_that_sends_nothing_fails(tmp_path: Path) -> None:
    """Formerly its exit code was 0."""
    (tmp_path / "admin.json").write_text('{"key_id": "k", "secret": "c2VjcmV0", "passphrase": "p"}')
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "locust",
            "-f",
            "loadtest/locustfile.py",
            "--headless",
            "-u",
            "1",
            "-t",
            "1s",
            "--host",
            "http://127.0.0.1:9",
        ],
        cwd=ROOT,
        env={**os.environ, "QUORUMBOOK_CLUSTER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the market cannot be created" in done.stderr


def orders(path: Path) -> int:
    """Return how many orders Locust has counted so far, from the file that it writes every second."""
    if not path.exists():
        return 0
    with path.open(newline="", encoding="utf-8") as lines:
        return sum(int(row["Request Count"] or 0) for row in csv.DictReader(lines) if row["Name"].startswith("place"))


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
    assert 0 < result["gap"] < GAP_MAX_S
    assert result["acknowledged"] > 1000

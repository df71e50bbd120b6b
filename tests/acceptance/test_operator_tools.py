"""The operator's tools doctor, check, can-stop, bundle, bench and top on a real cluster."""

from __future__ import annotations

import functools
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.real_cluster import MakeGround, run_cli

pytestmark = pytest.mark.cluster


def test_the_tools_report_the_true_state_of_a_cluster(make_ground: MakeGround, tmp_path: Path) -> None:
    ground = make_ground()

    run = functools.partial(run_cli, ground.directory)

    def run_json(*words: str, code: int | None = 0) -> Any:
        return json.loads(run(*words, "--json", code=code).stdout)

    measured = run_json("bench", "--seconds", "1")
    assert measured["orders"] > 100
    assert 0 < measured["latency_p50_s"] <= measured["latency_p99_s"] < 5
    first, second, *_ = run("bench", "--seconds", "0.5").stdout.splitlines()
    assert first.endswith("orders a second")
    assert "p99" in second, "the two numbers come first in a second run too"

    findings = run_json("doctor", code=None)["findings"]
    assert not [
        each for each in findings if each["level"] in ("critical", "unknown") and each["check"] not in ("disk space", "fsync")
    ]
    logs = [each["text"] for each in findings if each["check"] == "log"]
    assert len(logs) == 3
    assert all("that the node has applied, all checksums match" in text for text in logs)

    watched = run_json("check", "leader", "nodes", "states", "lag", "certificates", "snapshot")
    assert watched["level"] == "ok"
    shown = run_json("top", "--interval", "0.3")
    assert {each["node_id"] for each in shown["nodes"]} == {"n1", "n2", "n3"}
    assert shown["products"][0]["product_id"] == "BENCHA-BENCHB"

    assert "may stop" in run("cluster", "can-stop", "n1").stdout
    config = str(ground.cluster.layout.config_paths["n3"])
    run("node", "stop", "--config", config)
    assert "n3 does not serve" in run("cluster", "can-stop", "n1", code=1).stdout
    other = str(ground.cluster.layout.config_paths["n1"])
    assert "is not stopped" in run("node", "stop", "--config", other, code=1).stderr
    assert run("check", "nodes", code=1).stdout.startswith("WARNING - nodes - n3 does not answer")

    path = tmp_path / "bundle.tar.gz"
    missing = [each["name"] for each in run_json("bundle", "--output", str(path))["manifest"]["files"] if each["missing"]]
    assert missing == ["n3/status.json", "n3/http-status.json", "n3/metrics.txt", "n3/processes"]
    with tarfile.open(path) as archive:
        log = archive.extractfile("bundle/n1/node.log")
        assert log is not None
        text = log.read().decode()
    assert "most recent call first" in text, "the stacks of the node's processes"
    assert ground.cluster.pid("n1") is not None, "asking for stacks ended nothing"
    run("cluster", "up", "--node", "n3")
    assert "may stop" in run("cluster", "can-stop", "n1", "--wait", "20").stdout

"""Certificates expire while a cluster runs. The nodes warn of that, renew them without a restart, and serve after the
old ones have expired.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest.ground import Ground, prepare
from node.cli import main
from node.cluster_directory import ClusterDirectory
from node.deployment.renewing import renew
from node.system.processes import ENGINE_PID_FILE, locked_pid
from node.tls.certificates import LOOK_SECONDS
from tests.real_cluster import READY_SECONDS, end

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

LIFETIME = datetime.timedelta(seconds=60)
"""Long enough for three nodes to start on a machine with other work; the test waits until it is over."""


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """Make a cluster whose nodes' certificates expire soon."""
    made = prepare(tmp_path / "cluster")
    layout = ClusterDirectory(made.directory)
    renew(layout, layout.node_ids, datetime.datetime.now(datetime.UTC), LIFETIME)
    try:
        yield made
    finally:
        end(made)


def quorumbook(ground: Ground, *arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments, "--cluster", str(ground.directory)])
    assert result.exit_code == 0, result.output
    return result.stdout


def engines(ground: Ground) -> dict[str, int | None]:
    configs = ground.cluster.layout.configs
    return {node_id: locked_pid(config.data_path / ENGINE_PID_FILE) for node_id, config in configs.items()}


def test_certificates_are_renewed_while_the_cluster_runs(ground: Ground) -> None:
    asyncio.run(ground.start())
    before = engines(ground)
    shown = {each["of"]: each for each in json.loads(quorumbook(ground, "pki", "show", "--json"))}
    ends = max(shown[node_id]["in_use_ends"] for node_id in before)
    assert 0 < ends - time.time() < LIFETIME.total_seconds()
    assert "renew it: quorumbook pki renew" in quorumbook(ground, "cluster", "status")
    log_text = (ground.directory / "n1" / "node.log").read_text()
    assert "the certificate of n1 expires on" in log_text
    with urllib.request.urlopen(f"{ground.cluster.layout.http_urls['n1']}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    assert 'quorumbook_certificate_expires_timestamp_seconds{node="n1"}' in metrics

    assert quorumbook(ground, "pki", "renew").count("in use") == 3
    while time.time() < ends + LOOK_SECONDS:
        time.sleep(0.2)

    # All connections of n3 are made again, in both directions, after the former certificates have ended.
    ground.cluster.kill("n3")
    ground.cluster.start(["n3"])
    asyncio.run(ground.cluster.wait_ready(READY_SECONDS))
    quorumbook(ground, "currency", "put", "USD", "--scale", "2")
    now = engines(ground)
    assert {name: now[name] for name in ("n1", "n2")} == {name: before[name] for name in ("n1", "n2")}, "nobody was restarted"

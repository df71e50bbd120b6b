"""`history status | archive` while the database is missing or cannot be used."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from node.config.settings import NodeConfig
from node.deployment.local_cluster import LocalCluster
from node.deployment.statuses import Statuses
from node.history import partitions
from node.history.partitions import Partition
from tests.unit.node.cli.conftest import Run, Watched


@pytest.fixture
def cluster(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make three nodes that keep histories and were never started."""
    run("init", "trial")
    path = tmp_path / "trial"
    for file in path.glob("n*/node.toml"):
        file.write_text(file.read_text().replace("# enabled = false", "enabled = true"))

    async def nobody(_: LocalCluster) -> Statuses:
        await asyncio.sleep(0)
        return {}

    monkeypatch.setattr(LocalCluster, "status", nobody)
    return path


def test_a_node_without_a_history_is_reported_and_gets_none(run: Run, cluster: Path) -> None:
    standings = json.loads(run("history", "status", "--cluster", str(cluster), "--json").stdout)
    assert [(each["node_id"], each["sequence"], each["gaps"]) for each in standings] == [
        ("n1", 0, []),
        ("n2", 0, []),
        ("n3", 0, []),
    ]
    config = cluster / "n1" / "node.toml"
    for kept in (False, True):
        place = cluster / "n1" / "data" / "history"
        if kept:
            place.mkdir(parents=True)
        refused = run("history", "archive", "--config", str(config), "--before", "2026-01-03", code=1)
        assert refused.output == "Error: n1 has no history yet\n"
        assert not (place / "history.sqlite").exists()


def test_a_database_that_cannot_be_used_is_reported_in_one_line(run: Run, cluster: Path) -> None:
    place = cluster / "n1" / "data" / "history"
    place.mkdir(parents=True)
    (place / "history.sqlite").write_text("this is not a database, and long enough to be none for sure: " * 20)
    refused = run("history", "archive", "--config", str(cluster / "n1" / "node.toml"), "--before", "2026-01-03", code=1)
    assert refused.output.startswith("Error: the history's database cannot be used: ")
    assert "file is not a database" in refused.output
    assert len(refused.output.splitlines()) == 1


def test_days_that_move_have_a_bar(watched: Watched, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def moving(_config: NodeConfig, _before: datetime.date, progress: Callable[[str, int, int], None]) -> list[Partition]:
        progress("the days of the table trades move", 1, 4)
        return []

    monkeypatch.setattr(partitions, "archive_days", moving)
    shown = watched("history", "archive", "--config", str(cluster / "n1" / "node.toml"), "--before", "2026-01-03")
    assert "the days of the table trades move" in shown
    assert "25%" in shown


def test_the_others_are_shown_when_one_database_cannot_be_read(run: Run, cluster: Path) -> None:
    place = cluster / "n1" / "data" / "history"
    place.mkdir(parents=True)
    (place / "history.sqlite").write_text("this is not a database, and long enough to be none for sure: " * 20)
    refused = run("history", "status", "--cluster", str(cluster), code=1)
    assert "unreadable" in refused.stdout
    assert "n3" in refused.stdout
    assert refused.stderr.startswith("Error: n1: the history's database cannot be used: ")
    assert "file is not a database" in refused.stderr

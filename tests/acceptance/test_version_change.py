"""A cluster stops as one version, starts as the next with the same command, and goes back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.access import ClusterAccess
from loadtest.ground import Ground, prepare
from node.errors import NodeStartError
from node.keys.credentials import Credentials
from node.migration.contents import look
from node.records.audit import audit_directory
from snapshots.abi import ABI
from snapshots.levels.level import BROUGHT_TO
from statemachine.commands import AnyCommand, OpenAccount
from statemachine.events import AnyOutcome, Done, Placed
from statemachine.limits import OPERATOR
from tests.real_cluster import READY_SECONDS, end
from tests.unit.node.migrating import entries_of, write_former
from tests.unit.snapshots.states import foundations, trading
from tests.unit.snapshots.versions import FOUR, ONE, THREE, TWO, write_descriptions

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
TRADES = trading(5, 40)
ENTRIES = entries_of([*foundations(), *TRADES], BROUGHT_TO)
EARLIER = f"{Path(__file__).with_name('earlier')}{os.pathsep}{ROOT}"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = prepare(tmp_path / "cluster")
    try:
        yield made
    finally:
        end(made)


@pytest.fixture
def past(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """Make nodes as version 1 left them: each has another snapshot, one has none, and n3 lacks the last two entries."""
    for node_id, cut, last in (("n1", 25, len(ENTRIES)), ("n2", len(ENTRIES), len(ENTRIES)), ("n3", 0, len(ENTRIES) - 2)):
        data = ground.directory / node_id / "data"
        write_former(data, ENTRIES[:last], cut, tmp_path / "versions", node_id=node_id)
    monkeypatch.setenv("PYTHONPATH", EARLIER)
    monkeypatch.setenv("EARLIER_RELEASES", str(write_descriptions(tmp_path / "released", ONE, TWO, THREE, FOUR)))
    return ground


def command_line(*arguments: str, code: int = 0) -> str:
    """Run the program as an operator does. Returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", "from node.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


async def submitted(ground: Ground, command: AnyCommand, credentials: Credentials | None = None) -> AnyOutcome:
    client = ClusterAccess(ground.directory).client(credentials)
    try:
        (outcome,) = await client.submit([command])
        return outcome
    finally:
        await client.close()


async def alike(ground: Ground) -> None:
    """Wait until all nodes have applied the same and have the same state."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            statuses = await ground.cluster.wait_ready(READY_SECONDS)
            if len({(status.sequence, status.state_hash) for status in statuses.values() if status is not None}) == 1:
                return
            await asyncio.sleep(0.05)


def history_has_all(ground: Ground) -> None:
    """Wait until the history of n1 has every command without a gap."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        (found,) = json.loads(command_line("history", "status", "--cluster", str(ground.directory), "--json"))
        if found["behind"] == 0:
            assert found["gaps"] == []
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_a_cluster_of_an_earlier_version_starts_trades_and_goes_back(past: Ground, tmp_path: Path) -> None:
    directory = str(past.directory)
    config = past.directory / "n1" / "node.toml"
    config.write_text(config.read_text().replace("# enabled = false", "enabled = true"))
    rehearsed = json.loads(command_line("migrate", "--check", "--cluster", directory, "--json"))
    assert [each["needed"] for each in rehearsed] == [True, True, True]
    assert rehearsed[0]["state_hash"] == rehearsed[1]["state_hash"] != rehearsed[2]["state_hash"]

    asyncio.run(past.start())
    first = (past.directory / "n1" / "node.log").read_text()
    assert f"ABI {ONE.abi}" in first
    assert f"it is brought to level {BROUGHT_TO.version}" in first
    traded = next(batch.commands[0] for batch in TRADES if batch.commands[0].account_id == "ann")
    again = asyncio.run(submitted(past, traded, Credentials("key-ann", "c2VjcmV0", "pass")))
    assert isinstance(again, Placed)
    assert again.duplicate, "the reply cache has commands acknowledged before"
    opened = asyncio.run(submitted(past, OpenAccount(OPERATOR, "new-1", "new")))
    assert isinstance(opened, Done)
    asyncio.run(alike(past))
    history_has_all(past)
    past.stop()
    assert audit_directory(past.directory).holds, "the converted log gives the state that the nodes have"

    out = tmp_path / "since"
    output = command_line("rollback", "--cluster", directory, "--export", str(out))
    assert output.count(f"back at ABI {ONE.abi}") == 3
    assert output.count("market database: cut back by") == 1
    heading, *lines = [json.loads(line) for line in (out / "n1-since-migration.jsonl").read_text().splitlines()]
    assert (heading["abi"], heading["level"][0]) == (ABI, BROUGHT_TO.version)
    assert [command["kind"] for line in lines for command in line["commands"]] == ["PlaceOrder", "OpenAccount"]
    assert {look(past.directory / name / "data").abi for name in past.cluster.node_ids} == {ONE.abi}

    asyncio.run(past.start())
    opened = asyncio.run(submitted(past, OpenAccount(OPERATOR, "new-1", "new")))
    assert isinstance(opened, Done)
    assert not opened.duplicate, "an undone command is not in the reply cache"
    asyncio.run(alike(past))
    history_has_all(past)
    past.stop()
    assert command_line("migrate", "--finalize", "--cluster", directory).count("1 migration(s) made final") == 3
    assert "no migration that could be undone" in command_line("rollback", "--cluster", directory, "--without-export", code=1)


def test_a_node_that_does_not_know_the_abi_does_not_start(past: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EARLIER_RELEASES")
    with pytest.raises(NodeStartError, match=f"ABI {ONE.abi} is not known to this software"):
        asyncio.run(past.start())


def test_nodes_of_different_abis_report_it_and_do_not_replicate(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "f" * 40
    ground.cluster.start(["n1", "n2"])
    monkeypatch.setenv("PYTHONPATH", EARLIER)
    monkeypatch.setenv("OTHER_ABI", other)
    ground.cluster.start(["n3"])
    monkeypatch.delenv("OTHER_ABI")
    asyncio.run(ground.cluster.wait_ready(READY_SECONDS, ["n1", "n2"]))

    async def log_text() -> str:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                text = "".join((ground.directory / name / "node.log").read_text() for name in ("n1", "n2", "n3"))
                if text.count(other) > 1:
                    return text
                await asyncio.sleep(0.1)

    text = asyncio.run(log_text())
    assert f"ABI {other}" in text
    opened = asyncio.run(submitted(ground, OpenAccount(OPERATOR, "new-1", "new")))
    assert isinstance(opened, Done)
    statuses = asyncio.run(ground.cluster.status())
    third = statuses["n3"]
    assert third is not None
    assert (third.leader_id, third.sequence, third.abi) == ("", 0, other)

"""`abi`, `migrate`, `rollback` on directories of this machine."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.log import DurableLog
from cluster.messages import COMMAND
from cluster.ports import LogEntry
from cluster.storage import RealDisk
from node.config.file import load
from node.config.settings import HistoryConfig
from node.deployment.setup import initialise
from node.history import tables
from node.history.database import connect, head
from node.migration import cutover
from node.migration.contents import LOG
from node.migration.start import at_start
from node.system.processes import ENGINE_PID_FILE, PID_FILE, PidFile
from snapshots.abi import ABI, SCHEMA, releases
from snapshots.levels.level import BROUGHT_TO
from snapshots.migration import chain
from tests.unit.node.cli.conftest import Run, Watched
from tests.unit.node.history.logs import rows_of
from tests.unit.node.migrating import entries_of, write_former
from tests.unit.snapshots.states import encoded, foundations, trading
from tests.unit.snapshots.versions import FORWARD, FOUR, ONE, THREE, TWO, TWO_TO_THREE, with_changes, write_descriptions

WRITTEN = chain.written_migrations()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cluster of one node with data of version 1."""
    directory = tmp_path_factory.mktemp("template")
    initialise(directory / "cluster", 1)
    data = directory / "cluster" / "n1" / "data"
    write_former(data, entries_of([*foundations(), *trading(5, 10)], BROUGHT_TO), 8, directory / "versions")
    return directory / "cluster"


@pytest.fixture
def data(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy it as `cluster`, and install software that knows the migrations. Returns its data directory."""
    monkeypatch.setattr(releases, "DIRECTORY", write_descriptions(tmp_path / "released", ONE, TWO, THREE, FOUR))
    monkeypatch.setattr(chain, "written_migrations", lambda: {**WRITTEN, **FORWARD})
    shutil.copytree(template, tmp_path / "cluster")
    return tmp_path / "cluster" / "n1" / "data"


def migrated(data: Path) -> None:
    at_start(load(data.parent / "node.toml"))


def test_abis_are_listed_shown_and_compared(
    run: Run, data: Path, run_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = run("abi", "list").stdout.splitlines()
    assert listed == [
        *(f"{each.abi} (version 0.0.{n})" for n, each in enumerate((ONE, TWO, THREE, FOUR), 1)),
        f"{ABI} (this software)",
    ]
    assert [each["version"] for each in run_json("abi", "list")] == ["0.0.1", "0.0.2", "0.0.3", "0.0.4", ""]
    assert "table order: OrderState, key [order_id]" in run("abi", "show").stdout
    assert run("abi", "show", "--json").stdout_bytes == SCHEMA.encode()
    assert "pair: str" in run("abi", "show", ONE.abi[:7]).stdout
    output = run("abi", "diff", ONE.abi, TWO.abi).stdout
    assert "automatic" in output
    assert "field added: fill_fees: int = 0" in output
    assert "needs a migration" in run("abi", "diff", TWO.abi).stdout
    assert run("abi", "diff", ABI).stdout == "no difference\n"
    assert run_json("abi", "diff", ONE.abi, TWO.abi)["changes"][0]["automatic"] is True
    assert "these would be lost" not in run("abi", "diff", TWO.abi).stderr
    monkeypatch.setattr(chain, "written_migrations", lambda: {**WRITTEN, **with_changes(TWO_TO_THREE, removed={})})
    refused = run("abi", "diff", TWO.abi, code=1)
    assert "product.pair (a column of the table product)" in refused.stderr
    assert "field pair removed" in refused.stdout
    assert "ABI 1234567 is not known" in run("abi", "show", "1234567", code=1).stderr


def test_a_rehearsal_is_readable_and_complete(run: Run, data: Path, run_json: Callable[..., Any]) -> None:
    output = run("migrate", "--check", "--from", "cluster", "--diff").stdout
    for part in (
        f"from {ONE.abi} (version 0.0.1)",
        "Step, automatic",
        "Step, module",
        "money is conserved",
        "member",
        "11 entries with 30 commands",
        "# column pair removed: 2 different values, such as BTC/USD",
        "# column fill_fees added",
        "disk",
    ):
        assert part in output, part
    (report,) = run_json("migrate", "--check", "--from", "cluster", "--diff")
    assert (report["needed"], report["node_id"], report["target"]) == (True, "n1", BROUGHT_TO.abi)
    assert report["bytes_needed"] > 0
    assert {each["table"] for each in report["diff"]} >= {"product", "order"}
    shutil.rmtree(data / LOG)
    shutil.rmtree(data / "snapshots")
    assert "nothing to migrate, no data" in run("migrate", "--check", "--from", "cluster").stdout


def test_the_stages_of_a_rehearsal_have_bars(watched: Watched, data: Path) -> None:
    shown = watched("migrate", "--check", "--cluster", "cluster")
    stages = (
        "reading the snapshot",
        "automatic: ",
        "module: ",
        "checking the result",
        "writing the snapshot",
        "converting the log",
    )
    for stage in stages:
        assert f"n1: {stage}" in shown, stage


def test_the_stages_of_a_rollback_have_bars_and_its_output_stays_on_stdout(
    watched: Watched, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    migrated(data)
    shown = watched("rollback", "--cluster", "cluster", "--export", "since")
    output = capsys.readouterr().out
    assert "n1: the undone commands are exported" in shown
    assert "n1: the former data takes its place again" in shown
    assert f"n1: back at ABI {ONE.abi}" in output
    assert "back at ABI" not in shown


def test_a_rehearsal_that_fails_is_one_line(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "written_migrations", dict)
    output = run("migrate", "--check", "--from", "cluster", code=1).stderr
    assert "no migration leads from" in output
    assert "quorumbook migrate new" in output


def test_a_skeleton_is_written_once(run: Run, data: Path, tmp_path: Path) -> None:
    output = run("migrate", "new", TWO.abi, "--to", THREE.abi, "--out", str(tmp_path)).stdout
    path = tmp_path / f"from_{TWO.abi[:12]}.py"
    assert str(path) in output
    assert TWO.abi in path.read_text()
    assert "exists already" in run("migrate", "new", TWO.abi, "--out", str(tmp_path), code=1).stderr


def test_the_modules_of_a_level_are_drafted_once(run: Run, tmp_path: Path) -> None:
    output = run("migrate", "new-level", "0.2.0", "--out", str(tmp_path)).stdout
    assert str(tmp_path / "v0_2_0_rows.py") in output
    assert "class FormerEngine(Engine)" in (tmp_path / "v0_2_0.py").read_text()
    assert "- fee_credit: int = 0" in (tmp_path / "v0_2_0_back.py").read_text()
    assert "exists already" in run("migrate", "new-level", "0.2.0", "--out", str(tmp_path), code=1).stderr
    assert "was not released: expected one of 0.1.0, 0.2.0" in run("migrate", "new-level", "9.9.9", code=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [("migrate",), ("migrate", "--check"), ("migrate", "--check", "--finalize", "--from", "."), ("rollback", "."),
     ("rollback", ".", "--export", "x", "--without-export")],
)  # fmt: skip
def test_a_wrong_command_line_is_a_usage_error(run: Run, arguments: list[str]) -> None:
    assert "expected" in run(*arguments, code=2).stderr


def test_another_version_than_the_one_that_migrated_does_not_go_back(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated(data)
    monkeypatch.setattr(cutover, "ACCEPTED", frozenset({ONE.abi}))
    output = run("rollback", "cluster", "--without-export", code=1).stderr
    assert "roll back with the version that made the migration" in output
    assert len(cutover.former(data)) == 1


def test_a_migration_is_rolled_back_or_made_final(run: Run, data: Path, tmp_path: Path) -> None:
    assert "no migration that could be undone" in run("rollback", "cluster", "--without-export", code=1).stderr
    migrated(data)
    output = run("rollback", "cluster", "--export", "since").stdout
    assert f"back at ABI {ONE.abi}" in output
    assert (tmp_path / "since" / "n1-since-migration.jsonl").read_text().count("\n") == 1
    migrated(data)
    assert "exists already, and nothing was undone" in run("rollback", "cluster", "--export", "since", code=1).stderr
    lock = PidFile.acquire(data / PID_FILE)
    assert "a node runs on this data directory" in run("rollback", "cluster", "--without-export", code=1).stderr
    lock.release()
    assert "1 migration(s) made final" in run("migrate", "--finalize", "--from", "cluster").stdout
    assert "there is nothing to make final" in run("migrate", "--finalize", "--from", "cluster").stdout
    assert cutover.former(data) == []


def test_the_market_database_goes_back_too(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly it kept what was undone, and the version before could not open it and was started again for ever."""
    from node.history import cutting
    from node.history.process import open_keeper

    migrated(data)
    config = msgspec.structs.replace(load(data.parent / "node.toml"), history=HistoryConfig(True))
    (data.parent / "node.toml").write_text((data.parent / "node.toml").read_text().replace("# enabled = false", "enabled = true"))
    log = DurableLog(RealDisk(data / LOG, fsync=False), node_id="n1", abi=BROUGHT_TO.abi)
    end = log.load()[-1].index

    def follow(applied: int) -> dict[str, list[dict[str, object]]]:
        keeper = open_keeper(config)
        while keeper.advance(applied):
            continue
        keeper.close()
        database = connect(config, read_only=True)
        found = {table.name: rows_of(database, table) for table in tables.metadata.sorted_tables}
        database.dispose()
        return found

    before = follow(end)
    for number, batch in enumerate(trading(7, 5, 9_000), 1):
        log.append(LogEntry(bytes([COMMAND]) + encoded(batch), end + number, 9))
    log.close()
    assert len(follow(end + number)["orders"]) > len(before["orders"])
    monkeypatch.setitem(cutting.KNOWN, "0.0.1", ("0002", cutting.KNOWN["0.2.0"][1]))
    output = json.loads(run("rollback", "cluster", "--without-export", "--json").stdout)["n1"]
    assert output["back"] is True
    assert f"cut back by {number} log entries" in output["history"]
    assert f"schema {head()} is 0002 again" in output["history"]
    with sqlite3.connect(data / "history" / "history.sqlite") as connection:
        (version,) = connection.execute("select version_num from alembic_version").fetchone()
        (index,) = connection.execute("select log_index from progress").fetchone()
    connection.close()
    assert (version, index) == ("0002", end)
    migrated(data)
    again = follow(end)
    assert again.pop("progress")[0]["log_index"] == before.pop("progress")[0]["log_index"]
    assert before.pop("operations")
    assert again.pop("operations") == [], "the earlier version's schema has no such table"
    assert again == before


def test_a_market_database_out_of_reach_holds_the_way_back_up(run: Run, data: Path) -> None:
    migrated(data)
    config = data.parent / "node.toml"
    config.write_text(config.read_text().replace("# enabled = false", "enabled = true"))
    (data / "history").mkdir()
    (data / "history" / "history.sqlite").write_text("this is not a database, and long enough to be none for sure: " * 20)
    refused = run("rollback", "cluster", "--without-export", code=1)
    assert "n1: its market database cannot be used" in refused.stderr
    assert "--without-history" in refused.stderr
    assert len(cutover.former(data)) == 1
    assert "back at ABI" in run("rollback", "cluster", "--without-export", "--without-history").stdout


def test_a_rehearsal_says_what_it_did_not_check(run: Run, data: Path) -> None:
    """Without a snapshot, as on a young node that runs, no row was converted. Formerly the rehearsal did not say so."""
    assert "not checked" not in run("migrate", "--check", "--from", "cluster").stdout
    lock = PidFile.acquire(data / ENGINE_PID_FILE)
    lock.note("Ready")
    try:
        assert "not checked: what the running node has written since" in run("migrate", "--check", "--from", "cluster").stdout
    finally:
        lock.release()
    shutil.rmtree(data / "snapshots")
    shutil.rmtree(data / LOG)
    write_former(data, entries_of([*foundations(), *trading(5, 10)], BROUGHT_TO), 0, data.parent / "versions")
    assert "no snapshot yet, so no stored rows were converted" in run("migrate", "--check", "--from", "cluster").stdout

"""The same history in PostgreSQL: a real server, which the test starts, has the rows that SQLite has, and gives the
same answers.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from node.errors import HistoryError
from node.history import tables
from node.history.candles import GRANULARITIES
from node.history.database import alembic_config, connect
from node.history.pages import PageRequest, TransferKind
from node.history.partitions import archive_days
from node.history.queries import HistoryReader
from tests.unit.node.history.answers import answers
from tests.unit.node.history.logs import BEFORE, START, NodeLog, begun, busy, check_coins, gone_back, market, read, rows
from tests.unit.node.history.versions import known_to_0001, make_0001

SECONDS = START // 10**9


def program(name: str) -> Path | None:
    """Return the path of a program of PostgreSQL, where Debian installs it or on PATH."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True), shutil.which(name)]
    return next((Path(path) for path in found if path), None)


def as_postgres(home: Path, *command: str | Path) -> None:
    """Run a program as a user that the server accepts: it refuses to run as root."""
    user: Sequence[str] = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
    subprocess.run([*user, *map(str, command)], check=True, cwd=home, stdout=subprocess.DEVNULL, timeout=60)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server on a Unix socket of its own. Returns the URL of its database."""
    initdb, control = program("initdb"), program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    home = Path(tempfile.mkdtemp(prefix="quorumbook-pg-"))
    try:
        if os.geteuid() == 0:
            os.chown(home, pwd.getpwnam("postgres").pw_uid, -1)
        data = home / "data"
        as_postgres(home, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off"
        as_postgres(home, control, "-D", data, "-o", options, "-l", home / "log", "-w", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={home}"
        finally:
            as_postgres(home, control, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)


def test_both_databases_have_the_same_rows_and_give_the_same_answers(server: str, tmp_path: Path) -> None:
    light, heavy = NodeLog(tmp_path / "light"), NodeLog(tmp_path / "heavy", database=server)
    for node in (light, heavy):
        busy(node, 2, 500)
        node.follow()
    heavy.follow()
    assert heavy.stored() == light.stored()
    check_coins(heavy)
    asked: list[Callable[[HistoryReader], object]] = [
        HistoryReader.progress,
        lambda past: past.fills("ann", "", 0, PageRequest(20)),
        lambda past: past.fills("bob", "ETH-USD", 0, PageRequest(5, after=(300, 10), start=START)),
        lambda past: past.ledger("eve", "USD", None, PageRequest(50, before=(100, 1))),
        lambda past: past.transfers("ann", "", TransferKind(incoming=True, internal=False), PageRequest()),
        lambda past: past.done_orders("bob", "", 200, PageRequest(30)),
        lambda past: past.order_by_client_oid("ann", "o7"),
        lambda past: past.trades("ETH-USD", 10, 40),
        lambda past: past.minutes("ETH-USD", SECONDS),
        lambda past: past.hours(["ETH-USD", "BTC-USD"], 0),
        lambda past: past.traded("ann", 0),
        *(lambda past, g=g: past.candles("ETH-USD", g, SECONDS, SECONDS + 86_400) for g in GRANULARITIES),
    ]
    first, second = HistoryReader(light.config), HistoryReader(heavy.config)
    for question in asked:
        found = question(first)
        assert found
        assert found == question(second)
    first.close()
    second.close()


def test_nodes_share_a_database_and_not_a_history(server: str, tmp_path: Path) -> None:
    """Each has a schema of its own, a reader cannot write, and another cluster's node of the same name is refused."""
    node = NodeLog(tmp_path / "cluster", database=server)
    node.config = msgspec.structs.replace(node.config, node_id="n-7")
    busy(node, 3, 50)
    node.follow()
    reader = connect(node.config, read_only=True)
    with reader.begin() as connection, pytest.raises(DBAPIError, match="read-only transaction"):
        connection.execute(insert(tables.currencies).values(currency="X", scale=1))
    reader.dispose()
    node.config = msgspec.structs.replace(node.config, cluster_id="another")
    with pytest.raises(HistoryError, match="not of n-7 of another"):
        node.keeper()


def test_days_move_to_files(server: str, tmp_path: Path) -> None:
    node = NodeLog(tmp_path / "cluster", database=server)
    node.config = msgspec.structs.replace(node.config, node_id="n8")
    busy(node, 4, 60)
    node.follow()
    before, answered = node.stored(), answers(node)
    assert archive_days(node.config, BEFORE)
    assert answers(node) == answered
    assert node.stored()["trades"] == []
    assert read(node, "trades") == before["trades"]


def test_a_database_of_version_0_1_0_is_brought_up_to_date(server: str, tmp_path: Path) -> None:
    whole, earlier = NodeLog(tmp_path / "whole"), NodeLog(tmp_path / "earlier", database=server)
    for each in (whole, earlier):
        each.config = msgspec.structs.replace(each.config, node_id="n9")
        busy(each, 3, 200)
    whole.follow()
    make_0001(earlier, whole)
    earlier.follow()
    assert earlier.stored() == known_to_0001(whole.stored())


def test_rows_that_a_rollback_undid_are_deleted_and_the_history_of_another_log_is_set_aside(server: str, tmp_path: Path) -> None:
    calm, node = begun(tmp_path / "calm"), begun(tmp_path / "node", database=server, node_id="n10")
    at = node.applied
    market(node, 2, 8, 3, 1_000)
    node.follow()
    gone_back(node, at)
    for each in (node, calm):
        market(each, 3, 12, 3, 2_000)
    node.follow()
    calm.follow()
    assert rows(node) == rows(calm)
    gone_back(node, at, noted=False)
    market(node, 4, 12, 3, 3_000)
    with pytest.raises(HistoryError, match=r"set aside \(schema quorumbook_n10_of_another_log_"):
        node.follow()
    node.follow()
    assert node.stored()["progress"][0]["log_index"] == node.applied


def test_the_schema_of_an_earlier_version_comes_back(server: str, tmp_path: Path) -> None:
    """The schema goes down and up again. Every row is as before, except for what the earlier schema cannot hold."""

    def known_to_both() -> dict[str, Any]:
        found = rows(node)
        del found["operations"]
        return {**found, "orders": [{**row, "terms": ""} for row in found["orders"]]}

    node = begun(tmp_path / "node", database=server, node_id="n11")
    node.follow()
    had = known_to_both()
    database = connect(node.config)
    with database.begin() as connection:
        command.downgrade(alembic_config(connection), "0002")
    database.dispose()
    node.follow()
    assert known_to_both() == had

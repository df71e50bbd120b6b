"""The history of a cluster whose processes are killed: each node that keeps a history has every row exactly once, and
all histories are equal.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from loadtest.market import PRODUCTS
from node.history import tables
from node.history.database import connect
from node.history.queries import HistoryReader
from node.history.store import HistoryProgress
from node.system.processes import PID_FILE, descendants, locked_pid, send
from statemachine.commands import AnyCommand, CancelAll, PlaceOrder
from statemachine.types import OrderType, Side
from tests.real_cluster import Exchange, MakeGround, compacted_past, put_market
from tests.unit.node.history.logs import rows_of

pytestmark = pytest.mark.cluster

DEADLINE = 40.0
NODES = ("n1", "n2", "n3")
TRAILING = 1_100
"""More entries than stay behind a snapshot."""
SPEC = PRODUCTS[0]


def orders(exchange: Exchange, first: int, count: int) -> list[AnyCommand]:
    """Return orders around one price. Now and then a trader cancels all of theirs."""
    random = Random(first)
    made: list[AnyCommand] = []
    for number in range(first, first + count):
        account = random.choice(exchange.people).account_id
        price = (SPEC.opening_ticks + random.randrange(-3, 4)) * SPEC.tick
        size = random.randrange(1, 9) * SPEC.lot
        side = random.choice(list(Side))
        made.append(PlaceOrder(account, f"h{number}", SPEC.product_id, side, OrderType.LIMIT, price, size))
        if random.random() < 0.05:
            made.append(CancelAll(account, f"x{number}"))
    return made


async def send_all(exchange: Exchange, first: int, count: int, at_a_time: int = 25) -> None:
    """Send orders to the current leader, several in each log entry."""
    client = exchange.access.client(deadline=20.0)
    try:
        commands = orders(exchange, first, count)
        for start in range(0, len(commands), at_a_time):
            await client.submit(commands[start : start + at_a_time])
    finally:
        await client.close()


def history_pid(exchange: Exchange, node_id: str) -> int:
    """Return the process id of a node's history process."""
    pid = locked_pid(exchange.cluster.layout.configs[node_id].data_path / PID_FILE)
    assert pid is not None
    return next(child for child in descendants(pid) if b"node.history.process" in Path(f"/proc/{child}/cmdline").read_bytes())


def where(exchange: Exchange, node_id: str) -> HistoryProgress:
    """Return how far the node's history goes."""
    history = HistoryReader(exchange.cluster.layout.configs[node_id])
    try:
        return history.progress()
    finally:
        history.close()


def wait_for_all(exchange: Exchange) -> None:
    """Wait until every history has all commands that were applied."""
    statuses = asyncio.run(exchange.cluster.status())
    sequence = max(status.sequence for status in statuses.values() if status is not None)
    deadline = time.monotonic() + DEADLINE
    while any(where(exchange, node_id).sequence < sequence for node_id in NODES):
        assert time.monotonic() < deadline, {node_id: where(exchange, node_id) for node_id in NODES}
        time.sleep(0.05)


def contents(exchange: Exchange, node_id: str) -> Mapping[str, object]:
    """Return everything in a node's history that does not name the node."""
    database = connect(exchange.cluster.layout.configs[node_id], read_only=True)
    try:
        return {table.name: rows_of(database, table) for table in (*tables.ROWS, tables.gaps)}
    finally:
        database.dispose()


def test_every_node_has_every_row_once(make_ground: MakeGround) -> None:
    """Histories and a leader are killed while orders arrive. At the end all three databases are equal, and the API
    answers from one of them.
    """
    settings = {"history.enabled": True, "raft.archive_log": False, "snapshot.every_commands": 300}
    exchange = Exchange(make_ground(settings))
    asyncio.run(put_market(exchange))
    asyncio.run(send_all(exchange, 0, 600))
    for node_id in ("n1", "n2"):
        send(history_pid(exchange, node_id), signal.SIGKILL)
    asyncio.run(send_all(exchange, 1_000, 600))
    leader = asyncio.run(exchange.cluster.leader())
    exchange.cluster.kill(leader, signal.SIGKILL)
    asyncio.run(send_all(exchange, 2_000, 600))
    exchange.cluster.start([leader])
    asyncio.run(exchange.cluster.wait_ready(DEADLINE))
    asyncio.run(send_all(exchange, 3_000, 300))
    wait_for_all(exchange)
    first = contents(exchange, "n1")
    assert first == contents(exchange, "n2") == contents(exchange, "n3")
    assert first["gaps"] == []
    with urllib.request.urlopen(
        f"{exchange.access.https['n2']}/products/{SPEC.product_id}/candles?granularity=86400", timeout=30
    ) as answer:
        candles = json.load(answer)
    assert len(candles) >= 1
    assert all(Decimal(low) <= Decimal(opened) <= Decimal(high) for _, low, high, opened, _, _ in candles)


def test_a_node_that_took_a_snapshot_has_every_row_all_the_same(make_ground: MakeGround) -> None:
    """The node was down while the others compacted their logs. Its history gets what its own log never had from the
    other nodes' histories.
    """
    settings = {"history.enabled": True, "raft.archive_log": False, "snapshot.every_commands": 300}
    exchange = Exchange(make_ground(settings))
    asyncio.run(put_market(exchange))
    asyncio.run(send_all(exchange, 0, 100))
    leader = asyncio.run(exchange.cluster.leader())
    away = next(node_id for node_id in NODES if node_id != leader)
    before = asyncio.run(exchange.cluster.status())[away]
    assert before is not None
    exchange.cluster.kill(away, signal.SIGKILL)
    asyncio.run(send_all(exchange, 1_000, TRAILING, at_a_time=1))
    asyncio.run(compacted_past(exchange.access, leader, before.last_log_index + 1))
    exchange.cluster.start([away])
    asyncio.run(exchange.cluster.wait_ready(DEADLINE))
    after = asyncio.run(exchange.cluster.status())[away]
    assert after is not None
    assert after.first_log_index > before.last_log_index + 1
    asyncio.run(send_all(exchange, 5_000, 100))
    wait_for_all(exchange)
    first = contents(exchange, "n1")
    assert first == contents(exchange, "n2") == contents(exchange, "n3")
    assert first["gaps"] == []

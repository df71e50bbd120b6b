"""QuickFIX is the judge: its client trades while three leaders are killed, and no execution report is lost, duplicated
or out of order.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import node.fix
from loadtest.access import ClusterAccess
from loadtest.ground import prepare
from loadtest.market import set_up, traders
from node.config.file import change_settings
from node.deployment.setup import FIX_OFFSET, HTTP_OFFSET
from node.native.protocol import ControlAction, OrdersQuery, StatusQuery
from statemachine.events import OrderState
from statemachine.types import Side
from tests.clients.quickfix_tour import TourSpec
from tests.clients.quickfix_trader import Person, Spec
from tests.real_cluster import end, start
from tests.unit.node.fix.harness import serving, trade_with
from tests.unit.node.gateway.harness import SECRET

pytest.importorskip("quickfix")
pytestmark = [pytest.mark.timeout(300)]

KILLS = 3
SYMBOL = "BTC-USD"
DICTIONARIES = Path(node.fix.__file__).parent / "dictionary"


def fix_address(http: str) -> tuple[str, int]:
    """Return the address at which a node serves FIX."""
    host, _, port = http.rpartition(":")
    return host, int(port) + FIX_OFFSET - HTTP_OFFSET


class Trader:
    """The process with QuickFIX's client."""

    def __init__(self, directory: Path, spec: Spec) -> None:
        directory.mkdir()
        for name in ("store", "log"):
            (directory / name).mkdir()
        path = directory / "spec.json"
        path.write_bytes(msgspec.json.encode(spec))
        self._directory = directory
        self._progress = (directory / "progress").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.clients.quickfix_trader", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._progress,
        )

    @property
    def done(self) -> int:
        """Return how many orders are done, from the last line of the process."""
        lines = (self._directory / "progress").read_text().split("\n")
        result = [line.split() for line in lines[:-1] if re.fullmatch(r"[0-9]+ [0-9]+", line)]
        return int(result[-1][1]) if result else 0

    def port(self, key_id: str) -> int:
        """Return the port to which a session has connected last."""
        events = (self._directory / "log" / f"FIXT.1.1-{key_id}-QUORUMBOOK.event.current.log").read_text()
        return int(re.findall(r"Connecting to .* on port ([0-9]+)", events)[-1])

    async def trades(self, more: int, seconds: float = 60.0) -> None:
        """Wait until so many more orders are done."""
        wanted, until = self.done + more, time.monotonic() + seconds
        while self.done < wanted:
            assert self._process.poll() is None, (self._directory / "progress").read_text()[-2000:]
            assert time.monotonic() < until, f"{self.done} orders are done, not {wanted}"
            await asyncio.sleep(0.1)

    def end(self) -> Any:
        """Stop trading, and return the reports that it got."""
        out, _ = self._process.communicate(b"\n", timeout=90)
        return json.loads(out.splitlines()[-1])  # QuickFIX writes lines of its own

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self._progress.close()


async def test_quickfix_accepts_every_message_that_we_send(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    async with serving() as served:
        trade_with(served.backend, Side.SELL, 120_00, 5_000_000, "offer")
        person = Person("alice-key", SECRET, "alice's passphrase")
        spec.write_bytes(msgspec.json.encode(TourSpec(served.port, str(tmp_path), str(DICTIONARIES), SYMBOL, person)))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.clients.quickfix_tour", str(spec)), stdout=subprocess.PIPE
        )
        try:
            async with asyncio.timeout(120):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    result = json.loads(out.splitlines()[-1])
    assert result["rejected"] == []
    kinds = {"80", "85", "8F", "88", "8I", "84", "9", "r", "j", "W", "X", "Y"}
    assert kinds <= set(result["got"]), kinds - set(result["got"])


@pytest.mark.cluster
async def test_no_report_is_lost_doubled_or_out_of_order_over_three_leader_kills(tmp_path: Path) -> None:
    ground = prepare(tmp_path / "cluster")
    trader: Trader | None = None
    try:
        cluster, access = ground.cluster, ClusterAccess(ground.directory)
        ports: dict[int, str] = {}
        for path in sorted(ground.directory.glob("*/node.toml")):
            listen = re.search(r'\[http\]\nlisten = "([^"]+)"', path.read_text())
            assert listen is not None
            host, port = fix_address(listen.group(1))
            change_settings(path, {"fix.listen": f"{host}:{port}"})
            ports[port] = path.parent.name
        await asyncio.to_thread(start, ground)
        people = traders(2, 5)
        operator = access.client()
        await set_up(operator, people)
        await operator.close()
        maker, taker = (Person(person.key_id, person.secret, person.passphrase) for person in people)
        nodes = [("127.0.0.1", port) for port in ports]
        ca = str(ground.directory / "ca.pem")
        spec = Spec(nodes, ca, str(tmp_path / "quickfix"), str(DICTIONARIES), SYMBOL, maker, taker)
        trader = Trader(tmp_path / "quickfix", spec)
        await trader.trades(20)
        for kill in range(KILLS):
            victim = ports[trader.port((maker, taker)[kill % 2].key_id)]
            await lead(access, victim)
            await asyncio.to_thread(cluster.kill, victim)
            await trader.trades(20)
            await asyncio.to_thread(cluster.start, [victim])
            await cluster.wait_ready(60.0)
        result = await asyncio.to_thread(trader.end)
        await judge(access, result, [person.account_id for person in people])
        assert sum(result["logons"].values()) >= KILLS + 2
    finally:
        if trader is not None:
            trader.kill()
        end(ground)


async def lead(access: ClusterAccess, node_id: str) -> None:
    """Make a node the leader."""
    client = access.client()
    try:
        for _ in range(50):
            statuses = await client.query_node(node_id, StatusQuery())
            if statuses.role == "leader":
                return
            with_leader = statuses.leader_id
            if with_leader and with_leader != node_id:
                await client.control(ControlAction.TRANSFER_LEADERSHIP, about=node_id)
            await asyncio.sleep(0.2)
        raise AssertionError(f"{node_id} does not lead")
    finally:
        await client.close()


async def judge(access: ClusterAccess, result: Any, accounts: list[str]) -> None:
    """Compare what QuickFIX received with what the exchange has."""
    assert result["others"] == []
    client = access.client()
    try:
        for key_id, account_id in zip(result["reports"], accounts, strict=True):
            rows = result["reports"][key_id]
            numbers = [int(row[0]) for row in rows]
            assert numbers == sorted(set(numbers)), "numbers rise"
            ids = Counter(row[5] for row in rows)
            assert max(ids.values()) == 1, "each report comes once"
            orders: dict[str, list[list[str]]] = {}
            for row in rows:
                orders.setdefault(row[2], []).append(row)
            assert len(orders) == result["pairs"]
            for name, life in orders.items():
                assert [row[3] for row in life] == ["0", *["F"] * (len(life) - 1)], (name, life)
                assert [Decimal(row[7]) for row in life] == sorted({Decimal(row[7]) for row in life}), (name, life)
                assert sum(Decimal(row[6]) for row in life[1:]) == Decimal("0.01"), (name, life)
            done: list[OrderState] = await client.query(OrdersQuery(account_id, open=True, done=True, limit=1_000))
            known = {order.client_oid: order for order in done}
            assert all(known[name].remaining == 0 for name in orders if name in known)
            assert not [order for order in done if order.remaining]
    finally:
        await client.close()

"""Several gateways of a node share its port. A client sees no difference between them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtest.rest import RestRequest, signed_headers
from node.system.processes import descendants
from tests.real_cluster import READY_SECONDS, Exchange, MakeGround, put_market

pytestmark = pytest.mark.cluster

ORDER = {"product_id": "BTC-USD", "side": "buy", "type": "limit", "price": "100", "size": "0.01"}


class GatewayConnection:
    """A connection to one gateway of the leader that stays open."""

    def __init__(self, exchange: Exchange, url: str, session: aiohttp.ClientSession) -> None:
        self._exchange = exchange
        self._url = url
        self._session = session

    async def worker(self) -> int:
        """Return the number of the gateway at the other end."""
        async with self._session.get(self._url + "/metrics") as response:
            match = re.search(r'worker="(\d+)"', await response.text())
            assert match is not None
            return int(match[1])

    def signed(self, method: str, target: str, body: bytes = b"", *, operator: bool = False) -> dict[str, str]:
        """Return the headers of a request of the first trader, or of the operator."""
        key = self._exchange.access.admin if operator else self._exchange.people[0]
        return signed_headers(key.key_id, key.secret, key.passphrase, RestRequest(method, target, body, ""))

    async def send(self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Return the status and the JSON of the answer. The first trader signs unless `headers` are given."""
        signed = headers or self.signed(method, target, body)
        async with self._session.request(method, self._url + target, data=body or None, headers=signed) as response:
            return response.status, await response.json()


@pytest.fixture
async def exchange(make_ground: MakeGround) -> Exchange:
    made = Exchange(await asyncio.to_thread(make_ground, {"http.gateways": 2}))
    await put_market(made)
    return made


async def connections(exchange: Exchange, stack: AsyncExitStack) -> list[GatewayConnection]:
    """Return a connection to each gateway of the leader, in the order of their numbers."""
    url = await exchange.leader_url()
    found: dict[int, GatewayConnection] = {}
    async with asyncio.timeout(READY_SECONDS):
        while len(found) < 2:
            connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=600)
            session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=READY_SECONDS))
            connection = GatewayConnection(exchange, url, await stack.enter_async_context(session))
            try:
                found.setdefault(await connection.worker(), connection)
            except aiohttp.ClientError:  # a gateway that has just died
                await asyncio.sleep(0.1)
    return [found[0], found[1]]


async def test_a_client_sees_no_difference_between_gateways(exchange: Exchange) -> None:
    async with AsyncExitStack() as stack:
        first, second = await connections(exchange, stack)
        body = json.dumps({**ORDER, "client_oid": "11111111-2222-4333-8444-555555555555"}).encode()
        status, placed = await first.send("POST", "/orders", body)
        assert (status, placed["status"]) == (200, "open"), placed
        assert await second.send("POST", "/orders", body) == (200, placed), "a repeated order returns the first one"
        status, found = await second.send("GET", f"/orders/{placed['id']}")
        assert (status, found["id"]) == (200, placed["id"])
        assert await second.send("DELETE", f"/orders/{placed['id']}") == (200, placed["id"])
        status, answer = await first.send("DELETE", f"/orders/{placed['id']}")
        assert status in (400, 404), answer

        body = json.dumps(ORDER).encode()
        headers = first.signed("POST", "/orders", body)
        status, placed = await first.send("POST", "/orders", body, headers)
        assert status == 200, placed
        status, answer = await second.send("POST", "/orders", body, headers)
        assert (status, answer["message"]) == (400, "request replayed")
        status, listed = await second.send("GET", "/orders")
        assert (status, [order["id"] for order in listed]) == (200, [placed["id"]])

        target = f"/admin/keys/{exchange.people[0].key_id}"
        status, answer = await first.send("DELETE", target, headers=first.signed("DELETE", target, operator=True))
        assert status == 200, answer
        for connection in (second, first):
            status, answer = await connection.send("GET", "/orders")
            assert status == 401, answer


async def test_one_gateway_serves_while_the_other_is_dead(exchange: Exchange) -> None:
    async with AsyncExitStack() as stack:
        _, second = await connections(exchange, stack)
        leader = await exchange.cluster.leader()
        os.kill(gateway_pid(exchange, leader, 0), signal.SIGKILL)
        for _ in range(5):
            status, answer = await second.send("POST", "/orders", json.dumps(ORDER).encode())
            assert status == 200, answer
        assert await exchange.cluster.leader() == leader
        first, _ = await connections(exchange, stack)  # the supervisor has started it again
        status, listed = await first.send("GET", "/orders")
        assert (status, len(listed)) == (200, 5)


def gateway_pid(exchange: Exchange, node_id: str, worker: int) -> int:
    """Return the process id of a node's gateway."""
    supervisor = exchange.cluster.pid(node_id)
    assert supervisor is not None
    for pid in descendants(supervisor):
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"node.gateway.process" in argv and argv[argv.index(b"--worker") + 1] == str(worker).encode():
            return pid
    raise AssertionError(f"{node_id} has no gateway {worker}")

"""API keys on a real cluster: a revoked key is refused at once, each request is executed once, and no file contains a
secret.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtest.rest import RestRequest, signed_headers
from node.errors import RequestFailed
from node.keys.credentials import Credentials, sign
from node.native.protocol import BalancesQuery
from tests.real_cluster import Exchange, exchange_in, run_cli

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SECONDS = 60.0
CANARY = Credentials("canary", base64.b64encode(b"the canary's secret sings here!!").decode(), "canary-passphrase-7f3a")
ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "10", "size": "0.01"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    """Make a cluster that these tests may change in any way."""
    with exchange_in(tmp_path_factory.mktemp("keys") / "cluster") as exchange:
        yield exchange


def signed(key: Credentials, method: str, target: str, body: object = None) -> tuple[RestRequest, dict[str, str]]:
    request = RestRequest(method, target, b"" if body is None else json.dumps(body).encode(), "")
    return request, signed_headers(key.key_id, key.secret, key.passphrase, request)


def send(url: str, request: RestRequest, headers: dict[str, str]) -> tuple[int, Any]:
    """Send a request unchanged. Returns the status and the JSON of the answer."""
    made = urllib.request.Request(url + request.target, data=request.body or None, headers=headers, method=request.method)
    try:
        with urllib.request.urlopen(made, timeout=SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def answered(url: str, request: RestRequest, headers: dict[str, str]) -> tuple[int, Any]:
    """Send a request again and again while no node leads. Returns the answer."""
    deadline = time.monotonic() + SECONDS
    while (answer := send(url, request, headers))[0] in (503, 504):
        assert time.monotonic() < deadline, answer
    return answer


def call(url: str, key: Credentials, method: str, target: str, body: object = None) -> tuple[int, Any]:
    return send(url, *signed(key, method, target, body))


def fresh_key(exchange: Exchange, account_id: str, permissions: list[str]) -> Credentials:
    """Have the server make a key."""
    url = asyncio.run(exchange.leader_url())
    body = {"account_id": account_id, "permissions": permissions}
    status, made = call(url, exchange.access.admin, "POST", "/admin/keys", body)
    assert status == 200, made
    return Credentials(made["id"], made["secret"], made["passphrase"])


def applied(url: str) -> int:
    """Return how many commands a node has applied."""
    with urllib.request.urlopen(f"{url}/status", timeout=SECONDS) as answer:
        return int(json.load(answer)["node"]["sequence"])


def until_accepted(url: str, key: Credentials) -> None:
    """Wait until a node knows a key."""
    deadline = time.monotonic() + SECONDS
    while (answer := call(url, key, "GET", "/accounts"))[0] != 200:
        assert time.monotonic() < deadline, answer
        time.sleep(0.01)


class TestRevocation:
    def test_a_key_is_refused_on_every_node_as_soon_as_that_node_has_applied_it(self, shared_exchange: Exchange) -> None:
        urls = list(shared_exchange.access.https.values())
        for round_number in range(3):
            key = fresh_key(shared_exchange, shared_exchange.people[0].account_id, ["view"])
            for url in urls:
                until_accepted(url, key)
            leader = urls[round_number % len(urls)]
            status, revoked = call(leader, shared_exchange.access.admin, "DELETE", f"/admin/keys/{key.key_id}")
            assert status == 200, revoked
            refused: set[str] = set()
            deadline = time.monotonic() + SECONDS
            while len(refused) < len(urls):
                assert time.monotonic() < deadline, f"refused at {refused} only"
                for url in urls:
                    knows = applied(url) >= revoked["sequence"]
                    status, answer = call(url, key, "GET", "/accounts")
                    assert status == 401 or not knows, f"{url} has applied the revocation and answers {answer}"
                    if status == 401:
                        assert answer["message"] == "invalid signature"
                        refused.add(url)

    async def test_open_subscriptions_end_with_their_key_on_every_node(self, shared_exchange: Exchange) -> None:
        person = shared_exchange.people[1]
        key = await asyncio.to_thread(fresh_key, shared_exchange, person.account_id, ["view"])
        urls = list(shared_exchange.access.https.values())
        async with aiohttp.ClientSession() as session, asyncio.timeout(SECONDS):
            sockets = []
            for url in urls:
                await asyncio.to_thread(until_accepted, url, key)
                socket = await session.ws_connect(url)
                stamp = f"{time.time():.3f}"
                await socket.send_json(
                    {
                        "type": "subscribe",
                        "product_ids": ["BTC-USD"],
                        "channels": ["user", "heartbeat"],
                        "key": key.key_id,
                        "passphrase": key.passphrase,
                        "timestamp": stamp,
                        "signature": sign(key.secret, stamp, "GET", "/users/self/verify"),
                    }
                )
                assert (await socket.receive_json())["type"] == "subscriptions"
                sockets.append(socket)
            status, _ = await asyncio.to_thread(
                call, urls[0], shared_exchange.access.admin, "DELETE", f"/admin/keys/{key.key_id}"
            )
            assert status == 200
            for socket in sockets:
                while (message := await socket.receive_json())["type"] == "heartbeat":
                    pass
                assert (message["type"], message["message"]) == ("error", "the API key is not valid any more")
                channels = {channel["name"] for channel in (await socket.receive_json())["channels"]}
                assert channels == {"heartbeat"}

    async def test_native_sessions_end_with_their_key(self, shared_exchange: Exchange) -> None:
        person = shared_exchange.people[2]
        key = await asyncio.to_thread(fresh_key, shared_exchange, person.account_id, ["view"])
        url, operator = await shared_exchange.leader_url(), shared_exchange.access.admin
        connections = []
        for node_id, address in shared_exchange.access.https.items():
            await asyncio.to_thread(until_accepted, address, key)
            connections.append(await shared_exchange.access.connect(node_id, key))
        assert await connections[0].query(BalancesQuery(person.account_id))
        assert (await asyncio.to_thread(call, url, operator, "DELETE", f"/admin/keys/{key.key_id}"))[0] == 200
        async with asyncio.timeout(SECONDS):
            for connection in connections:
                await connection.closed.wait()
                assert "the API key was revoked or replaced" in connection.close_reason


class TestReplays:
    def test_an_order_without_an_id_is_placed_once_on_whatever_node_and_across_a_failover(self, own: Exchange) -> None:
        person = own.people[0]
        key = Credentials(person.key_id, person.secret, person.passphrase)
        order = signed(key, "POST", "/orders", ORDER)
        urls = own.access.https
        status, placed = send(urls["n1"], *order)
        assert status == 200, placed
        for url in urls.values():
            self._refused(send(url, *order), placed["id"])
        leader = asyncio.run(own.cluster.leader())
        own.cluster.kill(leader, signal.SIGKILL)
        try:
            for node_id, url in urls.items():
                if node_id != leader:
                    self._refused(answered(url, *order), placed["id"])
        finally:
            own.cluster.start([leader])
            asyncio.run(own.cluster.wait_ready(SECONDS))
        status, orders = call(urls["n1"], key, "GET", "/orders")
        assert [order["id"] for order in orders] == [placed["id"]]
        assert call(urls["n1"], key, "DELETE", "/orders") == (200, [placed["id"]])

    def _refused(self, answer: tuple[int, Any], order_id: str) -> None:
        status, body = answer
        assert (status, body["message"], body["reason"]) == (400, "request replayed", "replayed"), body
        assert f"it placed order {order_id}" in body["detail"]

    def test_a_captured_put_of_the_operator_does_nothing_again(self, own: Exchange) -> None:
        url, account = own.access.https["n2"], own.people[0].account_id
        body = {"account_id": account, "secret": "b25jZQ==", "passphrase": "once", "permissions": ["view"]}
        captured = signed(own.access.admin, "PUT", "/admin/keys/once", body)
        assert send(url, *captured)[0] == 200
        assert call(url, own.access.admin, "DELETE", "/admin/keys/once")[0] == 200
        for each in own.access.https.values():
            status, answer = send(each, *captured)
            assert (status, answer["message"]) == (400, "request replayed")
        assert call(url, Credentials("once", "b25jZQ==", "once"), "GET", "/accounts")[0] == 401


class TestSealing:
    def test_secrets_are_nowhere_to_be_read_and_keys_follow_a_rotation(self, own: Exchange, tmp_path: Path) -> None:
        account = own.people[1].account_id
        url = own.access.https["n1"]
        self._use(own, url, account)
        run_cli(own.directory, "cluster", "rotate-key")
        assert "encrypted under cluster key 2" in run_cli(own.directory, "key", "reseal").output
        for each in own.access.https.values():
            until_accepted(each, CANARY)
        run_cli(own.directory, "cluster", "down")
        run_cli(own.directory, "cluster", "up", "--wait", f"{SECONDS:g}")
        for each in own.access.https.values():
            until_accepted(each, CANARY)
        places = [own.directory, tmp_path]
        run_cli(own.directory, "export", str(tmp_path / "state"), "--node", "n1")
        run_cli(own.directory, "backup", str(tmp_path / "backup"), "--node", "n2")
        run_cli(own.directory, "txlog", "export", str(own.directory / "n1"), str(tmp_path / "log.jsonl"))
        assert "canary" in (tmp_path / "state" / "ApiKey.tsv").read_text()
        assert '"key_id":"canary"' in (tmp_path / "log.jsonl").read_text()
        assert _findings(places) == []

    def _use(self, own: Exchange, url: str, account: str) -> None:
        """Use the canary at every interface, in valid and in invalid requests."""
        admin = own.access.admin
        body = {"account_id": account, "secret": CANARY.secret, "passphrase": CANARY.passphrase}
        status, answer = call(url, admin, "PUT", "/admin/keys/canary", body | {"permissions": ["view", "trade"]})
        assert status == 200, answer
        for wrong in (
            body | {"permissions": ["fly"]},
            body | {"permissions": ["view"], "account_id": "nobody"},
            body | {"permissions": ["view"], "colour": 1},
            body | {"permissions": ["view"], "addresses": ["no network"]},
            body | {"permissions": ["view"], "secret": CANARY.secret + "!"},
        ):
            status, answer = call(url, admin, "PUT", "/admin/keys/canary", wrong)
            assert status in (400, 404)
            assert CANARY.secret not in json.dumps(answer)
        for each in own.access.https.values():
            until_accepted(each, CANARY)
        assert call(url, CANARY, "POST", "/orders", ORDER)[0] == 200
        assert call(url, Credentials("canary", CANARY.secret, "wrong"), "GET", "/accounts")[0] == 401
        status, listed = call(url, admin, "GET", "/admin/keys")
        assert "canary" in {key["id"] for key in listed}
        assert CANARY.secret not in json.dumps(listed)
        assert CANARY.passphrase not in json.dumps(listed)
        asyncio.run(self._native(own))

    async def _native(self, own: Exchange) -> None:
        connection = await own.access.connect("n1", CANARY)
        await connection.close()
        with pytest.raises(RequestFailed, match="passphrase"):
            await own.access.connect("n1", Credentials("canary", CANARY.secret, "wrong"))

    def test_a_node_without_the_cluster_key_reports_it(self, own: Exchange) -> None:
        file = own.directory / "n3" / "cluster.key"
        kept = file.read_bytes()
        own.cluster.stop(["n3"])
        file.unlink()
        person = own.people[2]
        key, url = Credentials(person.key_id, person.secret, person.passphrase), own.access.https["n3"]
        try:
            own.cluster.start(["n3"])
            deadline = time.monotonic() + SECONDS
            while (answer := self._asked(url, key))[0] != 503 or "cluster key" not in answer[1]["message"]:
                assert time.monotonic() < deadline, answer
                time.sleep(0.05)
            assert str(file) in answer[1]["detail"]
            with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(f"{url}/readyz", timeout=SECONDS):
                pass
            with caught.value as error:
                assert any("cluster key" in reason for reason in json.load(error)["reasons"])
        finally:
            file.write_bytes(kept)
        until_accepted(url, key)

    def _asked(self, url: str, key: Credentials) -> tuple[int, Any]:
        try:
            return call(url, key, "GET", "/accounts")
        except OSError as error:
            return 0, {"message": str(error)}


def _findings(places: list[Path]) -> list[str]:
    """Return the files that contain the secret or the passphrase of the canary, a key made for this search, as text or
    as bytes.
    """
    needles = (CANARY.secret.encode(), base64.b64decode(CANARY.secret), CANARY.passphrase.encode())
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)]

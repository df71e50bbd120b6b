"""Locust users that trade by HTTP against the leader.

    QUORUMBOOK_CLUSTER=cluster locust -f loadtest/locustfile.py --host http://127.0.0.1:7021 [--headless -u 20 -r 10 -t 20s]

The operator's key is read from `$QUORUMBOOK_CLUSTER/admin.json` or the file `$QUORUMBOOK_ADMIN`; with it the test sets up currencies, products,
accounts, keys and money by itself. Users follow the leader: a 307 leads them on, and while there is no leader, or their node is dead, they send
the same request with the same `client_oid` again. That is no failure; an answer that cannot be right is one, and so is an order that
is not answered within `PATIENCE_SECONDS`.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import gevent
from gevent.lock import RLock
from locust import FastHttpUser, constant_throughput, events, task
from locust.event import EventHook

from loadtest.flow import ClientFlow
from loadtest.market import Trader, traders
from loadtest.rest import Request, answer_fault, flow_request, setup_requests, signed_headers
from statemachine.commands import PlaceOrder

PATIENCE_SECONDS = 15.0
RETRY_SECONDS = 0.05
SEED = int(os.environ.get("QUORUMBOOK_SEED", "1"))
ACCOUNTS_MAX = 50
ORDERS_A_SECOND = 20.0
"""Of each user."""


def _admin_path() -> Path:
    named = os.environ.get("QUORUMBOOK_ADMIN")
    return Path(named) if named else Path(os.environ.get("QUORUMBOOK_CLUSTER", "cluster")) / "admin.json"


def _known_urls(directory: Path) -> list[str]:
    """The nodes' public URLs, from a configuration that lies beside the operator's key; none where there is none."""
    for path in sorted(directory.glob("*/node.toml")):
        nodes = tomllib.loads(path.read_text(encoding="utf-8")).get("nodes", [])
        return [node["http"] for node in nodes]
    return []


class Exchange:
    """What all users of this process share: where the leader is thought to be, the traders, and what they saw."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.url = ""
        self.run = uuid.uuid4().hex[:8]
        self.people: list[Trader] = traders(ACCOUNTS_MAX, SEED, "locust")
        self.order_ids: dict[str, str] = {}
        self.lock = RLock()
        self.ready = False
        self._next = 0

    def begin(self, host: str) -> None:
        """Take the first host's word, and the other nodes' addresses where they are known."""
        if not self.url:
            self.url = host.rstrip("/")
            self.urls = list(dict.fromkeys([self.url, *_known_urls(_admin_path().parent)]))

    def follow(self, location: str) -> None:
        """A node said where the leader is."""
        parts = urlsplit(location)
        self.url = f"{parts.scheme}://{parts.netloc}"
        if self.url not in self.urls:
            self.urls.append(self.url)

    def leave(self, url: str) -> None:
        """`url` does not answer: try the next one, unless somebody did already."""
        if self.url == url:
            self.url = self.urls[(self.urls.index(url) + 1) % len(self.urls)]

    def trader(self) -> tuple[int, Trader]:
        """The next user's number, and whom it trades for."""
        self._next += 1
        return self._next, self.people[self._next % len(self.people)]


exchange = Exchange()


@events.test_start.add_listener
def _forget_the_last_test(**_: object) -> None:
    exchange.url = ""
    exchange.run = uuid.uuid4().hex[:8]
    exchange.order_ids.clear()


class TradingUser(FastHttpUser):
    """A trader with a flow of its own; several users may trade for one account."""

    wait_time = constant_throughput(ORDERS_A_SECOND)
    network_timeout = 10.0
    connection_timeout = 2.0

    def on_start(self) -> None:
        """Set up the market, if this is the first user, and choose an account."""
        exchange.begin(self.host or "")
        # Attempts are not commands: `_report` counts those.
        self.client.request_event = EventHook()  # type: ignore[no-untyped-call]  # locust does not say its type
        with exchange.lock:
            if not exchange.ready:
                self._set_up()
                exchange.ready = True
        number, self.trader = exchange.trader()
        self.flow = ClientFlow(SEED, self.trader.account_id, f"l{exchange.run}.{number}")

    def _set_up(self) -> None:
        admin = json.loads(_admin_path().read_text(encoding="utf-8"))
        key = (admin["key_id"], admin["secret"], admin["passphrase"])
        for request in setup_requests(exchange.people):
            status, body = self._send(request, key)
            if status != 200:
                raise RuntimeError(f"{request.method} {request.target}: {status} {body[:200]!r}")

    @task(20)
    def trade(self) -> None:
        """The flow's next command; its answer is checked."""
        command = next(self.flow)
        request = flow_request(command)
        begin = time.perf_counter()
        status, body = self._send(request, self._key)
        fault = answer_fault(command, status, body) if status else "not answered in time"
        if isinstance(command, PlaceOrder) and status == 200 and not fault:
            order_id = json.loads(body)["id"]
            first = exchange.order_ids.setdefault(f"{command.account_id} {command.client_oid}", order_id)
            fault = "" if first == order_id else f"client_oid {command.client_oid}: order {order_id}, and {first} before"
        self._report(request, begin, len(body), fault)

    @task(1)
    def look(self) -> None:
        """Read the open orders: all must be this account's kind of answer, and open or waiting."""
        request = Request("GET", "/orders?limit=20", b"", "GET /orders")
        begin = time.perf_counter()
        status, body = self._send(request, self._key)
        wrong = status != 200 or any(order["status"] not in ("open", "active") for order in json.loads(body))
        self._report(request, begin, len(body), f"status {status}: {body[:200]!r}" if wrong else "")

    @property
    def _key(self) -> tuple[str, str, str]:
        return self.trader.key_id, self.trader.secret, self.trader.passphrase

    def _report(self, request: Request, begin: float, length: int, fault: str) -> None:
        """One line of statistics a command, from its first attempt to its answer, leads and waits included."""
        self.environment.events.request.fire(
            request_type=request.method,
            name=request.name,
            response_time=(time.perf_counter() - begin) * 1e3,
            response_length=length,
            exception=AssertionError(fault) if fault else None,
            context={},
        )

    def _send(self, request: Request, key: tuple[str, str, str]) -> tuple[int, bytes]:
        """Status and body of the answer of whoever leads; status 0 when none came in time."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            url = exchange.url
            status, body, location = self._attempt(url, request, signed_headers(*key, request))
            if status == 307:
                exchange.follow(location)
            elif status == 0:
                exchange.leave(url)
                gevent.sleep(RETRY_SECONDS)
            elif status in (503, 504):
                gevent.sleep(RETRY_SECONDS)
            else:
                return status, body
        return 0, b""

    def _attempt(self, url: str, request: Request, headers: dict[str, str]) -> tuple[int, bytes, str]:
        """Status (0: no connection), body and the place that a 307 names."""
        with self.client.request(
            request.method,
            url + request.target,
            data=request.body.decode() or None,
            headers=headers,
            name=request.name,
            allow_redirects=False,
            catch_response=True,
        ) as response:
            response.success()
            location = response.headers.get("location", "") if response.headers else ""
            return int(response.status_code or 0), response.content or b"", location

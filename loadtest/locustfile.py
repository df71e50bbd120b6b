"""Locust users that trade by HTTP at whichever node leads. docs/loadtest.md explains how to run it; `make loadtest`
does.

    QUORUMBOOK_CLUSTER=exchange locust -f loadtest/locustfile.py --headless -u 50 -r 10 -t 60s

The operator's key is read from `$QUORUMBOOK_CLUSTER/admin.json` or the file `$QUORUMBOOK_ADMIN`; with it the test sets
up currencies, products, accounts, keys and money, before the measured time begins. All users ask the node that leads:
each process looks twice a second who that is. While there is no leader, or a node is dead, they send the same request
with the same `client_oid` again. That is no failure; an answer that cannot be right is one, and so is an order that is
not answered within `PATIENCE_SECONDS`.

Exit code 1: nothing was sent, an answer was wrong, or an acknowledged order is not there at the end.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import tomllib
import urllib.error
import urllib.request
import uuid
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent.lock import RLock
from locust import FastHttpUser, constant_throughput, events, task
from locust.env import Environment
from locust.event import EventHook
from locust.runners import WorkerRunner

from loadtest.continuity import Continuity
from loadtest.errors import SetupRefusedError
from loadtest.flow import ClientFlow
from loadtest.market import Trader, traders
from loadtest.rest import Request, answer_fault, flow_request, setup_requests, signed_headers
from statemachine.commands import PlaceOrder

PATIENCE_SECONDS = 15.0
RETRY_SECONDS = 0.05
LOOK_SECONDS = 0.5
"""Between two looks at who leads."""
SEED = int(os.environ.get("QUORUMBOOK_SEED", "1"))
ACCOUNTS_MAX = 50
ORDERS_A_SECOND = float(os.environ.get("QUORUMBOOK_RATE", "20"))
"""Of each user."""
CHECKED = 200
"""Orders of each process that are looked for at the end: the last ones that were acknowledged."""


def _directory() -> Path:
    return Path(os.environ.get("QUORUMBOOK_CLUSTER", "exchange"))


def _admin_path() -> Path:
    named = os.environ.get("QUORUMBOOK_ADMIN")
    return Path(named) if named else _directory() / "admin.json"


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
        self.latest: deque[tuple[Trader, str, str]] = deque(maxlen=CHECKED)
        self.continuity = Continuity()
        self.lost: list[str] = []
        self.checked = 0
        self.lock = RLock()
        self._next = 0
        self._tls = self._context()

    @staticmethod
    def _context() -> ssl.SSLContext:
        """Trusts the cluster's authority. Host names are not compared: nodes may be reached by other ones."""
        context = ssl.create_default_context()
        context.check_hostname = False
        authority = _admin_path().parent / "ca.pem"
        if authority.exists():
            context.load_verify_locations(authority)
        return context

    def begin(self, host: str) -> None:
        """Take the host's word, and the nodes' addresses where they are known."""
        known = _known_urls(_admin_path().parent)
        self.urls = list(dict.fromkeys([*([host.rstrip("/")] if host else []), *known]))
        if not self.urls:
            raise SetupRefusedError(
                f"no node is known: name one with --host, or the cluster's directory with QUORUMBOOK_CLUSTER ({_directory()})"
            )
        if self.url not in self.urls:
            self.url = self.urls[0]

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

    def look_for_leader(self) -> None:
        """Ask nodes who leads, until one knows."""
        for url in [self.url, *(each for each in self.urls if each != self.url)]:
            try:
                status, body = self.plain(url, Request("GET", "/status", b"", ""))
                leader = json.loads(body).get("leader") if status == 200 else None
            except (OSError, ValueError):
                continue
            if isinstance(leader, str):
                self.follow(leader)
                return

    def keep_looking(self) -> None:
        """Look for the leader for ever."""
        while True:
            self.look_for_leader()
            gevent.sleep(LOOK_SECONDS)

    def plain(self, url: str, request: Request, key: tuple[str, str, str] | None = None) -> tuple[int, bytes]:
        """Send a request that is not measured; status and body. Raises OSError."""
        headers = signed_headers(*key, request) if key is not None else {}
        asked = urllib.request.Request(url + request.target, data=request.body or None, headers=headers, method=request.method)
        try:
            with urllib.request.urlopen(asked, timeout=10, context=self._tls if url.startswith("https") else None) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def insist(self, request: Request, key: tuple[str, str, str]) -> tuple[int, bytes]:
        """Send a request that is not measured until somebody answers it, for a while. Status 0: nobody did."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            url = self.url
            try:
                status, body = self.plain(url, request, key)
            except OSError:
                self.leave(url)
            else:
                if status not in (307, 429, 503, 504):
                    return status, body
                self.look_for_leader()
            gevent.sleep(RETRY_SECONDS)
        return 0, b""

    def set_up(self) -> None:
        """Put the market. Raises `SetupRefusedError`."""
        admin = json.loads(_admin_path().read_text(encoding="utf-8"))
        key = (admin["key_id"], admin["secret"], admin["passphrase"])
        for request in setup_requests(self.people):
            status, body = self.insist(request, key)
            if status != 200:
                raise SetupRefusedError(f"{request.method} {request.target}: {status} {body[:200]!r}")

    def trader(self) -> tuple[int, Trader]:
        """The next user's number, and whom it trades for."""
        self._next += 1
        return self._next, self.people[self._next % len(self.people)]

    def check_latest(self) -> None:
        """Look for the orders that were acknowledged last: each must be there, once, by the id that was told."""
        for person, client_oid, order_id in self.latest:
            key = (person.key_id, person.secret, person.passphrase)
            status, body = self.insist(Request("GET", f"/orders/client:{client_oid}", b"", ""), key)
            found = json.loads(body).get("id") if status == 200 else f"status {status}"
            self.checked += 1
            if found != order_id:
                self.lost.append(f"{client_oid}: {order_id} was told, {found} is there")


exchange = Exchange()


@events.init.add_listener
def _prepare(environment: Environment, **_: object) -> None:
    """Set up before any time is measured; in a distributed run only the master does."""
    options = environment.parsed_options
    exchange.begin((options.host if options is not None else "") or environment.host or "")
    environment.host = environment.host or exchange.url
    gevent.spawn(exchange.keep_looking)
    if isinstance(environment.runner, WorkerRunner):
        return
    begin = time.monotonic()
    print(f"setting up the market at {exchange.url} ...", flush=True)
    exchange.look_for_leader()
    try:
        exchange.set_up()
    except (SetupRefusedError, OSError) as error:
        print(f"the market cannot be set up: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    print(f"the market is set up, after {time.monotonic() - begin:.1f} s; {exchange.url} leads", flush=True)


@events.test_start.add_listener
def _forget_the_last_test(**_: object) -> None:
    exchange.run = uuid.uuid4().hex[:8]
    exchange.order_ids.clear()
    exchange.latest.clear()
    exchange.continuity.clear()
    exchange.lost.clear()
    exchange.checked = 0


@events.test_stop.add_listener
def _look_back(**_: object) -> None:
    exchange.check_latest()


@events.report_to_master.add_listener
def _tell(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001  # the names are locust's
    data["quorumbook"] = {"slots": exchange.continuity.news(), "lost": list(exchange.lost), "checked": exchange.checked}
    exchange.lost.clear()
    exchange.checked = 0


@events.worker_report.add_listener
def _hear(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001
    told = data.get("quorumbook", {})
    exchange.continuity.merge(told.get("slots", ()))
    exchange.lost += told.get("lost", [])
    exchange.checked += told.get("checked", 0)


@events.quitting.add_listener
def _verdict(environment: Environment, **_: object) -> None:
    """Say what came out, and set the exit code."""
    if isinstance(environment.runner, WorkerRunner):
        return
    total = environment.stats.total
    gap, begin = exchange.continuity.longest_gap()
    faults = []
    if not total.num_requests:
        faults.append("nothing was sent")
    if total.num_failures:
        faults.append(f"{total.num_failures} answers were wrong or did not come")
    faults += exchange.lost[:10]
    when = time.strftime("%H:%M:%S", time.gmtime(begin)) + "Z" if begin else "-"
    print(f"{total.num_requests} requests, longest time without an answer {gap:.2f} s (from {when})")
    print(f"{exchange.checked} of the last acknowledged orders looked for at the end, {len(exchange.lost)} not there as told")
    print("FAILS: " + "; ".join(faults) if faults else "holds: every answer was right, and what was acknowledged is there")
    environment.process_exit_code = 1 if faults else 0


class TradingUser(FastHttpUser):
    """A trader with a flow of its own; several users may trade for one account."""

    wait_time = constant_throughput(ORDERS_A_SECOND)
    network_timeout = 10.0
    connection_timeout = 2.0

    def on_start(self) -> None:
        """Choose an account."""
        # Attempts are not commands: `_report` counts those.
        self.client.request_event = EventHook()  # type: ignore[no-untyped-call]  # locust does not say its type
        number, self.trader = exchange.trader()
        self.flow = ClientFlow(SEED, self.trader.account_id, f"l{exchange.run}.{os.getpid()}.{number}")

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
            exchange.latest.append((self.trader, command.client_oid, order_id))
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
        if not fault:
            exchange.continuity.note(time.time())
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

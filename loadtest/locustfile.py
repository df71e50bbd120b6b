"""Locust's side of the load test: its users, options and events. docs/loadtest.md explains how to run it.

    QUORUMBOOK_CLUSTER=exchange locust -f loadtest/locustfile.py --headless -u 50 -r 10 -t 60s

The operator's key is read from the file `$QUORUMBOOK_ADMIN` or `$QUORUMBOOK_CLUSTER/admin.json`. With it the first
process creates the market before the measured time begins. If `$QUORUMBOOK_RESULTS` names a directory, the
acknowledgements, the report and the tables are written there.

Exit code 1: nothing was sent, an answer was wrong or missing, or an acknowledged order was missing at the end.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import tomllib
import uuid
from argparse import ArgumentParser
from collections import deque
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust import User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.locust_loop import Job, LocustLoop
from loadtest.market import set_up, traders
from loadtest.traffic.ledger import Ledger
from loadtest.traffic.report import LoadResult, protocol_lines, write
from loadtest.traffic.sessions import PATIENCE_S, Cluster, HttpSession, NativeSession, SocketSession
from loadtest.traffic.timeline import News, Timeline
from loadtest.traffic.users import Pace, Protocols, Sample, SampleKind, UserDesk, follow, replay, trade
from node.client.native import reach

SEED = 1
ACCOUNTS = 50
RECORDING = Path(__file__).parent / "traffic" / "recorded.csv"
"""A synthetic recording of 1,500 operations, made for this project."""

END_MESSAGE, ENDED_MESSAGE = "quorumbook-end", "quorumbook-ended"
"""From the master to its workers before the test stops, and their answer."""

OTHER_USERS = 3
"""Users that do not trade: two feed readers and the recorded day."""

FAULTS_NAMED = 10

REPORT_S = 0.1
"""Seconds between two reports of samples to Locust."""


def key_path() -> Path:
    """Return the operator's key file."""
    named = os.environ.get("QUORUMBOOK_ADMIN")
    return Path(named) if named else Path(os.environ.get("QUORUMBOOK_CLUSTER", "exchange")) / "admin.json"


def results_path() -> Path | None:
    """Return the directory for results."""
    named = os.environ.get("QUORUMBOOK_RESULTS")
    return Path(named) if named else None


def recording_path() -> Path:
    """Return the recorded day in the directory QUORUMBOOK_DATA, or else the small recording."""
    named = os.environ.get("QUORUMBOOK_DATA")
    found = sorted(Path(named).glob("*_ops.csv*")) if named else []
    return found[0] if found else RECORDING


def known_urls(directory: Path) -> list[str]:
    """Return the nodes' public URLs, if a node's configuration is beside the operator's key."""
    for path in sorted(directory.glob("*/node.toml")):
        return [node["http"] for node in tomllib.loads(path.read_text(encoding="utf-8")).get("nodes", [])]
    return []


class Generator:
    """The objects that all users of this process share: the asyncio loop, the desk, and the collected samples."""

    def __init__(self) -> None:
        self.loop: LocustLoop
        self.cluster: Cluster
        self.desk: UserDesk
        self.ledger = Ledger(None)
        self.timeline = Timeline()
        self.samples: deque[Sample] = deque()
        self.lost: list[str] = []
        self.checked = 0
        self.cpu_s = 0.0
        self.stopped_at = 0.0
        self.ended = 0
        """Workers whose users have got their last answers."""
        self._numbers = 0

    def prepare(self, host: str) -> None:
        """Connect to the cluster. Raises `QuorumbookError`."""
        path = key_path()
        self.loop = LocustLoop()
        access = reach(path)
        urls = [*([host] if host else []), *known_urls(path.parent)]

        async def connect() -> None:
            self.cluster = Cluster(access)
            await self.cluster.start(urls)

        self.loop.call(connect, 2 * PATIENCE_S)

    def create_market(self) -> None:
        """Create currencies, products, accounts, keys and money. Raises `LoadTestError`, `QuorumbookError`."""

        async def create() -> None:
            await set_up(self.cluster.operator, traders(ACCOUNTS, SEED, "locust"))

        self.loop.call(create, 60.0)

    def begin(self, pace: Pace) -> None:
        """Begin a test. The samples of an earlier test are dropped."""
        self.timeline.clear()
        self.samples.clear()
        self.lost.clear()
        self.checked, self._numbers = 0, 0
        self.cpu_s = -_cpu_s()  # `end` adds the time then
        self.ledger.close()
        self.ledger = Ledger(results_path())
        people = traders(ACCOUNTS, SEED, "locust")
        self.desk = UserDesk(self.cluster, people, SEED, uuid.uuid4().hex[:8], pace, self.ledger, self.samples.append)

    def number(self) -> int:
        """Return the number of the next user."""
        self._numbers += 1
        return self._numbers - 1

    def end(self) -> None:
        """Wait until the users have got their last answers, and look for the latest orders."""
        for job in list(self.loop.jobs):
            self.loop.stop(job)
        for job in list(self.loop.jobs):
            try:
                self.loop.wait(job, 2 * PATIENCE_S)
            except Exception as error:  # noqa: BLE001  # a user's end is reported, whatever it is
                self.lost.append(f"a user failed: {type(error).__name__}: {error}")
        self.checked = len(self.ledger.latest)
        self.lost += self.loop.call(lambda: self.ledger.lost(self.cluster.operator), 60.0)
        self.ledger.close()
        self.cpu_s += _cpu_s()

    def report_samples(self, environment: Environment) -> None:
        """Report the collected samples to Locust's events."""
        while self.samples:
            one = self.samples.popleft()
            name = one.kind.value or one.protocol
            self.timeline.note(one.at_s, name, one.latency_s, failed=bool(one.fault), command=one.kind is SampleKind.COMMAND)
            environment.events.request.fire(  # type: ignore[no-untyped-call]  # Locust does not say its type
                request_type=one.protocol,
                name=one.name,
                response_time=one.latency_s * 1e3,
                response_length=one.length,
                exception=AssertionError(one.fault) if one.fault else None,
                context={},
            )

    def keep_reporting(self, environment: Environment) -> None:
        """Report samples until Locust ends."""
        while True:
            self.report_samples(environment)
            gevent.sleep(REPORT_S)


def _cpu_s() -> float:
    """Return the CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


generator = Generator()


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    """Add this load's options to Locust's."""
    group = parser.add_argument_group("Quorumbook")
    group.add_argument(
        "--arrivals",
        type=float,
        default=0.0,
        help="Open loop: orders a second of all traders together, at times that no answer delays. Default: closed loop.",
    )
    group.add_argument(
        "--per-user", type=float, default=20.0, help="Closed loop: the most requests a second of one user; 0 for no limit."
    )


@events.init.add_listener
def _prepare(environment: Environment, **_: object) -> None:
    """Create the market before the measured time begins. In a distributed run only the master does that."""
    options = environment.parsed_options
    begin = time.monotonic()
    try:
        generator.prepare((options.host if options is not None else "") or environment.host or "")
        environment.host = environment.host or generator.cluster.leader_url
        gevent.spawn(generator.keep_reporting, environment)
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(ENDED_MESSAGE, _worker_ended)
        elif isinstance(environment.runner, WorkerRunner):
            environment.runner.register_message(END_MESSAGE, _end_worker, concurrent=True)
        if isinstance(environment.runner, WorkerRunner):
            return
        print(f"creating the market; {generator.cluster.leader_url} leads ...", flush=True)
        generator.create_market()
    except Exception as error:  # noqa: BLE001  # whatever it is, the test cannot begin
        print(f"the market cannot be created: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    print(f"the market is there after {time.monotonic() - begin:.1f} s", flush=True)


@events.test_start.add_listener
def _begin(environment: Environment, **_: object) -> None:
    """Begin the load at the pace of the options."""
    options = environment.parsed_options
    assert options is not None, "Locust runs with options"
    if not isinstance(environment.runner, WorkerRunner):
        # Locust sends the options that it does not know to the workers. They do not know the number of users.
        options.arrivals_each = options.arrivals / max(1, (options.num_users or 1) - OTHER_USERS)
    generator.begin(Pace(options.per_user, options.arrivals_each))


@events.test_stopping.add_listener
def _end(environment: Environment, **_: object) -> None:
    """Wait until the users have got their last answers, before Locust ends them. A master waits for its workers."""
    runner = environment.runner
    generator.stopped_at = time.time()
    if isinstance(runner, MasterRunner):
        generator.ended = 0
        workers = len(runner.clients.ready) + len(runner.clients.spawning) + len(runner.clients.running)
        runner.send_message(END_MESSAGE)
        end = time.monotonic() + 3 * PATIENCE_S
        while generator.ended < workers and time.monotonic() < end:
            gevent.sleep(0.1)
    elif not isinstance(runner, WorkerRunner):
        generator.end()
        generator.report_samples(environment)


def _end_worker(environment: Environment, **_: object) -> None:
    generator.end()
    generator.report_samples(environment)
    assert isinstance(environment.runner, WorkerRunner), "only workers get this message"
    environment.runner.send_message(ENDED_MESSAGE, _news())


def _worker_ended(msg: Any, **_: object) -> None:
    _take(msg.data)
    generator.ended += 1


def _news() -> dict[str, Any]:
    """Return the samples of this worker since its last report to the master."""
    news = {
        "news": msgspec.to_builtins(generator.timeline.news(), str_keys=True),
        "lost": list(generator.lost),
        "checked": generator.checked,
        "cpu_s": max(0.0, generator.cpu_s),
    }
    generator.lost.clear()
    generator.checked, generator.cpu_s = 0, min(0.0, generator.cpu_s)
    return news


def _take(news: dict[str, Any]) -> None:
    """Add the samples of a worker."""
    generator.timeline.merge(msgspec.convert(news["news"], News, strict=False))
    generator.lost += news["lost"]
    generator.checked += news["checked"]
    generator.cpu_s += news["cpu_s"]


@events.report_to_master.add_listener
def _on_report_to_master(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001  # the names are Locust's
    data["quorumbook"] = _news()


@events.worker_report.add_listener
def _on_worker_report(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001
    if "quorumbook" in data:
        _take(data["quorumbook"])


@events.quitting.add_listener
def _verdict(environment: Environment, **_: object) -> None:
    """Print the result, write the report, and set the exit code."""
    if isinstance(environment.runner, WorkerRunner):
        return
    total = environment.stats.total
    faults = []
    if not total.num_requests:
        faults.append("nothing was sent")
    if total.num_failures:
        faults.append(f"{total.num_failures} answers were wrong or did not come")
        faults += [f"{one.method} {one.name}: {one.error}"[:300] for one in environment.stats.errors.values()][:FAULTS_NAMED]
    faults += generator.lost[:FAULTS_NAMED]
    result = LoadResult(
        bins=generator.timeline.bins,
        requests=total.num_requests,
        failures=total.num_failures,
        gaps=generator.timeline.gaps(generator.stopped_at),
        checked=generator.checked,
        faults=faults,
        cpu_s=max(0.0, generator.cpu_s),
    )
    print("\n".join(protocol_lines(result)))
    print("FAILS: " + "; ".join(faults) if faults else "holds: every answer was right, and no acknowledged command is missing")
    if (directory := results_path()) is not None:
        write(result, directory)
    environment.process_exit_code = 1 if faults else 0


class ExchangeUser(User):
    """A user that runs as a coroutine on the asyncio loop."""

    abstract = True

    @task
    def live(self) -> None:
        """Run until Locust ends this user."""
        job = self.begin(generator.number())
        try:
            while not job.done:
                gevent.sleep(0.5)
            if job.error is not None:
                generator.loop.wait(job)
            while True:  # a recording that has ended
                gevent.sleep(0.5)
        finally:
            generator.loop.stop(job)

    def begin(self, number: int) -> Job:
        """Start the coroutine."""
        raise NotImplementedError


class TradingUser(ExchangeUser):
    """A market maker, taker, canceller or mixed trader, by its number."""

    abstract = True
    session: Protocols

    def begin(self, number: int) -> Job:
        """Start to trade."""
        desk = generator.desk
        return generator.loop.start(lambda stopping: trade(desk, self.session, number, stopping))


class HttpTrader(TradingUser):
    """Trades over REST."""

    weight = 4
    session = HttpSession


class SocketTrader(TradingUser):
    """Trades over the WebSocket."""

    weight = 3
    session = SocketSession


class NativeTrader(TradingUser):
    """Trades over the native protocol."""

    weight = 3
    session = NativeSession


class FeedReader(ExchangeUser):
    """Follows a product's feed and checks its sequences."""

    fixed_count = 2

    def begin(self, number: int) -> Job:
        """Start to read."""
        desk = generator.desk
        return generator.loop.start(lambda stopping: follow(desk, number, stopping))


class RecordedDay(ExchangeUser):
    """Replays a recording, once."""

    fixed_count = 1

    def begin(self, number: int) -> Job:  # noqa: ARG002  # there is one such user
        """Start to replay."""
        desk = generator.desk
        return generator.loop.start(lambda stopping: replay(desk, recording_path(), stopping))

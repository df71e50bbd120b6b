"""The Kafka side of the streams against the mock cluster of librdkafka: three brokers in this process, without fencing
and aborts, which test_streams tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from node.streams.broker import BrokerError, Record, StreamProgress

confluent = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
from node.streams import kafka  # noqa: E402
from node.streams.kafka import KafkaBroker, OrdersTopic  # noqa: E402

TOPIC, PLACES = "qb.events", "qb.places"


@pytest.fixture
def servers() -> Iterator[str]:
    """Return the addresses of the mock brokers, which create a topic when it is first requested."""
    owner = confluent.Producer({"test.mock.num.brokers": 3, "log_level": 0})
    brokers = owner.list_topics(timeout=10).brokers.values()
    for topic in (TOPIC, PLACES, "orders"):
        owner.list_topics(topic, timeout=10)
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    owner.flush(0)


def records(index: int, count: int = 20) -> list[Record]:
    return [Record(TOPIC, f"P{n % 5}", f"{index}.{n}".encode(), 100 * index + n, "x", index, n) for n in range(count)]


def position(index: int) -> StreamProgress:
    return StreamProgress("trial", index, 1, "n1")


def opened(servers: str) -> KafkaBroker:
    return KafkaBroker(servers, "trial", PLACES, [TOPIC])


def consumed(servers: str) -> list[tuple[str, str, dict[str, bytes]]]:
    consumer = confluent.Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"g{time.time_ns()}",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    found: list[tuple[str, str, dict[str, bytes]]] = []
    try:
        partitions = consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
        consumer.assign([confluent.TopicPartition(TOPIC, number, 0) for number in partitions])
        ends = 0
        while ends < len(partitions):
            message = consumer.poll(10)
            assert message is not None
            if message.error() is not None:
                ends += 1
                continue
            found.append((message.key().decode(), message.value().decode(), dict(message.headers())))
    finally:
        consumer.close()
    return found


def test_a_stream_continues_after_its_position_and_skips_what_is_published(servers: str) -> None:
    first = opened(servers)
    assert first.begin() is None
    first.publish(records(1), position(1))
    first.publish(records(2), position(2))
    first.close()
    second = opened(servers)
    assert second.begin() == position(2)
    second.publish(records(2) + records(3), position(3))
    assert second.standing() == position(3)
    second.close()
    found = consumed(servers)
    assert sorted(value for _, value, _ in found) == sorted(f"{index}.{n}" for index in (1, 2, 3) for n in range(20))
    for key in {key for key, _, _ in found}:
        sequences = [int(headers["sequence"]) for each, _, headers in found if each == key]
        assert sequences == sorted(sequences), "the order of a key"
    assert found[0][2]["type"] == b"x"


def test_records_published_without_a_position_are_not_published_again(servers: str) -> None:
    """The topic has records without a position after them, as on a broker that does not abort transactions."""
    broker = opened(servers)
    broker.begin()
    broker.publish(records(1), position(1))
    broker.publish(records(2, 7), position(1))
    broker.close()
    again = opened(servers)
    assert again.begin() == position(1)
    again.publish(records(2), position(2))
    again.close()
    values = [value for _, value, _ in consumed(servers)]
    assert sorted(values) == sorted(f"{index}.{n}" for index in (1, 2) for n in range(20))


def test_topics_of_somebody_else_are_refused(servers: str) -> None:
    producer = confluent.Producer({"bootstrap.servers": servers})
    producer.produce(TOPIC, b"foreign", key="k")
    producer.flush(10)
    with pytest.raises(BrokerError, match="is not of a stream"):
        opened(servers).begin()
    producer.produce(PLACES, b"foreign", partition=0)
    producer.flush(10)
    with pytest.raises(BrokerError, match="is not a position of a stream"):
        opened(servers).standing()


def test_a_missing_broker_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_S", 0.3)
    broker = opened("127.0.0.1:9")
    with pytest.raises(BrokerError):
        broker.begin()
    with pytest.raises(BrokerError, match="has not begun"):
        broker.publish([], position(1))


def test_orders_are_read_again_until_they_are_done(servers: str) -> None:
    producer = confluent.Producer({"bootstrap.servers": servers})
    for number in range(5):
        producer.produce("orders", f"o{number}".encode(), key="alice")
    producer.flush(10)

    def read(topic: OrdersTopic, count: int) -> list[Any]:
        found: list[Any] = []
        end = time.monotonic() + 30
        while len(found) < count:
            assert time.monotonic() < end
            found += topic.read(10, 0.2)
        return found

    first = OrdersTopic(servers, "orders", "group", {})
    found = read(first, 5)
    first.done([each for each in found if each[2] < 3])
    first.close()
    second = OrdersTopic(servers, "orders", "group", {})
    assert [value for *_, value in read(second, 2)] == [b"o3", b"o4"]
    second.close()

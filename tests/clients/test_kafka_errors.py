"""The Kafka side of the streams against brokers that answer with errors, are down, or are slow. Each record arrives
once, in the order of its key, whatever the broker answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from node.streams.broker import Broker, BrokerError, FencedError, Record, StreamProgress

pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
from node.streams import kafka
from node.streams.kafka import KafkaBroker
from tests.clients import mock_brokers as mock
from tests.clients.mock_brokers import MockBrokers
from tests.clients.test_kafka_mock import PLACES, TOPIC, consumed, position, records

BATCHES = 6


@pytest.fixture
def brokers() -> Iterator[MockBrokers]:
    with MockBrokers({TOPIC: 4, PLACES: 1}) as opened:
        yield opened


def stream(broker: Broker, batches: int = BATCHES) -> int:
    """Publish all batches as the streamer does: after a failure it begins again after the stored position. Returns the
    number of failures.
    """
    failures = 0
    at: int | None = None
    while at is None or at < batches:
        try:
            if at is None:
                found = broker.begin()
                at = found.index if found is not None else 0
            broker.publish(records(at + 1), position(at + 1))
            at += 1
        except BrokerError:
            failures += 1
            assert failures < 20
            at = None
    return failures


def check(servers: str, batches: int = BATCHES) -> None:
    """Check that each record was published once, and that each key's records are in order."""
    found = consumed(servers)
    assert sorted(value for _, value, _ in found) == sorted(f"{index}.{n}" for index in range(1, batches + 1) for n in range(20))
    by_key = defaultdict(list)
    for key, _, headers in found:
        by_key[key].append(int(headers["sequence"]))
    assert all(sequences == sorted(sequences) for sequences in by_key.values())


@pytest.mark.parametrize(
    ("request_kind", "errors"),
    [
        (mock.PRODUCE, [mock.NOT_LEADER, mock.NOT_LEADER, mock.TIMED_OUT]),
        (mock.PRODUCE, [mock.TOO_FEW_REPLICAS] * 4),
        (mock.PRODUCE, [mock.STORAGE]),
        (mock.PRODUCE, [mock.NOT_ALLOWED]),
        (mock.INIT_PRODUCER_ID, [mock.NO_COORDINATOR] * 2),
        (mock.ADD_PARTITIONS, [mock.NO_COORDINATOR]),
        (mock.END_TXN, [mock.NO_COORDINATOR] * 2),
        (mock.FETCH, [mock.NOT_LEADER] * 2),
        (mock.LIST_OFFSETS, [mock.NOT_LEADER]),
    ],
)
def test_a_stream_survives_a_broker_that_answers_with_errors(brokers: MockBrokers, request_kind: int, errors: list[int]) -> None:
    broker = KafkaBroker(brokers.servers, "trial", PLACES, [TOPIC])
    broker.begin()
    brokers.fail(request_kind, *errors)
    stream(broker)
    broker.close()
    check(brokers.servers)


def test_a_broker_that_no_longer_knows_the_producer_fences_it(brokers: MockBrokers) -> None:
    broker = KafkaBroker(brokers.servers, "trial", PLACES, [TOPIC])
    broker.begin()
    broker.publish(records(1), position(1))
    brokers.fail(mock.ADD_PARTITIONS, mock.WRONG_EPOCH)
    with pytest.raises(FencedError):
        broker.publish(records(2), position(2))
    assert broker.begin() == position(1)
    stream(broker)
    broker.close()
    check(brokers.servers)


def test_a_stream_continues_after_all_brokers_were_away(brokers: MockBrokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_S", 2.0)
    broker = KafkaBroker(brokers.servers, "trial", PLACES, [TOPIC])
    broker.begin()
    broker.publish(records(1), position(1))
    with brokers.down(*MockBrokers.BROKERS), pytest.raises(BrokerError):
        broker.publish(records(2), position(2))
    stream(broker)
    broker.close()
    check(brokers.servers)


def test_a_stream_continues_with_one_broker_of_three_away_and_the_others_slow(brokers: MockBrokers) -> None:
    broker = KafkaBroker(brokers.servers, "trial", PLACES, [TOPIC])
    brokers.slow(20)
    broker.begin()
    broker.publish(records(1), position(1))
    with brokers.down(2):
        pass
    stream(broker)
    broker.close()
    check(brokers.servers)


def test_a_cut_is_in_every_partition_before_later_records(brokers: MockBrokers) -> None:
    broker = KafkaBroker(brokers.servers, "trial", PLACES, [TOPIC])
    broker.begin()
    for index in (1, 2, 3):
        broker.publish(records(index), position(index))
    cut = Record(TOPIC, "cut_back", b"cut", 100, "cut_back", 1)
    broker.cut([cut], StreamProgress("trial", 1, 0, "n1"))
    broker.publish(records(2), position(2))
    broker.close()
    again = KafkaBroker(brokers.servers, "trial", PLACES, [TOPIC])
    assert again.begin() == position(2)
    again.publish(records(2) + records(3), position(3))
    again.close()
    found = [(value, headers["type"]) for _, value, headers in consumed(brokers.servers)]
    assert sum(kind == b"cut_back" for _, kind in found) == 4, "one in each partition"
    values = [value for value, kind in found if kind != b"cut_back"]
    assert sorted(values) == sorted([f"{index}.{n}" for index in (1, 2, 3, 2, 3) for n in range(20)])

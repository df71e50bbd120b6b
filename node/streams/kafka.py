"""Kafka: records and place in one transaction, a second streamer fenced by the transactional id.

The place is a record of a topic of its own with one partition. It is found by reading that partition's end with `read_committed`. Behind the last
record there may be markers of transactions, so the end is read in growing pieces.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from node.streams.broker import BrokerError, FencedError, Place, Record

log = logging.getLogger(__name__)

ANSWER_S = 20.0
"""For one answer of the broker."""

TOPICS_S = 5.0
"""For making topics."""

PIECES = (16, 256, 4_096, 65_536)
"""Offsets before a partition's end that are read to find the last record there."""

FENCED = frozenset(
    {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_ID_MAPPING}
)


class KafkaBroker:
    """See `broker.Broker`.

    Args:
        servers: "host:port,host:port".
        cluster_id: of the exchange; the transactional id is made of it.
        places: the topic with the place.
        partitions: of topics that are made here; those that exist keep theirs.
        replication: of topics that are made here.
        options: settings of librdkafka that are added, such as `security.protocol`.
    """

    def __init__(
        self,
        servers: str,
        cluster_id: str,
        places: str,
        topics: Sequence[str],
        *,
        partitions: int = 6,
        replication: int = 1,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._common: dict[str, Any] = {"bootstrap.servers": servers, "client.id": f"quorumbook-{cluster_id}", **(options or {})}
        self._transactional_id = f"quorumbook-streams-{cluster_id}"
        self._places = places
        self._topics = list(topics)
        self._partitions = partitions
        self._replication = replication
        self._producer: Producer | None = None
        self._has_topics = False

    def begin(self) -> Place | None:
        """See `Broker.begin`."""
        self._drop()
        settings = {
            **self._common,
            "transactional.id": self._transactional_id,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "compression.type": "lz4",
            "message.timeout.ms": int(ANSWER_S * 1000),
            "transaction.timeout.ms": 60_000,
            "partitioner": "murmur2_random",
        }
        self._producer = Producer(settings, logger=log)
        try:
            self._producer.init_transactions(ANSWER_S)
        except KafkaException as error:
            self._drop()
            raise _failure(error) from error
        return self.standing()

    def publish(self, records: Sequence[Record], place: Place) -> None:
        """See `Broker.publish`."""
        producer = self._producer
        if producer is None:
            raise BrokerError("the stream has not begun")
        try:
            producer.begin_transaction()
            for record in records:
                self._produce(producer, record)
            producer.produce(self._places, key=place.cluster_id, value=msgspec.json.encode(place), partition=0)
            producer.commit_transaction(ANSWER_S)
        except (KafkaException, BufferError) as error:
            failure = _failure(error)
            if not isinstance(failure, FencedError):
                with contextlib.suppress(KafkaException):
                    producer.abort_transaction(ANSWER_S)
            self._drop()
            raise failure from error

    def _produce(self, producer: Producer, record: Record) -> None:
        headers: list[tuple[str, str | bytes | None]] = [
            ("sequence", str(record.sequence).encode()),
            ("type", record.kind.encode()),
        ]
        while True:
            try:
                producer.produce(record.topic, key=record.key, value=record.value, headers=headers)
            except BufferError:  # the library's queue is full: it empties while it is served
                producer.poll(0.05)
            else:
                producer.poll(0)
                return

    def standing(self) -> Place | None:
        """See `Broker.standing`."""
        if not self._has_topics:
            self._make_topics()
            self._has_topics = True
        last = self._last_record()
        if last is None:
            return None
        try:
            return msgspec.json.decode(last, type=Place)
        except msgspec.DecodeError as error:
            raise BrokerError(f"{self._places}: its last record is no place of a stream: {error}") from error

    def _last_record(self) -> bytes | None:
        """The value of the last record of the topic with the place."""
        settings = {
            **self._common,
            "group.id": f"{self._transactional_id}-place",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
        consumer = Consumer(settings, logger=log)
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(self._places, 0), ANSWER_S)
            for piece in PIECES:
                begin = max(low, high - piece)
                found = self._read(consumer, begin, high)
                if found is not None or begin == low:
                    return found
            return None
        except KafkaException as error:
            raise _failure(error) from error
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, begin: int, end: int) -> bytes | None:
        """The last record between two offsets."""
        consumer.assign([TopicPartition(self._places, 0, begin)])
        last: bytes | None = None
        while begin < end:
            message = consumer.poll(ANSWER_S)
            if message is None:
                raise BrokerError(f"{self._places} cannot be read: no answer within {ANSWER_S:g} s")
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    break
                raise _failure(KafkaException(error))
            last = message.value()
            if (message.offset() or 0) + 1 >= end:
                break
        return last

    def _make_topics(self) -> None:
        """Make the topics that are not there. A broker that does not let us may make them by itself, so that is no error yet."""
        admin = AdminClient(self._common, logger=log)
        try:
            there = admin.list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            raise _failure(error) from error
        wanted = [
            NewTopic(name, num_partitions=1 if name == self._places else self._partitions, replication_factor=self._replication)
            for name in (*self._topics, self._places)
            if name not in there
        ]
        for name, future in admin.create_topics(wanted, request_timeout=TOPICS_S).items() if wanted else ():
            try:
                future.result(TOPICS_S)
            except (KafkaException, TimeoutError) as error:
                if not isinstance(error, KafkaException) or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    log.warning("topic %s was not made: %s", name, str(error) or "no answer")

    def _drop(self) -> None:
        """Forget the producer; an open transaction is aborted by the broker when the next one begins."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def close(self) -> None:
        """See `Broker.close`."""
        self._drop()


def _failure(error: Exception) -> BrokerError:
    """What the library's error means."""
    kafka = error.args[0] if error.args else None
    if isinstance(kafka, KafkaError):
        if kafka.code() in FENCED:
            return FencedError(kafka.str())
        return BrokerError(f"{kafka.name()}: {kafka.str()}")
    return BrokerError(str(error) or type(error).__name__)


class OrdersTopic:
    """The topic with orders: read in order, committed when carried out. Nodes of one group share its partitions.

    Args:
        group: of the consumers.
    """

    def __init__(self, servers: str, topic: str, group: str, options: Mapping[str, str]) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "max.poll.interval.ms": 3_600_000,
            **options,
        }
        self._consumer = Consumer(settings, logger=log)
        self._consumer.subscribe([topic])

    def read(self, count: int, seconds: float) -> list[tuple[str, int, int, bytes]]:
        """Some records, at most `count`: topic, partition, offset, value. None while the broker has none or does not answer."""
        found = []
        for message in self._consumer.consume(count, seconds):
            error = message.error()
            if error is not None:
                log.warning("the topic with orders: %s", error.str())
                continue
            place = message.topic(), message.partition(), message.offset()
            found.append((str(place[0]), int(place[1] or 0), int(place[2] or 0), message.value() or b""))
        return found

    def done(self, found: Sequence[tuple[str, int, int, bytes]]) -> None:
        """Note at the broker that records are carried out. If that fails they are read again, and nothing is placed twice."""
        ends: dict[tuple[str, int], int] = {}
        for topic, partition, offset, _ in found:
            ends[topic, partition] = max(offset + 1, ends.get((topic, partition), 0))
        try:
            self._consumer.commit(offsets=[TopicPartition(*place, end) for place, end in ends.items()], asynchronous=False)
        except KafkaException as error:
            log.warning("what was carried out is not noted at the broker: %s", _failure(error))

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

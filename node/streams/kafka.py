"""Kafka: publishes records and position in one transaction. The transactional id fences a second streaming process.

The position is a record in a separate topic with one partition. It is produced after the broker has acknowledged the
records before it.

A streaming process that fails leaves a transaction open. Kafka aborts it, and consumers with `read_committed` never see
it. Some compatible brokers show such records nevertheless, so the stream does not rely on the abort. At the beginning
it reads the last record of every partition as a consumer sees it, and does not publish again what a partition has. For
this purpose each record has the header `place`: its log entry, and its number within the entry. The stream chooses
partitions by CRC32 of the key.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from node.streams.broker import BrokerError, FencedError, Record, StreamProgress

log = logging.getLogger(__name__)

library = logging.getLogger("node.streams.librdkafka")
library.setLevel(logging.CRITICAL + 1)  # a failing call reports its error, and fencing is normal

NOTHING = (-1, -1)
"""The position before the first record of a partition."""

ANSWER_S = 20.0
"""Seconds to wait for one answer of the broker."""

TOPICS_S = 5.0
"""Seconds to wait for the creation of topics."""

LOOKBACKS = (16, 256, 4_096, 65_536)
"""Numbers of offsets before a partition's end that are read, one after the other, to find its last record."""

FENCED = frozenset(
    {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_ID_MAPPING}
)


class KafkaBroker:
    """See `broker.Broker`.

    Args:
        servers: "host:port,host:port".
        cluster_id: the exchange's cluster id, from which the transactional id is derived.
        places: the topic of the position.
        partitions: the number of partitions of new topics. Existing topics keep theirs.
        replication: the replication factor of new topics.
        options: additional settings of librdkafka, such as `security.protocol`.
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
        self._counts: dict[str, int] = {}
        """Numbers of partitions by topic."""
        self._ends: dict[tuple[str, int], tuple[int, int]] = {}
        """The last record of each partition when the stream began: its log entry, and its number within the entry."""

    def begin(self) -> StreamProgress | None:
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
        }
        self._producer = Producer(settings, logger=library)
        try:
            self._producer.init_transactions(ANSWER_S)
        except KafkaException as error:
            self._drop()
            raise _failure(error) from error
        position = self.standing()
        self._read_ends()
        return position

    def publish(self, records: Sequence[Record], position: StreamProgress) -> None:
        """See `Broker.publish`."""
        self._transact(records, position, [])

    def _transact(self, records: Sequence[Record], position: StreamProgress, everywhere: Sequence[tuple[Record, int]]) -> None:
        """Publish records, records of `everywhere` in the given partitions, and the position, in one transaction."""
        producer = self._producer
        if producer is None:
            raise BrokerError("the stream has not begun")
        try:
            producer.begin_transaction()
            for record, partition in everywhere:
                self._produce(producer, record, partition)
            for record in records:
                self._produce(producer, record)
            if producer.flush(ANSWER_S):
                raise BrokerError(f"no acknowledgement within {ANSWER_S:g} s")
            producer.produce(self._places, key=position.cluster_id, value=msgspec.json.encode(position), partition=0)
            producer.commit_transaction(ANSWER_S)
        except (KafkaException, BufferError, BrokerError) as error:
            failure = error if isinstance(error, BrokerError) else _failure(error)
            if not isinstance(failure, FencedError):
                with contextlib.suppress(KafkaException):
                    producer.abort_transaction(ANSWER_S)
            self._drop()
            raise failure from error

    def cut(self, records: Sequence[Record], position: StreamProgress) -> None:
        """See `Broker.cut`."""
        everywhere = [(record, partition) for record in records for partition in range(self._counts.get(record.topic, 0))]
        self._transact([], position, everywhere)
        self._ends = {(record.topic, partition): (record.index, record.ordinal) for record, partition in everywhere}

    def _produce(self, producer: Producer, record: Record, partition: int | None = None) -> None:
        """Produce a record unless its partition has it. With `partition` the record is always produced there."""
        if partition is None:
            partition = zlib.crc32(record.key.encode()) % self._counts[record.topic]
            if (record.index, record.ordinal) <= self._ends.get((record.topic, partition), NOTHING):
                return
        headers: list[tuple[str, str | bytes | None]] = [(name, text.encode()) for name, text in record.headers().items()]
        while True:
            try:
                producer.produce(record.topic, key=record.key, value=record.value, headers=headers, partition=partition)
            except BufferError:  # the library's queue is full; polling empties it
                producer.poll(0.05)
            else:
                producer.poll(0)
                return

    def standing(self) -> StreamProgress | None:
        """See `Broker.standing`."""
        if not self._counts:
            self._make_topics()
        last = self._last_records([(self._places, 0)]).get((self._places, 0))
        if last is None:
            return None
        try:
            return msgspec.json.decode(last.value() or b"", type=StreamProgress)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BrokerError(f"{self._places}: its last record is not a position of a stream: {error}") from error

    def _read_ends(self) -> None:
        """Read the last record of each partition."""
        partitions = [
            (topic, number) for topic, count in self._counts.items() if topic != self._places for number in range(count)
        ]
        self._ends = {}
        for where, message in self._last_records(partitions).items():
            text = dict(message.headers() or []).get("place") or b""
            index, _, ordinal = (text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)).partition(".")
            if not (index.isdigit() and ordinal.isdigit()):
                raise BrokerError(f"{where[0]}, partition {where[1]}: its last record is not of a stream")
            self._ends[where] = int(index), int(ordinal)

    def _last_records(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        """Return the last record of each partition as a consumer sees it. An empty partition has no entry."""
        settings = {
            **self._common,
            "group.id": f"{self._transactional_id}-place",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
        consumer = Consumer(settings, logger=library)
        found: dict[tuple[str, int], Message] = {}
        try:
            marks = {where: consumer.get_watermark_offsets(TopicPartition(*where), ANSWER_S) for where in partitions}
            left = {where: (low, high) for where, (low, high) in marks.items() if high > low}
            for lookback in LOOKBACKS:
                begins = {where: max(low, high - lookback) for where, (low, high) in left.items()}
                if begins:
                    found |= self._read(consumer, begins)
                left = {where: marks[where] for where, begin in begins.items() if where not in found and begin > marks[where][0]}
            return found
        except KafkaException as error:
            raise _failure(error) from error
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, begins: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], Message]:
        """Return the last record at or after the given offset, by partition."""
        consumer.assign([TopicPartition(*where, begin) for where, begin in begins.items()])
        found: dict[tuple[str, int], Message] = {}
        ended: set[tuple[str, int]] = set()
        while len(ended) < len(begins):
            message = consumer.poll(ANSWER_S)
            if message is None:
                raise BrokerError(f"the ends of the partitions cannot be read: no answer within {ANSWER_S:g} s")
            where = str(message.topic()), int(message.partition() or 0)
            error = message.error()
            if error is None:
                found[where] = message
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(where)
            else:
                raise _failure(KafkaException(error))
        return found

    def _make_topics(self) -> None:
        """Create missing topics, and record the partitions of all."""
        counts = {name: 1 if name == self._places else self._partitions for name in (*self._topics, self._places)}
        self._counts = make_topics(self._common, counts, self._replication)

    def _drop(self) -> None:
        """Drop the producer. The broker aborts its open transaction when the next one begins."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def close(self) -> None:
        """See `Broker.close`."""
        self._drop()


def _failure(error: Exception) -> BrokerError:
    """Convert an error of the library."""
    kafka = error.args[0] if error.args else None
    if isinstance(kafka, KafkaError):
        if kafka.code() in FENCED:
            return FencedError(kafka.str())
        return BrokerError(f"{kafka.name()}: {kafka.str()}")
    return BrokerError(str(error) or type(error).__name__)


def make_topics(common: Mapping[str, Any], wanted: Mapping[str, int], replication: int) -> dict[str, int]:
    """Create missing topics, and return the number of partitions of each topic.

    Args:
        common: settings of the client library.
        wanted: numbers of partitions by topic.

    Raises:
        BrokerError: a topic is missing and could not be created.
    """
    admin = AdminClient(dict(common), logger=library)
    try:
        there = admin.list_topics(timeout=ANSWER_S).topics
        lacking = [
            NewTopic(name, num_partitions=count, replication_factor=replication)
            for name, count in wanted.items()
            if name not in there
        ]
        for name, future in admin.create_topics(lacking, request_timeout=TOPICS_S).items() if lacking else ():
            try:
                future.result(TOPICS_S)
            except (KafkaException, TimeoutError) as error:
                if not isinstance(error, KafkaException) or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    log.warning("topic %s was not made: %s", name, str(error) or "no answer")
        there = admin.list_topics(timeout=ANSWER_S).topics
    except KafkaException as error:
        raise _failure(error) from error
    missing = [name for name in wanted if name not in there or not there[name].partitions]
    if missing:
        raise BrokerError(f"there is no topic {', '.join(missing)}, and it was not made")
    return {name: len(there[name].partitions) for name in wanted}


class OrdersTopic:
    """The topic of orders. Records are read in order, and committed after they are carried out. Nodes share its
    partitions.

    Args:
        group: the consumer group.
        partitions, replication: those of the topic if it is created here.

    Raises:
        BrokerError: the broker cannot be reached, or the topic is missing and could not be created.
    """

    def __init__(
        self, servers: str, topic: str, group: str, options: Mapping[str, str], *, partitions: int = 6, replication: int = 1
    ) -> None:
        common = {"bootstrap.servers": servers, **options}
        make_topics(common, {topic: partitions}, replication)
        settings: dict[str, Any] = {
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "max.poll.interval.ms": 3_600_000,
            "session.timeout.ms": 10_000,  # after this time the partitions of a failed reader go to another one
            **common,
        }
        self._consumer = Consumer(settings, logger=library)
        self._consumer.subscribe([topic])

    def read(self, count: int, seconds: float) -> list[tuple[str, int, int, bytes]]:
        """Return at most `count` records as (topic, partition, offset, value). The list is empty if the broker has none
        or does not answer within `seconds`.
        """
        found = []
        for message in self._consumer.consume(count, seconds):
            error = message.error()
            if error is not None:
                log.warning("the topic with orders: %s", error.str())
                continue
            where = message.topic(), message.partition(), message.offset()
            found.append((str(where[0]), int(where[1] or 0), int(where[2] or 0), message.value() or b""))
        return found

    def done(self, found: Sequence[tuple[str, int, int, bytes]]) -> None:
        """Commit the offsets of carried-out records. If that fails, the records are read again, and their command ids
        prevent second orders.
        """
        ends: dict[tuple[str, int], int] = {}
        for topic, partition, offset, _ in found:
            ends[topic, partition] = max(offset + 1, ends.get((topic, partition), 0))
        try:
            self._consumer.commit(offsets=[TopicPartition(*where, end) for where, end in ends.items()], asynchronous=False)
        except KafkaException as error:
            log.warning("the offsets of carried-out records were not committed: %s", _failure(error))

    def close(self) -> None:
        """Leave the consumer group."""
        self._consumer.close()

"""librdkafka's mock cluster with errors, outages and delays that a test chooses. Python's binding does not offer them,
so this module calls the library itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import confluent_kafka

PRODUCE, FETCH, LIST_OFFSETS, METADATA, INIT_PRODUCER_ID, ADD_PARTITIONS, END_TXN = 0, 1, 2, 3, 22, 24, 26
"""Kinds of requests (Kafka's API keys)."""

NOT_LEADER, TIMED_OUT, NO_COORDINATOR, TOO_FEW_REPLICAS, NOT_ALLOWED, WRONG_EPOCH, STORAGE = 6, 7, 15, 19, 29, 47, 56
"""Errors that a broker answers with (Kafka's error codes)."""


def library() -> ctypes.CDLL:
    """Return the librdkafka that the binding has loaded."""
    folder = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
    path = next(iter(sorted(folder.glob("librdkafka*.so*"))), None)
    found = ctypes.CDLL(str(path) if path is not None else "librdkafka.so.1")
    for name, result, arguments in (
        ("rd_kafka_new", ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [ctypes.c_void_p]),
        ("rd_kafka_mock_cluster_new", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
        ("rd_kafka_mock_cluster_destroy", None, [ctypes.c_void_p]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [ctypes.c_void_p]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
        ("rd_kafka_mock_broker_set_down", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_up", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_rtt", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int]),
    ):
        function: Any = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class MockBrokers:
    """Three brokers, as a context manager."""

    BROKERS = (1, 2, 3)

    def __init__(self, topics: dict[str, int]) -> None:
        self._library = library()
        self._owner = self._library.rd_kafka_new(0, None, ctypes.create_string_buffer(512), 512)
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._owner, len(self.BROKERS))
        for name, partitions in topics.items():
            self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, len(self.BROKERS))
        self.servers: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._owner)

    def fail(self, request: int, *errors: int) -> None:
        """Answer the next requests of this kind with these errors, one each."""
        call = self._library.rd_kafka_mock_push_request_errors
        call(
            ctypes.c_void_p(self._cluster),
            ctypes.c_int16(request),
            ctypes.c_size_t(len(errors)),
            *(ctypes.c_int(error) for error in errors),
        )

    @contextmanager
    def down(self, *brokers: int) -> Iterator[None]:
        """Take these brokers down."""
        for broker in brokers:
            self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)
        try:
            yield
        finally:
            for broker in brokers:
                self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def slow(self, ms: int) -> None:
        """Delay the answers of every broker by this much."""
        for broker in self.BROKERS:
            self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, ms)

"""What JetStream has after failures: each record once. The server is a list of messages."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

pytest.importorskip("nats")

from nats.js.errors import APIError, NotFoundError

from node.streams.broker import BrokerError, FencedError, Record, StreamProgress
from node.streams.jetstream import EXPECTED, EXPECTED_ID, MESSAGE_ID, WRONG_LAST_MESSAGE, WRONG_LAST_SEQUENCE, JetStreamBroker


class Server:
    """The messages of one stream. From message number `fails_at` on nothing is stored."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.last_id = ""
        self.fails_at = 0

    async def stream_info(self, _name: str) -> Any:
        return SimpleNamespace(state=SimpleNamespace(last_seq=len(self.messages)))

    async def get_last_msg(self, _name: str, subject: str) -> Any:
        for number, (name, data) in reversed(list(enumerate(self.messages, 1))):
            if name == subject:
                return SimpleNamespace(data=data, seq=number)
        raise NotFoundError

    async def publish(self, subject: str, data: bytes, *, headers: dict[str, str], timeout: float) -> None:
        assert timeout > 0
        if self.fails_at and len(self.messages) + 1 >= self.fails_at:
            raise TimeoutError
        if int(headers[EXPECTED]) != len(self.messages):
            raise APIError(err_code=WRONG_LAST_SEQUENCE, description="wrong last sequence")
        if headers.get(EXPECTED_ID, self.last_id) != self.last_id:
            raise APIError(err_code=WRONG_LAST_MESSAGE, description="wrong last message id")
        self.messages.append((subject, data))
        self.last_id = headers[MESSAGE_ID]

    @property
    def values(self) -> list[int]:
        return [int(data) for subject, data in self.messages if subject.startswith("qb.events")]


class Connected(JetStreamBroker):
    """A broker whose server is in this process."""

    def __init__(self, server: Server) -> None:
        super().__init__("127.0.0.1:1", "trial", "qb")
        self.server: Any = server

    async def _context(self) -> Any:
        return self.server


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def broker(server: Server) -> Iterator[Connected]:
    made = Connected(server)
    yield made
    made.close()


def batch(first: int, last: int) -> tuple[list[Record], StreamProgress]:
    """Return the records from `first` to `last`, one for each log entry, and the position after them."""
    made = [Record("qb.events", "BTC-USD", str(number).encode(), number, "event", number) for number in range(first, last + 1)]
    return made, StreamProgress("trial", last, 1, "n1")


def test_small_batches_after_a_large_one_that_failed(server: Server, broker: Connected) -> None:
    """A process dies in a batch of 20 records, 12 of them published. The next one makes batches of 5, because its node
    has just restarted.
    """
    assert broker.begin() is None
    broker.publish(*batch(1, 3))
    server.fails_at = len(server.messages) + 13
    with pytest.raises(BrokerError):
        broker.publish(*batch(4, 23))
    assert server.values == list(range(1, 16))
    server.fails_at = 0
    for first in (4, 9):
        assert broker.begin() == StreamProgress("trial", 3, 1, "n1")
        for start in range(4, first + 1, 5):
            broker.publish(*batch(start, start + 4))
    broker.publish(*batch(14, 18))
    assert server.values == list(range(1, 19))
    assert broker.standing() == StreamProgress("trial", 18, 1, "n1")
    assert broker.begin() == StreamProgress("trial", 18, 1, "n1")
    broker.publish(*batch(19, 23))
    assert server.values == list(range(1, 24))


def test_a_place_that_another_process_publishes_at_the_beginning(server: Server, broker: Connected) -> None:
    """It is published between the two reads. Its records are not counted as the first ones after the former position."""
    broker.begin()
    broker.publish(*batch(1, 3))
    read = server.get_last_msg

    async def late(name: str, subject: str) -> Any:
        for number in range(4, 7):
            server.messages.append(("qb.events.BTC-USD", str(number).encode()))
        server.messages.append(("qb.places", msgspec.json.encode(StreamProgress("trial", 6, 1, "n2"))))
        return await read(name, subject)

    server.get_last_msg = late  # type: ignore[method-assign, assignment]  # its own names of arguments
    with pytest.raises(FencedError):
        broker.begin()


@pytest.mark.parametrize("after", range(1, 6))
def test_a_message_of_another_process_within_a_batch_ends_the_batch(server: Server, broker: Connected, after: int) -> None:
    """The condition of the next message but one has the right number again. It must not be accepted: the record before it
    would be missing, and the next process would count it as that record.
    """
    broker.begin()
    broker.publish(*batch(1, 3))
    publish, length = server.publish, len(server.messages)

    async def interrupted(subject: str, data: bytes, *, headers: dict[str, str], timeout: float) -> None:
        if len(server.messages) == length + after and server.last_id != "other":
            server.messages.append(("qb.places", msgspec.json.encode(StreamProgress("trial", 3 + after, 1, "n2"))))
            server.last_id = "other"
        await publish(subject, data, headers=headers, timeout=timeout)

    server.publish = interrupted  # type: ignore[method-assign]
    with pytest.raises(FencedError):
        broker.publish(*batch(4, 12))
    assert server.values == list(range(1, 4 + after))
    assert broker.begin() == StreamProgress("trial", 3 + after, 1, "n2")
    broker.publish(*batch(4 + after, 12))
    assert server.values == list(range(1, 13))

"""NATS JetStream: one stream of messages, each published on condition that it follows the previous one.

JetStream has no transactions. A position is a message after the records that it covers. Messages after the last
position are the next records. Their order is the same on every node, so the stream skips as many records when it
continues. A node that has just restarted makes small batches, so that may take several. No position is published before
all are skipped: it would be after records that it does not cover. If a second process publishes, the condition of the
first process fails, and the first process is fenced.

Messages leave without waiting for each other's answers. So a condition on the number of the last message is not enough:
if the second process publishes one message in between, the next message of the first one is refused, and the one after
that has the right number again. Each message therefore also names the message before it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import nats
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from node.client.blocking import Loop
from node.streams.broker import BrokerError, FencedError, Record, StreamProgress

log = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_S = 10.0
IN_FLIGHT = 256
"""Messages that wait for their acknowledgements together."""

WRONG_LAST_MESSAGE = 10_070
WRONG_LAST_SEQUENCE = 10_071
"""JetStream's error codes (`JSStreamWrongLastMsgIDErrF`, `JSStreamWrongLastSequenceErrF`)."""
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_ID = "Nats-Expected-Last-Msg-Id"
EXPECTED = "Nats-Expected-Last-Sequence"

DUPLICATE_WINDOW_S = 1.0
"""Seconds for which the server remembers ids to recognise duplicates. This process never sends an id twice."""


class JetStreamBroker:
    """See `broker.Broker`.

    Args:
        servers: "host:port,host:port".
        prefix: subjects are PREFIX.TOPIC.KEY, the stream is PREFIX with "_" for ".".
    """

    def __init__(self, servers: str, cluster_id: str, prefix: str, *, options: Mapping[str, str] | None = None) -> None:
        self._servers = [f"nats://{server}" for server in servers.split(",")]
        self._cluster_id = cluster_id
        self._prefix = prefix
        self._stream = prefix.replace(".", "_")
        self._options = dict(options or {})
        self._loop = Loop()
        self._nats: Nats | None = None
        self._last = 0
        """The expected stream sequence of the last message."""
        self._skip = 0
        """Records after the last position, which were already published."""
        self._run = ""
        """The first part of the ids of messages, another one after each `begin`."""
        self._last_id = ""
        """The id of the last message, or "" before the first one of this run."""

    def begin(self) -> StreamProgress | None:
        """See `Broker.begin`."""
        return self._do(self._begin())

    def publish(self, records: Sequence[Record], position: StreamProgress) -> None:
        """See `Broker.publish`. Records may become visible before the position. No record is published twice."""
        self._do(self._publish(records, position))

    def cut(self, records: Sequence[Record], position: StreamProgress) -> None:
        """See `Broker.cut`. Records after the last position were undone, so they do not count as published."""
        self._skip = 0
        self.publish(records, position)

    def standing(self) -> StreamProgress | None:
        """See `Broker.standing`."""
        return self._do(self._standing())[0]

    def close(self) -> None:
        """See `Broker.close`."""
        if self._nats is not None:
            self._loop.run(self._nats.close())
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run(work)
        except (NatsError, TimeoutError, OSError) as error:
            raise BrokerError(str(error) or type(error).__name__) from error

    async def _context(self) -> JetStreamContext:
        """Return the connection; it is made again after a loss."""
        if self._nats is None or not self._nats.is_connected:
            if self._nats is not None:
                await self._nats.close()
            async with asyncio.timeout(ANSWER_S):
                self._nats = await nats.connect(
                    servers=self._servers,
                    name="quorumbook",
                    allow_reconnect=False,
                    connect_timeout=5,
                    error_cb=_note,
                    **self._options,
                )
        return self._nats.jetstream(timeout=ANSWER_S)

    async def _begin(self) -> StreamProgress | None:
        """Create the stream if necessary, and find its position. Records after the position are skipped later."""
        context = await self._context()
        try:
            await context.stream_info(self._stream)
        except NotFoundError:
            await context.add_stream(name=self._stream, subjects=[f"{self._prefix}.>"], duplicate_window=DUPLICATE_WINDOW_S)
        # The end first: what another process publishes meanwhile is behind it, and fences this one.
        self._last = (await context.stream_info(self._stream)).state.last_seq
        position, at = await self._standing()
        if at > self._last:
            raise FencedError("another process publishes")
        self._skip = self._last - at
        self._run, self._last_id = secrets.token_hex(8), ""
        return position

    async def _standing(self) -> tuple[StreamProgress | None, int]:
        """Return the last position and its sequence in the stream, or None and 0."""
        context = await self._context()
        try:
            message = await context.get_last_msg(self._stream, f"{self._prefix}.places")
        except NotFoundError:
            return None, 0
        try:
            return msgspec.json.decode(message.data or b"", type=StreamProgress), int(message.seq or 0)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BrokerError(f"{self._prefix}.places: its last message is not a position of a stream: {error}") from error

    async def _publish(self, records: Sequence[Record], position: StreamProgress) -> None:
        """Publish records and the position in order, without those that were published before."""
        if self._skip > len(records):
            self._skip -= len(records)
            return
        context = await self._context()
        left = [(f"{record.topic}.{_token(record.key)}", record.value, record.headers()) for record in records[self._skip :]]
        left.append((f"{self._prefix}.places", msgspec.json.encode(position), {}))
        for start in range(0, len(left), IN_FLIGHT):
            chunk = left[start : start + IN_FLIGHT]
            sent = [
                context.publish(subject, value, headers={**headers, **self._conditions(self._last + number)}, timeout=ANSWER_S)
                for number, (subject, value, headers) in enumerate(chunk)
            ]
            for answer in await asyncio.gather(*sent, return_exceptions=True):
                if isinstance(answer, APIError) and answer.err_code in (WRONG_LAST_SEQUENCE, WRONG_LAST_MESSAGE):
                    raise FencedError(str(answer.description))
                if isinstance(answer, BaseException):
                    raise BrokerError(str(answer) or type(answer).__name__)
            self._last += len(chunk)
        self._skip = 0

    def _conditions(self, last: int) -> dict[str, str]:
        """Return the headers of the next message, which must follow the message with the number `last`. The first message
        of a run follows one of an unknown id, but its number was read by `begin`.
        """
        headers = {EXPECTED: str(last), MESSAGE_ID: f"{self._run}.{last + 1}"}
        if self._last_id:
            headers[EXPECTED_ID] = self._last_id
        self._last_id = headers[MESSAGE_ID]
        return headers


async def _note(error: Exception) -> None:
    """Log a connection error that the library reports. Pending calls fail on their own."""
    log.info("NATS: %s", str(error) or type(error).__name__)


def _token(key: str) -> str:
    """Return a key as a token of a subject. Characters with a meaning in subjects are escaped."""
    return "".join(letter if letter.isalnum() or letter in "-_:" else f"%{ord(letter):02x}" for letter in key) or "-"

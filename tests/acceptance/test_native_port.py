"""Connections to a real node's port of the native protocol: clients without a key, wrong signatures, malformed
messages, and messages at the wrong time.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from node.keys.credentials import Credentials, sign
from node.native.protocol import FRAME_MAX, FailCode, Failed, Hello, Results, Submit, Welcome, frame, response_decoder
from statemachine.commands import CancelAll, Deposit
from statemachine.events import Cancelled
from statemachine.limits import OPERATOR
from tests.real_cluster import Exchange

pytestmark = pytest.mark.cluster

SECONDS = 30.0
Answer = Welcome | Failed | Results


class Caller:
    """A TLS connection that sends bytes and reads frames."""

    def __init__(self, channel: ssl.SSLSocket) -> None:
        self.channel = channel

    def send(self, data: bytes) -> None:
        self.channel.sendall(data)

    def read(self) -> Answer | None:
        """Return the next message, None at the end of the connection."""
        head = self._exactly(4)
        if head is None:
            return None
        body = self._exactly(struct.unpack(">I", head)[0])
        assert body is not None
        message = response_decoder.decode(body)
        assert isinstance(message, Welcome | Failed | Results)
        return message

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                part = self.channel.recv(count - len(data))
            except ConnectionError:
                return None
            if not part:
                return None
            data += part
        return data


@contextmanager
def connected(exchange: Exchange, node_id: str = "n1") -> Iterator[Caller]:
    host, _, port = exchange.access.natives[node_id].rpartition(":")
    context = exchange.access.tls()
    with socket.create_connection((host, int(port)), timeout=SECONDS) as plain, context.wrap_socket(plain) as channel:
        yield Caller(channel)


def hello(exchange: Exchange, **changes: object) -> Hello:
    person = exchange.people[0]
    now = str(time.time())
    good = Hello(1, "test", person.key_id, person.passphrase, now, sign(person.secret, now))
    return msgspec.structs.replace(good, **changes)


@contextmanager
def greeted(exchange: Exchange, node_id: str = "n1") -> Iterator[Caller]:
    with connected(exchange, node_id) as caller:
        caller.send(frame(hello(exchange)))
        assert isinstance(caller.read(), Welcome)
        yield caller


def test_a_signed_greeting_is_welcome(shared_exchange: Exchange) -> None:
    with greeted(shared_exchange):
        pass


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"key_id": "nobody"}, FailCode.UNAUTHORIZED, ""),
        ({"key_id": ""}, FailCode.UNAUTHORIZED, ""),
        ({"passphrase": "wrong"}, FailCode.UNAUTHORIZED, ""),
        ({"signature": "bm90IGl0"}, FailCode.UNAUTHORIZED, ""),
        ({"signature": "\u0000"}, FailCode.UNAUTHORIZED, ""),
        ({"timestamp": "1600000000"}, FailCode.UNAUTHORIZED, "timestamp"),
        ({"timestamp": "nan"}, FailCode.UNAUTHORIZED, "timestamp"),
        ({"version": 99}, FailCode.BAD_REQUEST, "version"),
    ],
)
def test_a_wrong_greeting_is_refused(shared_exchange: Exchange, changes: dict[str, object], code: FailCode, named: str) -> None:
    with connected(shared_exchange, asyncio.run(shared_exchange.cluster.leader())) as caller:
        caller.send(frame(hello(shared_exchange, **changes)))
        answer = caller.read()
        assert isinstance(answer, Failed)
        assert answer.code == code
        assert named in answer.message
        assert caller.read() is None, "and the connection ends"


def test_a_request_before_the_greeting_is_refused(shared_exchange: Exchange) -> None:
    with connected(shared_exchange) as caller:
        caller.send(frame(Submit(1, [CancelAll(shared_exchange.people[0].account_id, "early")])))
        answer = caller.read()
        assert isinstance(answer, Failed)
        assert answer.code == FailCode.BAD_REQUEST


def body(value: object) -> bytes:
    data = msgspec.msgpack.encode(value)
    return struct.pack(">I", len(data)) + data


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ([99, 1], ""),
        ([2], ""),
        ([2, 5, "commands"], "commands"),
        ([2, 5, [[8, "a"]]], "commands"),
        ([2, 5, [[6, "trader-000", "x", "USD", "ten"]]], "amount"),
        ([2, 5, [[6, "trader-000", "x", "USD", 1.5]]], "amount"),
        ([2, 5, [[77, "trader-000", "x"]]], "commands"),
        ({"type": "submit"}, ""),
        (None, ""),
    ],
)
def test_a_malformed_message_is_named_and_the_session_continues(shared_exchange: Exchange, message: object, named: str) -> None:
    with greeted(shared_exchange) as caller:
        caller.send(body(message))
        answer = caller.read()
        assert isinstance(answer, Failed)
        assert answer.code == FailCode.BAD_REQUEST
        assert named in answer.message
        caller.send(frame(Submit(7, [CancelAll(shared_exchange.people[0].account_id, f"after-{time.monotonic_ns()}")])))
        later = caller.read()
        assert isinstance(later, Results | Failed)
        assert later.request_id == 7
        if isinstance(later, Results):
            assert isinstance(later.outcomes[0], Cancelled)
        else:
            assert later.code == FailCode.NOT_LEADER


def test_a_trader_cannot_act_for_another_account(shared_exchange: Exchange) -> None:
    other = shared_exchange.people[1].account_id
    leader = asyncio.run(shared_exchange.cluster.leader())
    with greeted(shared_exchange, leader) as caller:
        for command in (CancelAll(other, "theirs"), Deposit(OPERATOR, "mine", "USD", 1)):
            caller.send(frame(Submit(3, [command])))
            answer = caller.read()
            assert isinstance(answer, Failed)
            assert answer.code == FailCode.FORBIDDEN


@pytest.mark.parametrize("seed", range(3))
def test_garbage_ends_the_connection_only(shared_exchange: Exchange, seed: int) -> None:
    with connected(shared_exchange) as caller:
        caller.send(b"\xff" + random.Random(seed).randbytes(2000))
        answer = caller.read()
        assert answer is None or isinstance(answer, Failed)
    with greeted(shared_exchange):
        pass


def test_an_oversized_frame_ends_the_connection_only(shared_exchange: Exchange) -> None:
    with greeted(shared_exchange) as caller:
        caller.send(struct.pack(">I", FRAME_MAX + 1) + b"x" * 100)
        answer = caller.read()
        assert answer is None or (isinstance(answer, Failed) and answer.code == FailCode.BAD_REQUEST)
    with greeted(shared_exchange):
        pass


def test_a_key_with_a_wrong_secret_is_refused(shared_exchange: Exchange) -> None:
    wrong = Credentials(shared_exchange.people[0].key_id, "d3Jvbmc=", shared_exchange.people[0].passphrase)
    now = str(time.time())
    leader = asyncio.run(shared_exchange.cluster.leader())
    for node_id in shared_exchange.cluster.node_ids:
        with connected(shared_exchange, node_id) as caller:
            caller.send(frame(hello(shared_exchange, timestamp=now, signature=sign(wrong.secret, now))))
            answer = caller.read()
            assert isinstance(answer, Failed)
            if node_id == leader:
                assert answer.code == FailCode.UNAUTHORIZED
            else:
                assert answer.code == FailCode.NOT_LEADER, "a follower may not have the newest key yet"
                assert answer.leader is not None
                assert answer.leader.node_id == leader

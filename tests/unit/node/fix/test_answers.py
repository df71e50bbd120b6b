"""Every request has one answer, whatever its values are, and the session goes on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from node.budget import Shares
from node.config.settings import NodeConfig
from node.fix import process
from node.fix.wire import VALUE_MAX, join, timestamp
from node.gateway.backend import NodeBackend
from node.gateway.errors import UnavailableError
from statemachine.commands import NoteStream, PutProduct
from statemachine.events import AnyEvent
from statemachine.limits import NOTE_MAX, OPERATOR
from statemachine.types import ProductStatus, Side
from tests.unit.node.fix.harness import PRODUCT, Client, FixBackend, exchange, serving, trade_with
from tests.unit.node.fix.test_session_cases import with_checksum
from tests.unit.node.gateway.harness import config
from tests.waiting import until

LONG = "z" * 5_000
OURS = "00000000-0000-0000-0000-000000000999"
ORDER: tuple[tuple[int, object], ...] = ((11, "a"), (55, PRODUCT), (54, 1))

REFUSED: tuple[tuple[str, tuple[tuple[object, object], ...], str], ...] = (
    ("D", (*ORDER, (40, 2), (44, 100), (38, 1), (59, 6), (126, "00010101-00:00:00")), "8"),
    ("D", (*ORDER, (40, 1), (38, "99999999"), (44, "\xe9")), "3"),
    ("F", ((11, "a"), (37, OURS), (41, "\xe9")), "3"),
    ("F", ((11, "a"), (37, OURS), (41, LONG)), "3"),
    ("H", ((11, LONG), (37, OURS)), "3"),
    ("H", ((11, "a"), (790, LONG)), "3"),
    ("q", ((11, "a"), (530, 1), (55, LONG)), "r"),
    ("1", (("9" * 4_000, "x"),), "3"),
    ("1", (("x1", "x"),), "3"),
)


def write(client: Client, kind: str, pairs: tuple[tuple[object, object], ...]) -> None:
    """Send a message with any tags and bytes."""
    head = client.encode(kind).split(b"\x01")[2:-2]
    body = [f"{tag}={value}".encode("latin-1") for tag, value in pairs]
    client.writer.write(with_checksum(b"\x01".join([*head, *body, b""])))


@pytest.mark.parametrize(("kind", "pairs", "answer"), REFUSED)
async def test_a_value_that_cannot_be_taken_is_refused_and_the_session_goes_on(
    kind: str, pairs: tuple[tuple[object, object], ...], answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as served:
        client = await served.logged_on()
        write(client, kind, pairs)
        client.send("1", (112, "alive"))
        assert [(await client.next())[35] for _ in range(2)] == [answer, "0"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_note_with_values_of_a_client_is_never_too_long() -> None:
    assert len(join([(tag, "x" * 9_000) for tag in (11, 17, 41, 55, 58, 790)])) < NOTE_MAX
    assert VALUE_MAX >= 200, "the longest text of a reject"


async def test_a_client_order_id_of_a_cancel_or_a_change_is_used_once() -> None:
    """The second request changes nothing. It had no answer, and a mass cancel was confirmed that cancelled nothing."""
    async with serving() as served:
        client = await served.logged_on()
        client.order("one")
        client.order("two")
        for kind, name, more in (("G", "change", ((38, "0.06"),)), ("F", "cancel", ())):
            for order in ("two", "two") if kind == "G" else ("one", "one"):
                client.send(kind, (11, name), (41, order), (55, PRODUCT), *more)
        got = [await client.next() for _ in range(6)]
        assert [(each[35], each.get(150, each.get(102))) for each in got if each[35] == "8"] == [
            *(("8", "0"), ("8", "0"), ("8", "5"), ("8", "4"))
        ]
        assert [(each[11], each[102], each[434]) for each in got if each[35] == "9"] == [
            ("change", "6", "2"),
            ("cancel", "6", "1"),
        ]
        client.send("q", (11, "all"), (530, 7))
        assert (await client.next("r"))[531] == "7"
        client.order("three")
        client.send("q", (11, "all"), (530, 7))
        again = await client.next("r")
        assert (again[531], again[532]) == ("0", "99")
        assert [order.client_oid for order in served.backend.engine.orders("alice")] == ["three"]
        client.send("q", (11, "all"), (530, 7), (97, "Y"))
        assert (await client.next("r"))[531] == "7", "a repeated message gets the first answer"


async def test_a_refused_cancel_names_the_order_and_its_status() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("one")
        order_id = (await client.next())[37]
        trade_with(served.backend, Side.SELL, 100_00, 5_000_000)
        assert (await client.next())[39] == "2"
        client.send("F", (11, "late"), (41, "one"))
        client.send("G", (11, "later"), (41, "one"), (55, PRODUCT), (38, "0.06"))
        client.send("F", (11, "lost"), (41, "nothing"))
        answers = [await client.next() for _ in range(3)]
        assert [(each[37], each[39], each[102]) for each in answers] == [
            *((order_id, "2", "0"), (order_id, "2", "0"), ("NONE", "8", "1"))
        ]


@pytest.mark.parametrize("target", ["QUORUMBOOK", "QUORUMBOOK-DC", "QUORUMBOOK-MD"])
async def test_a_business_reject_is_not_rejected(target: str) -> None:
    """Two applications that reject each other's rejects would not end."""
    async with serving() as served:
        client = await served.logged_on("alice-key", target)
        client.send("j", (45, 1), (372, "8"), (380, 3))
        client.send("1", (112, "alive"))
        assert (await client.next())[35] == "0"


async def test_requests_from_before_a_session_that_is_not_known_are_not_carried_out() -> None:
    """The exchange ended the session's stream, and has forgotten the outcomes of its orders. The client sends them again,
    because the exchange asks for all messages before its Logon.
    """
    async with serving() as served:
        client = await served.connect()
        client.number = 3
        client.logon(reset=False)
        assert [(await client.next())[35] for _ in range(2)] == ["A", "2"]
        again = ((43, "Y"), (122, timestamp(time.time_ns())))
        client.send("4", (123, "Y"), (36, 2), *again, number=1)
        client.send("D", *ORDER, (40, 2), (44, 1), (38, "0.05"), *again, number=2)
        refused = await client.next()
        assert (refused[35], refused[45], refused[380]) == ("j", "2", "0")
        client.send("4", (123, "Y"), (36, 4), *again, number=3)
        client.order("new")
        assert (await client.next())[11] == "new"
        assert [order.client_oid for order in served.backend.engine.orders("alice")] == ["new"]
        row = served.backend.engine.stream("alice-key/o")
        assert row is not None
        assert row.taken >= 3, "a later Logon does not ask for them once more"


class Behind(FixBackend):
    """A node that gets no more events: it is cut off from the others, and reaches the leader again later."""

    cut = False

    @contextlib.asynccontextmanager
    async def replay(self, product_id: str, from_sequence: int) -> AsyncIterator[AsyncIterator[list[AnyEvent]]]:
        async with super().replay(product_id, from_sequence) as events:

            async def until_cut() -> AsyncIterator[list[AnyEvent]]:
                async for batch in events:
                    await until(lambda: not self.cut)
                    yield batch

            yield until_cut()


async def test_a_node_that_was_cut_off_leaves_the_orders_of_a_client_that_went_elsewhere() -> None:
    backend = exchange()
    behind = Behind()
    behind.__dict__ = backend.__dict__
    async with serving(behind) as one, serving(backend) as two:
        client = await one.logged_on("alice-key", "QUORUMBOOK", (8013, "Y"))
        client.order("first")
        await client.next()
        Behind.cut = True
        try:
            other = await two.connect()
            other.number = client.number
            other.logon((8013, "Y"), reset=False)
            assert (await other.next())[35] == "A"
            client.writer.close()
            await until(lambda: not one.server.connections)
        finally:
            Behind.cut = False
        assert [order.client_oid for order in backend.engine.orders("alice")] == ["first"]


async def test_a_logon_with_a_low_number_does_not_take_the_session_over() -> None:
    async with serving() as served:
        client = await served.logged_on("alice-key", "QUORUMBOOK", (8013, "Y"))
        client.order("goes")
        await client.next()
        other = await served.connect()
        other.logon(reset=False)
        assert "too low" in (await other.next("5"))[58]
        client.writer.close()
        await until(lambda: not served.backend.engine.orders("alice"), seconds=3.0)


async def test_followers_serve_fix_although_http_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's backend answers NotLeaderError where `http.followers` is "redirect". FIX has no such answer, and a
    follower accepted no session.
    """
    asked: list[bool] = []

    def taken(_config: NodeConfig, *, redirect: bool) -> NodeBackend:
        asked.append(redirect)
        raise UnavailableError("enough")

    monkeypatch.setattr(process, "backend_of", taken)
    with pytest.raises(UnavailableError):
        await process.run(config(), asyncio.Event())
    assert asked == [False]


async def test_a_logon_that_the_exchange_refuses_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ended without a word, although docs/fix.md promises a Logout with the reason."""
    async with serving() as served:
        served.backend.apply(NoteStream("alice", "1", "alice-key/o", "n1", open=True))
        served.backend.apply(NoteStream("alice", "2", "alice-key/o", "n1", close=True))
        client = await served.connect()
        client.logon(reset=False)
        assert "ResetSeqNumFlag=Y" in (await client.end())[-1][58]
        market = await served.connect("alice-key", "QUORUMBOOK-MD")
        market.number = 2
        market.logon(reset=False)
        assert "MsgSeqNum 1" in (await market.end())[-1][58]
        monkeypatch.setattr(served.server, "_logons", Shares(0.001, 1.0))
        for text in ("", "too many Logons"):
            again = await served.connect()
            again.logon()
            assert text in (await again.next())[58 if text else 35]


async def test_orders_of_an_offline_product_leave_with_the_connection() -> None:
    """Only the timer of a node that died reached them. They traded when the product was online again."""
    async with serving() as served:
        client = await served.logged_on("alice-key", "QUORUMBOOK", (8013, "S"))
        client.order("goes")
        await client.next()
        row = served.backend.engine.product(PRODUCT)
        assert row is not None
        sizes = (row.tick, row.lot, row.min_size, row.max_size, 0, 0)
        served.backend.apply(PutProduct(OPERATOR, "offline", PRODUCT, "BTC", "USD", *sizes, ProductStatus.OFFLINE))
        client.writer.close()
        await until(lambda: not served.backend.engine.orders("alice"), seconds=3.0)


@pytest.mark.parametrize(
    "term",
    [
        {40: 2, 44: 1, 99: 5},
        {40: 1, 44: 1},
        {40: 3, 99: 5, 44: 1},
        {40: 2, 44: 1, 126: "20990101-00:00:00"},
        {40: 2, 44: 1, 126: "20010101-00:00:00"},
    ],
)
async def test_a_term_that_does_not_go_with_the_order_type_is_refused(term: dict[int, object]) -> None:
    """It was ignored: a protective stop order with OrdType 2 traded at once, and a market order at any price."""
    async with serving() as served:
        client = await served.logged_on()
        client.send("D", *ORDER, (38, "0.05"), *term.items())
        report = await client.next()
        assert (report[35], report[150], report[39]) == ("8", "8", "8")

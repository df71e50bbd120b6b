"""The session layer: Logon, numbers, gaps, resends, rejects, and what happens when a client goes to another node."""

from __future__ import annotations

import time
from typing import Any

import pytest

from node.budget import Shares
from node.errors import RequestFailed
from node.fix import sending
from node.fix.wire import Framer, WireError, timestamp
from node.gateway.auth import Revocation
from node.native.protocol import AnyQuery, ApiKeyQuery, FailCode
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR
from statemachine.types import Permission, Side
from tests.unit.node.fix.harness import Client, Fields, FixBackend, exchange, serving, trade_with
from tests.unit.node.gateway.harness import SECRET
from tests.waiting import Clock, until


async def refused(client: Client) -> str:
    """Return the text of the Logout that answers and after which the connection ends."""
    messages = await client.end()
    assert [message[35] for message in messages] == ["5"], messages
    return messages[0][58]


class TestLogon:
    async def test_the_answer_to_a_logon_gives_the_values_in_force(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.logon(heartbeat=10_000)
            answer = await client.next()
            assert {tag: answer[tag] for tag in (8, 35, 34, 49, 56, 98, 108, 141, 1137)} == {
                8: "FIXT.1.1",
                35: "A",
                34: "1",
                49: "QUORUMBOOK",
                56: "alice-key",
                98: "0",
                108: "300",
                141: "Y",
                1137: "9",
            }

    @pytest.mark.parametrize(
        ("how", "text"),
        [
            ({"secret": "d3Jvbmc="}, "invalid signature"),
            ({"passphrase": "wrong"}, "Invalid Passphrase"),
            ({"time": timestamp(time.time_ns() - 10**12)}, "SendingTime must be within 30 s"),
            ({"begin": "FIX.4.2"}, "BeginString must be FIXT.1.1"),
            ({"target": "SOMEBODY"}, "TargetCompID must be one of"),
        ],
    )
    async def test_a_session_with_wrong_credentials_is_logged_out(self, how: dict[str, Any], text: str) -> None:
        async with serving() as served:
            client = await served.connect()
            client.logon(**how)
            assert text in await refused(client)

    async def test_a_follower_asks_the_leader_about_a_key_that_it_lacks(self) -> None:
        """Formerly a key that was made a moment before was refused, and a client may take that as final."""

        class Behind(FixBackend):
            """A follower without the key."""

            async def query(self, query: AnyQuery, linearizable: bool = False) -> Any:
                if isinstance(query, ApiKeyQuery) and not linearizable:
                    raise RequestFailed(FailCode.NOT_FOUND, "no such key")
                return await super().query(query, linearizable)

        async with serving(exchange(Behind())) as served:
            client = await served.connect()
            client.logon()
            assert (await client.next())[35] == "A"
            other = await served.connect()
            other.logon(secret="d3Jvbmc=")
            assert "invalid signature" in await refused(other)

    async def test_the_first_message_is_a_logon(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.order("one")
            assert "must be a Logon" in await refused(client)

    async def test_a_revoked_key_ends_its_session(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            revocation = Revocation(served.server.auth, served.server.connections)
            served.backend.apply(PutApiKey(OPERATOR, "revoke", "alice-key", "alice", SECRET, "x", 0))
            assert await client.end() == []
            await revocation.close()

    async def test_a_session_of_a_key_that_only_trades_outlasts_a_change_of_keys(self) -> None:
        """Formerly it was ended whenever the engine was connected again, because the key may not view."""
        backend = exchange()
        backend.apply(PutApiKey(OPERATOR, "only", "only-key", "alice", SECRET, "only's passphrase", Permission.TRADE))
        async with serving(backend) as served:
            client = await served.logged_on("only-key")
            revocation = Revocation(served.server.auth, served.server.connections)
            backend.on_keys([])
            await until(lambda: not revocation._tasks)
            client.order("one")
            assert (await client.next())[11] == "one"
            await revocation.close()

    async def test_a_key_without_trade_enters_no_orders(self) -> None:
        backend = exchange()
        backend.apply(PutApiKey(OPERATOR, "view", "view-key", "alice", SECRET, "view's passphrase", 1))
        async with serving(backend) as served:
            client = await served.connect("view-key")
            client.logon()
            assert "trade" in await refused(client)
            assert (await served.logged_on("view-key", "QUORUMBOOK-DC")).got


class TestWork:
    async def test_a_message_of_too_many_fields_is_rejected_unread(self) -> None:
        """1,500 fields took 5 ms, as much as 50 orders, even before the Logon. Such a message was charged as one."""
        async with serving() as served:
            client = await served.logged_on()
            client.send("D", *[(58, "a")] * 1_500)
            rejected = await client.next()
            assert (rejected[35], rejected[45], rejected[373]) == ("3", "2", "0")
            assert "more than 256 fields" in rejected[58]
            client.order("one")
            assert (await client.next())[11] == "one"

    def test_garbled_bytes_end_the_reading(self) -> None:
        with pytest.raises(WireError):
            Framer().feed(b"8=FIX" * 1_000)

    async def test_the_length_of_a_message_counts(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            served.server.keys = Shares(10.0, 12.0, clock=Clock())
            client.send("0", (112, "a" * 4_000))
            client.send("1", (112, "ask"))
            assert (await client.next())[112] == "ask"
            assert served.server.keys.wait("alice-key", 8.0) > 0, "five and one are spent"


class TestNumbers:
    async def test_a_gap_is_asked_for_once_and_filled(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            missing = client.encode("D", (11, "one"), (55, "BTC-USD"), (54, 1), (40, 2), (44, 100), (38, "0.05"))
            client.order("two")
            client.order("three")
            asked = await client.next()
            assert (asked[35], asked[7], asked[16]) == ("2", "2", "0")
            client.writer.write(missing)
            client.number = 3
            now = timestamp(time.time_ns())
            for name in ("two", "three"):
                client.order(name, "1", "100", "0.05", (43, "Y"), (122, now))
            assert [(await client.next())[11] for _ in range(3)] == ["one", "two", "three"]

    async def test_a_gap_fill_passes_over_numbers(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.send("4", (123, "Y"), (36, 10))
            client.number = 10
            client.order("one")
            assert (await client.next())[11] == "one"
            client.send("4", (36, 20), number=999)
            client.number = 20
            client.order("two")
            assert (await client.next())[11] == "two"
            client.send("4", (36, 5))
            client.number -= 1
            assert (await client.next())[373] == "5"

    async def test_a_used_sequence_number_ends_the_session_unless_it_is_a_possible_duplicate(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.order("one")
            await client.next()
            client.send("0", (43, "Y"), (122, timestamp(time.time_ns())), number=2)
            client.send("1", (112, "there?"))
            assert (await client.next())[112] == "there?"
            client.send("0", number=2)
            assert "MsgSeqNum too low, expecting 4 but received 2" in (await client.next("5"))[58]
            assert await client.end() == []

    async def test_a_logon_with_a_number_that_is_too_low_is_refused(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.send("5")
            await client.next("5")
            again = await served.connect()
            again.logon(reset=False)
            assert "too low, expecting 3" in (await again.next("5"))[58]

    async def test_a_logon_that_fails_does_not_log_the_session_out(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.order("one")
            await client.next()
            await until(lambda: served.backend.engine.stream("alice-key/o").taken == 2)  # type: ignore[union-attr]
            again = await served.connect()
            again.logon(reset=False)
            assert "too low" in (await again.next("5"))[58]
            client.send("1", (112, "x"))
            fill, beat = await client.next(), await client.next()
            assert (fill[35], fill[34], fill[36], fill[123]) == ("4", "3", "4", "Y")
            assert (beat[112], beat[34]) == ("x", "4")

    async def test_a_resend_fills_heartbeats_and_repeats_reports(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.order("one")
            client.send("1", (112, "x"))
            client.order("two")
            live = [await client.next() for _ in range(3)]
            client.send("2", (7, 1), (16, 0))
            fill, one, gap, two = [await client.next() for _ in range(4)]
            assert (fill[35], fill[34], fill[36], fill[123], fill[43]) == ("4", "1", "2", "Y", "Y")
            assert (gap[35], gap[34], gap[36]) == ("4", "3", "4")
            for again, first in ((one, live[0]), (two, live[2])):
                assert again[43] == "Y"
                assert again[122]
                assert {tag: value for tag, value in again.items() if tag not in (9, 10, 43, 52, 122)} == {
                    tag: value for tag, value in first.items() if tag not in (9, 10, 52)
                }


class TestAnotherNode:
    async def test_the_rest_comes_under_the_same_numbers(self) -> None:
        backend = exchange()
        async with serving(backend) as one, serving(backend) as two:
            client = await one.logged_on()
            client.order("a")
            client.send("1", (112, "x"))
            assert [(await client.next())[34] for _ in range(2)] == ["2", "3"]
            client.writer.close()
            trade_with(backend, Side.SELL, 100_00, 2_000_000)
            trade_with(backend, Side.SELL, 100_00, 2_000_000)
            other = await two.connect()
            other.number = client.number
            other.logon(reset=False)
            answer = await other.next("A")
            assert answer[34] == "6"
            other.send("2", (7, 4), (16, 0), number=other.number)
            reports = [await other.next("8") for _ in range(2)]
            assert [(report[34], report[150], report[14]) for report in reports] == [("4", "F", "0.02"), ("5", "F", "0.04")]

    async def test_an_order_that_the_first_node_took_is_not_entered_twice(self) -> None:
        backend = exchange()
        async with serving(backend) as one, serving(backend) as two:
            client = await one.logged_on()
            client.order("a")
            await client.next()
            other = await two.connect()
            other.number = client.number
            other.logon(reset=False)
            await other.next("A")
            asked = await other.next("2")
            assert asked[7] == "2"
            other.number = 2
            other.order("a", "1", "100", "0.05", (43, "Y"), (122, timestamp(time.time_ns())))
            other.send("4", (123, "Y"), (36, 4), (43, "Y"), (122, timestamp(time.time_ns())))
            other.number = 4
            other.order("b")
            assert (await other.next("8"))[11] == "b"
            assert len(backend.engine.orders("alice")) == 2

    async def test_a_refusal_is_sent_once(self) -> None:
        backend = exchange()
        async with serving(backend) as one, serving(backend) as two:
            client = await one.logged_on()
            client.order("a", "1", "100", "99999999")
            assert (await client.next())[150] == "8"
            other = await two.connect()
            other.number = client.number
            other.logon(reset=False)
            assert (await other.next())[35] == "A"
            other.send("1", (112, "x"))
            assert (await other.next())[35] == "0"

    async def test_messages_that_are_no_longer_kept_are_replaced_by_a_gap_fill(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            for number in range(9):
                client.order(f"o{number}")
            for _ in range(9):
                await client.next()
            served.backend.kept_from = 6
            client.send("2", (7, 2), (16, 0))
            messages = [await client.next() for _ in range(6)]
            assert (messages[0][35], messages[0][34], messages[0][36]) == ("4", "2", "6")
            assert [message[34] for message in messages[1:]] == ["6", "7", "8", "9", "10"]


class TestSignsOfLife:
    async def test_both_sides_send_heartbeats(self) -> None:
        async with serving() as served:
            client = await served.logged_on(heartbeat=1)
            beats = {(await client.next())[35] for _ in range(2)}
            assert beats == {"0", "1"}
            assert [message for message in await client.end() if message[35] not in ("0", "1")] == []

    async def test_a_logout_is_answered(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.send("5")
            assert [message[35] for message in await client.end()] == ["5"]
            await until(lambda: not served.server.connections)


async def reject_of(client: Client) -> Fields:
    message = await client.next()
    assert message[35] == "3", message
    return message


class TestRejects:
    async def test_malformed_messages_are_rejected_and_the_session_continues(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            cases: list[tuple[str, list[tuple[int, object]], str, str]] = [
                ("D", [(11, "a"), (55, "BTC-USD"), (40, 2), (44, 1), (38, 1)], "54", "1"),
                ("D", [(11, "a"), (55, "BTC-USD"), (54, 9), (40, 2), (44, 1), (38, 1)], "54", "5"),
                ("D", [(11, "a b"), (55, "BTC-USD"), (54, 1), (40, 2), (44, 1), (38, 1)], "11", "5"),
                ("D", [(11, "a"), (55, ""), (54, 1)], "55", "4"),
                ("D", [(11, "a"), (11, "b"), (55, "BTC-USD")], "11", "13"),
                ("D", [(11, "a"), (1138, "0.01")], "1138", "0"),
                ("D", [(11, "a"), (262, "x")], "262", "2"),
                ("2", [(7, "x"), (16, 0)], "7", "6"),
                ("2", [(7, 5), (16, 2)], "7", "5"),
                ("1", [], "112", "1"),
                ("A", [(98, 0), (108, 30)], "35", "99"),
                ("ZZZ", [], "35", "11"),
            ]
            for kind, fields, tag, reason in cases:
                number = client.number
                client.send(kind, *fields)
                reject = await reject_of(client)
                assert (reject[45], reject[371], reject[373]) == (str(number), tag, reason), (kind, fields, reject)
            client.order("one")
            assert (await client.next())[150] == "0"

    async def test_a_foreign_sender_ends_the_session(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.send("0", sender="somebody")
            assert (await reject_of(client))[373] == "9"
            assert [message[35] for message in await client.end()] == ["5"]

    async def test_another_version_ends_the_session(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.send("0", begin="FIX.4.4")
            assert (await client.next())[58] == "Incorrect BeginString"

    async def test_a_message_without_a_number_ends_the_session(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            text = f"35=0|49=alice-key|56=QUORUMBOOK|52={timestamp(time.time_ns())}|".replace("|", "\x01").encode()
            raw = b"8=FIXT.1.1\x019=%d\x01%s" % (len(text), text)
            client.writer.write(raw + b"10=%03d\x01" % (sum(raw) % 256))
            assert "MsgSeqNum" in (await client.next("5"))[58]

    async def test_garbled_bytes_are_passed_over_but_not_for_ever(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            good = client.encode("1", (112, "x"))
            client.writer.write(b"noise" + good)
            assert (await client.next())[112] == "x"
            for _ in range(20):
                client.writer.write(good.replace(b"112=x", b"112=y"))
            assert await client.end() == []

    async def test_a_message_that_is_too_long_ends_the_connection(self) -> None:
        async with serving() as served:
            client = await served.logged_on()
            client.writer.write(b"8=FIXT.1.1\x019=9999999\x0135=D\x01")
            assert await client.end() == []


async def test_reports_wait_for_a_leader_and_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.gateway.errors import UnavailableError

    monkeypatch.setattr(sending, "RETRY_MIN", 0.01)
    async with serving() as served:
        client = await served.logged_on()
        served.backend.fail = [UnavailableError("no leader", outcome_unknown=True) for _ in range(3)]
        served.backend.lost_answers = 1
        for number in range(5):
            client.order(f"o{number}")
        reports = [await client.next() for _ in range(5)]
        assert [(report[11], report[150]) for report in reports] == [(f"o{number}", "0") for number in range(5)]
        assert len(served.backend.engine.orders("alice")) == 5

"""The standard cases of a session's second side, one by one: what a client sends after its Logon, and what it gets.

The numbers are those of the FIX Trading Community's "FIX session-level test cases and expected behaviors", which
QuickFIX's acceptance tests also follow. The table is in docs/fix.md; a test compares the two.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.fix.wire import timestamp
from tests.unit.node.fix.harness import PRODUCT, Client, Fields, serving

PAGE = Path(__file__).parents[4] / "docs" / "fix.md"

Pairs = tuple[tuple[int, object], ...]
ORDER: Pairs = ((11, "one"), (55, PRODUCT), (54, 1), (40, 2), (44, 100), (38, "0.05"))


@dataclass(frozen=True)
class Case:
    """A case: `send` sends, then each of `expected` comes (MsgType and some fields), then the connection `ends`, or a
    TestRequest under the next number is answered, which shows that nothing else came and which number is next.
    """

    number: str
    text: str
    send: Callable[[Client], None]
    expected: tuple[tuple[str, dict[int, str]], ...] = ()
    ends: bool = False


def now(offset_s: float = 0.0) -> str:
    return timestamp(time.time_ns() + int(offset_s * 1e9))


def without(*tags: int) -> Pairs:
    return tuple(pair for pair in ORDER if pair[0] not in tags)


def with_value(tag: int, value: object) -> Pairs:
    return tuple((each, value if each == tag else old) for each, old in ORDER)


def raw(client: Client, change: Callable[[bytes], bytes]) -> None:
    """Send a message with changed bytes; its number stays free."""
    number = client.number
    client.writer.write(change(client.encode("0")))
    client.number = number


def with_checksum(body: bytes) -> bytes:
    """Return a frame whose BodyLength and CheckSum are right. `body` begins behind BodyLength."""
    head = b"8=FIXT.1.1\x019=%d\x01" % len(body)
    return head + body + b"10=%03d\x01" % (sum(head + body) % 256)


def swapped(message: bytes) -> bytes:
    """MsgType is not the third field."""
    fields = message.split(b"\x01")
    fields[2], fields[3] = fields[3], fields[2]
    return with_checksum(b"\x01".join(fields[2:-2]) + b"\x01")


def header_last(client: Client) -> None:
    """Send a message in which a field of the header comes behind the body's."""
    fields = client.encode("1", (112, "x")).split(b"\x01")
    sender = fields.pop(3)
    client.writer.write(with_checksum(b"\x01".join([*fields[2:-2], sender]) + b"\x01"))


def going_on(client: Client, following: int, *fields: tuple[int, object], number: int | None = None) -> None:
    """Send a SequenceReset after which this number is the next."""
    client.send("4", *fields, number=number)
    client.number = following


def twice(client: Client) -> None:
    client.send("D", *ORDER)
    client.send("D", *ORDER, (97, "Y"))


LOGOUT: tuple[str, dict[int, str]] = ("5", {})

CASES = (
    Case("2a", "the next number", lambda c: c.send("0")),
    Case("2b", "a number that is too high: ResendRequest", lambda c: c.send("0", number=9), (("2", {7: "2", 16: "0"}),)),
    Case("2c", "a number that is too low: Logout", lambda c: c.send("0", number=1), (LOGOUT,), ends=True),
    Case("2d", "garbled bytes are ignored", lambda c: raw(c, lambda m: b"8=FIXT.1.1\x01garbled\x01" + m[-3:])),
    Case(
        "2e",
        "PossDup of a message that was received is ignored",
        lambda c: c.send("0", (43, "Y"), (122, now(-1)), number=1),
    ),
    Case("2e", "PossDup of one that was not received is taken", lambda c: c.send("0", (43, "Y"), (122, now(-1)))),
    Case(
        "2f",
        "PossDup with an OrigSendingTime after SendingTime: Reject, Logout",
        lambda c: c.send("0", (43, "Y"), (122, now(60))),
        (("3", {371: "122", 373: "10"}), LOGOUT),
        ends=True,
    ),
    Case("2g", "PossDup without OrigSendingTime: Reject", lambda c: c.send("0", (43, "Y")), (("3", {371: "122", 373: "1"}),)),
    Case("2i", "another BeginString: Logout", lambda c: c.send("0", begin="FIX.4.4"), (LOGOUT,), ends=True),
    Case(
        "2k",
        "another CompID: Reject, Logout",
        lambda c: c.send("0", sender="somebody"),
        (("3", {371: "49", 373: "9"}), LOGOUT),
        ends=True,
    ),
    Case(
        "2k",
        "another CompID: Reject, Logout",
        lambda c: c.send("0", target="somebody"),
        (("3", {371: "56", 373: "9"}), LOGOUT),
        ends=True,
    ),
    Case("2m", "a wrong BodyLength: ignored", lambda c: raw(c, lambda m: m.replace(b"\x0135=", b"\x0135=0", 1))),
    Case(
        "2o",
        "a SendingTime that is off: Reject, Logout",
        lambda c: c.send("0", time=now(-600)),
        (("3", {371: "52", 373: "10"}), LOGOUT),
        ends=True,
    ),
    Case("2q", "a MsgType that cannot be: Reject", lambda c: c.send("***"), (("3", {373: "11"}),)),
    Case("2r", "a MsgType that is not supported: BusinessMessageReject", lambda c: c.send("AE"), (("j", {372: "AE", 380: "3"}),)),
    Case("2t", "the first three fields in another order: ignored", lambda c: raw(c, swapped)),
    Case("3b", "a wrong CheckSum: ignored", lambda c: raw(c, lambda m: m[:-4] + b"%03d\x01" % ((int(m[-4:-1]) + 1) % 256))),
    Case("4b", "TestRequest: Heartbeat with the same TestReqID", lambda c: c.send("1", (112, "hello")), (("0", {112: "hello"}),)),
    Case("7", "Reject is taken", lambda c: c.send("3", (45, 1), (58, "why"))),
    Case("8", "ResendRequest: a gap fill for session messages", lambda c: c.send("2", (7, 1), (16, 0)), (("4", {123: "Y"}),)),
    Case(
        "8", "ResendRequest with EndSeqNo below BeginSeqNo: Reject", lambda c: c.send("2", (7, 5), (16, 2)), (("3", {373: "5"}),)
    ),
    Case(
        "10",
        "SequenceReset-GapFill with the next number",
        lambda c: going_on(c, 9, (123, "Y"), (36, 9)),
    ),
    Case(
        "10",
        "SequenceReset-GapFill with a number that is too high: ResendRequest",
        lambda c: c.send("4", (123, "Y"), (36, 9), number=5),
        (("2", {7: "2"}),),
    ),
    Case(
        "10",
        "SequenceReset-GapFill with a number that is too low: Logout",
        lambda c: c.send("4", (123, "Y"), (36, 9), number=1),
        (LOGOUT,),
        ends=True,
    ),
    Case(
        "10",
        "the same with PossDup: ignored",
        lambda c: c.send("4", (123, "Y"), (36, 9), (43, "Y"), (122, now(-1)), number=1),
    ),
    Case("11a", "SequenceReset-Reset to a higher number", lambda c: going_on(c, 20, (36, 20), number=1)),
    Case("11b", "SequenceReset-Reset to the next number", lambda c: c.send("4", (36, 2), number=1)),
    Case("11c", "SequenceReset-Reset to a lower number: Reject", lambda c: c.send("4", (36, 1), number=9), (("3", {373: "5"}),)),
    Case("13b", "Logout is answered", lambda c: c.send("5"), (LOGOUT,), ends=True),
    Case(
        "14a",
        "a tag that is in no dictionary: Reject",
        lambda c: c.send("D", *ORDER, (9999, "x")),
        (("3", {371: "9999", 373: "0"}),),
    ),
    Case("14b", "a required field is missing: Reject", lambda c: c.send("D", *without(54)), (("3", {371: "54", 373: "1"}),)),
    Case("14c", "a tag of another type: Reject", lambda c: c.send("D", *ORDER, (7, 1)), (("3", {371: "7", 373: "2"}),)),
    Case("14d", "a tag without a value: Reject", lambda c: c.send("D", *with_value(44, "")), (("3", {371: "44", 373: "4"}),)),
    Case("14e", "a value out of range: Reject", lambda c: c.send("D", *with_value(54, "7")), (("3", {371: "54", 373: "5"}),)),
    Case(
        "14f",
        "a value in another format: Reject",
        lambda c: c.send("D", *ORDER, (59, 6), (126, "tomorrow")),
        (("3", {371: "126", 373: "6"}),),
    ),
    Case("14g", "a field of the header behind the body: Reject", header_last, (("3", {371: "49", 373: "14"}),)),
    Case("14h", "a tag that comes twice: Reject", lambda c: c.send("D", *ORDER, (54, 2)), (("3", {371: "54", 373: "13"}),)),
    Case(
        "19",
        "PossResend is carried out once",
        lambda c: twice(c),
        (("8", {150: "0", 11: "one"}),),
    ),
    Case(
        "20",
        "a ResendRequest is answered although messages before it are missing",
        lambda c: c.send("2", (7, 1), (16, 0), number=9),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number} {case.text}")
async def test_messages_are_answered_as_the_standard_says(case: Case) -> None:
    async with serving() as served:
        client = await served.logged_on()
        case.send(client)
        got: list[Fields] = []
        if case.number == "20":
            kinds = {(await client.next())[35] for _ in range(2)}
            assert kinds == {"4", "2"}, kinds
        for kind, fields in case.expected:
            message = await client.next()
            got.append(message)
            assert (message[35], {tag: message.get(tag) for tag in fields}) == (kind, fields), message
        if case.ends:
            assert await client.end() == []
        else:
            client.send("1", (112, "alive"))
            answer = await client.next()
            if answer[35] == "2":
                return  # it waits for what is missing, and does not ask twice
            assert (answer[35], answer.get(112)) == ("0", "alive"), answer


async def test_14i_and_21_the_count_of_a_group_is_not_its_size() -> None:
    async with serving() as served:
        client = await served.logged_on("alice-key", "QUORUMBOOK-MD")
        for number, count in enumerate((2, 0)):
            client.send("V", (262, f"x{number}"), (263, 1), (264, 0), (267, 1), (269, 0), (146, count), (55, PRODUCT))
            rejected = await client.next()
            assert (rejected[35], rejected[371], rejected[373]) == ("3", "146", "16")


async def test_1e_the_first_message_is_not_a_logon() -> None:
    async with serving() as served:
        client = await served.connect()
        client.send("0")
        assert [message[35] for message in await client.end()] == ["5"]


async def test_1a_a_logon_whose_number_is_too_high() -> None:
    async with serving() as served:
        first = await served.logged_on()
        first.send("5")
        await first.end()
        client = await served.connect()
        client.number = 7
        client.logon(reset=False)
        kinds = [(await client.next())[35] for _ in range(2)]
        assert kinds == ["A", "2"]
        assert client.got[-1][7] == "3"


async def test_1b_a_second_logon_ends_the_first_session() -> None:
    async with serving() as served:
        first = await served.logged_on()
        await served.logged_on()
        assert await first.end() == []


async def test_4a_and_6_a_quiet_client_gets_a_heartbeat_and_then_a_test_request() -> None:
    async with serving() as served:
        client = await served.logged_on(heartbeat=1)
        assert [(await client.next())[35] for _ in range(2)] == ["0", "1"]


async def test_12_a_second_logon_on_the_connection_is_rejected() -> None:
    async with serving() as served:
        client = await served.logged_on()
        number = client.number
        client.logon(reset=False)
        rejected = await client.next()
        assert (rejected[35], rejected[45]) == ("3", str(number))


def test_the_page_has_every_case() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Session layer")[2].partition("\n## ")[0]
    rows = [row.partition(":")[0] for row in table.splitlines() if row.startswith("| ")]
    documented = {number for row in rows for number in re.findall(r"\b\d+[a-z]?\b", row)}
    cases = {case.number for case in CASES} - {"2a", "7"}  # nothing happens
    assert cases - documented == {case for case in cases if case.startswith("14")} - {"14a"}

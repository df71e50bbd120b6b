"""Order entry over FIX: requests, reports, and rejects."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from node.errors import RequestFailed
from node.fix import server
from node.fix.wire import timestamp
from node.gateway.backend import Outcomes, Resent
from node.native.protocol import FailCode
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CancelAllAfter,
    CancelOrder,
    CorrectTrade,
    Grant,
    PutApiKey,
    PutFirm,
    PutMember,
    PutUser,
)
from statemachine.events import AnyOutcome, Rejected
from statemachine.limits import OPERATOR
from statemachine.types import Permission, Role, Scope, Side, Timer
from tests.unit.node.fix.harness import PRODUCT, FixBackend, exchange, serving, trade_with
from tests.unit.node.gateway.harness import SECRET
from tests.waiting import until


async def test_an_order_lives_from_new_to_filled() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("one", "1", "100.00", "0.05")
        new = await client.next()
        assert {tag: new[tag] for tag in (35, 34, 11, 150, 39, 55, 54, 38, 44, 40, 59, 151, 14, 6)} == {
            35: "8",
            34: "2",
            11: "one",
            150: "0",
            39: "0",
            55: PRODUCT,
            54: "1",
            38: "0.05",
            44: "100",
            40: "2",
            59: "1",
            151: "0.05",
            14: "0",
            6: "0",
        }
        trade_with(served.backend, Side.SELL, 99_00, 2_000_000)
        part = await client.next()
        assert (part[34], part[150], part[39], part[31], part[32], part[151], part[14], part[6], part[1057]) == (
            *("3", "F", "1", "100", "0.02", "0.03", "0.02", "100", "N"),
        )
        assert (part[137], part[138]) == ("0.01", "USD")
        trade_with(served.backend, Side.SELL, 99_00, 3_000_000)
        whole = await client.next()
        assert (whole[150], whole[39], whole[151], whole[14], whole[37]) == ("F", "2", "0", "0.05", new[37])
        assert len({new[17], part[17], whole[17]}) == 3


@pytest.mark.parametrize("command_id", ["f:abc", "f:", "f:F:", "f"])
async def test_a_cancel_of_another_protocol_may_have_any_id(command_id: str) -> None:
    """Its report goes to each session of the account and to drop copies, and must end none of them."""
    async with serving() as served:
        client = await served.logged_on()
        client.order("one")
        await client.next("8")
        served.backend.apply(CancelOrder("alice", command_id, 0, "one"))
        report = await client.next("8")
        assert (report[150], report[11]) == ("4", "one")
        client.send("1", (112, "alive"))
        assert (await client.next("0"))[112] == "alive"


async def test_an_order_is_cancelled_by_either_id() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("one")
        client.order("two")
        first, second = await client.next(), await client.next()
        client.send("F", (11, "c1"), (41, "one"), (55, PRODUCT), (54, 1))
        gone = await client.next()
        assert (gone[150], gone[39], gone[11], gone[41], gone[151]) == ("4", "4", "c1", "one", "0")
        client.send("F", (11, "c2"), (37, second[37]), (55, PRODUCT), (54, 1))
        assert (await client.next())[37] == second[37]
        client.send("F", (11, "c3"), (41, "one"), (55, PRODUCT), (54, 1))
        refused = await client.next()
        assert (refused[35], refused[434], refused[102], refused[41]) == ("9", "1", "0", "one")
        client.send("F", (11, "c4"), (41, "nobody"), (55, PRODUCT), (54, 1))
        assert (await client.next())[102] == "1"
        assert first[11] == "one"


async def test_a_mass_cancel_reports_how_many() -> None:
    async with serving() as served:
        client = await served.logged_on()
        for number in range(3):
            client.order(f"o{number}")
        client.send("q", (11, "m"), (530, 7))
        messages = [await client.next() for _ in range(7)]
        assert [message[150] for message in messages[:6]] == ["0"] * 3 + ["4"] * 3
        report = messages[6]
        assert (report[35], report[531], report[533]) == ("r", "7", "3")
        client.send("q", (11, "m2"), (530, 1), (55, "NO-SUCH"))
        refused = await client.next()
        assert (refused[35], refused[531]) == ("r", "0")


async def test_rejects_of_the_exchange_have_a_reason_in_words() -> None:
    async with serving() as served:
        client = await served.logged_on()
        cases = (
            (("big", "1", "100", "99999999"), "3"),
            (("small", "1", "100", "0.001"), "13"),
            (("odd", "1", "100.001", "0.05"), "18"),
        )
        for (name, side, price, size), reason in cases:
            client.order(name, side, price, size)
            refused = await client.next()
            assert (refused[35], refused[150], refused[39], refused[11], refused[103]) == ("8", "8", "8", name, reason), refused
            assert refused[58]
        client.send("D", (11, "x"), (55, "NO-SUCH"), (54, 1), (40, 2), (44, 1), (38, 1))
        assert (await client.next())[103] == "1"


async def test_a_client_order_id_is_used_once() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("one")
        assert (await client.next())[150] == "0"
        client.order("one")
        again = await client.next()
        assert (again[150], again[103]) == ("8", "6")
        client.order("one", "1", "100", "0.06")
        assert (await client.next())[103] == "6"


async def test_a_repeated_order_returns_the_first_one() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("one")
        assert (await client.next())[150] == "0"
        client.order("one", "1", "100", "0.05", (97, "Y"))
        client.send("H", (11, "one"), (55, PRODUCT), (54, 1), (790, "q"))
        status = await client.next()
        assert (status[150], status[39], status[790], status[11]) == ("I", "0", "q", "one")


async def test_orders_of_several_kinds_are_entered() -> None:
    async with serving() as served:
        client = await served.logged_on()
        trade_with(served.backend, Side.SELL, 100_00, 10_000_000)
        client.send("D", (11, "ioc"), (55, PRODUCT), (54, 1), (40, 2), (44, 100), (38, "0.02"), (59, 3))
        assert [(await client.next())[150] for _ in range(2)] == ["0", "F"]
        client.send("D", (11, "funds"), (55, PRODUCT), (54, 1), (40, 1), (152, "3.00"))
        messages = [await client.next() for _ in range(3)]
        assert [(message[150], message[39]) for message in messages] == [("0", "0"), ("F", "1"), ("D", "2")]
        client.send("D", (11, "stop"), (55, PRODUCT), (54, 1), (40, 4), (44, 110), (99, 105), (38, "0.02"))
        stop = await client.next()
        assert (stop[150], stop[40], stop[99]) == ("0", "4", "105")
        client.send("D", (11, "post"), (55, PRODUCT), (54, 1), (40, 2), (44, 100), (38, "0.02"), (18, 6))
        assert (await client.next())[150] == "8"


async def test_a_changed_order_has_the_id_of_the_change() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("one", "1", "100", "0.05")
        new = await client.next()
        client.send("G", (11, "g1"), (41, "one"), (55, PRODUCT), (54, 1), (40, 2), (38, "0.03"))
        less = await client.next()
        assert (less[150], less[39], less[38], less[151], less[37]) == ("5", "0", "0.03", "0.03", new[37])
        assert (less[11], less[41]) == ("g1", "one")
        client.send("G", (11, "g2"), (37, new[37]), (55, PRODUCT), (54, 1), (40, 2), (44, "101"))
        dearer = await client.next()
        assert (dearer[150], dearer[44], dearer[38], dearer[11], dearer[41]) == ("5", "101", "0.03", "g2", "g1")
        trade_with(served.backend, Side.SELL, 99_00, 1_000_000)
        part = await client.next()
        assert (part[150], part[11], 41 in part) == ("F", "g2", False)
        client.send("G", (11, "g3"), (41, "nobody"), (55, PRODUCT), (54, 1), (40, 2), (44, "101"))
        refused = await client.next()
        assert (refused[35], refused[434], refused[102], refused[11]) == ("9", "2", "1", "g3")
        client.send("G", (11, "g4"), (41, "g2"), (55, PRODUCT), (54, 1), (40, 2), (44, "1.005"))
        assert "too precise" in (await client.next())[58]
        client.send("G", (11, "g5"), (41, "one"), (55, PRODUCT), (54, 1), (40, 2), (44, "102"))
        assert (await client.next())[102] == "1"
        client.order("two", "1", "90")
        await client.next()
        client.send("G", (11, "two"), (41, "g2"), (55, PRODUCT), (54, 1), (40, 2), (44, "102"))
        taken = await client.next()
        assert (taken[35], taken[102]) == ("9", "6")
        client.send("F", (11, "c"), (41, "g2"), (55, PRODUCT), (54, 1))
        assert (await client.next())[41] == "g2"


async def test_a_change_that_comes_again_is_made_once() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("one", "1", "100", "0.05")
        await client.next()
        for _ in range(2):
            client.send("G", (11, "g1"), (41, "one"), (55, PRODUCT), (54, 1), (40, 2), (38, "0.03"), (97, "Y"))
        assert (await client.next())[150] == "5"
        client.send("H", (11, "g1"), (55, PRODUCT), (54, 1))
        assert (await client.next())[150] == "I"


async def test_a_bust_and_a_corrected_price_refer_to_the_trade() -> None:
    async with serving() as served:
        client = await served.logged_on()
        trade_with(served.backend, Side.SELL, 100_00, 10_000_000)
        client.order("one", "1", "100", "0.05")
        new, trade = await client.next(), await client.next()
        client.order("two", "1", "100", "0.05")
        await client.next()
        other = await client.next()
        correct = CorrectTrade(OPERATOR, "c1", PRODUCT, 1, "alice", "bob", 100_00, 5_000_000, 1, 1, 99_00)
        bust = CorrectTrade(OPERATOR, "c2", PRODUCT, 2, "alice", "bob", 100_00, 5_000_000, 1, 1)
        order_id = int(new[37].replace("-", ""), 16)
        served.backend.apply(replace(correct, buyer_order_id=order_id), bust)
        corrected, busted = await client.next(), await client.next()
        assert (corrected[150], corrected[19], corrected[31], corrected[32], corrected[880]) == (
            "G",
            trade[17],
            "99",
            "0.05",
            "1",
        )
        assert (corrected[37], corrected[11], corrected[39], corrected[14]) == (new[37], "one", "2", "0.05")
        assert (busted[150], busted[19], busted[31], busted[37], busted[137]) == ("H", other[17], "100", "NONE", "0")
        assert len({message[17] for message in (new, trade, other, corrected, busted)}) == 5


async def test_a_mass_cancel_may_name_one_side() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.order("buy", "1", "90")
        client.order("sell", "2", "110")
        for _ in range(2):
            await client.next()
        client.send("q", (11, "m"), (530, 1), (55, PRODUCT), (54, 2))
        assert (await client.next())[11] == "sell"
        assert (await client.next("r"))[533] == "1"


async def test_unknown_types_are_refused() -> None:
    async with serving() as served:
        client = await served.logged_on()
        client.send("V", (262, "x"))
        assert (await client.next())[35] == "j"
        client.send("AE", (571, "x"))
        assert ((await client.next())[35], client.got[-1][380]) == ("j", "3")


async def test_orders_of_the_account_from_elsewhere_are_reported_and_copied() -> None:
    async with serving() as served:
        client = await served.logged_on("bob-key")
        copy = await served.logged_on("bob-key", "QUORUMBOOK-DC")
        trade_with(served.backend, Side.BUY, 100_00, 2_000_000, "elsewhere")
        reported, copied = await client.next(), await copy.next()
        assert reported[11] == copied[11] == "elsewhere"
        assert reported[17] == copied[17]
        copy.order("no")
        assert (await copy.next())[35] == "j"


async def test_orders_leave_when_the_connection_does_if_the_client_wants_it() -> None:
    async with serving() as served:
        trade_with(served.backend, Side.BUY, 90_00, 2_000_000, "stays")
        client = await served.logged_on("bob-key", "QUORUMBOOK", (8013, "S"))
        client.order("goes")
        assert (await client.next())[150] == "0"
        client.writer.close()
        await until(lambda: len(served.backend.engine.orders("bob")) == 1, seconds=3.0)
        again = await served.connect("bob-key")
        again.number = 3
        again.logon(reset=False)
        assert (await again.next("A"))[34] >= "4"
        again.send("2", (7, 3), (16, 0), number=2)
        gone = await again.next("8")
        assert (gone[11], gone[150]) == ("goes", "4")
        account = [order.client_oid for order in served.backend.engine.orders("bob")]
        assert account == ["stays"]


async def test_a_time_to_live_is_bounded() -> None:
    async with serving() as served:
        client = await served.logged_on()
        for name, until_time, kind in (("far", "99991231-23:59:59", "8"), ("past", "20010101-00:00:00", "8")):
            client.order(name, "1", "100", "0.05", (59, 6), (126, until_time))
            assert (await client.next())[150] == kind
        client.order("soon", "1", "100", "0.05", (59, 6), (126, timestamp(time.time_ns() + 60 * 10**9)))
        assert (await client.next())[126]


async def test_a_command_that_cannot_be_carried_out_is_refused_alone() -> None:
    """An example is a command that the level of the cluster does not have. The others of its batch are executed."""

    class Narrow(FixBackend):
        async def submit(
            self, commands: Sequence[AnyCommand], resent: Resent | None = None, begun: Outcomes | None = None
        ) -> list[AnyOutcome]:
            if any(isinstance(command, AmendOrder) for command in commands):
                raise RequestFailed(FailCode.BAD_REQUEST, "this level has no AmendOrder")
            return await super().submit(commands, resent, begun)

    async with serving(exchange(Narrow())) as served:
        client = await served.logged_on()
        client.order("one")
        client.send("G", (11, "g"), (41, "one"), (55, PRODUCT), (54, 1), (40, 2), (38, "0.03"))
        client.order("two")
        assert [(await client.next())[35] for _ in range(3)] in (["8", "9", "8"], ["8", "8", "9"])


async def test_orders_leave_after_a_while_when_the_node_dies() -> None:
    backend = exchange()
    async with serving(backend) as served:
        client = await served.logged_on("alice-key", "QUORUMBOOK", (8013, "S"))
        client.order("goes")
        await client.next()
        for task in list(served.server._tasks):
            task.cancel()  # nobody is left to notice that the client is gone
        await until(lambda: not served.server.connections)
    assert [order.client_oid for order in backend.engine.orders("alice")] == ["goes"]
    backend.advance(seconds=60)
    assert [order.client_oid for order in backend.engine.orders("alice")] == ["goes"]
    backend.advance(seconds=60)
    assert backend.engine.orders("alice") == []


async def test_a_client_that_comes_back_elsewhere_keeps_its_orders() -> None:
    backend = exchange()
    async with serving(backend) as one, serving(backend) as two:
        client = await one.logged_on("alice-key", "QUORUMBOOK", (8013, "S"))
        client.order("stays")
        await client.next()
        other = await two.connect()
        other.number = client.number
        other.logon((8013, "S"), reset=False)
        assert (await other.next())[35] == "A"
        assert await client.end() == []
        await until(lambda: not one.server.connections)
        backend.advance(seconds=60)
        assert [order.client_oid for order in backend.engine.orders("alice")] == ["stays"]


@pytest.mark.parametrize("later", ["N", "S"])
async def test_a_client_that_comes_back_with_other_terms_keeps_its_orders(later: str) -> None:
    """The node that served it with 8013=Y is dead. The timer that the account set over REST stays."""
    backend = exchange()
    backend.apply(CancelAllAfter("alice", "rest", 600 * 10**9))

    def timers() -> list[tuple[Timer, str]]:
        return [(row.kind, row.tag) for row in backend.engine.records("timer")]

    async with serving(backend) as one, serving(backend) as two:
        client = await one.logged_on("alice-key", "QUORUMBOOK", (8013, "Y"))
        client.order("stays")
        await client.next()
        for task in list(one.server._tasks):
            task.cancel()  # nobody is left to notice that the client is gone
        await until(lambda: not one.server.connections)
        assert timers() == [(Timer.CANCEL_AFTER, ""), (Timer.CANCEL_WHOLE, "fix:alice-key")]
        other = await two.connect()
        other.number = client.number
        other.logon((8013, later), reset=False)
        assert (await other.next())[35] == "A"
        own = [(Timer.CANCEL_AFTER, "fix:alice-key")] if later == "S" else []
        await until(lambda: timers() == [(Timer.CANCEL_AFTER, ""), *own])
        backend.advance(seconds=80)
        assert [order.client_oid for order in backend.engine.orders("alice")] == ["stays"]


async def test_a_firms_user_gets_the_drop_copy_of_its_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RIGHTS_SECONDS", 0.05)
    backend = exchange()
    grants = [Grant(Role.VIEWER, Scope.FIRM, "acme")]
    firm: list[AnyCommand] = [
        PutFirm(OPERATOR, "f", "acme"),
        PutMember(OPERATOR, "m", "alice", "acme"),
        PutUser(OPERATOR, "u", "ann", grants),
        PutApiKey(OPERATOR, "k", "ann-key", OPERATOR, SECRET, "ann's passphrase", Permission.VIEW, user_id="ann"),
    ]
    assert not [outcome for outcome in backend.apply(*firm) if isinstance(outcome, Rejected)]
    async with serving(backend) as served:
        copy = await served.logged_on("ann-key", "QUORUMBOOK-DC", (1, "alice"))
        client = await served.logged_on()
        client.order("one")
        report, copied = await client.next(), await copy.next()
        assert (copied[35], copied[11], copied[17]) == ("8", "one", report[17])
        copy.order("no")
        assert (await copy.next())[35] == "j"
        copy.writer.close()
        client.order("two")
        await client.next()
        again = await served.connect("ann-key", "QUORUMBOOK-DC")
        again.number = copy.number
        again.logon((1, "alice"), reset=False)
        assert (await again.next("A"))[34] > copied[34]
        again.send("2", (7, 4), (16, 0))
        assert (await again.next("8"))[11] == "two"
        for target, account, text in (
            ("QUORUMBOOK-DC", "bob", "may not see the account bob"),
            ("QUORUMBOOK", "alice", "needs the permission trade"),
            ("QUORUMBOOK-DC", "no account", "Account must be a name"),
        ):
            stranger = await served.connect("ann-key", target)
            stranger.logon((1, account))
            assert text in (await stranger.end())[-1][58]
        backend.apply(PutUser(OPERATOR, "u2", "ann", []))
        assert "8" not in {message[35] for message in await again.end()}


async def test_a_trader_gets_no_drop_copy_of_another_account() -> None:
    async with serving() as served:
        client = await served.connect("alice-key", "QUORUMBOOK-DC")
        client.logon((1, "bob"))
        assert "may not see the account bob" in (await client.end())[-1][58]

"""Market data over FIX: snapshots, changes, trades, and rejects."""

from __future__ import annotations

from msgspec.structs import replace

from statemachine.commands import CorrectTrade, PutProduct
from statemachine.events import Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import ProductStatus, Side
from tests.unit.node.fix.harness import PRODUCT, Client, Fields, Served, serving, trade_with

MARKET = "QUORUMBOOK-MD"


def ask(client: Client, name: str, kind: str = "1", depth: str = "0", types: str = "012", symbol: str = PRODUCT) -> None:
    entries = [(269, each) for each in types]
    client.send("V", (262, name), (263, kind), (264, depth), (267, len(types)), *entries, (146, 1), (55, symbol))


async def client_of(served: Served) -> Client:
    return await served.logged_on("alice-key", MARKET)


def entry_of(message: Fields) -> tuple[str, ...]:
    """Return action, type, price and size of the entry of a refresh that has one."""
    return tuple(message.get(tag, "") for tag in (279, 269, 270, 271))


async def test_a_book_is_sent_and_then_its_changes() -> None:
    async with serving() as served:
        trade_with(served.backend, Side.BUY, 90_00, 5_000_000, "b1")
        trade_with(served.backend, Side.SELL, 110_00, 5_000_000, "s1")
        client = await client_of(served)
        ask(client, "book")
        snapshot = await client.next()
        assert (snapshot[35], snapshot[262], snapshot[55], snapshot[268]) == ("W", "book", PRODUCT, "2")
        assert int(snapshot[83]) == served.backend.engine.product_sequence(PRODUCT)
        trade_with(served.backend, Side.BUY, 91_00, 2_000_000, "b2")
        assert entry_of(await client.next()) == ("0", "0", "91", "0.02")
        trade_with(served.backend, Side.BUY, 91_00, 1_000_000, "b3")
        assert entry_of(await client.next()) == ("1", "0", "91", "0.03")
        client.send("V", (262, "book"), (263, 2))
        for text in ("before", "after"):
            client.send("1", (112, text))
            assert (await client.next())[112] == text
            trade_with(served.backend, Side.BUY, 92_00, 1_000_000, text)


async def test_trades_have_the_sequence_of_rest() -> None:
    async with serving() as served:
        client = await client_of(served)
        alice = await served.logged_on()
        ask(client, "trades", types="2")
        assert (await client.next())[268] == "0"
        alice.order("one", "1", "100", "0.05")
        await alice.next()
        trade_with(served.backend, Side.SELL, 100_00, 2_000_000)
        trade = await client.next()
        assert (*entry_of(trade), trade[278], trade[2446]) == ("0", "2", "100", "0.02", "1", "2")
        assert int(trade[83]) > 0


async def test_a_bust_and_a_corrected_price_refer_to_the_trade() -> None:
    async with serving() as served:
        client = await client_of(served)
        alice = await served.logged_on()
        trade_with(served.backend, Side.SELL, 100_00, 15_000_000)
        for name in ("one", "two", "three"):
            alice.order(name, "1", "100", "0.05")
            assert [(await alice.next("8"))[150] for _ in range(2)] == ["0", "F"]
        served.backend.apply(CorrectTrade(OPERATOR, "c3", PRODUCT, 3, "alice", "bob", 100_00, 5_000_000, 1, 1))
        ask(client, "trades", types="2")
        assert (await client.next())[278] == "2", "the third is busted"
        correct = CorrectTrade(OPERATOR, "c1", PRODUCT, 1, "alice", "bob", 100_00, 5_000_000, 1, 1, 99_00)
        bust = CorrectTrade(OPERATOR, "c2", PRODUCT, 2, "alice", "bob", 100_00, 5_000_000, 1, 1)
        for command, entry in ((correct, ("1", "2", "99", "0.05", "1")), (bust, ("2", "2", "100", "", "2"))):
            assert not isinstance(served.backend.apply(command)[0], Rejected)
            sent = await client.next()
            assert (*entry_of(sent), sent[278]) == entry
        ask(client, "now", "0", types="2")
        last = await client.next()
        assert (last[35], last[268], last[270], last[278]) == ("W", "1", "99", "1")


async def test_the_top_of_the_book_is_sent() -> None:
    async with serving() as served:
        client = await client_of(served)
        trade_with(served.backend, Side.BUY, 90_00, 5_000_000, "b1")
        ask(client, "top", depth="1", types="01")
        assert (await client.next())[270] == "90"
        trade_with(served.backend, Side.BUY, 80_00, 5_000_000, "below")
        trade_with(served.backend, Side.BUY, 91_00, 1_000_000, "above")
        better = await client.next()
        assert (better[268], better[279]) == ("2", "2")


async def test_invalid_market_data_requests_are_refused() -> None:
    async with serving() as served:
        client = await client_of(served)
        ask(client, "a", symbol="NO-SUCH")
        refused = await client.next()
        assert (refused[35], refused[262], refused[281]) == ("Y", "a", "0")
        ask(client, "b")
        await client.next()
        ask(client, "b")
        assert (await client.next())[281] == "1"
        client.send("V", (262, "c"), (263, 1), (264, 0), (267, 5), (269, 0), (146, 1), (55, PRODUCT))
        assert ((await client.next())[35], client.got[-1][373]) == ("3", "16")
        ask(client, "d", types="9")
        assert (await client.next())[371] == "269"
        client.order("no")
        assert (await client.next())[35] == "j"


async def test_a_few_requests_of_a_session_may_name_the_same_product() -> None:
    async with serving() as served:
        client = await client_of(served)
        for number in range(5):
            ask(client, f"r{number}", types="2")
        answers = [await client.next() for _ in range(5)]
        assert [answer[35] for answer in answers] == ["W"] * 4 + ["Y"]
        assert (answers[4][262], answers[4][281]) == ("r4", "2")
        client.send("V", (262, "r0"), (263, 2))
        ask(client, "r5", types="2")
        assert (await client.next())[35] == "W"


async def test_a_lost_feed_begins_with_a_new_snapshot() -> None:
    async with serving() as served:
        client = await client_of(served)
        ask(client, "book")
        assert (await client.next())[35] == "W"
        served.backend.kept_from = 10**6
        served.backend.lose(PRODUCT)
        served.backend.kept_from = 1
        trade_with(served.backend, Side.BUY, 90_00, 5_000_000, "b1")
        assert (await client.next())[35] in ("W", "X")


async def test_sent_market_data_is_replaced_by_a_gap_fill_on_a_resend() -> None:
    async with serving() as served:
        client = await client_of(served)
        ask(client, "book")
        await client.next()
        client.send("2", (7, 1), (16, 0))
        fill = await client.next()
        assert (fill[35], fill[34], fill[36], fill[43]) == ("4", "1", "3", "Y")


PUT = PutProduct(OPERATOR, "", PRODUCT, "BTC", "USD", 100, 1_000_000, 1_000_000, AMOUNT_MAX, 1_000, 2_000)


async def test_the_status_of_a_product_is_sent_and_then_its_changes() -> None:
    async with serving() as served:
        client = await client_of(served)
        client.send("e", (324, "s"), (55, PRODUCT), (263, 1))
        first = await client.next()
        assert (first[35], first[324], first[55], first[326], first[58]) == ("f", "s", PRODUCT, "17", "online")
        codes = {
            ProductStatus.AUCTION: "21",
            ProductStatus.CANCEL_ONLY: "2",
            ProductStatus.OFFLINE: "18",
            ProductStatus.ONLINE: "17",
        }
        for status, code in codes.items():
            served.backend.apply(replace(PUT, command_id=f"to-{code}", status=status))
            told_of = await client.next()
            assert (told_of[35], told_of[326], told_of[58]) == ("f", code, status.name.lower())
        client.send("e", (324, "s"), (55, PRODUCT), (263, 2))
        client.send("1", (112, "x"))
        await client.next("0")
        served.backend.apply(replace(PUT, command_id="again", status=ProductStatus.AUCTION))
        client.send("e", (324, "once"), (55, PRODUCT), (263, 0))
        assert (await client.next())[324] == "once"


async def test_a_status_that_cannot_be_had_is_refused() -> None:
    async with serving() as served:
        client = await client_of(served)
        client.send("e", (324, "s"), (55, "NO-SUCH"), (263, 1))
        refused = await client.next()
        assert (refused[35], refused[372], refused[379], refused[380]) == ("j", "e", "s", "2")
        client.send("e", (324, "s"), (55, PRODUCT), (263, 2))
        assert (await client.next())[380] == "4"
        client.send("e", (324, "s"), (55, PRODUCT), (263, 1))
        await client.next("f")
        client.send("e", (324, "s"), (55, PRODUCT), (263, 1))
        assert (await client.next())[35] == "j"
        client.send("e", (324, "t"), (263, 1))
        missing = await client.next()
        assert (missing[35], missing[371], missing[373]) == ("3", "55", "1")
        orders = await served.logged_on("bob-key")
        orders.send("e", (324, "s"), (55, PRODUCT), (263, 1))
        assert (await orders.next())[35] == "j"

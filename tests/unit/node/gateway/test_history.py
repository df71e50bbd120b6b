"""Calls that the history answers, over a real database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.unit.node.gateway.harness import Exchange
from tests.unit.node.gateway.kept import KeptBackend, running_with_history


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Exchange]:
    """Make an exchange whose node keeps a history."""
    async with running_with_history(tmp_path) as exchange:
        yield exchange


def backend(exchange: Exchange) -> KeptBackend:
    assert isinstance(exchange.backend, KeptBackend)
    return exchange.backend


async def pages(exchange: Exchange, who: str, target: str, limit: int) -> list[Any]:
    """Read a whole list in pages by the header cb-after."""
    found: list[Any] = []
    after = ""
    joint = "&" if "?" in target else "?"
    while True:
        response = await exchange.send(who, "GET", f"{target}{joint}limit={limit}{after}")
        assert response.status == 200, await response.read()
        page = await response.json()
        found += page
        if not page:
            return found
        after = f"&after={response.headers['cb-after']}"


async def trade_a_little(exchange: Exchange) -> Any:
    """Bob sells to Alice 1 BTC at 100 and 0.5 at 101. Bob's last order rests with 1.5 left. Returns Alice's order."""
    await exchange.order("bob", "sell", "100", "1")
    await exchange.order("bob", "sell", "101", "2", client_oid="rests")
    return await exchange.order("alice", "buy", "101", "1.5")


async def test_both_sides_see_a_fill(kept: Exchange) -> None:
    bought = await trade_a_little(kept)
    _, mine = await kept.call("alice", "GET", "/fills?product_id=BTC-USD")
    assert [(fill["price"], fill["size"], fill["fee"], fill["side"], fill["liquidity"]) for fill in mine] == [
        ("101", "0.5", "0.11", "buy", "T"),
        ("100", "1", "0.2", "buy", "T"),
    ]
    assert {fill["order_id"] for fill in mine} == {bought["id"]}
    _, theirs = await kept.call("bob", "GET", "/fills")
    assert [(fill["trade_id"], fill["fee"], fill["side"], fill["liquidity"]) for fill in theirs] == [
        (2, "0.06", "sell", "M"),
        (1, "0.1", "sell", "M"),
    ]
    _, one = await kept.call("bob", "GET", f"/fills?order_id={theirs[1]['order_id']}")
    assert one == theirs[1:]
    assert await pages(kept, "bob", "/fills", 1) == theirs
    when = theirs[0]["created_at"]
    assert (await kept.call("bob", "GET", f"/fills?start_date={when}&end_date={when}"))[1] == theirs
    assert (await kept.call("bob", "GET", "/fills?end_date=2026-01-01"))[1] == []
    assert (await kept.call("bob", "GET", "/fills?start_date=0001-01-01T00:00:00Z&end_date=9999-12-31T23:59:59Z"))[1] == theirs
    assert (await kept.call("bob", "GET", "/fills?after=first"))[1]["field"] == "after"


async def test_the_ledger_explains_the_balance(kept: Exchange) -> None:
    bought = await trade_a_little(kept)
    _, entries = await kept.call("alice", "GET", "/accounts/alice:USD/ledger")
    assert [(entry["type"], entry["amount"], entry["balance"]) for entry in entries] == [
        ("fee", "-0.11", "999849.19"),
        ("match", "-50.5", "999849.3"),
        ("fee", "-0.2", "999899.8"),
        ("match", "-100", "999900"),
        ("transfer", "1000000", "1000000"),
    ]
    assert entries[0]["details"] == {"order_id": bought["id"], "trade_id": "2", "product_id": "BTC-USD"}
    assert entries[-1]["details"] == {"transfer_id": "start-USD", "transfer_type": "deposit"}
    assert await pages(kept, "alice", "/accounts/alice:USD/ledger", 2) == entries
    assert (await kept.call("alice", "GET", "/accounts/bob:USD/ledger"))[0] == 404
    _, account = await kept.call("alice", "GET", "/accounts/alice:USD")
    assert account["balance"] == entries[0]["balance"]


async def test_holds_are_those_of_open_orders(kept: Exchange) -> None:
    await trade_a_little(kept)
    waiting = await kept.order("bob", "buy", "10", "2")
    _, base = await kept.call("bob", "GET", "/accounts/bob:BTC/holds")
    _, quote = await kept.call("bob", "GET", "/accounts/bob:USD/holds")
    assert [(hold["type"], hold["amount"]) for hold in base] == [("order", "1.5")]
    assert [(hold["ref"], hold["amount"]) for hold in quote] == [(waiting["id"], "20.04")]
    for name, holds in (("BTC", base), ("USD", quote)):
        assert (await kept.call("bob", "GET", f"/accounts/bob:{name}"))[1]["hold"] == holds[0]["amount"]


async def test_transfers_are_listed_and_found(kept: Exchange) -> None:
    status, _ = await kept.call("alice", "POST", "/withdrawals", {"currency": "USD", "amount": "12.5", "transfer_id": "out"})
    assert status == 200
    _, both = await kept.call("alice", "GET", "/accounts/alice:USD/transfers")
    assert [(row["id"], row["type"], row["amount"]) for row in both] == [
        ("out", "withdraw", "12.5"),
        ("start-USD", "deposit", "1000000"),
    ]
    assert len((await kept.call("alice", "GET", "/transfers"))[1]) == 4
    assert (await kept.call("alice", "GET", "/transfers?type=withdraw"))[1] == both[:1]
    assert (await kept.call("alice", "GET", "/transfers/out"))[1] == both[0]
    assert (await kept.call("bob", "GET", "/transfers/out"))[0] == 404
    assert (await kept.call("bob", "GET", "/transfers?type=gift"))[1]["field"] == "type"


async def test_retired_orders_are_answered(kept: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders that the engine has dropped are found by id, by client_oid and in lists, once each."""
    monkeypatch.setattr("statemachine.state.DONE_ORDERS_PER_ACCOUNT", 2)
    placed = [await kept.order("alice", "buy", str(price), "1", client_oid=f"o{price}") for price in range(10, 16)]
    assert (await kept.call("alice", "DELETE", "/orders"))[0] == 200
    still = await kept.order("alice", "buy", "9", "1")
    _, gone = await kept.call("alice", "GET", f"/orders/{placed[0]['id']}")
    assert (gone["status"], gone["done_reason"], gone["client_oid"]) == ("done", "canceled", "o10")
    assert (await kept.call("alice", "GET", "/orders/client:o11"))[1]["id"] == placed[1]["id"]
    assert (await kept.call("bob", "GET", f"/orders/{placed[0]['id']}"))[0] == 404
    wanted = [order["id"] for order in reversed(placed)]
    assert [order["id"] for order in await pages(kept, "alice", "/orders?status=done", 2)] == wanted
    assert [order["id"] for order in await pages(kept, "alice", "/orders?status=all", 4)] == [still["id"], *wanted]
    assert [order["id"] for order in await pages(kept, "alice", "/orders", 4)] == [still["id"]]


async def test_the_ledger_is_filtered_by_type(kept: Exchange) -> None:
    await trade_a_little(kept)

    async def amounts(kind: str) -> list[str]:
        _, entries = await kept.call("alice", "GET", f"/accounts/alice:USD/ledger?type={kind}")
        assert {entry["type"] for entry in entries} <= {kind}
        return [entry["amount"] for entry in entries]

    assert await amounts("match") == ["-50.5", "-100"]
    assert await amounts("fee") == ["-0.11", "-0.2"]
    assert await amounts("transfer") == ["1000000"]
    assert await amounts("rebate") == []
    status, answer = await kept.call("alice", "GET", "/accounts/alice:USD/ledger?type=bonus")
    assert (status, answer["field"]) == (400, "type")


async def test_old_orders_are_found_by_their_time(kept: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are older than all the orders that the engine keeps."""
    monkeypatch.setattr("statemachine.state.DONE_ORDERS_PER_ACCOUNT", 2)
    placed = [await kept.order("alice", "buy", "10", "1") for _ in range(12)]
    assert (await kept.call("alice", "DELETE", "/orders"))[0] == 200
    target = f"/orders?status=done&end_date={placed[1]['created_at']}"
    assert [order["id"] for order in await pages(kept, "alice", target, 1)] == [placed[1]["id"], placed[0]["id"]]
    _, within = await kept.call("alice", "GET", f"{target}&start_date={placed[1]['created_at']}")
    assert [order["id"] for order in within] == [placed[1]["id"]]


async def test_lists_wait_for_the_history(kept: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that the engine has dropped is not left out because the history does not have it yet."""
    monkeypatch.setattr("statemachine.state.DONE_ORDERS_PER_ACCOUNT", 2)
    first = await kept.order("alice", "buy", "10", "1")
    backend(kept).behind = True
    for _ in range(3):
        await kept.order("alice", "buy", "10", "1")
    assert (await kept.call("alice", "DELETE", "/orders"))[0] == 200
    asyncio.get_running_loop().call_later(0.1, backend(kept).store)
    _, done = await kept.call("alice", "GET", "/orders?status=done")
    assert [order["id"] for order in done][-1] == first["id"]


async def test_an_order_whose_time_is_over_is_done_wherever_it_is_kept(kept: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that only advanced the time ended it, and the engine has dropped it. The answer waits for the history
    although it has every command.
    """
    monkeypatch.setattr("statemachine.state.DONE_ORDERS_PER_ACCOUNT", 1)
    short = {"time_in_force": "GTT", "cancel_after": 5}
    first, _ = [await kept.order("alice", "buy", "10", "1", **short) for _ in range(2)]
    backend(kept).behind = True
    backend(kept).advance(seconds=6)
    asyncio.get_running_loop().call_later(0.1, backend(kept).store)
    status, found = await kept.call("alice", "GET", f"/orders/{first['id']}")
    assert (status, found["status"]) == (200, "done")


async def test_trades_lead_back_to_the_first(kept: Exchange) -> None:
    """This includes trades that no node keeps. The last trade is known in any case, because the state has it."""
    for _ in range(7):
        await kept.order("bob", "sell", "100", "1")
        await kept.order("alice", "buy", "100", "1")
    kept.backend.feed.restart({"BTC-USD": kept.backend.engine.product_sequence("BTC-USD")})
    assert [trade["trade_id"] for trade in await pages(kept, "", "/products/BTC-USD/trades", 3)] == [7, 6, 5, 4, 3, 2, 1]
    assert (await kept.get("/products/BTC-USD/trades?before=4&limit=2"))[1][0]["trade_id"] == 7
    assert (await kept.get("/products/BTC-USD/ticker"))[1]["trade_id"] == 7
    await kept.order("bob", "sell", "100", "1")
    await kept.order("alice", "buy", "100", "1")
    assert [trade["trade_id"] for trade in await pages(kept, "", "/products/BTC-USD/trades", 3)] == [8, 7, 6, 5, 4, 3, 2, 1]


async def test_candles_have_every_granularity(kept: Exchange) -> None:
    await trade_a_little(kept)
    for granularity in (60, 300, 900, 3600, 21_600, 86_400):
        _, rows = await kept.get(f"/products/BTC-USD/candles?granularity={granularity}")
        start = int(backend(kept).engine.time // 10**9) // granularity * granularity
        assert rows == [[start, "100", "101", "100", "101", "1.5"]]
        _, same = await kept.get(f"/products/BTC-USD/candles?granularity={granularity}&start={start}&end={start}")
        assert same == rows
        assert await kept.get(f"/products/BTC-USD/candles?granularity={granularity}&start=0&end=60") == (200, [])


async def test_spark_lines_have_every_product(kept: Exchange) -> None:
    await trade_a_little(kept)
    _, rows = await kept.get("/products/BTC-USD/candles?granularity=3600")
    status, found = await kept.get("/products/spark-lines")
    assert (status, found) == (200, {"BTC-USD": rows, "ETH-BTC": []})


async def test_volumes_count_both_sides(kept: Exchange) -> None:
    """The answer has the account's own trades as maker and as taker, and all trades."""
    assert (await kept.call("alice", "GET", "/users/self/trailing-volume"))[1] == []
    await trade_a_little(kept)
    await kept.order("alice", "sell", "90", "0.25")
    await kept.order("bob", "buy", "90", "0.25")
    for who in ("alice", "bob"):
        status, found = await kept.call(who, "GET", "/users/self/trailing-volume")
        assert (status, [row.pop("recorded_at")[:2] for row in found]) == (200, ["20"])
        assert found == [{"product_id": "BTC-USD", "exchange_volume": "1.75", "volume": "1.75"}]


async def test_fees_include_the_volume_in_dollars(kept: Exchange) -> None:
    """Products with another quote currency do not count."""
    assert (await kept.call("alice", "GET", "/fees"))[1]["usd_volume"] == "0"
    await trade_a_little(kept)
    for who, side in (("bob", "sell"), ("alice", "buy")):
        await kept.order(who, side, "0.05", "1", product_id="ETH-BTC")
    for who in ("alice", "bob"):
        assert (await kept.call(who, "GET", "/fees"))[1]["usd_volume"] == "150.5"


async def test_both_accounts_see_a_transfer_between_them(kept: Exchange) -> None:
    """Each side sees the other. The receiver finds the transfer by its id, unless a transfer of its own has that id."""
    body = {"from": "alice", "to": "bob", "currency": "USD", "amount": "250", "transfer_id": "gift"}
    assert (await kept.call("alice", "POST", "/profiles/transfer", body))[0] == 200
    ends = {"from": "alice", "to": "bob"}
    for who, kind, amount, balance in (
        ("alice", "internal_withdraw", "-250", "999750"),
        ("bob", "internal_deposit", "250", "1000250"),
    ):
        _, entries = await kept.call(who, "GET", f"/accounts/{who}:USD/ledger?limit=1")
        assert [(entry["type"], entry["amount"], entry["balance"]) for entry in entries] == [("transfer", amount, balance)]
        assert entries[0]["details"] == ends | {"transfer_id": "gift", "transfer_type": kind}
        _, rows = await kept.call(who, "GET", f"/transfers?type={kind}")
        assert [(row["id"], row["type"], row["amount"], row["details"]) for row in rows] == [("gift", kind, "250", ends)]
        assert (await kept.call(who, "GET", "/transfers/gift"))[1] == rows[0]
        assert len((await kept.call(who, "GET", "/transfers?type=deposit"))[1]) == 3
    deposit = {"currency": "USD", "amount": "1", "transfer_id": "gift"}
    assert (await kept.call("bob", "POST", "/deposits", deposit))[0] == 200
    assert (await kept.call("bob", "GET", "/transfers/gift"))[1]["type"] == "deposit"
    await kept.call("alice", "POST", "/profiles/transfer", body | {"transfer_id": "gift-2"})
    assert (await kept.call("bob", "GET", "/transfers/gift"))[1]["type"] == "deposit"


async def test_the_sessions_of_a_product_are_listed(kept: Exchange) -> None:
    """The list has every change of its status once, with its place in the product's feed."""
    for status in ("cancel_only", "cancel_only", "online"):
        body = {"base_currency": "BTC", "quote_currency": "USD", "base_increment": "0.01", "quote_increment": "1"}
        body |= {"status": status}
        assert (await kept.call("admin", "PUT", "/admin/products/BTC-USD", body))[0] == 200
    found = await pages(kept, "alice", "/products/BTC-USD/status-changes", 2)
    assert [(row["product_id"], row["sequence"], row["status"]) for row in found] == [
        ("BTC-USD", 3, "online"),
        ("BTC-USD", 2, "cancel_only"),
        ("BTC-USD", 1, "online"),
    ]
    assert (await kept.call("alice", "GET", "/products/BTC-USD/status-changes?before=2"))[1] == found[:1]
    assert (await kept.call("alice", "GET", "/products/NO-SUCH/status-changes"))[0] == 404


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("granularity=61", "granularity"),
        ("granularity=60&start=0&end=86400", "granularity"),
        ("start=10&end=5", "end"),
        ("start=yesterday&end=5", "start"),
    ],
)
async def test_bad_parameters_of_candles_are_refused(kept: Exchange, query: str, field: str) -> None:
    status, answer = await kept.get(f"/products/BTC-USD/candles?{query}")
    assert (status, answer["field"]) == (400, field)


async def test_a_read_waits_for_a_history_that_is_a_little_behind(kept: Exchange) -> None:
    """A client reads what an earlier answer contained. A history that is far behind answers with what it has, and names
    its sequence.
    """
    backend(kept).behind = True
    await trade_a_little(kept)
    began = time.monotonic()
    response = await kept.send("alice", "GET", "/fills")
    assert (response.status, await response.json()) == (200, [])
    assert time.monotonic() - began > 0.9
    assert int(response.headers["x-quorumbook-sequence"]) < backend(kept).engine.sequence
    backend(kept).store()
    response = await kept.send("alice", "GET", "/fills")
    assert len(await response.json()) == 2
    assert int(response.headers["x-quorumbook-sequence"]) == backend(kept).engine.sequence


async def test_status_and_metrics_say_how_far_behind_it_is(kept: Exchange) -> None:
    backend(kept).behind = True
    await trade_a_little(kept)
    _, answer = await kept.get("/status")
    sequence = backend(kept).engine.sequence
    lag = answer["history"].pop("lag_seconds")
    assert lag >= 0
    assert answer["history"] == {"log_index": sequence - 3, "sequence": sequence - 3, "gaps": 0, "behind": 3, "confirmed": 1}
    text = await (await kept.client.get("/metrics")).text()
    assert 'quorumbook_history_behind_commands{node="n1"} 3.0' in text


CALLS: Sequence[tuple[str, str]] = (
    ("alice", "/fills"),
    ("alice", "/accounts/alice:USD/ledger"),
    ("alice", "/transfers"),
    ("alice", "/transfers/start-USD"),
    ("", "/products/BTC-USD/candles"),
    ("", "/products/spark-lines"),
    ("alice", "/users/self/trailing-volume"),
    ("alice", "/products/BTC-USD/status-changes"),
)


@pytest.mark.parametrize(("who", "target"), CALLS)
async def test_without_a_history_the_answer_names_the_setting(exchange: Exchange, who: str, target: str) -> None:
    status, answer = await exchange.call(who, "GET", target)
    assert (status, answer["message"], answer["reason"]) == (404, "This node keeps no history", "no_history")
    assert "history.enabled" in answer["detail"]


async def test_a_history_that_is_not_known_to_be_of_this_log_never_answers(
    kept: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formerly it served trades that a rollback had undone, and reported that nothing was missing."""
    monkeypatch.setattr("node.gateway.history_source.WAIT", 0.05)
    await trade_a_little(kept)
    code, _ = await kept.call("bob", "GET", "/fills")
    assert code == 200
    backend(kept).status["engine_start"] = "another"
    for path in ("/fills", "/products/BTC-USD/candles"):
        code, answer = await kept.call("bob", "GET", path)
        assert (code, answer["reason"]) == (503, "history_unconfirmed"), path
        assert "another log" in answer["detail"]
    _, answer = await kept.get("/status")
    assert answer["history"]["confirmed"] == 0


async def test_a_corrected_price_marks_the_trade_and_both_fills(kept: Exchange) -> None:
    await kept.order("alice", "sell", "100", "1")
    await kept.order("bob", "buy", "100", "1")
    (trade,) = (await kept.get("/products/BTC-USD/trades"))[1]
    (fill,) = (await kept.call("bob", "GET", "/fills"))[1]
    assert "correction" not in trade
    assert "correction" not in fill
    body = {
        "buyer": "bob",
        "seller": "alice",
        "price": "100",
        "size": "1",
        "buyer_fee": "0",
        "seller_fee": "0",
        "new_price": "99",
    }
    target = f"/admin/products/BTC-USD/trades/{trade['trade_id']}/correction"
    assert (await kept.call("admin", "POST", target, body))[0] == 200
    mark = {"correction": "price", "corrected_price": "99"}
    assert (await kept.get("/products/BTC-USD/trades"))[1] == [trade | mark]
    for name in ("alice", "bob"):
        (marked,) = (await kept.call(name, "GET", "/fills"))[1]
        assert {field: marked[field] for field in mark} == mark
        assert marked["price"] == "100"
    (candle,) = (await kept.get("/products/BTC-USD/candles"))[1]
    assert candle[1:5] == [100, 100, 100, 100] or candle[1:5] == ["100"] * 4

"""Public calls, accounts, transfers and the operator's calls."""

from __future__ import annotations

from typing import Any

import pytest

from node.budget import Cost
from node.gateway.market import ROWS_OF_PRODUCT
from tests.unit.node.gateway.harness import Exchange

PRODUCT = {"base_currency": "BTC", "quote_currency": "USD", "base_increment": "0.01", "quote_increment": "1"}


async def test_time_and_health_are_answered(exchange: Exchange) -> None:
    status, answer = await exchange.get("/time")
    assert status == 200
    assert isinstance(answer["epoch"], float)
    assert answer["iso"].endswith("Z")
    assert await exchange.get("/healthz") == (200, {"status": "ok"})


async def test_products_and_currencies_are_listed(exchange: Exchange) -> None:
    _, products = await exchange.get("/products")
    assert [product["id"] for product in products] == ["BTC-USD", "ETH-BTC"]
    assert products[0] | {"id": "BTC-USD"} == (await exchange.get("/products/BTC-USD"))[1]
    wanted = {
        "base_increment": "0.01",
        "quote_increment": "1",
        "base_min_size": "0.02",
        "base_max_size": "1000",
        "status": "online",
    }
    assert wanted.items() <= products[0].items()
    _, currencies = await exchange.get("/currencies")
    assert [(row["id"], row["max_precision"]) for row in currencies] == [
        ("BTC", "0.00000001"),
        ("ETH", "0.00000001"),
        ("USD", "0.01"),
    ]
    assert (await exchange.get("/currencies/USD"))[1]["id"] == "USD"


async def test_books_are_answered_at_every_level(exchange: Exchange) -> None:
    first = await exchange.order("alice", "buy", "99", "1")
    second = await exchange.order("bob", "buy", "99", "2")
    third = await exchange.order("bob", "sell", "101", "0.5")
    book: dict[str, Any] = (await exchange.get("/products/BTC-USD/book"))[1]
    assert (book["sequence"], book["bids"], book["asks"]) == (7, [["99", "3", 2]], [["101", "0.5", 1]])
    assert (await exchange.get("/products/BTC-USD/book?level=2"))[1]["bids"] == [["99", "3", 2]]
    full = (await exchange.get("/products/BTC-USD/book?level=3"))[1]
    assert full["bids"] == [["99", "1", first["id"]], ["99", "2", second["id"]]]
    assert full["asks"] == [["101", "0.5", third["id"]]]
    assert (await exchange.get("/products/BTC-USD/book?level=4"))[1]["field"] == "level"


async def test_trades_page_and_the_ticker_has_the_last(exchange: Exchange) -> None:
    _, before = await exchange.get("/products/BTC-USD/ticker")
    assert (before["trade_id"], before["volume"]) == (0, "0")
    for price in range(100, 105):
        await exchange.order("bob", "sell", str(price), "1")
        await exchange.order("alice", "buy", str(price), "1")
    await exchange.order("alice", "buy", "90", "1")
    _, ticker = await exchange.get("/products/BTC-USD/ticker")
    wanted = {"trade_id": 5, "price": "104", "size": "1", "bid": "90", "ask": "0", "volume": "5"}
    assert wanted.items() <= ticker.items()
    _, stats = await exchange.get("/products/BTC-USD/stats")
    assert stats == {"open": "100", "high": "104", "low": "100", "last": "104", "volume": "5", "volume_30day": "5"}
    _, volumes = await exchange.get("/products/volume-summary")
    found = {row["id"]: (row["spot_volume_24hour"], row["spot_volume_30day"], row["base_currency"]) for row in volumes}
    assert found == {"BTC-USD": ("5", "5", "BTC"), "ETH-BTC": ("0", "0", "ETH")}

    async def ids(query: str) -> list[int]:
        return [trade["trade_id"] for trade in (await exchange.get(f"/products/BTC-USD/trades{query}"))[1]]

    assert await ids("") == [5, 4, 3, 2, 1]
    assert await ids("?limit=2") == [5, 4]
    assert await ids("?limit=2&after=4") == [3, 2]
    assert await ids("?before=3") == [5, 4]
    response = await exchange.send("", "GET", "/products/BTC-USD/trades?limit=2")
    assert (response.headers["cb-before"], response.headers["cb-after"]) == ("5", "4")
    trade = (await response.json())[0]
    assert (trade["side"], trade["price"], trade["size"]) == ("sell", "104", "1")


@pytest.mark.parametrize(
    "target",
    [
        "/products/NO/book",
        "/products/NO/ticker",
        "/products/NO/trades",
        "/products/NO",
        "/nothing",
        "/currencies/NO",
        "/accounts/x/y",
    ],
)
async def test_unknown_things_are_404_with_a_message(exchange: Exchange, target: str) -> None:
    status, answer = await exchange.get(target)
    assert status == 404
    assert answer["message"]


async def test_a_method_that_is_not_there_is_405(exchange: Exchange) -> None:
    status, answer = await exchange.call("", "PUT", "/orders")
    assert (status, bool(answer["message"])) == (405, True)


async def test_accounts_list_every_currency(exchange: Exchange) -> None:
    _, accounts = await exchange.call("alice", "GET", "/accounts")
    assert [(row["id"], row["balance"]) for row in accounts] == [
        ("alice:BTC", "100"),
        ("alice:ETH", "100"),
        ("alice:USD", "1000000"),
    ]
    assert (await exchange.call("alice", "GET", "/accounts/")) == (200, accounts)
    assert (await exchange.call("alice", "GET", "/accounts/alice:BTC")) == (200, accounts[0])
    assert (await exchange.call("alice", "GET", "/accounts/bob:BTC"))[0] == 404


async def test_holds_show_until_the_order_leaves(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "100", "1")
    _, account = await exchange.call("alice", "GET", "/accounts/alice:USD")
    assert (account["balance"], account["available"], account["hold"]) == ("1000000", "999899.8", "100.2")
    await exchange.call("alice", "DELETE", f"/orders/{order['id']}")
    assert (await exchange.call("alice", "GET", "/accounts/alice:USD"))[1]["hold"] == "0"


async def test_fees_are_those_of_the_product(exchange: Exchange) -> None:
    status, answer = await exchange.call("alice", "GET", "/fees")
    assert (status, answer) == (200, {"maker_fee_rate": "0.001", "taker_fee_rate": "0.002", "usd_volume": None})
    assert (await exchange.call("alice", "GET", "/fees?product_id=ETH-BTC"))[1]["taker_fee_rate"] == "0"


async def test_a_transfer_id_books_once(exchange: Exchange) -> None:
    body = {"currency": "USD", "amount": "12.34", "transfer_id": "t-1"}
    _, first = await exchange.call("alice", "POST", "/deposits", body)
    assert (first["id"], first["amount"], first["available"], first["duplicate"]) == ("t-1", "12.34", "1000012.34", False)
    _, again = await exchange.call("alice", "POST", "/deposits", body)
    assert again == first | {"duplicate": True}
    body = {"currency": "USD", "amount": "0.34", "crypto_address": "somewhere"}
    _, out = await exchange.call("alice", "POST", "/withdrawals/crypto", body)
    assert out["available"] == "1000012"


@pytest.mark.parametrize(
    ("change", "field", "status"),
    [
        ({"amount": "0"}, "amount", 400),
        ({"amount": "-1"}, "amount", 400),
        ({"amount": "0.001"}, "amount", 400),
        ({"amount": "9" * 30}, "amount", 400),
        ({"amount": None}, "amount", 400),
        ({"currency": "XXX"}, "currency", 404),
        ({"currency": 7}, "currency", 400),
        ({"transfer_id": "a b"}, "transfer_id", 400),
        ({"extra": 1}, "extra", 400),
        ({"profile_id": "bob"}, "profile_id", 400),
    ],
)
async def test_bad_transfers_are_refused_by_name(exchange: Exchange, change: dict[str, object], field: str, status: int) -> None:
    for target in ("/deposits", "/withdrawals", "/withdrawals/crypto"):
        got, answer = await exchange.call("alice", "POST", target, {"currency": "USD", "amount": "1"} | change)
        assert (got, answer["field"]) == (status, field)


async def test_more_than_there_is_cannot_be_withdrawn(exchange: Exchange) -> None:
    status, answer = await exchange.call("alice", "POST", "/withdrawals", {"currency": "USD", "amount": "1000000.01"})
    assert (status, answer["message"]) == (400, "Insufficient funds")


@pytest.mark.parametrize(
    ("target", "body", "field"),
    [
        ("currencies/EUR", {"scale": 13}, "scale"),
        ("currencies/EUR", {"scale": "2"}, "scale"),
        ("currencies/EUR", {"scale": True}, "scale"),
        ("currencies/EUR", {}, "scale"),
        ("currencies/E%20R", {"scale": 2}, "id"),
        ("currencies/" + "E" * 65, {"scale": 2}, "id"),
        ("products/A-B", PRODUCT | {"base_currency": "XXX"}, "currency"),
        ("products/A-B", PRODUCT | {"status": "asleep"}, "status"),
        ("products/A-B", PRODUCT | {"maker_fee_rate": "0.0000001"}, "maker_fee_rate"),
        ("products/A-B", PRODUCT | {"base_increment": "x"}, "base_increment"),
        ("accounts/a", {"name": 1}, "name"),
        ("accounts/operator", {}, None),
        ("keys/k", {"account_id": "alice", "secret": "no base64!", "passphrase": "p", "permissions": ["view"]}, "secret"),
        ("keys/k", {"account_id": "alice", "secret": "AAAA", "passphrase": "", "permissions": ["view"]}, "passphrase"),
        ("keys/k", {"account_id": "alice", "secret": "AAAA", "passphrase": "p", "permissions": ["fly"]}, "permissions"),
        ("keys/k", {"account_id": "alice", "secret": "AAAA", "passphrase": "p", "permissions": []}, "permissions"),
        ("keys/k", {"account_id": "nobody", "secret": "AAAA", "passphrase": "p", "permissions": ["view"]}, None),
    ],
)
async def test_bad_operator_calls_are_refused_by_name(exchange: Exchange, target: str, body: object, field: str | None) -> None:
    status, answer = await exchange.call("admin", "PUT", f"/admin/{target}", body)
    assert 400 <= status < 500
    assert answer["message"]
    if field is not None:
        assert answer["field"] == field


async def test_operator_calls_may_be_repeated(exchange: Exchange) -> None:
    assert (await exchange.call("admin", "PUT", "/admin/accounts/alice"))[1]["changed"] is False
    assert (await exchange.call("admin", "PUT", "/admin/currencies/USD", {"scale": 2}))[1]["changed"] is False
    status, answer = await exchange.call("admin", "PUT", "/admin/currencies/USD", {"scale": 3})
    assert (status, answer["reason"]) == (400, "currency_changed")


async def test_a_products_status_is_obeyed(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "100", "1")
    body = {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1"}
    full = PRODUCT | {"base_min_size": "0.02", "base_max_size": "1000", "maker_fee_rate": "0.001", "taker_fee_rate": "0.002"}
    for name, message in (("cancel_only", "Cancel only mode"), ("offline", "Trading pair not available")):
        assert (await exchange.call("admin", "PUT", "/admin/products/BTC-USD", full | {"status": name}))[0] == 200
        status, answer = await exchange.call("alice", "POST", "/orders", body)
        assert (status, answer["message"]) == (400, message)
    assert (await exchange.get("/products/BTC-USD"))[1]["trading_disabled"] is True
    assert (await exchange.call("admin", "PUT", "/admin/products/BTC-USD", full))[0] == 200
    assert (await exchange.get("/products/BTC-USD"))[1]["trading_disabled"] is True, "a PUT without a status leaves it (L2)"
    assert (await exchange.call("admin", "PUT", "/admin/products/BTC-USD", full | {"status": "online"}))[0] == 200
    assert (await exchange.call("alice", "DELETE", f"/orders/{order['id']}"))[0] == 200


async def test_nothing_is_older_than_the_first_trade(exchange: Exchange) -> None:
    for price in (100, 101):
        await exchange.order("bob", "sell", str(price), "1")
        await exchange.order("alice", "buy", str(price), "1")
    assert await exchange.get("/products/BTC-USD/trades?after=1") == (200, [])
    assert await exchange.get("/products/BTC-USD/trades?after=0") == (200, [])
    assert [trade["trade_id"] for trade in (await exchange.get("/products/BTC-USD/trades?before=0"))[1]] == [2, 1]


async def test_the_one_profile_of_an_account_is_active(exchange: Exchange) -> None:
    _, profiles = await exchange.call("alice", "GET", "/profiles?active=true")
    assert [profile["id"] for profile in profiles] == ["alice"]
    assert await exchange.call("alice", "GET", "/profiles?active=false") == (200, [])
    assert (await exchange.call("alice", "GET", "/profiles/alice?active=false"))[0] == 404
    status, answer = await exchange.call("alice", "GET", "/profiles?active=perhaps")
    assert (status, answer["field"]) == (400, "active")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/orders"),
        ("GET", "/fills"),
        ("GET", "/transfers"),
        ("GET", "/accounts/alice:USD/holds"),
        ("GET", "/accounts/alice:USD/ledger"),
        ("DELETE", "/orders"),
    ],
)
async def test_the_profile_of_somebody_else_is_refused(exchange: Exchange, method: str, target: str) -> None:
    status, answer = await exchange.call("alice", method, f"{target}?profile_id=bob")
    assert (status, answer["field"]) == (400, "profile_id")


async def test_an_unknown_product_or_currency_is_named(exchange: Exchange) -> None:
    assert (await exchange.get("/products/NO-SUCH/book"))[1]["detail"] == "no product 'NO-SUCH'"
    assert (await exchange.get("/currencies/DOGE"))[1]["detail"] == "no currency 'DOGE'"


@pytest.mark.parametrize(
    ("kind", "field"), [("payment-method", "payment_method_id"), ("coinbase-account", "coinbase_account_id")]
)
async def test_money_that_comes_or_goes_another_way_is_a_transfer_too(exchange: Exchange, kind: str, field: str) -> None:
    body = {"currency": "USD", "amount": "5", field: "x"}
    assert (await exchange.call("alice", "POST", f"/deposits/{kind}", body))[1]["available"] == "1000005"
    assert (await exchange.call("alice", "POST", f"/withdrawals/{kind}", body))[1]["available"] == "1000000"


@pytest.mark.parametrize(
    ("change", "field", "detail"),
    [
        ({"amount": "1000000.01"}, "amount", "1000000 available"),
        ({"amount": "2", "transfer_id": "back"}, "transfer_id", "this id came before with other contents"),
    ],
)
async def test_the_reject_of_a_transfer_has_decimals(exchange: Exchange, change: dict[str, str], field: str, detail: str) -> None:
    body = {"currency": "USD", "amount": "1", "transfer_id": "used"}
    assert (await exchange.call("alice", "POST", "/deposits", body))[0] == 200
    assert (await exchange.call("alice", "POST", "/withdrawals", body | {"transfer_id": "back"}))[0] == 200
    status, answer = await exchange.call("alice", "POST", "/withdrawals", body | {"transfer_id": "fresh"} | change)
    assert (status, answer["field"], answer["detail"]) == (400, field, detail)


async def test_the_reject_of_an_increment_has_decimals(exchange: Exchange) -> None:
    product = {"base_currency": "BTC", "quote_currency": "USD", "base_increment": "0.02", "quote_increment": "1"}
    status, answer = await exchange.call("admin", "PUT", "/admin/products/BTC-USD", product)
    assert (status, answer["field"], answer["detail"]) == (400, "base_increment", "is 0.01 and cannot change")
    status, answer = await exchange.call("admin", "PUT", "/admin/currencies/BTC", {"scale": 6})
    assert (status, answer["field"], answer["detail"]) == (400, "scale", "is 8 and cannot change")


async def test_a_list_of_all_products_costs_more_than_one_product(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for it, and a venue may have thousands of products."""
    spent: list[float] = []
    monkeypatch.setattr(exchange.gateway.limits.addresses, "spend", lambda _address, cost: spent.append(cost))
    for target in ("/products", "/products/volume-summary", "/products/BTC-USD"):
        assert (await exchange.get(target))[0] == 200
    assert [cost for cost in spent if cost] == [Cost.rows(2 * ROWS_OF_PRODUCT)] * 2, "the answers have no full 25 rows"

"""ccxt's `coinbaseexchange` over REST."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import ccxt

from tests.clients.foreign.steps import check, given, say, step, trade_through_a_kill

SYMBOL = given["product"].replace("-", "/")


def client(url: str) -> Any:
    """Return a client of one node."""
    settings = {
        "apiKey": given["key"],
        "secret": given["secret"],
        "password": given["passphrase"],
        "enableRateLimit": False,
        "timeout": 10_000,
        "urls": {"api": {"public": url, "private": url}},
    }
    return ccxt.coinbaseexchange(settings)


def public(x: Any) -> None:
    """Make every public call that is declared."""
    step("load_markets", lambda: check(SYMBOL in x.load_markets()))
    step("fetch_currencies", lambda: check("BTC" in x.fetch_currencies()))
    step("fetch_markets", lambda: check(any(market["symbol"] == SYMBOL for market in x.fetch_markets())))
    step("fetch_time", lambda: check(x.fetch_time() > 1_700_000_000_000))
    step("fetch_order_book", lambda: check(x.fetch_order_book(SYMBOL)["bids"]))
    step("fetch_order_book(limit 1)", lambda: check(x.fetch_order_book(SYMBOL, 1)["bids"]))
    step("fetch_order_book(level 3)", lambda: check(x.fetch_order_book(SYMBOL, None, {"level": 3})["asks"]))
    step("fetch_ticker", lambda: check(x.fetch_ticker(SYMBOL)["last"]))
    step("fetch_tickers", lambda: check(x.fetch_tickers()[SYMBOL]["last"] == x.fetch_ticker(SYMBOL)["last"]))
    step("fetch_trades", lambda: check(x.fetch_trades(SYMBOL, limit=5)))
    step("fetch_ohlcv", lambda: check(x.fetch_ohlcv(SYMBOL, "1m")[-1][4] == x.fetch_ticker(SYMBOL)["last"]))
    step("fetch_l2_order_book", lambda: check(x.fetch_l2_order_book(SYMBOL)["asks"]))
    step("publicGetProductsVolumeSummary", lambda: check(float(volumes(x)["spot_volume_24hour"]) >= 0.01))
    step("publicGetProductsSparkLines", lambda: check(x.publicGetProductsSparkLines()[given["product"]]))
    step("publicGetProductsIdStats", lambda: check(x.publicGetProductsIdStats({"id": given["product"]})["volume"]))


def volumes(x: Any) -> dict[str, Any]:
    """Return the volumes that were traded of the product."""
    found: dict[str, Any] = next(row for row in x.publicGetProductsVolumeSummary() if row["id"] == given["product"])
    return found


def trading(x: Any) -> None:
    """Place orders in every way that ccxt has. It signs with whole seconds: equal orders within one would be
    refused, so sizes differ.
    """
    step("fetch_accounts", lambda: check(x.fetch_accounts()))
    step("fetch_balance", lambda: check(x.fetch_balance()["USD"]["free"] > 0))
    step("fetch_trading_fees", lambda: check(x.fetch_trading_fees()[SYMBOL]["taker"] > 0))
    rests = step(
        "create_order(limit)", lambda: x.create_order(SYMBOL, "limit", "buy", 0.01, 30_000, {"client_oid": f"{given['key']}-a"})
    )
    step("create_order(postOnly)", lambda: x.create_order(SYMBOL, "limit", "buy", 0.01, 30_001, {"postOnly": True}))
    step("create_order(market)", lambda: check(x.create_order(SYMBOL, "market", "buy", 0.03)["id"]))
    step("create_order(market, sell)", lambda: check(x.create_order(SYMBOL, "market", "sell", 0.01)["id"]))
    step("create_order(IOC)", lambda: x.create_order(SYMBOL, "limit", "buy", 0.01, 30_000, {"timeInForce": "IOC"}))
    step("fetch_order", lambda: check(x.fetch_order(rests["id"], SYMBOL)["status"] == "open"))
    step(
        "fetch_order(clientOrderId)",
        lambda: check(x.fetch_order("", SYMBOL, {"clientOrderId": f"{given['key']}-a"})["id"] == rests["id"]),
    )
    step("fetch_open_orders", lambda: check(len(x.fetch_open_orders(SYMBOL)) == 2))
    step("fetch_orders", lambda: check(len(x.fetch_orders(SYMBOL)) >= 5))
    step("fetch_closed_orders", lambda: check(len(x.fetch_closed_orders(SYMBOL)) >= 3))
    edited = step("edit_order", lambda: x.edit_order(rests["id"], SYMBOL, "limit", "buy", 0.01, 30_002))
    step("fetch_order(edited)", lambda: check(x.fetch_order(rests["id"], SYMBOL)["status"] == "canceled"))
    step("cancel_order", lambda: x.cancel_order(edited["id"], SYMBOL))
    step("cancel_all_orders", lambda: check(len(x.cancel_all_orders(SYMBOL)) == 1))


def waiting(x: Any) -> None:
    """Place orders that wait for a price, are triggered by a trade, are cancelled, or end by themselves."""
    loss = step(
        "create_order(limit, triggerPrice)",
        lambda: x.create_order(SYMBOL, "limit", "sell", 0.01, 58_000, {"triggerPrice": 60_000}),
    )
    cost = {"stopPrice": 60_000, "stop": "entry", "cost": 700}
    entry = step("create_order(market, stopPrice, stop entry)", lambda: x.create_order(SYMBOL, "market", "buy", 0.01, None, cost))
    other = step(
        "create_order(stop_price, stop loss)",
        lambda: x.create_order(SYMBOL, "limit", "buy", 0.01, 50_000, {"stop_price": 100, "stop": "loss"}),
    )
    waits = [order["id"] for order in (loss, entry, other)]
    step("fetch_open_orders(waiting)", lambda: check({order["id"] for order in x.fetch_open_orders(SYMBOL)} == set(waits)))
    step("fetch_order(waiting)", lambda: is_waiting(x.fetch_order(loss["id"], SYMBOL), 60_000))
    x.create_order(SYMBOL, "market", "sell", 0.001)
    step("fetch_order(triggered sell)", lambda: is_triggered(x.fetch_order(loss["id"], SYMBOL), 59_000))
    x.create_order(SYMBOL, "market", "buy", 0.001)
    step("fetch_order(triggered buy)", lambda: is_triggered(x.fetch_order(entry["id"], SYMBOL), 61_000))
    limit = step("create_stop_limit_order", lambda: x.create_stop_limit_order(SYMBOL, "sell", 0.01, 58_000, 100))
    market = step("create_stop_market_order", lambda: x.create_stop_market_order(SYMBOL, "sell", 0.01, 101))
    step("fetch_order(create_stop_limit_order)", lambda: is_waiting(x.fetch_order(limit["id"], SYMBOL), 100))
    step("fetch_order(create_stop_market_order)", lambda: is_waiting(x.fetch_order(market["id"], SYMBOL), 101))
    step("cancel_order(waiting)", lambda: x.cancel_order(other["id"], SYMBOL))
    step("create_order(GTT)", lambda: check(leaving(x)["timeInForce"] == "GTT"))
    x.cancel_all_orders(SYMBOL)


def beyond(x: Any) -> None:
    """Calls that Coinbase Exchange lacks and ccxt's class therefore does not declare: ccxt signs and sends them by its
    generic `request`.
    """
    rests = x.create_order(SYMBOL, "limit", "buy", 0.01, 30_000, {"client_oid": f"{given['key']}-amend"})
    amended = step(
        "request(PUT orders/{id}), an amendment",
        lambda: x.request("orders/{id}", ["private"], "PUT", {"id": rests["id"], "size": "0.02", "price": "30003"}),
    )
    found = x.fetch_order(rests["id"], SYMBOL)
    step(
        "fetch_order(amended)",
        lambda: check((amended["id"], found["price"], found["amount"]) == (rests["id"], 30_003, 0.02), found),
    )
    armed = step(
        "request(POST orders/cancel-all-after)",
        lambda: x.request("orders/cancel-all-after", ["private"], "POST", {"timeout": 1}),
    )
    step("the timer is set", lambda: check(armed["trigger_time"]))
    step("fetch_order(after the timer)", lambda: has_ended(x, rests["id"]))
    step(
        "request(POST orders/cancel-all-after), timeout 0",
        lambda: check(x.request("orders/cancel-all-after", ["private"], "POST", {"timeout": 0})["trigger_time"] is None),
    )


def has_ended(x: Any, order_id: str) -> None:
    """Check that the order is cancelled within some seconds."""
    end = time.monotonic() + 10.0
    while x.fetch_order(order_id, SYMBOL)["status"] != "canceled":
        check(time.monotonic() < end, "the order is still there")
        time.sleep(0.05)


def leaving(x: Any) -> dict[str, Any]:
    """Place an order that expires after an hour."""
    order: dict[str, Any] = x.create_order(SYMBOL, "limit", "buy", 0.01, 30_000, {"timeInForce": "GTT", "cancel_after": "hour"})
    check(order["info"]["expire_time"] > order["datetime"], order)
    return order


def is_waiting(order: dict[str, Any], price: float) -> None:
    """Check that the order waits for a trade at the price."""
    found = [order["status"], order["triggerPrice"], order["filled"], order["info"]["status"], order["info"]["stop"]]
    check(found == ["open", price, 0, "active", "loss"], found)


def is_triggered(order: dict[str, Any], price: float) -> None:
    """Check that the order has traded at the market maker's price."""
    check((order["status"], order["average"]) == ("closed", price), order)


def refusals(x: Any) -> None:
    """Check the exceptions that ccxt maps our texts to."""
    nobody = client(given["urls"][-1])
    nobody.apiKey = "nobody"
    refused(ccxt.InsufficientFunds, lambda: x.create_order(SYMBOL, "limit", "buy", 9_000, 3_000_000))
    refused(ccxt.InvalidOrder, lambda: x.create_order(SYMBOL, "limit", "buy", 0.01, 30_000, {"client_oid": f"{given['key']}-a"}))
    refused(ccxt.OrderNotFound, lambda: x.cancel_order("00000000-0000-0000-0000-00000fffffff"))
    refused(ccxt.InvalidOrder, lambda: x.fetch_order("no-id", SYMBOL))
    refused(ccxt.AuthenticationError, nobody.fetch_balance)


def refused(wanted: type[Exception], run: Callable[[], object]) -> None:
    """Check that the call raises `wanted`."""

    def attempt() -> None:
        try:
            run()
        except wanted:
            return
        raise AssertionError("it raised nothing")

    step(f"a refusal is {wanted.__name__}", attempt)


def money(x: Any) -> None:
    """Fills, ledger and transfers."""
    step("withdraw", lambda: check(x.withdraw("USD", 1, "nowhere")["id"]))
    order = x.create_order(SYMBOL, "market", "buy", 0.01)["id"]
    step("fetch_my_trades", lambda: is_bought(x.fetch_my_trades(SYMBOL)[-1], order))
    step("fetch_order_trades", lambda: is_bought(x.fetch_order_trades(order, SYMBOL)[0], order))
    step("fetch_ledger", lambda: is_booked(x.fetch_ledger("USD")[-2:], x.fetch_balance()["USD"]["total"]))
    step("fetch_deposits", lambda: check(amounts(x.fetch_deposits("USD")) == [("deposit", 10**9)]))
    step("fetch_withdrawals", lambda: check(amounts(x.fetch_withdrawals("USD")) == [("withdrawal", 1)]))
    both = [("deposit", 10**9), ("withdrawal", 1)]
    step("fetch_transactions", lambda: check(amounts(x.fetch_transactions("USD")) == [("deposit", 10**9), ("withdrawal", 1)]))
    step("fetch_deposits_withdrawals", lambda: check(amounts(x.fetch_deposits_withdrawals("USD")) == both))
    rests = x.create_order(SYMBOL, "limit", "buy", 0.01, 30_000)["id"]
    account = next(row for row in x.privateGetAccounts() if row["currency"] == "USD")
    held = [(rests, account["hold"])]
    step("privateGetAccountsIdHolds", lambda: check([(hold["ref"], hold["amount"]) for hold in of(x, "Holds", account)] == held))
    step(
        "privateGetAccountsIdTransfers",
        lambda: check([row["amount"] for row in of(x, "Transfers", account)] == ["1", "1000000000"]),
    )
    step("privateGetTransfers", lambda: check("BTC" in {row["currency"] for row in x.privateGetTransfers()}))
    x.cancel_order(rests, SYMBOL)
    step("privateGetUsersSelfTrailingVolume", lambda: check(float(x.privateGetUsersSelfTrailingVolume()[0]["volume"]) >= 0.03))
    step("privateGetProfiles", lambda: check(x.privateGetProfiles()))


def of(x: Any, what: str, account: dict[str, Any]) -> Any:
    """Return a list of an account."""
    return getattr(x, f"privateGetAccountsId{what}")({"id": account["id"]})


def is_bought(trade: dict[str, Any], order: str) -> None:
    """Check that the trade is the order's, at the market maker's price and with the taker's fee."""
    found = [trade[name] for name in ("order", "side", "price", "amount", "cost", "takerOrMaker")]
    check(found == [order, "buy", 61_000, 0.01, 610, "taker"], found)
    check(trade["fee"]["cost"] == 1.22, trade["fee"])


def is_booked(entries: list[dict[str, Any]], balance: float) -> None:
    """Check that the last two entries are that trade and its fee, and lead to the balance."""
    found = {entry["type"]: (entry["direction"], entry["amount"]) for entry in entries}
    check(found == {"trade": ("out", 610), "fee": ("out", 1.22)}, found)
    check(balance == min(entry["after"] for entry in entries), balance)


def amounts(transfers: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Return the type and the amount of each transfer, in the given order."""
    return [(transfer["type"], transfer["amount"]) for transfer in transfers]


def main() -> None:
    """Make all calls, then place orders while the leader dies. The first URL is that leader's."""
    x = client(given["urls"][-1])
    step("create_order(market), for a first trade", lambda: x.create_order(SYMBOL, "market", "buy", 0.02))
    public(x)
    trading(x)
    waiting(x)
    beyond(x)
    refusals(x)
    money(x)
    clients = itertools.cycle([client(url) for url in given["urls"]])
    current = [next(clients)]

    def turn() -> None:
        current[0] = next(clients)

    trade_through_a_kill(
        lambda oid: str(current[0].create_order(SYMBOL, "limit", "buy", 0.001, 20_000, {"client_oid": oid})["id"]), turn
    )
    say(end=True)


if __name__ == "__main__":
    main()

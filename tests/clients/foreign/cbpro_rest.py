"""cbpro over REST."""

from __future__ import annotations

import itertools
from typing import Any

import cbpro

from tests.clients.foreign.steps import check, given, say, step, trade_through_a_kill

PRODUCT = given["product"]


def client(url: str) -> Any:
    """Return a client of one node."""
    return cbpro.AuthenticatedClient(given["key"], given["secret"], given["passphrase"], api_url=url)


def sound(answer: Any) -> Any:
    """Check that an answer is not an error (cbpro raises nothing), and return it."""
    check(not (isinstance(answer, dict) and "message" in answer), answer)
    return answer


def listed(pages: Any) -> list[Any]:
    """Return the first items of a list that cbpro pages through."""
    found = list(itertools.islice(pages, 5))
    check("message" not in found, "an error answer")
    return found


def is_sold(fill: dict[str, Any]) -> None:
    """Check that the fill is a sale of 0.01 to the market maker."""
    found = [fill[name] for name in ("side", "price", "size", "fee", "liquidity", "settled")]
    check(found == ["sell", "59000", "0.01", "1.18", "T", True], found)


def is_booked(entries: list[dict[str, Any]], balance: str) -> None:
    """Check that the newest entries are the fee and the price of 0.01 bought, and lead to the balance."""
    found = [(entry["type"], entry["amount"]) for entry in entries]
    check(found == [("fee", "-1.22"), ("match", "-610"), ("transfer", "1000000000")], found)
    check(entries[0]["balance"] == balance, balance)


def public(x: Any) -> None:
    """Make the public client's calls."""
    step("get_products", lambda: check(any(product["id"] == PRODUCT for product in sound(x.get_products()))))
    step("get_product_order_book(level 1)", lambda: check(sound(x.get_product_order_book(PRODUCT))["bids"]))
    step("get_product_order_book(level 2)", lambda: check(sound(x.get_product_order_book(PRODUCT, level=2))["asks"]))
    step("get_product_order_book(level 3)", lambda: check(sound(x.get_product_order_book(PRODUCT, level=3))["sequence"]))
    step("get_product_ticker", lambda: check(sound(x.get_product_ticker(PRODUCT))["trade_id"]))
    step("get_product_trades", lambda: check(listed(x.get_product_trades(PRODUCT))))
    step(
        "get_product_historic_rates",
        lambda: check(
            sound(x.get_product_historic_rates(PRODUCT, granularity=60))[0][4] == x.get_product_ticker(PRODUCT)["price"]
        ),
    )
    step("get_product_24hr_stats", lambda: check(sound(x.get_product_24hr_stats(PRODUCT))["volume"]))
    step("get_currencies", lambda: check(sound(x.get_currencies())))
    step("get_time", lambda: check(sound(x.get_time())["epoch"]))


def trading(x: Any) -> None:
    """Make the calls for orders and accounts."""
    accounts = step("get_accounts", lambda: sound(x.get_accounts())) or []
    account = next((row["id"] for row in accounts if row["currency"] == "USD"), "none")
    step("get_account", lambda: check(sound(x.get_account(account))["balance"]))
    step("get_account_history", lambda: is_booked(listed(x.get_account_history(account)), x.get_account(account)["balance"]))
    rests = step("place_limit_order", lambda: sound(x.place_limit_order(PRODUCT, "buy", "30000", "0.01", post_only=True)))
    held = [(rests["id"], x.get_account(account)["hold"])]
    step(
        "get_account_holds", lambda: check([(row["ref"], row["amount"]) for row in listed(x.get_account_holds(account))] == held)
    )
    step("place_market_order(size)", lambda: check(sound(x.place_market_order(PRODUCT, "buy", size="0.01"))["settled"]))
    step("place_market_order(funds)", lambda: sound(x.place_market_order(PRODUCT, "buy", funds="500")))
    step("buy", lambda: sound(x.buy(PRODUCT, "limit", price="30000", size="0.01", time_in_force="IOC")))
    step("sell", lambda: sound(x.sell(PRODUCT, "market", size="0.01")))
    step("get_order", lambda: check(sound(x.get_order(rests["id"]))["status"] == "open"))
    step("get_orders", lambda: check(any(order["id"] == rests["id"] for order in listed(x.get_orders(PRODUCT)))))
    step("get_orders(done)", lambda: check(listed(x.get_orders(status="done"))))
    step("cancel_order", lambda: check(x.cancel_order(rests["id"]) == rests["id"]))
    step("cancel_all", lambda: check(sound(x.cancel_all(PRODUCT)) == []))
    step("get_fills", lambda: is_sold(listed(x.get_fills(PRODUCT))[0]))
    step("crypto_withdraw", lambda: check(sound(x.crypto_withdraw("1", "USD", "nowhere"))["id"]))
    step("get_trailing_volume", lambda: check(float(sound(x.get_trailing_volume())[0]["volume"]) >= 0.03))


def waiting(x: Any) -> None:
    """Place orders that wait for a price, are triggered by a trade, are cancelled, or end by themselves."""
    loss = step("place_stop_order(sell)", lambda: sound(x.place_stop_order(PRODUCT, "sell", 60_000, size="0.01")))
    entry = step("place_stop_order(buy)", lambda: sound(x.place_stop_order(PRODUCT, "buy", 60_000, funds="700")))
    stop = {"price": "30000", "size": "0.01", "stop": "loss", "stop_price": "100"}
    limit = step("place_order(stop, stop_price)", lambda: sound(x.place_order(PRODUCT, "buy", "limit", **stop)))
    waits = [order["id"] for order in (loss, entry, limit)]
    step("get_orders(waiting)", lambda: check([order["id"] for order in listed(x.get_orders(status="active"))] == waits[::-1]))
    sound(x.place_market_order(PRODUCT, "sell", size="0.001"))
    step("get_order(triggered sell)", lambda: is_triggered(sound(x.get_order(loss["id"])), 59_000))
    sound(x.place_market_order(PRODUCT, "buy", size="0.001"))
    step("get_order(triggered buy)", lambda: is_triggered(sound(x.get_order(entry["id"])), 61_000))
    step("cancel_order(waiting)", lambda: check(x.cancel_order(limit["id"]) == limit["id"]))
    leaves = step(
        "place_limit_order(GTT)",
        lambda: sound(x.place_limit_order(PRODUCT, "buy", "30000", "0.01", time_in_force="GTT", cancel_after="min")),
    )
    check(leaves["expire_time"] > leaves["created_at"], leaves)
    sound(x.cancel_order(leaves["id"]))


def is_triggered(order: dict[str, Any], price: int) -> None:
    """Check that the order has traded at the market maker's price."""
    found = [order["status"], order["done_reason"], float(order["executed_value"]) / float(order["filled_size"])]
    check(found == ["done", "filled", price], order)


def main() -> None:
    """Make all calls, then place orders while the leader dies. The first URL is that leader's."""
    x = client(given["urls"][-1])
    sound(x.place_market_order(PRODUCT, "buy", size="0.01"))
    public(x)
    trading(x)
    waiting(x)
    clients = itertools.cycle([client(url) for url in given["urls"]])
    current = [next(clients)]

    def turn() -> None:
        current[0] = next(clients)

    def place(client_oid: str) -> str:
        order = sound(current[0].place_limit_order(PRODUCT, "buy", "20000", "0.001", client_oid=client_oid))
        return str(order["id"])

    trade_through_a_kill(place, turn)
    say(end=True)


if __name__ == "__main__":
    main()

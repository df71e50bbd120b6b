"""ccxt.pro's `coinbaseexchange`: the feed, public and private."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import ccxt.pro

from tests.clients.foreign.steps import Failures, given, report_failure, say

SYMBOL = given["product"].replace("-", "/")
SECONDS = 20.0


class Beyond(ccxt.pro.coinbaseexchange):  # type: ignore[misc]  # ccxt is not in this environment
    """ccxt.pro's class with what Coinbase Exchange lacks and Quorumbook has: orders over the WebSocket, and the
    channels `balance` and `candles_60`. A user of ccxt can add the same lines.
    """

    def handle_message(self, client: Any, message: dict[str, Any]) -> None:
        """Resolve what the library does not know, and leave the rest to it."""
        match message["type"]:
            case "result":
                client.resolve(message, message["request_id"])
            case "balance":
                client.resolve(message, "balance")
            case "candles":
                client.resolve(message["candles"], f"candles:{message['product_id']}")
            case _:
                super().handle_message(client, message)

    async def send_ws(self, message: dict[str, Any]) -> Any:
        """Send a signed message and return its result."""
        number = self.uuid()
        request = self.extend({**message, "request_id": number}, self.authenticate())
        return await self.watch(self.urls["api"]["ws"] + "?", number, request, number)

    async def create_order_ws(self, symbol: str, kind: str, side: str, amount: float, price: float | None = None) -> Any:
        """Place an order."""
        order = {"product_id": self.market(symbol)["id"], "type": kind, "side": side, "size": str(amount)}
        if price is not None:
            order["price"] = str(price)
        return self.parse_order((await self.send_ws({"type": "place", "order": order}))["order"])

    async def edit_order_ws(self, order_id: str, price: float) -> Any:
        """Amend an order's price."""
        return self.parse_order(
            (await self.send_ws({"type": "amend", "order": {"order_id": order_id, "price": str(price)}}))["order"]
        )

    async def cancel_order_ws(self, order_id: str) -> Any:
        """Cancel an order."""
        return (await self.send_ws({"type": "cancel", "order_id": order_id}))["order_ids"]

    async def watch_balance(self) -> Any:
        """Return the next balance of a currency that has changed."""
        return self.parse_balance([await self.subscribe("balance", None, "balance", self.authenticate())])

    async def watch_ohlcv(self, symbol: str) -> Any:
        """Return the candle of this minute."""
        return self.parse_ohlcvs(await self.subscribe("candles_60", symbol, "candles"), self.market(symbol))


def client(place: int) -> Any:
    """Return a client of one node."""
    url, ws = given["urls"][place], given["ws"][place]
    settings = {
        "apiKey": given["key"],
        "secret": given["secret"],
        "password": given["passphrase"],
        "enableRateLimit": False,
        "urls": {"api": {"public": url, "private": url, "ws": ws}},
    }
    return Beyond(settings)


async def watched(call: str, watch: Callable[[], Awaitable[Any]], wanted: Callable[[Any], object]) -> None:
    """Watch until something wanted comes."""
    try:
        async with asyncio.timeout(SECONDS):
            while not wanted(await watch()):
                pass
    except Exception as error:  # noqa: BLE001  # whatever the library raises is the result
        report_failure(call, error)
    else:
        say(call=call, result="works")


async def trade(x: Any) -> None:
    """Place small market orders on both sides, for ever. ccxt signs with whole seconds, so equal orders within one need ids."""
    for number, side in enumerate(itertools.cycle(("buy", "sell"))):
        await x.create_order(SYMBOL, "market", side, 0.001, None, {"client_oid": f"{given['key']}-trade-{number}"})
        await asyncio.sleep(0.1)


async def calls(x: Any) -> None:
    """Make every `watch` call that is declared, while the client trades."""
    await x.load_markets()
    trading = asyncio.create_task(trade(x))
    await watched("watch_ticker", lambda: x.watch_ticker(SYMBOL), lambda ticker: ticker["last"])
    await watched("watch_trades", lambda: x.watch_trades(SYMBOL), lambda trades: trades and trades[-1]["id"])
    await watched("watch_order_book", lambda: x.watch_order_book(SYMBOL), lambda book: book["bids"] and book["asks"])
    await watched("watch_orders", lambda: x.watch_orders(SYMBOL), lambda orders: orders[-1]["status"] == "closed")
    stop = await x.create_order(SYMBOL, "limit", "sell", 0.001, 58_000, {"triggerPrice": 60_000})
    await watched(
        "watch_orders(a stop order that is triggered)",
        lambda: x.watch_orders(SYMBOL),
        lambda orders: any(order["id"] == stop["id"] and order["status"] == "closed" for order in orders),
    )
    await watched("watch_my_trades", lambda: x.watch_my_trades(SYMBOL), lambda trades: trades and trades[-1]["id"])
    await watched("watch_tickers", lambda: x.watch_tickers([SYMBOL]), lambda tickers: SYMBOL in tickers)
    await watched("watch_order_book_for_symbols", lambda: x.watch_order_book_for_symbols([SYMBOL]), lambda book: book["bids"])
    await watched("watch_balance, by a subclass", x.watch_balance, lambda balance: balance.get("USD", {}).get("free"))
    await watched("watch_ohlcv, by a subclass", lambda: x.watch_ohlcv(SYMBOL), lambda candles: candles[-1][4])
    trading.cancel()
    await asyncio.gather(trading, return_exceptions=True)
    await orders_over_the_socket(x)


async def orders_over_the_socket(x: Any) -> None:
    """Place, amend and cancel."""
    placed: list[Any] = []

    async def place() -> Any:
        placed.append(await x.create_order_ws(SYMBOL, "limit", "buy", 0.01, 31_000))
        return placed[-1]

    await watched("create_order_ws, by a subclass", place, lambda order: order["status"] == "open")
    order_id = placed[-1]["id"]
    await watched(
        "edit_order_ws, by a subclass", lambda: x.edit_order_ws(order_id, 31_001), lambda order: order["price"] == 31_001
    )
    await watched("cancel_order_ws, by a subclass", lambda: x.cancel_order_ws(order_id), lambda ids: ids == [order_id])


class Kill:
    """Own orders and trades watched through the death of the leader, at a node that lives."""

    def __init__(self, x: Any) -> None:
        self.x = x
        self.seen: set[str] = set()
        self.changed = asyncio.Condition()
        self.failures = Failures()
        self.placed: dict[str, str] = {}

    async def run(self) -> None:
        """Place orders, each again until it is answered, and see each of them in the feed."""
        watching = asyncio.create_task(self.watch())
        say(ready=True)
        for number in range(int(given["orders"])):
            await self.place(f"{given['key']}-kill-{number}")
        async with asyncio.timeout(SECONDS), self.changed:
            await self.changed.wait_for(lambda: set(self.placed.values()) <= self.seen)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self.failures.say(self.placed)

    async def place(self, client_oid: str) -> None:
        """Place an order until it is answered."""
        begun = time.monotonic()
        while client_oid not in self.placed:
            try:
                order = await self.x.create_order(SYMBOL, "limit", "buy", 0.001, 20_000, {"client_oid": client_oid})
                self.placed[client_oid] = str(order["id"])
                self.failures.took(begun)
            except Exception as error:  # noqa: BLE001  # whatever the library raises while the leader is gone
                self.failures.add(error)
                await asyncio.sleep(0.05)

    async def watch(self) -> None:
        """Note every order that the feed tells of."""
        while True:
            orders = await self.x.watch_orders(SYMBOL)
            async with self.changed:
                self.seen.update(order["id"] for order in orders)
                self.changed.notify_all()


async def main() -> None:
    """Make all calls, then place orders while the leader dies. The last URL is a survivor's."""
    x = client(-1)
    try:
        await calls(x)
        await Kill(x).run()
    finally:
        await x.close()
    say(end=True)


if __name__ == "__main__":
    asyncio.run(main())

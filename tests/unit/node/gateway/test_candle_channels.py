"""The channels of candles and of the best prices: their first messages, their later messages, and that they agree with
REST.
"""

from __future__ import annotations

from typing import Any

from node.gateway.channels import CANDLES
from tests.unit.node.gateway.harness import FULL, Exchange, receive, subscribe, trade


def row(message: Any) -> list[Any]:
    """Return the candle of a message without its begin: low, high, open, close, volume."""
    assert message["type"] == "candles"
    figures: list[Any] = message["candles"][0][1:]
    return figures


async def test_the_first_message_of_a_candle_includes_earlier_trades(exchange: Exchange) -> None:
    for price in ("100", "90", "120", "110"):
        await trade(exchange, price)
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["candles_60", "candles_86400"])
    first = {message["granularity"]: message for message in (await receive(socket), await receive(socket))}
    assert set(first) == {60, 86400}
    for granularity, message in first.items():
        assert row(message) == ["90", "120", "100", "110", "4"]
        assert message["candles"][0][0] % granularity == 0
    await trade(exchange, "80", "2")
    later = [await receive(socket, "candles") for _ in first]
    assert [row(message) for message in later] == [["80", "120", "100", "80", "6"]] * 2
    assert {message["granularity"] for message in later} == {60, 86400}


async def test_a_candle_that_ends_is_sent_once_more_in_its_final_form(exchange: Exchange) -> None:
    await trade(exchange, "100")
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["candles_60"])
    begun = await receive(socket, "candles")
    await trade(exchange, "105")
    exchange.backend.advance(seconds=60)
    await trade(exchange, "95")
    messages = [begun]
    while messages[-1]["candles"][0][0] == begun["candles"][0][0]:
        messages.append(await receive(socket, "candles"))
    assert row(messages[-2]) == ["100", "105", "100", "105", "2"]
    assert messages[-1]["candles"][0][0] == begun["candles"][0][0] + 60
    assert row(messages[-1]) == ["95", "95", "95", "95", "1"]


async def test_the_channels_have_the_names_of_the_granularities(exchange: Exchange) -> None:
    socket = await exchange.socket()
    await socket.send_json(FULL | {"channels": ["candles", "bbo", *CANDLES]})
    answer = await receive(socket)
    assert [entry["name"] for entry in answer["channels"]] == ["level1", *CANDLES]
    assert len(CANDLES) == 6


async def test_the_best_prices_are_sent_when_they_change(exchange: Exchange) -> None:
    await exchange.order("bob", "sell", "110", "1")
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["level1"])

    async def best() -> tuple[str, ...]:
        message = await receive(socket)
        assert message["type"] == "level1"
        return tuple(message[name] for name in ("best_bid", "best_bid_size", "best_ask", "best_ask_size"))

    assert await best() == ("0", "0", "110", "1")
    order = await exchange.order("alice", "buy", "90", "2")
    assert await best() == ("90", "2", "110", "1")
    await exchange.order("alice", "buy", "80", "2")  # not the best: no message
    await exchange.order("bob", "sell", "110", "3")
    assert await best() == ("90", "2", "110", "4")
    assert (await exchange.call("alice", "DELETE", f"/orders/{order['id']}"))[0] == 200
    assert await best() == ("80", "2", "110", "4")

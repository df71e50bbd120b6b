"""The client library on a real cluster: async and blocking, native and REST, while the leader is killed."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from loadtest.watch import reached
from node.client import AsyncClient, AsyncRestClient, Client, OrderRejected, RequestFailed, RestClient, RestError
from node.cluster_directory import KeyFile
from node.errors import DirectoryError
from statemachine.decimals import DecimalError
from tests.real_cluster import Exchange, MakeGround, put_market

pytestmark = pytest.mark.cluster


def key_of(exchange: Exchange, number: int) -> KeyFile:
    """Return the path of a trader's key file."""
    person = exchange.people[number]
    authority = (exchange.directory / "ca.pem").read_text()
    return KeyFile(person.key_id, person.secret, person.passphrase, person.account_id, exchange.access.natives, authority)


def test_a_blocking_client_trades_and_explains_refusals(shared_exchange: Exchange) -> None:
    with Client(key_of(shared_exchange, 0)) as seller, Client(key_of(shared_exchange, 1)) as buyer:
        resting = seller.place("ETH-USD", "sell", size="0.5", price=Decimal("2999.99"), client_oid="lib-1")
        assert (resting.status, resting.price, resting.remaining) == ("open", Decimal("2999.99"), Decimal("0.5"))
        assert seller.place("ETH-USD", "sell", size="0.5", price="2999.99", client_oid="lib-1").order_id == resting.order_id
        assert [each.order_id for each in seller.orders("ETH-USD")] == [resting.order_id]
        assert buyer.book("ETH-USD").asks[0].size == Decimal("0.5")
        taken = buyer.place("ETH-USD", "buy", size="0.2")
        assert (taken.filled_size, taken.status) == (Decimal("0.2"), "done")
        assert taken.executed_value == Decimal("0.2") * Decimal("2999.99")
        first = buyer.trades("ETH-USD", 1)[0]
        assert (first.price, first.size, first.maker_side) == (Decimal("2999.99"), Decimal("0.2"), "sell")
        events = buyer.events("ETH-USD", first.sequence)
        assert next(events).product_sequence == first.sequence
        assert seller.order(client_oid="lib-1").filled_size == Decimal("0.2")
        assert seller.cancel(resting.order_id).done_reason == "canceled" or seller.order(resting.order_id).status == "done"
        assert {each.currency for each in buyer.balances()} >= {"USD", "ETH"}
        assert buyer.product("ETH-USD").tick == Decimal("0.01")
        with pytest.raises(OrderRejected, match="insufficient funds"):
            buyer.place("ETH-USD", "buy", size="9000", price="1000000")
        with pytest.raises(DecimalError, match="price"):
            buyer.place("ETH-USD", "buy", size="1", price="0.000000000001")
        with pytest.raises(DecimalError, match="size"):
            buyer.place("ETH-USD", "buy", size="one", price="1")
        with pytest.raises(ValueError, match="side: expected one of buy, sell"):
            buyer.place("ETH-USD", "bye", size="1", price="1")
        with pytest.raises(DirectoryError, match="no product 'X'"):
            buyer.place("X", "buy", size="1", price="1")
        with pytest.raises(RequestFailed):
            buyer.order(10**15)
        assert seller.cancel_all() == []


def test_a_blocking_rest_client_trades(shared_exchange: Exchange) -> None:
    urls = list(shared_exchange.access.https.values())
    with RestClient(["http://127.0.0.1:9", *urls], key_of(shared_exchange, 2)) as client:
        assert {each["id"] for each in client.get("/products")} >= {"BTC-USD", "ETH-USD"}
        placed = client.place({"product_id": "BTC-USD", "side": "buy", "type": "limit", "price": "1", "size": "1"})
        assert client.cancel(placed["id"]) == placed["id"]
        with pytest.raises(RestError, match="404") as caught:
            client.get("/products/NO-SUCH/book")
        assert caught.value.status == 404
        with pytest.raises(RestError, match="HTTP 0"):
            next(iter(client.stream("NO-SUCH")))


def test_streams_and_orders_continue_when_the_leader_dies(make_ground: MakeGround) -> None:
    exchange = Exchange(make_ground())

    async def scenario() -> None:
        await put_market(exchange)
        key, urls = key_of(exchange, 0), list(exchange.access.https.values())
        orders = 60
        async with AsyncClient(key, deadline=20.0) as native, AsyncRestClient(urls, key, deadline=20.0) as rest:
            seen: dict[str, list[int]] = {"native": [], "rest": []}
            opened: set[str] = set()

            async def follow_native() -> None:
                async for event in native.events("BTC-USD", 1):
                    seen["native"].append(event.product_sequence)

            async def follow_rest() -> None:
                async for message in rest.stream("BTC-USD", from_sequence=1):
                    seen["rest"].append(message["sequence"])

            readers = [asyncio.create_task(follow_native()), asyncio.create_task(follow_rest())]
            for number in range(orders):
                if number == orders // 3:
                    exchange.ground.cluster.kill(await exchange.ground.cluster.leader())
                oid = f"00000000-0000-4000-8000-{number:012d}"
                if number % 2:
                    await native.place("BTC-USD", "buy", size="0.01", price="100", client_oid=oid)
                else:
                    body = {
                        "product_id": "BTC-USD",
                        "side": "buy",
                        "type": "limit",
                        "price": "100",
                        "size": "0.01",
                        "client_oid": oid,
                    }
                    await rest.place(body)
                opened.add(oid)
            assert {each.client_oid for each in await native.orders("BTC-USD")} == opened, "each was placed once"
            last = (await native.book("BTC-USD")).sequence
            assert await reached(lambda: all(numbers and numbers[-1] >= last for numbers in seen.values()), 30.0), seen
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            assert seen["native"] == list(range(1, len(seen["native"]) + 1)), "no gap, no repetition"
            assert seen["rest"] == list(range(seen["rest"][0], seen["rest"][0] + len(seen["rest"])))

    asyncio.run(scenario())

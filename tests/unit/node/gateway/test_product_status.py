"""A product's status: changed automatically, shown in every list, sent on the feed."""

from __future__ import annotations

import pytest

from node.gateway import feeds
from statemachine.types import ProductStatus
from tests.unit.node.gateway.harness import LEADER, Exchange, receive

FLAGS = ("status", "trading_disabled", "cancel_only", "post_only", "limit_only", "auction_mode")
SHOWN = {
    "online": ("online", False, False, False, False, False),
    "cancel_only": ("online", False, True, False, False, False),
    "post_only": ("online", False, False, True, False, False),
    "limit_only": ("online", False, False, False, True, False),
    "offline": ("offline", True, False, False, False, False),
    "auction": ("online", False, False, False, False, True),
}


def test_every_status_is_shown() -> None:
    assert set(SHOWN) == {status.name.lower() for status in ProductStatus}


@pytest.mark.parametrize("status", SHOWN)
async def test_a_status_changes_and_nothing_else(exchange: Exchange, status: str) -> None:
    _, before = await exchange.get("/products/BTC-USD")
    _, answer = await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"status": status})
    assert (answer["id"], answer["changed"]) == ("BTC-USD", status != "online")
    _, after = await exchange.get("/products/BTC-USD")
    assert tuple(after[name] for name in FLAGS) == SHOWN[status]
    assert {name: after[name] for name in after if name not in FLAGS} == {
        name: before[name] for name in before if name not in FLAGS
    }


async def test_sizes_and_fees_change_alone_too(exchange: Exchange) -> None:
    _, before = await exchange.get("/products/BTC-USD")
    change = {"base_min_size": "0.05", "base_max_size": 50, "maker_fee_rate": "0", "taker_fee_rate": "0.0025"}
    for name, value in change.items():
        assert (await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {name: value}))[0] == 200
    _, after = await exchange.get("/products/BTC-USD")
    assert after == before | {name: str(value) for name, value in change.items()} | {"min_market_funds": "0.05"}


@pytest.mark.parametrize(
    ("target", "body", "status", "field"),
    [
        ("/admin/products/BTC-USD", {}, 400, None),
        ("/admin/products/BTC-USD", {"status": "shut"}, 400, "status"),
        ("/admin/products/BTC-USD", {"status": None}, 400, None),
        ("/admin/products/BTC-USD", {"quote_increment": "1"}, 400, "quote_increment"),
        ("/admin/products/BTC-USD", {"maker_fee_rate": "0.00000001"}, 400, "maker_fee_rate"),
        ("/admin/products/BTC-USD", {"maker_fee_rate": "0.5"}, 400, "maker_fee_rate"),
        ("/admin/products/BTC-USD", {"base_min_size": "2000"}, 400, None),
        ("/admin/products/NO-SUCH", {"status": "online"}, 404, "id"),
        ("/admin/products", {}, 400, "status"),
        ("/admin/products", {"status": "shut"}, 400, "status"),
        ("/admin/products", {"status": "online", "base_min_size": "1"}, 400, "base_min_size"),
    ],
)
async def test_a_bad_change_is_refused_by_name(
    exchange: Exchange, target: str, body: dict[str, object], status: int, field: str | None
) -> None:
    before = (await exchange.get("/products"))[1]
    found, answer = await exchange.call("admin", "PATCH", target, body)
    assert found == status, answer
    assert field is None or answer["field"] == field
    assert (await exchange.get("/products"))[1] == before


async def test_all_products_change_in_one_entry(exchange: Exchange) -> None:
    status, answer = await exchange.call("admin", "PATCH", "/admin/products", {"status": "cancel_only"})
    assert status == 200
    assert [(row["id"], row["changed"]) for row in answer] == [("BTC-USD", True), ("ETH-BTC", True)]
    assert exchange.backend.batches[-1] == 2
    assert all(product["cancel_only"] for product in (await exchange.get("/products"))[1])
    assert (await exchange.call("alice", "PATCH", "/admin/products", {"status": "online"}))[0] == 403


async def test_a_follower_redirects_a_change_of_a_product_to_the_leader(exchange: Exchange) -> None:
    exchange.backend.leads = False
    response = await exchange.send("admin", "PATCH", "/admin/products/BTC-USD", {"status": "auction"})
    assert (response.status, response.headers["Location"]) == (307, f"{LEADER.http}/admin/products/BTC-USD")


async def test_a_change_is_an_event_of_the_product(exchange: Exchange) -> None:
    await exchange.order("alice", "buy", "50", "1")
    last = exchange.backend.engine.product_sequence("BTC-USD")
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["full"]})
    await receive(socket, "subscriptions")
    await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"status": "cancel_only"})
    message = await receive(socket)
    assert message == {
        "type": "status_change",
        "product_id": "BTC-USD",
        "sequence": last + 1,
        "time": message["time"],
        "status": "cancel_only",
    }
    assert (await exchange.get("/products/BTC-USD/book"))[1]["sequence"] == last + 1


async def test_the_channel_status_reports_a_change_at_once(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["status", "full"]})
    products = await receive(socket, "status")
    assert products["products"][0]["limit_only"] is False
    monkeypatch.setattr(feeds, "STATUS_LOOK", 1_000)
    for status in ("limit_only", "post_only", "cancel_only"):
        await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"status": status})
        while not products["products"][0][status]:
            products = await receive(socket, "status")


async def test_the_channel_status_reports_products_that_nobody_follows(exchange: Exchange) -> None:
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "channels": ["status"]})
    await receive(socket, "status")
    await exchange.call("admin", "PATCH", "/admin/products/ETH-BTC", {"status": "offline"})
    while (await receive(socket, "status"))["products"][1]["status"] != "offline":
        continue


async def test_a_status_that_stays_is_not_an_event(exchange: Exchange) -> None:
    await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"status": "post_only"})
    last = exchange.backend.engine.product_sequence("BTC-USD")
    _, answer = await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"status": "post_only"})
    assert answer["changed"] is False
    assert exchange.backend.engine.product_sequence("BTC-USD") == last

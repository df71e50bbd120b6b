"""The JSON objects that clients read, made of the engine's rows. Shapes follow Coinbase Exchange; `docs/api.md` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from node.gateway.catalogue import Product
from node.gateway.ids import account_text, order_text
from node.gateway.shapes import (
    AccountJson,
    AuctionJson,
    BookJson,
    CurrencyJson,
    OrderJson,
    ProductJson,
    ProfileJson,
    TradeJson,
    TransferJson,
)
from node.native.protocol import AuctionView
from statemachine.decimals import to_text
from statemachine.events import OrderMatched, OrderState, Transferred
from statemachine.tables import BalanceRow, CurrencyRow
from statemachine.types import DoneReason, OrderStatus, OrderType, ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce

SIDES = {Side.BUY: "buy", Side.SELL: "sell"}
ORDER_TYPES = {OrderType.LIMIT: "limit", OrderType.MARKET: "market"}
STATUSES = {OrderStatus.OPEN: "open", OrderStatus.DONE: "done", OrderStatus.ACTIVE: "active"}
STOPS = {StopType.LOSS: "loss", StopType.ENTRY: "entry"}
TIMES_IN_FORCE = {time: time.name for time in TimeInForce}
STPS = {stp: stp.name.lower() for stp in SelfTradePrevention}
DONE_REASONS = {
    DoneReason.NONE: "",
    DoneReason.FILLED: "filled",
    DoneReason.CANCELLED: "canceled",
    DoneReason.EXPIRED: "canceled",
    DoneReason.MAKERS_MAX: "canceled",
}
PRODUCT_STATUSES = {status: status.name.lower() for status in ProductStatus}

Json = dict[str, object]


def iso(time_ns: int) -> str:
    """Nanoseconds since the epoch as ISO 8601 with microseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000:06d}Z"


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> str:
    """A whole second as ISO 8601: what is answered now has few different ones."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def rate(ppm: int) -> str:
    """A fee rate: 2500 parts per million are 0.0025."""
    return to_text(ppm, 6)


def order_json(order: OrderState, product: Product) -> OrderJson:
    """The order object."""
    body: OrderJson = {
        "id": order_text(order.order_id),
        "product_id": order.product_id,
        "side": SIDES[order.side],
        "type": ORDER_TYPES[order.order_type],
        "stp": STPS[order.stp],
        "time_in_force": TIMES_IN_FORCE[order.time_in_force],
        "post_only": order.post_only,
        "created_at": iso(order.created_at),
        "fill_fees": product.price(order.fill_fees),
        "filled_size": product.size(order.filled_size),
        "executed_value": product.price(order.executed_value),
        "status": STATUSES[order.status],
        "settled": order.status is OrderStatus.DONE,
        "profile_id": order.account_id,
    }
    if order.order_type is OrderType.LIMIT:
        body["price"] = product.price(order.price)
    if order.size:
        body["size"] = product.size(order.size)
    if order.funds:
        body["funds"] = body["specified_funds"] = product.price(order.funds)
    if order.client_oid:
        body["client_oid"] = order.client_oid
    if order.stop:
        body["stop"], body["stop_price"] = STOPS[order.stop], product.price(order.stop_price)
    if order.expires_at:
        body["expire_time"] = iso(order.expires_at)
    if order.status is OrderStatus.DONE:
        body["done_reason"] = DONE_REASONS[order.done_reason]
        body["done_at"] = iso(order.done_at)
    return body


def _least_notional(product: Product) -> int:
    """What the least size of an order with a size costs at the last trade's price, before the first trade at the lowest price that there is: clients
    that do not read `base_min_size` take this for the least order."""
    row = product.row
    whole: int = 10**product.base_scale
    return -(-(row.last_price or row.tick) * row.min_size // whole)


def product_json(product: Product) -> ProductJson:
    """A product."""
    row = product.row
    return {
        "id": row.product_id,
        "display_name": f"{row.base}-{row.quote}",
        "base_currency": row.base,
        "quote_currency": row.quote,
        "base_increment": product.size(row.lot),
        "quote_increment": product.price(row.tick),
        "base_min_size": product.size(row.min_size),
        "base_max_size": product.size(row.max_size),
        "min_market_funds": product.price(_least_notional(product)),
        "maker_fee_rate": rate(row.maker_fee_ppm),
        "taker_fee_rate": rate(row.taker_fee_ppm),
        "status": "offline" if row.status is ProductStatus.OFFLINE else "online",
        "status_message": "",
        "trading_disabled": row.status is ProductStatus.OFFLINE,
        "cancel_only": row.status is ProductStatus.CANCEL_ONLY,
        "post_only": row.status is ProductStatus.POST_ONLY,
        "limit_only": row.status is ProductStatus.LIMIT_ONLY,
        "auction_mode": row.status is ProductStatus.AUCTION,
        "margin_enabled": False,
    }


def currency_json(row: CurrencyRow) -> CurrencyJson:
    """A currency."""
    unit = to_text(1, row.scale)
    return {
        "id": row.currency,
        "name": row.currency,
        "status": "online",
        "message": "",
        "max_precision": unit,
        "min_size": unit,
        "convertible_to": [],
        "details": {"type": "crypto", "symbol": row.currency, "sort_order": 0, "push_payment_methods": [], "group_types": []},
        "default_network": "",
        "supported_networks": [],
    }


def account_json(row: BalanceRow, scale: int) -> AccountJson:
    """What clients call an account: the balance of one currency."""
    return {
        "id": account_text(row.account_id, row.currency),
        "currency": row.currency,
        "balance": to_text(row.available + row.hold, scale),
        "available": to_text(row.available, scale),
        "hold": to_text(row.hold, scale),
        "profile_id": row.account_id,
        "trading_enabled": True,
    }


def profile_json(account_id: str) -> ProfileJson:
    """The one profile of an account."""
    return {"id": account_id, "user_id": account_id, "name": account_id, "active": True, "is_default": True, "has_margin": False}


def transfer_json(outcome: Transferred, transfer_id: str, scale: int) -> TransferJson:
    """A booked deposit or withdrawal, with the balance after it."""
    return {
        "id": transfer_id,
        "amount": to_text(outcome.amount, scale),
        "currency": outcome.currency,
        "available": to_text(outcome.available, scale),
        "hold": to_text(outcome.hold, scale),
        "created_at": iso(outcome.time),
        "duplicate": outcome.duplicate,
    }


Levels = Sequence[tuple[int, int, int]]
"""Price, size, and number of orders or order id."""


def book_json(sequence: int, bids: Levels, asks: Levels, product: Product, auction: AuctionView | None) -> BookJson:
    """The book at level 1 or 2, as the feed stands after message `sequence`."""
    return {
        "sequence": sequence,
        "bids": [[product.price(price), product.size(size), orders] for price, size, orders in bids],
        "asks": [[product.price(price), product.size(size), orders] for price, size, orders in asks],
        "auction_mode": auction is not None,
        "auction": auction_json(auction, product, "collection") if auction is not None else None,
    }


def auction_json(view: AuctionView, product: Product, state: str) -> AuctionJson:
    """An auction's price, size and best orders; `state`: collection, opening or complete."""
    return {
        "auction_state": state,
        "open_price": product.price(view.open_price),
        "open_size": product.size(view.open_size),
        "best_bid_price": product.price(view.best_bid),
        "best_bid_size": product.size(view.best_bid_size),
        "best_ask_price": product.price(view.best_ask),
        "best_ask_size": product.size(view.best_ask_size),
        "can_open": "yes" if view.open_size else "no",
        "timestamp": iso(view.time),
    }


def trade_json(trade: OrderMatched, product: Product) -> TradeJson:
    """A trade of the public list. `side` is the maker's."""
    return {
        "trade_id": trade.trade_id,
        "side": SIDES[trade.side],
        "size": product.size(trade.size),
        "price": product.price(trade.price),
        "time": iso(trade.time),
    }

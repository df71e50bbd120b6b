"""Numbers and answers of a plain order, whose fields are all of the usual kind (`node.gateway.direct`).

This module is the specification. `plain_order.pyx` has the same functions and is compiled instead of it: it writes an
answer byte by byte, and reads and writes amounts as 64-bit numbers.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from node.gateway.catalogue import Product
from node.gateway.values import (
    DONE_WORDS,
    ORDER_STATUS_WORDS,
    ORDER_TYPE_WORDS,
    SIDE_WORDS,
    STP_WORDS,
    TIME_IN_FORCE_WORDS,
    amount_text,
    iso,
    order_text,
    units,
)
from statemachine.events import OrderState
from statemachine.types import OrderStatus, OrderType

__all__ = ["plain_json", "units"]

_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=4_096)
def _quoted(text: str) -> str:
    """Return a name as a JSON text. Orders have few different names, besides client order ids."""
    return _encode(text).decode()


def plain_json(order: OrderState, product: Product) -> bytes | None:
    """Return the bytes of `OrderJson.of` for an order that has only the fields of a plain one, else None.

    Filling in a text takes a third of the time of an `OrderJson` and its encoding (docs/performance.md).
    """
    limited, done = order.order_type is OrderType.LIMIT, order.status is OrderStatus.DONE
    special = order.terms is not None or order.funds or order.stop or order.expires_at or order.queued
    if special or not order.size:
        return None
    base, quote = product.base_scale, product.quote_scale
    price = f'"price":"{amount_text(order.price, quote)}",' if limited else ""
    client_oid = f',"client_oid":{_encode(order.client_oid).decode()}' if order.client_oid else ""
    ended = f',"done_reason":"{DONE_WORDS[order.done_reason]}","done_at":"{iso(order.done_at)}"' if done else ""
    return (
        f'{{"id":"{order_text(order.order_id)}","product_id":{_quoted(order.product_id)},"side":"{SIDE_WORDS[order.side]}",'
        f'"type":"{ORDER_TYPE_WORDS[order.order_type]}","stp":"{STP_WORDS[order.stp]}",'
        f'"time_in_force":"{TIME_IN_FORCE_WORDS[order.time_in_force]}","post_only":{"true" if order.post_only else "false"},'
        f'"created_at":"{iso(order.created_at)}","fill_fees":"{amount_text(order.fill_fees, quote)}",'
        f'"filled_size":"{amount_text(order.filled_size, base)}","executed_value":"{amount_text(order.executed_value, quote)}",'
        f'"status":"{ORDER_STATUS_WORDS[order.status]}","settled":{"true" if done else "false"},'
        f'"profile_id":{_quoted(order.account_id)},{price}"size":"{amount_text(order.size, base)}"{client_oid}{ended}}}'
    ).encode()

"""A book as foreign libraries rebuild it from the channel `full`."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

Message = dict[str, Any]


class PriceBook:
    """A book that is kept like `OrderBook` of cbpro and `Orderbook` of coinbase-pro. It asserts what either asserts."""

    def __init__(self, book: Message) -> None:
        self.sequence = book["sequence"]
        self.sides: dict[str, dict[Decimal, list[tuple[str, Decimal]]]] = {"buy": {}, "sell": {}}
        for side, rows in (("buy", book["bids"]), ("sell", book["asks"])):
            for price, size, order in rows:
                self.sides[side].setdefault(Decimal(price), []).append((order, Decimal(size)))

    def apply(self, message: Message) -> None:
        if message["sequence"] <= self.sequence:
            return
        assert message["sequence"] == self.sequence + 1, "a message is missing"
        self.sequence = message["sequence"]
        if message["type"] not in ("open", "done", "match", "change") or "price" not in message:
            return
        levels, price = self.sides[message["side"]], Decimal(message["price"])
        level = levels.get(price, [])
        match message["type"]:
            case "open":
                level = [*level, (message["order_id"], Decimal(message["remaining_size"]))]
            case "done":
                level = [row for row in level if row[0] != message["order_id"]]
            case "match":
                (order, size), *rest = level
                assert order == message["maker_order_id"], "a match is of the first order at its price"
                assert size >= Decimal(message["size"])
                level = [(order, size - Decimal(message["size"])), *rest] if size > Decimal(message["size"]) else rest
            case "change":
                for order, size in level:
                    assert order != message["order_id"] or size == Decimal(message["old_size"])
                changed = message["order_id"], Decimal(message["new_size"])
                level = [changed if order == message["order_id"] else (order, size) for order, size in level]
        levels[price] = level
        if not level:
            del levels[price]

    def rows(self) -> dict[str, list[tuple[Decimal, Decimal, str]]]:
        found = {}
        for name, side, sign in (("bids", "buy", -1), ("asks", "sell", 1)):
            prices = sorted(self.sides[side], key=lambda price: sign * price)
            found[name] = [(price, size, order) for price in prices for order, size in self.sides[side][price]]
        return found

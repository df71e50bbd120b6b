"""The results of the client library: the exchange's rows, with decimals instead of smallest units."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from node.native.protocol import BookView
from statemachine.decimals import to_units
from statemachine.events import OrderMatched, OrderState
from statemachine.tables import ProductRow

Number = str | int | Decimal
"""The types of an amount. Floats are not allowed, because no float is exactly 0.1."""


class Product(msgspec.Struct, frozen=True):
    """A product. `base_scale` and `quote_scale`: decimal digits of sizes and of prices."""

    product_id: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    min_size: Decimal
    max_size: Decimal
    status: str
    last_price: Decimal | None
    sequence: int
    base_scale: int
    quote_scale: int

    def size(self, units: int) -> Decimal:
        """Convert a size of an event, which is in smallest units.

        >>> product.size(25_000_000)
        Decimal('0.25000000')
        """
        return scaled(units, self.base_scale)

    def price(self, units: int) -> Decimal:
        """Convert a price or funds of an event, which are in smallest units.

        >>> product.price(1_100_000)
        Decimal('110.0000')
        """
        return scaled(units, self.quote_scale)

    def size_units(self, number: Number, field: str = "size") -> int:
        """Convert a size to smallest units. Raises `statemachine.decimals.DecimalError`.

        >>> product.size_units("0.25")
        25000000
        """
        return units_of(number, self.base_scale, field)

    def price_units(self, number: Number, field: str = "price") -> int:
        """Convert a price or funds to smallest units. Raises `statemachine.decimals.DecimalError`.

        >>> product.price_units("110.5")
        1105000
        """
        return units_of(number, self.quote_scale, field)


class Order(msgspec.Struct, frozen=True):
    """An order as its owner sees it. `price` is None for a market order. `opened_sequence` is the product sequence at
    which it entered the book, or 0 if it never did.
    """

    order_id: int
    client_oid: str
    product_id: str
    side: str
    type: str
    price: Decimal | None
    size: Decimal
    filled_size: Decimal
    remaining: Decimal
    executed_value: Decimal
    fees: Decimal
    status: str
    done_reason: str
    created_at_ns: int
    opened_sequence: int


class Balance(msgspec.Struct, frozen=True):
    """An account's balance of a currency."""

    currency: str
    available: Decimal
    hold: Decimal


class Level(msgspec.Struct, frozen=True):
    """A price level: the sum of the remaining sizes, and the number of orders."""

    price: Decimal
    size: Decimal
    orders: int


class Book(msgspec.Struct, frozen=True):
    """A book after the event with this product sequence, best prices first."""

    product_id: str
    sequence: int
    bids: list[Level]
    asks: list[Level]
    in_auction: bool


class Trade(msgspec.Struct, frozen=True):
    """A trade. `maker_side` is the side of the maker order."""

    trade_id: int
    product_id: str
    sequence: int
    time_ns: int
    price: Decimal
    size: Decimal
    maker_side: str


def scaled(units: int, scale: int) -> Decimal:
    """Convert smallest units to a decimal.

    >>> scaled(1_105_000, 4)
    Decimal('110.5000')
    """
    return Decimal(units).scaleb(-scale)


def units_of(number: Number, scale: int, field: str) -> int:
    """Convert a number to smallest units. Raises `statemachine.decimals.DecimalError`, which names the field.

    >>> units_of("110.5", 4, "price")
    1105000
    """
    return to_units(format(number, "f") if isinstance(number, Decimal) else str(number), scale, field)


def product(row: ProductRow, scales: Mapping[str, int]) -> Product:
    """Build a product from a row and the currencies' scales."""
    base, quote = scales[row.base], scales[row.quote]
    return Product(
        row.product_id,
        row.base,
        row.quote,
        scaled(row.tick, quote),
        scaled(row.lot, base),
        scaled(row.min_size, base),
        scaled(row.max_size, base),
        row.status.name.lower(),
        scaled(row.last_price, quote) if row.last_price else None,
        row.product_sequence,
        base,
        quote,
    )


def order(state: OrderState, of: Product) -> Order:
    """Build an order from the exchange's row."""
    return Order(
        state.order_id,
        state.client_oid,
        state.product_id,
        state.side.name.lower(),
        state.order_type.name.lower(),
        of.price(state.price) if state.price else None,
        of.size(state.size),
        of.size(state.filled_size),
        of.size(state.remaining),
        of.price(state.executed_value),
        of.price(state.fill_fees),
        state.status.name.lower(),
        state.done_reason.name.lower(),
        state.created_at,
        state.opened_sequence,
    )


def book(view: BookView, of: Product) -> Book:
    """Build a book of level 1 or 2."""
    sides = [[Level(of.price(each.price), of.size(each.size), each.orders) for each in side] for side in (view.bids, view.asks)]
    return Book(view.product_id, view.product_sequence, sides[0], sides[1], view.in_auction)


def trade(event: OrderMatched, of: Product) -> Trade:
    """Build a trade from its event."""
    return Trade(
        event.trade_id,
        event.product_id,
        event.product_sequence,
        event.time,
        of.price(event.price),
        of.size(event.size),
        event.side.name.lower(),
    )

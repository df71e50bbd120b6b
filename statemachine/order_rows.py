"""Orders from the rows of a snapshot.

A snapshot of a large market is mostly orders. The compiled core has a twin of this module (`order_rows.pyx`) that reads
the fields of a row in place, without an `OrderState` between the row and the order.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from statemachine.entities import Account, Order, Product, order_of_row
from statemachine.events import OrderState

_decode = msgspec.msgpack.Decoder(OrderState).decode


class OrderReader:
    """Makes orders from their rows.

    Args:
        accounts, products: those to which orders may belong, by name.
    """

    def __init__(self, accounts: Mapping[str, Account], products: Mapping[str, Product]) -> None:
        self._accounts = accounts
        self._products = products

    def read(self, payload: bytes) -> Order:
        """The order of a row (an `OrderState` in msgpack). It is not in any queue yet.

        Raises:
            KeyError: the account or the product is unknown.
            OverflowError: a number is out of range; only the compiled core has such ranges.
            msgspec.DecodeError, UnicodeDecodeError: the row is malformed.
        """
        row = _decode(payload)
        return order_of_row(row, self._accounts[row.account_id], self._products[row.product_id])

"""Reads orders and outcomes from the rows of a snapshot.

A snapshot of a large market is mostly orders and outcomes. The compiled core has a twin of this module
(`order_rows.pyx`) that reads the fields of a row in place, without a struct between the row and the order, and without
any object between the row and the entry of the reply cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from statemachine.entities import Account, Order, Product, order_of_row
from statemachine.errors import StateError
from statemachine.events import OrderState
from statemachine.persistence import order_key
from statemachine.reply_cache import FINGERPRINT_SIZE, ReplyCache, pack
from statemachine.tables import PackedOutcomeRow

_decode = msgspec.msgpack.Decoder(OrderState).decode
_decode_outcome = msgspec.msgpack.Decoder(PackedOutcomeRow).decode


class OrderReader:
    """Makes orders from their rows.

    Args:
        accounts, products: those to which orders may belong, by name.
    """

    def __init__(self, accounts: Mapping[str, Account], products: Mapping[str, Product]) -> None:
        self._accounts = accounts
        self._products = products

    def read(self, payload: bytes) -> Order:
        """Return the order of a row (an `OrderState` in msgpack). It is not in any queue yet.

        Raises:
            KeyError: the account or the product is unknown.
            OverflowError: a number is out of range; only the compiled core has such ranges.
            msgspec.DecodeError, UnicodeDecodeError: the row is malformed.
        """
        row = _decode(payload)
        return order_of_row(row, self._accounts[row.account_id], self._products[row.product_id])


def is_order_key(key: bytes, order_id: int) -> bool:
    """Return whether a key of the table `order` belongs to the order with this id."""
    return key == order_key(order_id)


class OutcomeReader:
    """Puts the rows of the table `outcome` into the reply caches.

    Args:
        find: the reply cache of an owner. It is called whenever the owner changes from one row to the next, and its
            exceptions reach the caller of `put`.
    """

    def __init__(self, find: Callable[[str], ReplyCache]) -> None:
        self._find = find
        self._owner = ""
        self._cache: ReplyCache | None = None

    def read(self, payload: bytes) -> tuple[str, str, bytes]:
        """Return the owner of the reply cache, the command id, and the packed entry (`reply_cache.pack`).

        Raises:
            StateError: the fingerprint has not `FINGERPRINT_SIZE` bytes.
            msgspec.DecodeError, UnicodeDecodeError: the row is malformed.
        """
        row = _decode_outcome(payload)
        if len(row.fingerprint) != FINGERPRINT_SIZE:
            raise StateError(
                f"table outcome: the fingerprint of command {row.command_id} has {len(row.fingerprint)} bytes, not {FINGERPRINT_SIZE}"
            )
        return row.account_id, row.command_id, pack(row.fingerprint, row.outcome)

    def put(self, payload: bytes) -> None:
        """Put the entry of a row into the reply cache of its owner.

        Raises:
            StateError: as `read`; or the cache is full, or has the command.
            msgspec.DecodeError, UnicodeDecodeError: the row is malformed.
        """
        owner, command_id, packed = self.read(payload)
        cache = self._cache
        if cache is None or owner != self._owner:
            cache = self._cache = self._find(owner)
            self._owner = owner
        if len(cache) == cache.bound:
            raise StateError(f"table outcome: more than {cache.bound} rows of account {owner}")
        if not cache.add_new(command_id, packed):
            raise StateError(f"table outcome: a command of account {owner} comes twice")

"""How the tables hang together: what the key of a row is made of, and which rows need which."""

from __future__ import annotations

import msgspec

from statemachine.limits import OPERATOR

KEYS: dict[str, tuple[str, ...]] = {
    "counter": (),
    "currency": ("currency",),
    "product": ("product_id",),
    "account": ("account_id",),
    "api_key": ("key_id",),
    "balance": ("account_id", "currency"),
    "order": ("order_id",),
    "done_order": ("account_id", "number"),
    "outcome": ("account_id", "outcome.sequence"),
    "mass_cancel": ("account_id", "product_id"),
}
"""What a row's key is made of: fields of the row, a field within one of its structs ("outcome.sequence"), or a number that stands in the key
only (a done order's, in its account's queue)."""


class Reference(msgspec.Struct, frozen=True):
    """A field that names a row of another table by its key, or one of `others`."""

    table: str
    field: str
    target: str
    others: tuple[str, ...] = ()


REFERENCES: tuple[Reference, ...] = (
    Reference("product", "base", "currency"),
    Reference("product", "quote", "currency"),
    Reference("api_key", "owner_id", "account", (OPERATOR,)),
    Reference("balance", "account_id", "account"),
    Reference("balance", "currency", "currency"),
    Reference("order", "account_id", "account"),
    Reference("order", "product_id", "product"),
    Reference("done_order", "account_id", "account"),
    Reference("done_order", "product_id", "product"),
    Reference("mass_cancel", "account_id", "account"),
    Reference("mass_cancel", "product_id", "product", ("",)),
)
"""Which rows need which."""

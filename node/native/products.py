"""Changing a part of a product, where the exchange knows one command that puts all of it."""

from __future__ import annotations

import msgspec

from statemachine.commands import Command, PutProduct
from statemachine.limits import OPERATOR
from statemachine.tables import ProductRow

_FIELDS = [name for name in PutProduct.__struct_fields__ if name not in Command.__struct_fields__]


def put_again(row: ProductRow, command_id: str, **changes: object) -> PutProduct:
    """The command that puts a product as it was read, but for `changes`, fields of the row.

    What another operator puts between the reading and this command is put back. Tick, lot and currencies cannot change at all.
    """
    put = PutProduct(OPERATOR, command_id, **{name: getattr(row, name) for name in _FIELDS})
    return msgspec.structs.replace(put, **changes)

"""Changing a part of a product, where the exchange knows one command that puts all of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from statemachine.commands import PutProduct
from statemachine.limits import OPERATOR
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus

_FIELDS = [name for name in ProductRow.__struct_fields__ if name in PutProduct.__struct_fields__]


def put_again(row: ProductRow, command_id: str, **changes: object) -> PutProduct:
    """The command that puts a product as it was read, but for `changes`, fields of the row. Tick, lot and currencies
    cannot change at all.

    It is refused with CHANGED_MEANWHILE if somebody else has changed the product since it was read, so that nobody's
    change is lost: read it again then. A status that is not among the changes stays whatever it is.
    """
    put = PutProduct(OPERATOR, command_id, **{name: getattr(row, name) for name in _FIELDS})
    return msgspec.structs.replace(put, keep_status="status" not in changes, expected_version=row.version, **changes)


def statuses_again(row: ProductRow, command_ids: Sequence[str], statuses: Sequence[ProductStatus]) -> list[PutProduct]:
    """The commands that put a product into one status after the other, within one entry of the log; as `put_again`."""
    commands, now = [], row
    for command_id, status in zip(command_ids, statuses, strict=True):
        commands.append(put_again(now, command_id, status=status))
        now = msgspec.structs.replace(now, status=status, version=now.version + (status is not now.status))
    return commands

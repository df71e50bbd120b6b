"""Changes single fields of a product by the one command that puts the whole product."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from statemachine.commands import PutProduct
from statemachine.limits import OPERATOR
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus

_FIELDS = [name for name in ProductRow.__struct_fields__ if name in PutProduct.__struct_fields__]


def put_again(row: ProductRow, command_id: str, **changes: object) -> PutProduct:
    """Return the command that puts a product as it was read, with `changes` of the row's fields. Tick, lot and
    currencies cannot change.

    The exchange rejects it with CHANGED_MEANWHILE if the product has changed since it was read, so that no change is
    lost. The caller then reads the product again. A status that is not in `changes` stays as it is.
    """
    put = PutProduct(OPERATOR, command_id, **{name: getattr(row, name) for name in _FIELDS})
    return msgspec.structs.replace(put, keep_status="status" not in changes, expected_version=row.version, **changes)


def statuses_again(row: ProductRow, command_ids: Sequence[str], statuses: Sequence[ProductStatus]) -> list[PutProduct]:
    """Return the commands that put a product into several statuses in turn, within one log entry. See `put_again`."""
    commands, now = [], row
    for command_id, status in zip(command_ids, statuses, strict=True):
        commands.append(put_again(now, command_id, status=status))
        now = msgspec.structs.replace(now, status=status, version=now.version + (status is not now.status))
    return commands

"""Three invented versions before 0.2.0: their schemas, the way forward, and a state of 0.2.0 as each of them stores it.

1 -> 2  a field is added with a default (`OrderState.fill_fees`, `PlaceOrder.post_only`): no code.
2 -> 3  `pair` of a product, "BTC/USD", is split into `base` and `quote`, in the table and in the command.
3 -> 4  the table `member` is called `account`; the reason LAPSED of done orders is removed; revoked keys are dropped.

4 is version 0.2.0, to which a start brings older data (`level.BROUGHT_TO`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from snapshots.abi.releases import Releases
from snapshots.abi.schema import FieldType, Schema, StructType, TableType
from snapshots.levels.level import BROUGHT_TO
from snapshots.migration.chain import Chains
from snapshots.migration.codec import Values
from snapshots.migration.plan import Drop, Migration


def with_struct(schema: Schema, name: str, change: Callable[[list[FieldType]], list[FieldType]]) -> Schema:
    """Return the schema with other fields in a struct."""
    struct = schema.structs[name]
    changed = StructType(struct.form, struct.tag, struct.closed, change(struct.fields))
    return msgspec.structs.replace(schema, structs={**schema.structs, name: changed})


def without(field: str) -> Callable[[list[FieldType]], list[FieldType]]:
    return lambda fields: [each for each in fields if each.name != field]


def _joined(fields: list[FieldType]) -> list[FieldType]:
    """`pair` instead of `base` and `quote`."""
    return [FieldType("pair", "str") if each.name == "base" else each for each in fields if each.name != "quote"]


def with_tables(schema: Schema, change: Callable[[TableType], TableType]) -> Schema:
    """Return the schema with other tables."""
    return msgspec.structs.replace(schema, tables=[change(table) for table in schema.tables])


def _member(table: TableType) -> TableType:
    return msgspec.structs.replace(table, name="member") if table.name == "account" else table


FOUR = Releases().schema(BROUGHT_TO.abi)
THREE = msgspec.structs.replace(
    with_tables(FOUR, _member), enums={**FOUR.enums, "DoneReason": {**FOUR.enums["DoneReason"], "LAPSED": 9}}
)
TWO = with_struct(with_struct(THREE, "ProductRow", _joined), "PutProduct", _joined)
ONE = with_struct(with_struct(TWO, "OrderState", without("fill_fees")), "PlaceOrder", without("post_only"))
ALL = (ONE, TWO, THREE, FOUR)


def _split(values: Values) -> Values:
    values["base"], values["quote"] = values["pair"].split("/")
    return values


def _join(values: Values) -> Values:
    return {**values, "pair": f"{values['base']}/{values['quote']}"}


def _revoked(key: Values) -> Values | Drop:
    return Drop("revoked") if key["permissions"] == 0 else key


TWO_TO_THREE = Migration(
    TWO.abi,
    THREE.abi,
    structs={"ProductRow": _split, "PutProduct": _split},
    removed={"product.pair": "is base and quote now", "PutProduct.pair": "is base and quote now"},
)
THREE_TO_FOUR = Migration(
    THREE.abi,
    FOUR.abi,
    rows={"api_key": _revoked},
    enums={"DoneReason": {"LAPSED": "CANCELLED"}},
    renamed_tables={"member": "account"},
)
_GONE = {"product.base": "joined", "product.quote": "joined", "PutProduct.base": "joined", "PutProduct.quote": "joined"}
FORWARD = {migration.source: migration for migration in (TWO_TO_THREE, THREE_TO_FOUR)}

BACKWARD = {
    FOUR.abi: Migration(FOUR.abi, THREE.abi, renamed_tables={"account": "member"}),
    THREE.abi: Migration(THREE.abi, TWO.abi, structs={"ProductRow": _join, "PutProduct": _join}, removed=_GONE),
    TWO.abi: Migration(TWO.abi, ONE.abi, removed={"OrderState.fill_fees": "unknown", "PlaceOrder.post_only": "unknown"}),
}


def write_descriptions(directory: Path, *schemas: Schema) -> Path:
    """Write descriptions as those of the versions 0.0.1, 0.0.2, ..."""
    directory.mkdir(exist_ok=True)
    for number, schema in enumerate(schemas, 1):
        (directory / f"0.0.{number}-{schema.abi}.json").write_bytes(schema.encode())
    return directory


def chains(directory: Path, migrations: dict[str, Migration] | None = None, **changes: Any) -> Chains:
    """Return the way forward, or one with other migrations."""
    known = Releases(write_descriptions(directory, ONE, TWO, THREE), FOUR)
    return Chains(known, FORWARD if migrations is None else migrations, **changes)


def with_changes(migration: Migration, **changes: Any) -> dict[str, Migration]:
    """Return the way forward with one migration changed."""
    return {**FORWARD, migration.source: replace(migration, **changes)}

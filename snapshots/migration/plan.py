"""The parts of a migration that its author writes. A module of `snapshots/migrations/` has one `MIGRATION`; `quorumbook
migrate new` writes a first version of it.

Values are plain (see `codec`). Without the author's parts, data is converted automatically: fields by their names, new
fields by their defaults, enumerations by their members' names, tables and structs by their names. A function gets the
automatically converted value, with all old fields kept, and returns the new value. Fields that the new schema does not
have are dropped afterwards, and a missing field is an error. Every dropped field must be named in `removed`.

Every node converts its own data. The result of a function must depend on its argument only, and must be the same
whether a command was applied before the migration, or is converted and applied after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from snapshots.migration.codec import Values
from statemachine.types import OrderStatus

Tables = dict[str, list[Values]]
"""All rows, by table."""


@dataclass(frozen=True)
class Drop:
    """The return value for a row that is dropped; the report has the `reason`."""

    reason: str


ValueFunction = Callable[[Values], Values]
RowFunction = Callable[[Values], Values | Drop]
WholeFunction = Callable[[Tables, Tables], Mapping[str, str]]
"""The tables before and after the step. The former are named and shaped as in the old schema, and are only read."""


@dataclass(frozen=True)
class Facts:
    """Facts that must not change: `money` in accounts and fees, by currency, and the order ids of each of the `queues`,
    in the order in which they trade. A queue is a product, a side and a price. Orders that are not on the book are in
    no queue.
    """

    money: dict[str, int]
    queues: dict[tuple[str, str, int], list[int]]


def facts_of(tables: Tables) -> Facts:
    """Return the facts of tables that have the names of this software."""
    money: dict[str, int] = {row["currency"]: row["fees"] for row in tables["currency"]}
    for row in tables["balance"]:
        money[row["currency"]] = money.get(row["currency"], 0) + row["available"] + row["hold"]
    queues: dict[tuple[str, str, int], list[int]] = {}
    for row in sorted(tables["order"], key=lambda row: (row.get("opened_sequence", 0), row["order_id"])):
        if row["status"] == OrderStatus.ACTIVE.name:
            continue
        queues.setdefault((row["product_id"], row["side"], row["price"]), []).append(row["order_id"])
    return Facts(money, queues)


@dataclass(frozen=True)
class Migration:
    """A migration from one ABI to another.

    Attributes:
        structs: by the old struct's name, for each value of it everywhere: in rows, in outcomes of the reply cache, in
            commands.
        rows: by the old table's name, for each of its rows, after `structs`; may return `Drop`.
        commands: by the old command's name, for each in the log, after `structs`; must return exactly one command,
            because clients know the sequences.
        enums: by the enumeration's name, the new member in place of each removed one.
        renamed_structs, renamed_tables: old name to new name.
        renamed_fields: "table.column" or "Struct.field" to the field's new name, under which the value is kept.
        removed: "table.column" or "Struct.field" that has no place in the new schema, to the reason, or to the new
            place of its values. A step that would drop a field that is neither here nor renamed is refused: see
            `losses`.
        removed_tables: old name to the reason, or to the new place of its rows.
        whole: called at the end with all rows before, with every column that they had, and all rows after. It changes
            the latter in place, where rows depend on each other or move between tables, and returns a reason for each
            table whose number of rows it changed.
        facts_before, facts_after: read the facts where tables or fields have other names than in this software.
    """

    source: str
    target: str
    structs: Mapping[str, ValueFunction] = field(default_factory=dict)
    rows: Mapping[str, RowFunction] = field(default_factory=dict)
    commands: Mapping[str, ValueFunction] = field(default_factory=dict)
    enums: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    renamed_structs: Mapping[str, str] = field(default_factory=dict)
    renamed_tables: Mapping[str, str] = field(default_factory=dict)
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)
    removed_tables: Mapping[str, str] = field(default_factory=dict)
    whole: WholeFunction | None = None
    facts_before: Callable[[Tables], Facts] = facts_of
    facts_after: Callable[[Tables], Facts] = facts_of

"""Nothing that is stored vanishes in silence: each field and table that goes is renamed, or its going has a reason.

The worked examples of docs/migrations.md are taken from that page and run here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapshots.abi.difference import difference
from snapshots.abi.releases import Releases
from snapshots.abi.schema import FieldType, Schema, TableType
from snapshots.errors import MigrationError
from snapshots.migration.chain import Chains
from snapshots.migration.codec import Codec, Values
from snapshots.migration.losses import losses
from snapshots.migration.plan import Migration, Tables
from snapshots.migration.run import LogMigration, Rows, StateMigration
from snapshots.migration.skeleton import skeleton
from statemachine.commands import PlaceOrder
from tests.unit.snapshots.states import applied_before, encoded, foundations, trading
from tests.unit.snapshots.versions import FOUR, with_struct, without

PAGE = Path(__file__).parents[3] / "docs" / "migrations.md"


def renamed(old: str, new: str) -> Callable[[list[FieldType]], list[FieldType]]:
    return lambda fields: [msgspec.structs.replace(field, name=new) if field.name == old else field for field in fields]


RENAMED = with_struct(FOUR, "ProductRow", renamed("last_price", "last_trade_price"))
"""`product.last_price` is called `last_trade_price`."""

ORDERS = with_struct(FOUR, "OrderState", renamed("filled_size", "executed_size"))
"""A field of a struct that stands in three tables, in two of them as the row, and one of a command."""


def _split() -> Schema:
    """`account.opened_at` moves to a table of its own, `profile`."""
    shorter = with_struct(FOUR, "AccountRow", without("opened_at"))
    profile = msgspec.structs.replace(
        FOUR.structs["AccountRow"], fields=[FieldType("account_id", "str"), FieldType("opened_at", "int")]
    )
    return msgspec.structs.replace(
        shorter,
        tables=[*shorter.tables, TableType("profile", "ProfileRow", ["account_id"])],
        structs=dict(sorted({**shorter.structs, "ProfileRow": profile}.items())),
    )


SPLIT = _split()


@pytest.fixture(scope="module")
def rows() -> Rows:
    return {name: list(found) for name, found in applied_before([*foundations(), *trading(1, 40)]).tables()}


def chains_to(target: Schema, directory: Path, **migration: Any) -> Chains:
    """Return software whose schema is `target`, and which has a migration from this one."""
    (directory / "released").mkdir(exist_ok=True)
    (directory / "released" / f"0.0.4-{FOUR.abi}.json").write_bytes(FOUR.encode())
    written = {FOUR.abi: Migration(FOUR.abi, target.abi, **migration)} if migration else {}
    return Chains(Releases(directory / "released", target), written)


def moved(rows: Rows, target: Schema, directory: Path, **migration: Any) -> Tables:
    steps = chains_to(target, directory, **migration).find(FOUR.abi, target.abi)
    done, codec = StateMigration(steps).run(rows, FOUR), Codec(target)
    return {table: [codec.read_row(table, row) for row in found] for table, found in done.items()}


def before(rows: Rows) -> Tables:
    codec = Codec(FOUR)
    return {table: [codec.read_row(table, row) for row in found] for table, found in rows.items()}


@pytest.mark.parametrize(
    ("target", "named"),
    [(RENAMED, "product.last_price"), (SPLIT, "account.opened_at"), (ORDERS, "OrderState.filled_size")],
    ids=["renamed", "split", "nested"],
)
def test_undeclared_losses_are_refused_by_name(target: Schema, named: str, tmp_path: Path) -> None:
    """There is no module, or one that does not mention the loss, or one with an empty reason, or one whose reason is
    for something else.
    """
    assert [loss.name for loss in losses(FOUR, target, Migration(FOUR.abi, target.abi))] == [named]
    assert any(not change.automatic for change in difference(FOUR, target))
    with pytest.raises(MigrationError, match=rf"these would be lost: {named}.*quorumbook migrate new"):
        chains_to(target, tmp_path).find(FOUR.abi, target.abi)
    unsaid: list[dict[str, Any]] = [{"enums": {}}, {"removed": {named: " "}}]
    for migration in unsaid:
        with pytest.raises(MigrationError, match=rf"every removed value has a reason: these would be lost.*{named} "):
            chains_to(target, tmp_path, **migration).find(FOUR.abi, target.abi)
    with pytest.raises(MigrationError, match=r"every removed value has a reason: product\.las_price: .* nothing of that name"):
        chains_to(target, tmp_path, removed={"product.las_price": "typo", named: "x"}).find(FOUR.abi, target.abi)
    assert chains_to(target, tmp_path, removed={named: "is not needed"}).find(FOUR.abi, target.abi)


def test_the_skeleton_names_what_vanishes_and_is_refused_until_it_is_filled_in(tmp_path: Path) -> None:
    for target, line in (
        (RENAMED, '"product.last_price": "",  # a column of the table product; new there: last_trade_price'),
        (SPLIT, '"account.opened_at": "",  # a column of the table account'),
    ):
        text = skeleton(FOUR, target)
        assert line in text
        written: dict[str, Any] = {}
        exec(text, written)  # what was generated here
        known = chains_to(target, tmp_path)
        with pytest.raises(MigrationError, match="every removed value has a reason"):
            Chains(known.releases, {FOUR.abi: written["MIGRATION"]}).find(FOUR.abi, target.abi)


def test_a_renamed_column_continues_under_its_new_name(rows: Rows, tmp_path: Path) -> None:
    tables = moved(rows, RENAMED, tmp_path, renamed_fields={"product.last_price": "last_trade_price"})
    assert [row["last_trade_price"] for row in tables["product"]] == [row["last_price"] for row in before(rows)["product"]]
    assert any(row["last_trade_price"] for row in tables["product"])


def test_a_renamed_field_of_a_struct_continues_in_every_table(rows: Rows, tmp_path: Path) -> None:
    renames = {"OrderState.filled_size": "executed_size"}
    facts = {"facts_before": lambda _tables: _no_facts(), "facts_after": lambda _tables: _no_facts()}
    tables = moved(rows, ORDERS, tmp_path, renamed_fields=renames, **facts)
    was = before(rows)
    for table in ("order", "done_order"):
        assert [row["executed_size"] for row in tables[table]] == [row["filled_size"] for row in was[table]]
    orders = [row["outcome"]["order"] for row in tables["outcome"] if "order" in row["outcome"]]
    assert orders
    assert all("executed_size" in order for order in orders)


def _no_facts() -> Any:
    from snapshots.migration.plan import Facts

    return Facts({}, {})


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"product.last_prise": "last_trade_price"}, "there is no such field"),
        ({"product.last_price": "last_traded"}, "has no field last_traded there"),
        ({"product.base": "last_trade_price"}, "both fields are in one of the schemas"),
    ],
)
def test_a_wrong_rename_is_refused(renames: dict[str, str], message: str, tmp_path: Path) -> None:
    consent = {"product.last_price": "x"} if "product.last_price" not in renames else {}
    with pytest.raises(MigrationError, match=f"renamed_fields: {message}|these would be lost"):
        chains_to(RENAMED, tmp_path, renamed_fields=renames, removed=consent).find(FOUR.abi, RENAMED.abi)


def test_a_field_of_a_command_vanishes_no_more_silently_than_a_column(tmp_path: Path) -> None:
    target = with_struct(FOUR, "PlaceOrder", renamed("size", "quantity"))
    with pytest.raises(MigrationError, match=r"PlaceOrder\.size"):
        chains_to(target, tmp_path).find(FOUR.abi, target.abi)
    steps = chains_to(target, tmp_path, renamed_fields={"PlaceOrder.size": "quantity"}).find(FOUR.abi, target.abi)
    log, codec = LogMigration(steps, FOUR), Codec(target)
    converted = [codec.read_entry(log.convert(encoded(batch)))["commands"] for batch in trading(1, 40)]
    orders = [command for commands in converted for command in commands if command["type"] == "PlaceOrder"]
    sent = [command for batch in trading(1, 40) for command in batch.commands if isinstance(command, PlaceOrder)]
    assert [order["quantity"] for order in orders] == [order.size for order in sent]
    assert len({order.size for order in sent}) > 1


def test_a_split_in_python_has_the_dropped_column(rows: Rows, tmp_path: Path) -> None:
    """`whole` gets the rows as they were, with the columns that the new schema does not have."""

    def whole(old: Tables, new: Tables) -> dict[str, str]:
        new["profile"] = [{"account_id": row["account_id"], "opened_at": row["opened_at"]} for row in old["account"]]
        return {"profile": "split off account"}

    tables = moved(rows, SPLIT, tmp_path, whole=whole, removed={"account.opened_at": "is in profile"})
    assert tables["profile"] == before(rows)["account"]
    assert [row.keys() for row in tables["account"]] == [{"account_id"}] * len(tables["account"])


def test_a_fault_in_a_function_names_the_line_and_what_is_missing(rows: Rows, tmp_path: Path) -> None:
    def whole(_old: Tables, new: Tables) -> dict[str, str]:
        return {"profile": new["account"][0]["opened_at"]}

    with pytest.raises(MigrationError, match=r"KeyError: it has no 'opened_at' \(test_losses.py, line \d+, in whole: return"):
        moved(rows, SPLIT, tmp_path, whole=whole, removed={"account.opened_at": "is in profile"})


# ---------------------------------------------------------------------- the author's guide


def _example(title: str) -> dict[str, Any]:
    """Return the Python block below a title of the page as the contents of a module."""
    found = re.search(rf"^### {re.escape(title)}\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{PAGE.name} has no example below {title!r}"
    names: dict[str, Any] = {"SOURCE": FOUR.abi, "TARGET": "f" * 40}
    exec(found.group(1), names)  # a page of ours
    return names


def _parts(migration: Migration) -> dict[str, Any]:
    return {name: getattr(migration, name) for name in ("renamed_fields", "removed", "whole")}


def test_the_worked_rename_of_the_guide_runs(rows: Rows, tmp_path: Path) -> None:
    tables = moved(rows, RENAMED, tmp_path, **_parts(_example("A renamed column")["MIGRATION"]))
    assert [row["last_trade_price"] for row in tables["product"]] == [row["last_price"] for row in before(rows)["product"]]


def test_the_worked_split_of_the_guide_runs(rows: Rows, tmp_path: Path) -> None:
    tables: dict[str, list[Values]] = moved(rows, SPLIT, tmp_path, **_parts(_example("A split table")["MIGRATION"]))
    assert tables["profile"] == before(rows)["account"]

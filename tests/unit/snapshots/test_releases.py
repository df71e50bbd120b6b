"""Released schemas are kept unchanged, and from each of them a chain of migrations leads to this one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from snapshots.abi import ABI
from snapshots.abi.difference import Change, difference
from snapshots.abi.releases import DIRECTORY, Releases, release
from snapshots.abi.schema import FieldType, Schema
from snapshots.errors import UnknownAbiError
from snapshots.migration.chain import Chains, written_migrations
from snapshots.migration.skeleton import module_name, skeleton
from tests.unit.snapshots.versions import FOUR, ONE, THREE, TWO, with_struct, without, write_descriptions


def test_from_every_release_a_way_leads_to_this_software() -> None:
    """This fails if the schema has changed and no migration converts the data. `quorumbook migrate new` begins the
    missing migration.
    """
    chains = Chains()
    for abi in chains.releases.versions:
        chains.find(abi, ABI)


def test_released_descriptions_are_unchanged() -> None:
    """This fails if one was edited. The file's name contains the SHA-1 of its contents."""
    assert {path.name for path in DIRECTORY.glob("*")} == {
        f"{version}-{abi}.json" for abi, version in Releases().versions.items()
    }


def test_an_edited_description_is_noticed(tmp_path: Path) -> None:
    directory = write_descriptions(tmp_path / "released", ONE)
    (path,) = directory.iterdir()
    path.write_bytes(path.read_bytes().replace(b'"available"', b'"free"'))
    with pytest.raises(ValueError, match="was edited"):
        Releases(directory)


def test_written_migrations_begin_and_end_at_known_abis() -> None:
    releases = Releases()
    for migration in written_migrations().values():
        assert {migration.source, migration.target} <= set(releases.abis)


def test_a_release_is_kept_once(tmp_path: Path) -> None:
    path = release("1.10", tmp_path)
    assert path is not None
    assert path.name == f"1.10-{ABI}.json"
    assert release("1.11", tmp_path) is None
    assert Releases(tmp_path).versions == {ABI: "1.10"}


def test_versions_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for version, schema in (("1.10", TWO), ("1.9", ONE)):
        (tmp_path / f"{version}-{schema.abi}.json").write_bytes(schema.encode())
    releases = Releases(tmp_path)
    assert releases.abis == [ONE.abi, TWO.abi, ABI]
    assert releases.title(ONE.abi) == f"{ONE.abi} (version 1.9)"
    assert releases.title(ABI) == f"{ABI} (this software)"
    assert releases.schema(TWO.abi[:8]) == TWO


@pytest.mark.parametrize("which", ["", "ff", "f" * 40])
def test_an_abi_must_be_known_and_the_only_one(which: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownAbiError, match="is not known"):
        Releases(tmp_path).schema(which)


def changes_of(old: Schema, new: Schema) -> list[tuple[str, str, bool]]:
    return [(change.place, change.text, change.automatic) for change in difference(old, new)]


def test_a_difference_is_described_in_words() -> None:
    assert changes_of(ONE, TWO) == [
        ("struct OrderState", "field added: fill_fees: int = 0", True),
        ("struct PlaceOrder", "field added: post_only: bool = False", True),
    ]
    assert ("struct ProductRow", "field pair removed", False) in changes_of(TWO, THREE)
    assert ("struct ProductRow", "field added: base: str, without a default", False) in changes_of(TWO, THREE)
    assert changes_of(THREE, FOUR) == [
        ("table member", "removed", False),
        ("table account", "added", True),
        ("enum DoneReason", "value LAPSED removed", False),
    ]
    assert changes_of(FOUR, FOUR) == []


@pytest.mark.parametrize(
    ("old", "new", "automatic"),
    [
        ("int(ge=0)", "int", True),
        ("int", "int(ge=0)", False),
        ("int(ge=5)", "int(ge=0)", True),
        ("int(le=5)", "int(le=4)", False),
        ("int", "float", True),
        ("float", "int", False),
        ("str", "str | none", True),
        ("str | none", "str", False),
        ("str", "bytes", False),
        ("list[int]", "list[int | none]", True),
        ("list[int]", "tuple[int, ...]", False),
        ("Side", "Side | none", True),
        ("Side", "OrderType", False),
        ("str", "any", True),
    ],
)
def test_a_wider_type_is_an_automatic_change(old: str, new: str, automatic: bool) -> None:
    source, target = (
        with_struct(FOUR, "AccountRow", lambda fields, kind=kind: [*fields, FieldType("extra", kind)])  # type: ignore[misc] # mypy: lambda
        for kind in (old, new)
    )
    changes = [change for change in difference(source, target) if change.place == "struct AccountRow"]
    assert changes == [Change("struct AccountRow", f"field extra is {new}, was {old}", automatic)]


def test_a_removed_or_added_command_is_described() -> None:
    fewer = with_struct(
        FOUR,
        "Batch",
        lambda fields: [
            FieldType(each.name, re.sub(r" \| CancelAll\b", "", each.type), each.default) if each.name == "commands" else each
            for each in fields
        ],
    )
    assert changes_of(FOUR, fewer) == [
        ("struct Batch", "field commands: choice CancelAll removed", False),
        ("struct CancelAll", "removed", False),
    ]
    assert changes_of(fewer, FOUR) == [
        ("struct Batch", "field commands: choice CancelAll added", True),
        ("struct CancelAll", "added", True),
    ]


def test_a_skeleton_has_a_function_for_all_that_does_not_follow() -> None:
    text = skeleton(TWO, THREE)
    ast.parse(text)
    assert module_name(TWO.abi) == f"from_{TWO.abi[:12]}.py"
    assert "def product_row(values: Values) -> Values:" in text
    assert '"PutProduct": put_product,' in text
    assert "log entry): field added: base: str, without a default" in text
    other = skeleton(THREE, FOUR)
    ast.parse(other)
    assert '"DoneReason": {"LAPSED": "..."},' in other
    assert '"member": "",  # the table, with 2 columns; new there: account' in other
    unneeded = skeleton(ONE, with_struct(ONE, "PlaceOrder", without("funds")))
    ast.parse(unneeded)
    assert "- struct PlaceOrder: field funds removed" in unneeded
    assert '"PlaceOrder.funds": "",' in unneeded
    assert "Everything is converted automatically." in skeleton(ONE, TWO)

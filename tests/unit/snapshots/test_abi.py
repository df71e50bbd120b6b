"""The ABI identifies the schema: it is the same everywhere, and changes with every change of what is written."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from snapshots.abi import ABI, SCHEMA, abi
from snapshots.abi.inspection import schema_of
from snapshots.abi.schema import decode_schema, describe
from statemachine import commands, events, tables, types
from statemachine.tables import KEYS

ROOT = Path(__file__).parents[3]


class Colour(IntEnum):
    """A choice."""

    RED = 1
    BLUE = 2


FIELDS: list[Any] = [("name", str), ("size", int), ("colour", Colour, Colour.RED), ("tags", list[str])]


def variant(fields: list[Any] | None = None, name: str = "Thing", **options: Any) -> type[msgspec.Struct]:
    """Return the row type of a table like `Thing` with the given changes."""
    options = {"array_like": True, "tag": 1, **options}
    return msgspec.defstruct(name, FIELDS if fields is None else fields, kw_only=True, **options)


def of(row: Any, table: str = "thing") -> str:
    return abi({table: row}, {})


def enumeration(**members: int) -> Any:
    return IntEnum("Colour", members)


def with_colour(kind: Any) -> list[Any]:
    return [("name", str), ("size", int), ("colour", kind, next(iter(kind))), ("tags", list[str])]


def test_the_same_schema_has_the_same_abi() -> None:
    documented = variant(namespace={"__doc__": "Explained."}, frozen=True, gc=False)
    assert of(variant()) == of(documented) == of(variant(with_colour(enumeration(RED=1, BLUE=2))))


@pytest.mark.parametrize(
    "changed",
    [
        variant([*FIELDS, ("extra", int, 0)]),
        variant(FIELDS[:-1]),
        variant([FIELDS[1], FIELDS[0], *FIELDS[2:]]),
        variant([("label", str), *FIELDS[1:]]),
        variant([("name", bytes), *FIELDS[1:]]),
        variant([("name", str | None), *FIELDS[1:]]),
        variant([("name", str, ""), *FIELDS[1:]]),
        variant([*FIELDS[:3], ("tags", list[int])]),
        variant([*FIELDS[:3], ("tags", list[str | int])]),
        variant([*FIELDS[:3], ("tags", tuple[str, ...])]),
        variant([*FIELDS[:3], ("tags", dict[str, str])]),
        variant([FIELDS[0], ("size", Annotated[int, msgspec.Meta(ge=0)]), *FIELDS[2:]]),
        variant(with_colour(enumeration(RED=1, BLUE=3))),
        variant(with_colour(enumeration(RED=1, GREEN=2))),
        variant(with_colour(enumeration(RED=1, BLUE=2, GREEN=3))),
        variant(with_colour(enumeration(BLUE=2, RED=1))),
        variant([*FIELDS[:2], ("colour", Colour, Colour.BLUE), FIELDS[3]]),
        variant(tag=2),
        variant(tag=None),
        variant(array_like=False),
        variant(forbid_unknown_fields=True),
        variant(name="Other"),
        list[variant()],  # type: ignore[misc] # built at run time
    ],
)
def test_any_change_of_a_description_changes_the_abi(changed: Any) -> None:
    assert of(changed) != of(variant())


def test_tables_and_their_order_count() -> None:
    row = variant()
    assert of(row) != of(row, "things")
    assert abi({"a": row, "b": row}, {}) != abi({"b": row, "a": row}, {})
    assert abi({"a": row}, {}) != abi({}, {"a": row})


def test_two_types_of_one_name_are_refused() -> None:
    other = msgspec.defstruct("Thing", [("x", int)])
    with pytest.raises(AssertionError, match="two types of the schema have one name"):
        schema_of({"a": variant(), "b": other}, {})


def test_a_type_without_a_canonical_text_is_refused() -> None:
    with pytest.raises(TypeError, match="has no canonical text yet"):
        of(variant([("name", set[str])]))


def test_the_description_contains_the_whole_exchange() -> None:
    text = describe(SCHEMA)
    lines = text.splitlines()
    for name, row in tables.TABLES.items():
        assert f"table {name}: {row.__name__}, key [{', '.join(KEYS[name])}]" in lines
    kinds = {
        value.__name__
        for module in (commands, events, tables, types)
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    described = {line.split()[1].rstrip(":") for line in lines if line.startswith(("struct ", "enum "))}
    bases, descriptors = {"Command", "Outcome", "Event"}, {"Table", "Reference"}
    readers = {"PackedOutcomeRow"}  # the rows of `outcome`, with the answer left as it is stored
    assert kinds - described == bases | descriptors | readers, "only these are not described"


def test_a_description_is_read_back_as_it_was() -> None:
    assert decode_schema(SCHEMA.encode()) == SCHEMA
    assert hashlib.sha1(SCHEMA.encode(), usedforsecurity=False).hexdigest() == ABI


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", SCHEMA.encode().replace(b'"format": 2', b'"format": 3')])
def test_bytes_that_are_no_schema_description_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="description"):
        decode_schema(data)


def test_the_abi_is_the_same_in_every_process() -> None:
    code = "from snapshots.abi import ABI; print(ABI)"
    for seed in ("0", "1", "12345"):
        found = subprocess.run(
            [sys.executable, "-OO", "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert found.stdout.strip() == ABI
    assert len(ABI) == 40

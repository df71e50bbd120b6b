"""A rehearsal reports only rows that differ in more than added or removed columns."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from node.migration.rehearsal import Column, TableDifference, differences, new_names
from snapshots import tsv
from snapshots.migration.report import StepReport, TableCount

encode = msgspec.msgpack.encode


class OldOrder(msgspec.Struct, array_like=True):
    order_id: int
    client_oid: str
    size: int
    side: str


class NewOrder(msgspec.Struct, array_like=True):
    order_id: int
    client_oid: str
    size: int
    stop: str = "none"


class OldState(msgspec.Struct):
    size: int


class NewState(msgspec.Struct):
    size: int
    stop_price: int = 0


class OldKept(msgspec.Struct):
    sequence: int
    states: list[OldState]


class NewKept(msgspec.Struct):
    sequence: int
    states: list[NewState]


class OldOutcome(msgspec.Struct, array_like=True):
    account: str
    outcome: OldKept


class NewOutcome(msgspec.Struct, array_like=True):
    account: str
    outcome: NewKept


def schema(name: str, row: type[msgspec.Struct], *key: str) -> tsv.TsvSchema:
    return tsv.TsvSchema({name: row}, {name: key}, scaled=False)


def rows(found: Iterable[msgspec.Struct]) -> list[tuple[bytes, bytes]]:
    return [(encode([number]), encode(row)) for number, row in enumerate(found, 1)]


def compared(before: list[OldOrder], after: list[NewOrder]) -> list[TableDifference]:
    old, new = schema("order", OldOrder, "order_id"), schema("bid", NewOrder, "order_id")
    return list(differences({"order": rows(before)}, old, {"bid": rows(after)}, new, {"order": "bid"}))


def test_rows_that_have_another_column_only_are_the_same() -> None:
    (found,) = compared([OldOrder(n, "{x", 5, "buy") for n in range(1, 4)], [NewOrder(n, "{x", 5) for n in range(1, 4)])
    assert (found.table, found.becomes) == ("order", "bid")
    assert found.columns_added == [Column("stop", 1, ["none"], 3)]
    assert found.columns_removed == [Column("side", 1, ["buy"], 3)]
    assert (found.same, found.changed, found.gone, found.came, found.lines) == (3, 0, 0, 0, [])


def test_other_rows_are_shown_beside_their_converted_form() -> None:
    before = [OldOrder(n, "{x", 5, "buy") for n in range(1, 5)]
    after = [NewOrder(1, "{x", 5, "loss"), NewOrder(2, "{y", 5), NewOrder(3, "{x", 6), NewOrder(9, "", 1)]
    (found,) = compared(before, after)
    assert found.columns_added == [Column("stop", 2, ["none", "loss"], 3)]
    assert (found.same, found.changed, found.gone, found.came) == (1, 2, 1, 1)
    assert found.columns_changed == {"client_oid": 1, "size": 1}
    assert found.lines == [
        "-order_id\tclient_oid\tsize\tside",
        "+order_id\tclient_oid\tsize\tstop",
        "-4\t{x\t5\tbuy",
        "-2\t{x\t5\tbuy",
        "+2\t{y\t5\tnone",
        "-3\t{x\t5\tbuy",
        "+3\t{x\t6\tnone",
        "+9\t\t1\tnone",
    ]


def test_a_value_of_several_parts_may_get_further_parts() -> None:
    key = ("account", "outcome.sequence")
    before = {"outcome": [(encode([name, 7]), encode(OldOutcome(name, OldKept(7, [OldState(1)])))) for name in "ab"]}
    now = [NewOutcome(name, NewKept(7, [NewState(size)])) for name, size in (("a", 1), ("b", 2))]
    after = {"outcome": [(encode([row.account, 7]), encode(row)) for row in now]}
    old, new = schema("outcome", OldOutcome, *key), schema("outcome", NewOutcome, *key)
    (found,) = differences(before, old, after, new, {"outcome": "outcome"})
    assert (found.same, found.changed, found.columns_changed) == (1, 1, {"outcome": 1})


def test_a_table_that_is_the_same_is_not_mentioned_and_one_that_came_or_went_is() -> None:
    order, other = schema("order", OldOrder, "order_id"), schema("other", OldOrder, "order_id")
    same = {"order": rows([OldOrder(1, "", 5, "buy")])}
    assert list(differences(same, order, same, order, {"order": "order"})) == []
    found = list(differences(same, order, {"other": rows([OldOrder(1, "", 5, "buy")])}, other, {"order": ""}))
    assert [(each.table, each.becomes, each.gone, each.came) for each in found] == [("order", "", 1, 0), ("", "other", 0, 1)]
    assert found[0].lines == ["-order_id\tclient_oid\tsize\tside", "-1\t\t5\tbuy"]


def test_names_are_followed_through_all_steps() -> None:
    def step(*names: tuple[str, str]) -> StepReport:
        return StepReport("", "", "", [], [TableCount(old, new, 0, 0, {}) for old, new in names])

    steps = [step(("a", "b"), ("c", "c"), ("", "n")), step(("b", "d"), ("c", ""), ("n", "n"))]
    assert new_names(["a", "c"], steps) == {"a": "d", "c": ""}

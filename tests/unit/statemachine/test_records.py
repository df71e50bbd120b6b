"""Reads in order of a table: the same rows as a sort of the whole table, and no more rows than are wanted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.records import Records
from statemachine.tables import SCHEMA, RiskRow
from statemachine.types import Scope

RISK = next(table for table in SCHEMA if table.name == "risk")
KEYS = st.tuples(st.sampled_from([Scope.FIRM, Scope.ACCOUNT]), st.sampled_from("abc"), st.sampled_from(["", "EUR", "USD"]))


class Counting(dict):  # type: ignore[type-arg]
    """Counts the rows that are taken from it."""

    taken = 0

    def __getitem__(self, key: object) -> object:
        self.taken += 1
        return super().__getitem__(key)


@settings(max_examples=30)
@given(st.lists(st.tuples(KEYS, st.booleans(), st.integers(1, 3))), st.integers(0, 9), st.integers(0, 9), KEYS)
def test_reads_in_order_are_those_of_a_sorted_table(
    steps: list[tuple[tuple[Scope, str, str], bool, int]], first: int, limit: int, key: tuple[Scope, str, str]
) -> None:
    records: Records[RiskRow] = Records(RISK)
    for place, keep, orders in steps:
        if keep:
            records.put(RiskRow(*place, orders_max=orders))
        else:
            records.remove(*place)
        rows = records.in_order()
        assert records.page(first, limit) == rows[first : first + limit]
        assert records.beginning(*key[:2]) == [row for row in rows if (row.scope, row.name) == key[:2]]
        assert records.having("orders_max", limit) == [row for row in rows if row.orders_max == limit]
        assert list(records.behind(*key)) == [row for row in rows if records.key_of(row) > key]
    records.fill(records.in_order()[:1])
    assert records.page(0, 9) == records.having("scope", Scope.FIRM) + records.having("scope", Scope.ACCOUNT)


def test_a_page_takes_only_its_rows() -> None:
    records: Records[RiskRow] = Records(RISK)
    records.fill([RiskRow(Scope.ACCOUNT, f"a{number:04}", currency) for number in range(1_000) for currency in ("EUR", "USD")])
    records.rows = counting = Counting(records.rows)
    assert [row.name for row in records.page(500, 3)] == ["a0250", "a0250", "a0251"]
    assert len(records.beginning(Scope.ACCOUNT, "a0999")) == 2
    assert next(records.behind(Scope.ACCOUNT, "a0999", "EUR")).currency == "USD"
    assert counting.taken == 3 + 2 + 1

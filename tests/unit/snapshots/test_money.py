"""Money is counted over the rows of a snapshot."""

from __future__ import annotations

import msgspec
import pytest

from snapshots.manifest import Row
from snapshots.money import MoneyCheck, MoneyError
from statemachine.tables import BalanceRow, CurrencyRow

USD = CurrencyRow("USD", 2, deposited=30, withdrawn=7, fees=3)
ALICE, BOB = BalanceRow("alice", "USD", 10, 2), BalanceRow("bob", "USD", 8, 0)


def rows(*content: msgspec.Struct) -> list[Row]:
    return [(b"", msgspec.msgpack.encode(row)) for row in content]


def check(currencies: list[Row], *balances: list[Row]) -> None:
    money = MoneyCheck()
    money.take("currency", currencies)
    for chunk in balances:
        money.take("balance", chunk)
    money.take("order", [(b"no", b"matter")])
    money.finish()


def test_balanced_money_passes_in_any_chunks() -> None:
    check(rows(USD), rows(ALICE), rows(BOB))
    check(rows(USD), rows(ALICE, BOB))
    check([], [])


def test_money_that_does_not_add_up_is_reported() -> None:
    with pytest.raises(MoneyError, match="USD: 15 in balances and fees, 23 deposited less withdrawn"):
        check(rows(USD), rows(ALICE))


def test_balances_in_an_unknown_currency_are_reported() -> None:
    with pytest.raises(MoneyError, match="balances in currencies that do not exist"):
        check(rows(USD), rows(ALICE, BOB, BalanceRow("bob", "XXX", 1, 0)))

"""Conservation of money, checked over a snapshot's rows: a state that has lost or created money never becomes a
snapshot.
"""

from __future__ import annotations

import msgspec

from snapshots.errors import SnapshotError
from snapshots.manifest import Row
from statemachine.tables import BalanceRow, CurrencyRow

_balance_decoder = msgspec.msgpack.Decoder(BalanceRow)
_currency_decoder = msgspec.msgpack.Decoder(CurrencyRow)


class MoneyError(SnapshotError):
    """Balances and fees of a currency do not equal its deposits less its withdrawals."""


class MoneyCheck:
    """Sums the rows of all tables, then checks per currency: balances + fees == deposited - withdrawn."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._expected: dict[str, int] = {}

    def take(self, table: str, rows: list[Row]) -> None:
        """Add rows of a table, in chunks."""
        if table == "balance":
            for _, row in rows:
                balance = _balance_decoder.decode(row)
                self._add(balance.currency, balance.available + balance.hold)
        elif table == "currency":
            for _, row in rows:
                currency = _currency_decoder.decode(row)
                self._expected[currency.currency] = currency.deposited - currency.withdrawn
                self._add(currency.currency, currency.fees)

    def _add(self, currency: str, amount: int) -> None:
        self._held[currency] = self._held.get(currency, 0) + amount

    def finish(self) -> None:
        """Compare the balances and fees with the deposits less the withdrawals.

        Raises:
            MoneyError: the sums differ; the text names the currency and both sums.
        """
        unknown = sorted(self._held.keys() - self._expected.keys())
        if unknown:
            raise MoneyError(f"balances in currencies that do not exist: {unknown}")
        for currency, expected in self._expected.items():
            if self._held[currency] != expected:
                raise MoneyError(f"{currency}: {self._held[currency]} in balances and fees, {expected} deposited less withdrawn")

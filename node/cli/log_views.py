"""The commands of a transaction log for a person: amounts as decimals, times as dates, and no secrets."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from node.cli.output import duration, instant, plain
from node.records.txlog import Txlog
from snapshots.tsv_values import UNITS, Scales, Unit, ValueFault, time_text
from statemachine.commands import AnyCommand, PutCurrency, PutProduct
from statemachine.decimals import to_text

NOT_SHOWN = ("account_id", "command_id", "secret", "passphrase")
PPM_DIGITS = 6
SECOND = 1_000_000_000


class LogViews:
    """Turns entries into rows. What a log says of currencies and products on the way is taken up for the entries behind
    it.

    Args:
        currencies: decimal digits by name, as far as they are known before.
        products: base and quote currency by product id, likewise.
    """

    def __init__(self, currencies: dict[str, int], products: dict[str, tuple[str, str]]) -> None:
        self._currencies = dict(currencies)
        self._products = dict(products)
        self._scales = Scales(self._currencies, self._products)

    def rows(self, log: Txlog, first: int, last: int | None) -> Iterator[dict[str, str]]:
        """The commands of the entries from index `first` to `last`, a row each."""
        for entry in log.entries:
            if last is not None and entry.index > last:
                return
            for command in entry.batch.commands:
                self._learn(command)
            if entry.index < first:
                continue
            head = {"index": str(entry.index), "term": str(entry.term), "time": instant(entry.batch.time)}
            if not entry.batch.commands:
                yield {**head, "command": "-", "account": "", "id": "", "what": "time passes: orders may expire"}
            for command in entry.batch.commands:
                named = {"command": type(command).__name__, "account": command.account_id, "id": command.command_id}
                yield {**head, **named, "what": self.what(command)}

    def what(self, command: AnyCommand) -> str:
        """The fields of a command that say something, as `name=value`."""
        fields = plain(command)
        assert isinstance(fields, dict)
        said = ((name, value) for name, value in fields.items() if name not in NOT_SHOWN and value not in ("", 0))
        return " ".join(f"{name}={self._value(name, value, fields)}" for name, value in said)

    def _value(self, name: str, value: object, fields: dict[str, object]) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if name.endswith("_fee_ppm"):
            return to_text(value, PPM_DIGITS)
        if name == "cancel_after":
            return f"{value / SECOND:g} s" if value < 60 * SECOND else duration(value / SECOND).replace(" ", "")
        unit = UNITS.get(name)
        if unit is Unit.TIME:
            return time_text(value)
        if unit is None or unit is Unit.PERMISSIONS:
            return value
        try:
            return to_text(value, self._scales.of(unit, fields))
        except ValueFault:
            return f"{value} smallest units"

    def _learn(self, command: msgspec.Struct) -> None:
        if isinstance(command, PutCurrency):
            self._currencies[command.currency] = command.scale
        elif isinstance(command, PutProduct):
            self._products[command.product_id] = (command.base, command.quote)

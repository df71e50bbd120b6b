"""Recorded order flow: reads it, makes commands of it, and compares executions with the recorded ones.

An operations file has the columns `op,id,side,price,size,flag`, plain or gzipped. `seed` is an order that rested when
the recording began, `new` is a limit order that arrived (flag `ioc`: immediate or cancel), and `cancel` has only the
id. Prices and sizes are decimals. A trades file has the columns `taker_id,maker_id,price,size`, one execution a row, in
order.

One account places all buys and another one all sells, so that self-trade prevention never interferes. The recorded id
becomes the `client_oid`, and trades are compared by it.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation, Overflow
from pathlib import Path
from typing import TextIO, cast

import msgspec

from node.errors import QuorumbookError
from statemachine.commands import CancelOrder, PlaceOrder
from statemachine.events import AnyEvent, OrderMatched, OrderReceived
from statemachine.limits import AMOUNT_MAX
from statemachine.types import OrderType, Side, TimeInForce

_OP_COLUMNS = ["op", "id", "side", "price", "size", "flag"]
_TRADE_COLUMNS = ["taker_id", "maker_id", "price", "size"]
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_FLAGS = {"": TimeInForce.GTC, "ioc": TimeInForce.IOC, "fok": TimeInForce.FOK}


class RecordingError(QuorumbookError):
    """A file is not a recording; the message names the file, the line and the expected value."""


class RecordedOp(msgspec.Struct, frozen=True):
    """One row of an operations file, as text. A cancel has an empty side, price, size and flag."""

    op: str
    id: str
    side: str
    price: str
    size: str
    flag: str


class RecordedTrade(msgspec.Struct, frozen=True):
    """One execution. `price` and `size` are in the product's smallest units."""

    taker_id: str
    maker_id: str
    price: int
    size: int


class Comparison(msgspec.Struct, frozen=True):
    """The result of comparing executions with the recorded ones, position by position.

    `matched` counts positions where the same taker met the same maker at the same price for the same size.
    `first_difference` is the first other position (from 0), or None if all agree.
    """

    expected: int
    executed: int
    matched: int
    first_difference: int | None

    @property
    def perfect(self) -> bool:
        """Whether every recorded execution happened, in order, and no other one."""
        return self.first_difference is None


class Executions:
    """Collects the trades of one product from its events, under the recorded ids.

    >>> Executions().trades
    []
    """

    def __init__(self) -> None:
        self.trades: list[RecordedTrade] = []
        self._recorded_ids: dict[int, str] = {}

    def feed(self, events: Iterable[AnyEvent]) -> None:
        """Add events in order. An order that was placed before the first of them is known by its order id only."""
        for event in events:
            if type(event) is OrderReceived:
                self._recorded_ids[event.order_id] = event.client_oid
            elif type(event) is OrderMatched:
                taker, maker = self._name(event.taker_order_id), self._name(event.maker_order_id)
                self.trades.append(RecordedTrade(taker, maker, event.price, event.size))

    def _name(self, order_id: int) -> str:
        return self._recorded_ids.get(order_id) or str(order_id)


def read_ops(path: str | Path) -> Iterator[RecordedOp]:
    """Yield the rows of an operations file in order. Reads lazily.

    Raises:
        RecordingError: a row is malformed.
        OSError: the file cannot be read.
    """
    for line, row in _rows(Path(path), _OP_COLUMNS):
        op = RecordedOp(*row)
        if not _is_whole(op):
            raise RecordingError(
                f"{path}, line {line}: expected seed, new or cancel with its columns, not {','.join(row)[:80]!r}"
            )
        yield op


def read_trades(path: str | Path, quote_scale: int, base_scale: int) -> list[RecordedTrade]:
    """Return the executions of a trades file, in units of currencies with these numbers of decimal digits.

    Raises:
        RecordingError: a row is malformed, or a number has more digits than the scale.
        OSError: the file cannot be read.
    """
    trades = []
    for line, (taker, maker, price, size) in _rows(Path(path), _TRADE_COLUMNS):
        try:
            trades.append(RecordedTrade(taker, maker, _units(price, quote_scale), _units(size, base_scale)))
        except RecordingError as error:
            raise RecordingError(f"{path}, line {line}: {error}") from error
    return trades


def to_command(
    op: RecordedOp, *, product_id: str, buyer: str, seller: str, quote_scale: int, base_scale: int, owner: str = ""
) -> PlaceOrder | CancelOrder:
    """Return the command of a row.

    A cancel does not name the owner of its order: pass the account of the order as `owner`.

    Raises:
        RecordingError: a number has more digits than the scale, or a cancel comes without owner.
    """
    if op.op == "cancel":
        if not owner:
            raise RecordingError(f"a cancel of {op.id!r} without the account of the order")
        return CancelOrder(owner, f"x:{op.id}", 0, op.id, product_id)
    side = _SIDES[op.side]
    return PlaceOrder(
        buyer if side is Side.BUY else seller,
        f"c:{op.id}",
        product_id,
        side,
        OrderType.LIMIT,
        _units(op.price, quote_scale),
        _units(op.size, base_scale),
        time_in_force=_FLAGS[op.flag],
        client_oid=op.id,
    )


def to_commands(
    ops: Iterable[RecordedOp], *, product_id: str, buyer: str, seller: str, quote_scale: int, base_scale: int
) -> Iterator[PlaceOrder | CancelOrder]:
    """Yield the commands of a whole recording in order. Cancels get the account that placed the order.

    Raises:
        RecordingError: as `to_command`, or a cancel names an id that was never placed.
    """
    owners: dict[str, str] = {}
    for op in ops:
        if op.op != "cancel":
            owners[op.id] = buyer if op.side == "buy" else seller
        yield to_command(
            op,
            product_id=product_id,
            buyer=buyer,
            seller=seller,
            quote_scale=quote_scale,
            base_scale=base_scale,
            owner=owners.get(op.id, ""),
        )


def compare(expected: Sequence[RecordedTrade], executed: Sequence[RecordedTrade]) -> Comparison:
    """Compare executions position by position."""
    matched = 0
    first_difference: int | None = None
    for position, (one, other) in enumerate(zip(expected, executed, strict=False)):
        if one == other:
            matched += 1
        elif first_difference is None:
            first_difference = position
    if first_difference is None and len(expected) != len(executed):
        first_difference = min(len(expected), len(executed))
    return Comparison(len(expected), len(executed), matched, first_difference)


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row after a header, which must be `columns`."""
    with _open_text(path) as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            if header != columns:
                raise RecordingError(f"{path}: expected the columns {','.join(columns)}, not {','.join(header)[:80]!r}")
            for row in reader:
                if len(row) != len(columns):
                    raise RecordingError(f"{path}, line {reader.line_num}: expected {len(columns)} columns, not {len(row)}")
                yield reader.line_num, row
        except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError, csv.Error) as error:
            raise RecordingError(f"{path}: not a readable csv file: {error}") from error


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8", newline=""))
    return path.open(encoding="utf-8", newline="")


def _is_whole(op: RecordedOp) -> bool:
    if op.op == "cancel":
        return bool(op.id)
    return op.op in ("seed", "new") and bool(op.id) and op.side in _SIDES and op.flag in _FLAGS


def _units(text: str, scale: int) -> int:
    """Return a decimal in units of 10**-scale, exactly."""
    try:
        units = Decimal(text).scaleb(scale)
    except (InvalidOperation, Overflow):
        raise RecordingError(f"expected a decimal, not {text[:40]!r}") from None
    if not units.is_finite() or units != units.to_integral_value():
        raise RecordingError(f"expected a decimal with at most {scale} digits after the point, not {text[:40]!r}")
    if abs(units) > AMOUNT_MAX:
        raise RecordingError(f"expected a decimal of at most {AMOUNT_MAX} smallest units, not {text[:40]!r}")
    return int(units)

"""A public workload with a published answer: the `normal` scenario of the survey `flash1-dev/matching-engine-benchmark`
(MIT).

It has 1,996,097 messages: new, cancel and modify (cancel and new), of limit orders and immediate-or-cancel orders. The
report of a correct engine has the published SHA-256 `PUBLISHED`. This module reads the file, has a plain price-time
book of 50 lines for comparison, converts the messages to log entries of this exchange, and builds the report from the
exchange's outcomes and events.

Some accounts only buy and the others only sell, so that self-trade prevention never acts. There are several of each,
because an account has a limited number of open orders.

    python -m loadtest.flash [--messages N]      compare the exchange's report with the published one, or of the first N messages with the ruler's
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from sortedcontainers import SortedDict

import statemachine
from loadtest.market import unit_market
from statemachine.commands import AnyCommand, Batch, CancelOrder, PlaceOrder, encode_batch
from statemachine.engine import Engine
from statemachine.events import Cancelled, OrderMatched, Placed
from statemachine.limits import AMOUNT_MAX
from statemachine.types import OrderStatus, OrderType, Side, TimeInForce

PUBLISHED = "e9b2e3926854410b01a035aeb25dd05f1e597c233be8263de9eb49b6713d367e"
PRODUCT = "FLASH"
TRADERS = 64
"""Accounts that buy, and as many that sell."""
BATCH = 100
NEW, CANCEL, MODIFY = 0, 1, 2

_MESSAGE = struct.Struct("<BBBBIQQqq")
_HEADER = struct.Struct("<QII")


class FlashMessage(NamedTuple):
    """A message of the workload. `side`: 0 is a buy, 1 a sell."""

    kind: int
    side: int
    ioc: int
    size: int
    sequence: int
    order: int
    price: int


def workload() -> Path:
    """Return the path of the workload: in the directory QUORUMBOOK_DATA, or beside the repository."""
    data = Path(os.environ.get("QUORUMBOOK_DATA") or Path(__file__).resolve().parents[1] / "../shared/data")
    return data / "flash" / "normal.bin.zst"


def read(path: Path, limit: int | None = None) -> list[FlashMessage]:
    """Return the first `limit` messages, or all of them."""
    import pyarrow

    with pyarrow.input_stream(str(path), compression="zstd") as stream:
        _, _, count = _HEADER.unpack(stream.read(_HEADER.size))
        wanted = min(count, limit or count)
        body = stream.read(wanted * _MESSAGE.size)
    return [FlashMessage(*fields[:3], *fields[4:8]) for fields in _MESSAGE.iter_unpack(body)]


class PlainBook:
    """A book with price-time priority and nothing else. It yields its report line by line."""

    def __init__(self) -> None:
        self.levels: tuple[SortedDict, SortedDict] = (SortedDict(), SortedDict())
        self.orders: dict[int, tuple[int, int]] = {}
        self.lines: list[str] = []

    def apply(self, message: FlashMessage) -> None:
        """Carry out a message."""
        kind, side, ioc, size, sequence, order, price = message
        if kind == NEW:
            self.lines.append(f"0,{sequence},{side},{order},{price},{size}")
            if self._enter(sequence, side, order, price, size, rests=not ioc) and ioc:
                self.lines.append(f"2,{sequence},{side},{order},{price}")
        elif order not in self.orders:
            self.lines.append(f"{4 if kind == CANCEL else 5},{sequence},{order}")
        else:
            side, old = self.orders[order]
            self._drop(order)
            if kind == CANCEL:
                self.lines.append(f"2,{sequence},{side},{order},{old}")
            else:
                self._enter(sequence, side, order, price, size, rests=True)
                self.lines.append(f"3,{sequence},{side},{order},{price},{size}")

    def _enter(self, sequence: int, side: int, order: int, price: int, size: int, *, rests: bool) -> int:
        """Trade an order, and let its remainder rest if it `rests`. Returns the remaining size."""
        direction, other = (1, self.levels[1]) if side == 0 else (-1, self.levels[0])
        while size and other:
            key, level = other.peekitem(0)
            if key > price * direction:
                break
            maker, there = next(iter(level.items()))
            traded = min(size, there)
            size -= traded
            self.lines.append(f"1,{sequence},{key * direction},{traded},{maker},{order}")
            if traded == there:
                self._drop(maker)
            else:
                level[maker] = there - traded
        if size and rests:
            self.levels[side].setdefault(-price * direction, {})[order] = size
            self.orders[order] = side, price
        return size

    def _drop(self, order: int) -> None:
        """Remove an order."""
        side, price = self.orders.pop(order)
        levels, key = self.levels[side], price if side else -price
        level = levels[key]
        del level[order]
        if not level:
            del levels[key]


def ground() -> list[AnyCommand]:
    """Return the operator's commands that the workload needs."""
    deposits = [(f"{side}{number}", currency) for number in range(TRADERS) for side, currency in (("b", "QUOTE"), ("s", "BASE"))]
    return unit_market(PRODUCT, deposits, AMOUNT_MAX // TRADERS)


def commands(messages: Sequence[FlashMessage]) -> Iterator[tuple[FlashMessage, list[AnyCommand]]]:
    """Yield the commands of each message. The plain book tells which modifies name unknown orders. If the exchange
    decides differently, its report differs.
    """
    ruler, number = PlainBook(), 0
    for message in messages:
        sides = ruler.orders.get(message.order)
        side = message.side if message.kind == NEW else sides[0] if sides else message.side
        account, oid = f"{'sb'[side == 0]}{message.order % TRADERS}", str(message.order)
        message_commands: list[AnyCommand] = []
        if message.kind != NEW:
            number += 1
            message_commands.append(CancelOrder(account, str(number), 0, oid))
        if message.kind == NEW or (message.kind == MODIFY and sides):
            number += 1
            force = TimeInForce.IOC if message.kind == NEW and message.ioc else TimeInForce.GTC
            place = (account, str(number), PRODUCT, Side.SELL if side else Side.BUY, OrderType.LIMIT, message.price, message.size)
            message_commands.append(PlaceOrder(*place, time_in_force=force, client_oid=oid))
        ruler.lines.clear()
        ruler.apply(message)
        yield message, message_commands


def entries(messages: Sequence[FlashMessage]) -> list[bytes]:
    """Return the workload as log entries."""
    flat = [command for _, found in commands(messages) for command in found]
    return [encode_batch(Batch(2, flat[start : start + BATCH])) for start in range(0, len(flat), BATCH)]


class Reporter:
    """Builds the exchange's report from its outcomes and events, one message at a time."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.engine.apply(Batch(1, ground()))
        self.lines: list[str] = []
        self._names: dict[int, int] = {}

    def apply(self, message: FlashMessage, message_commands: list[AnyCommand]) -> None:
        """Carry out a message."""
        applied = self.engine.apply(Batch(2, message_commands))
        for outcome in applied.outcomes:
            if isinstance(outcome, Placed):
                self._names[outcome.order.order_id] = message.order
        if message.kind == CANCEL or (len(message_commands) == 1 and message.kind == MODIFY):
            outcome = applied.outcomes[0]
            if isinstance(outcome, Cancelled):
                order = outcome.orders[0]
                self.lines.append(f"2,{message.sequence},{int(order.side) - 1},{message.order},{order.price}")
            else:
                self.lines.append(f"{4 if message.kind == CANCEL else 5},{message.sequence},{message.order}")
            return
        placed = applied.outcomes[-1]
        assert isinstance(placed, Placed), placed
        order = placed.order
        if message.kind == NEW:
            self.lines.append(f"0,{message.sequence},{message.side},{message.order},{message.price},{message.size}")
        for event in applied.events:
            if isinstance(event, OrderMatched):
                maker, taker = self._names[event.maker_order_id], self._names[event.taker_order_id]
                self.lines.append(f"1,{message.sequence},{event.price},{event.size},{maker},{taker}")
        if message.kind == MODIFY:
            self.lines.append(f"3,{message.sequence},{int(order.side) - 1},{message.order},{message.price},{message.size}")
        elif order.remaining and order.status is OrderStatus.DONE:
            self.lines.append(f"2,{message.sequence},{message.side},{message.order},{message.price}")


def digest(lines: Sequence[str]) -> str:
    """Return the hash of a report."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def reports(messages: Sequence[FlashMessage]) -> tuple[str, str]:
    """Return the hashes of the exchange's report and of the plain book's."""
    reporter, ruler = Reporter(), PlainBook()
    for message, found in commands(messages):
        reporter.apply(message, found)
    for message in messages:
        ruler.apply(message)
    reporter.engine.check()
    return digest(reporter.lines), digest(ruler.lines)


@click.command()
@click.option("--messages", type=int, help="Only the first so many.")
def main(messages: int | None) -> None:
    """Compare the exchange's report of the workload with the published hash."""
    path = workload()
    if not path.exists():
        print(f"no workload at {path}; QUORUMBOOK_DATA may name the directory with flash/normal.bin.zst", file=sys.stderr)
        raise SystemExit(2)
    found = read(path, messages)
    ours, rulers = reports(found)
    expected = PUBLISHED if messages is None else rulers
    verdict = "as published" if ours == PUBLISHED else "as the plain book's" if ours == rulers else f"NOT {expected}"
    print(f"{len(found):,} messages, {statemachine.CORE} core: {ours}, {verdict}")
    raise SystemExit(ours != expected)


if __name__ == "__main__":
    main()

"""A flow of orders that matching engines without accounts understand too, and `matching-engine` 0.1.1 from PyPI, which
processes it.

Orders rest an exponentially distributed number of ticks from a middle that wanders; a quarter of the operations cancels
one of them, a tenth crosses the spread, 2.5 % are market orders and as many immediate-or-cancel. There are 1,000
accounts, and nobody ever runs out of money.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sortedcontainers import SortedDict

from loadtest.market import unit_market
from statemachine.commands import AnyCommand, Batch, CancelOrder, PlaceOrder, encode_batch
from statemachine.types import OrderType, SelfTradePrevention, Side, TimeInForce

ACCOUNTS = 1_000
BATCH = 100
PRODUCT = "PEER"
PEER = "matching-engine==0.1.1"

LIMIT, IOC, MARKET, CANCEL = "limit", "ioc", "market", "cancel"


class Op(NamedTuple):
    """One operation. `price`: 0 for market orders and cancels. `order`: the number of the order, from 1."""

    kind: str
    order: int
    account: int
    buys: bool
    price: int
    size: int


class _Market:
    """The state of the book that the flow needs: prices, sizes and open orders."""

    def __init__(self) -> None:
        self.sides: tuple[SortedDict, SortedDict] = (SortedDict(), SortedDict())
        self.live: dict[int, tuple[bool, int, int]] = {}

    def touch(self, buys: bool) -> int | None:
        """Return the best price at which an order of this side trades."""
        other = self.sides[0 if buys else 1]
        return abs(other.peekitem(0)[0]) if other else None

    def depth(self, buys: bool) -> int:
        """Return the largest size that an order of this side could trade."""
        return sum(size for level in self.sides[0 if buys else 1].values() for size in level.values())

    def apply(self, op: Op) -> None:
        """Carry out an operation."""
        if op.kind == CANCEL:
            self._drop(op.order)
            return
        other, size = self.sides[0 if op.buys else 1], op.size
        while size and other:
            price = abs(other.peekitem(0)[0])
            if op.kind != MARKET and (price > op.price if op.buys else price < op.price):
                break
            level = other.peekitem(0)[1]
            maker = next(iter(level))
            traded = min(size, level[maker])
            size -= traded
            level[maker] -= traded
            if not level[maker]:
                self._drop(maker)
        if size and op.kind == LIMIT:
            key = -op.price if op.buys else op.price
            self.sides[1 if op.buys else 0].setdefault(key, {})[op.order] = size
            self.live[op.order] = op.buys, key, op.account

    def _drop(self, order: int) -> None:
        """Remove an order."""
        buys, key, _ = self.live.pop(order)
        side = self.sides[1 if buys else 0]
        level = side[key]
        del level[order]
        if not level:
            del side[key]


def draw(count: int, seed: int) -> list[Op]:
    """Return the given number of operations. They depend only on the seed."""
    chance, market, middle = random.Random(seed), _Market(), 10_000
    candidates: list[int] = []
    flow: list[Op] = []
    orders = 0
    while len(flow) < count:
        if chance.random() < 0.02:
            middle += chance.choice((-1, 1))
        roll = chance.random()
        target = _target(chance, candidates, market) if roll < 0.25 else None
        if target is not None:
            op = Op(CANCEL, target, market.live[target][2], market.live[target][0], 0, 0)
        else:
            orders += 1
            op = _order(chance, market, middle, orders, roll)
        market.apply(op)
        if op.kind == LIMIT and orders in market.live:
            candidates.append(orders)
        flow.append(op)
    return flow


def _order(chance: random.Random, market: _Market, middle: int, number: int, roll: float) -> Op:
    """Return a new order, whose kind the roll decides."""
    account, buys = chance.randrange(1, ACCOUNTS + 1), chance.random() < 0.5
    towards, touch = (1 if buys else -1), market.touch(buys)
    if 0.25 <= roll < 0.40 and touch is not None:
        size = chance.randint(1, 200)
        if roll < 0.275:
            return Op(MARKET, number, account, buys, 0, min(size, market.depth(buys)))
        return Op(IOC if roll < 0.30 else LIMIT, number, account, buys, touch + towards * chance.randint(0, 4), size)
    price = middle - towards * (1 + min(200, int(chance.expovariate(1 / 12))))
    if touch is not None:
        price = min(price, touch - 1) if buys else max(price, touch + 1)
    return Op(LIMIT, number, account, buys, price, chance.randint(1, 100))


def _target(chance: random.Random, candidates: list[int], market: _Market) -> int | None:
    """Return a random live order, or None."""
    while candidates:
        place = chance.randrange(len(candidates))
        candidates[place], candidates[-1] = candidates[-1], candidates[place]
        if candidates[-1] in market.live:
            return candidates[-1]
        candidates.pop()
    return None


def ground() -> list[AnyCommand]:
    """Return the operator's commands that the flow needs."""
    deposits = [(f"a{number}", currency) for number in range(1, ACCOUNTS + 1) for currency in ("BASE", "QUOTE")]
    return unit_market(PRODUCT, deposits, 10**15, maker_fee_ppm=1_000, taker_fee_ppm=2_000)


def entries(flow: list[Op]) -> list[bytes]:
    """Return the flow as log entries. Each order has a command id and a client order id."""
    commands: list[AnyCommand] = []
    for number, op in enumerate(flow):
        account = f"a{op.account}"
        if op.kind == CANCEL:
            commands.append(CancelOrder(account, f"x:{number}", 0, f"o{op.order}"))
            continue
        force = TimeInForce.GTC if op.kind == LIMIT else TimeInForce.IOC
        kind = OrderType.MARKET if op.kind == MARKET else OrderType.LIMIT
        side = Side.BUY if op.buys else Side.SELL
        oid = f"o{op.order}"
        placed = (account, f"c:{oid}", PRODUCT, side, kind, op.price, op.size)
        commands.append(PlaceOrder(*placed, time_in_force=force, stp=SelfTradePrevention.CO, client_oid=oid))
    return [encode_batch(Batch(2, commands[start : start + BATCH])) for start in range(0, len(commands), BATCH)]


def fetch_peer() -> Path | None:
    """Return a directory from which `matching_engine` can be imported, or None if its wheel cannot be downloaded.

    The package asks for Python 3.12 because it writes two aliases as `type X = ...`; an older Python gets them as plain
    assignments, which mean the same at run time.
    """
    place = Path(tempfile.gettempdir()) / f"quorumbook-peers-{sys.version_info[0]}{sys.version_info[1]}" / "matching-engine"
    if not (place / "matching_engine").exists():
        place.mkdir(parents=True, exist_ok=True)
        argv = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--python-version",
            "3.12",
            "--only-binary=:all:",
        ]
        download = subprocess.run([*argv, "--dest", str(place), PEER], capture_output=True, text=True, check=False)
        wheels = list(place.glob("*.whl"))
        if download.returncode or not wheels:
            return None
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(place)
        if sys.version_info < (3, 12):
            for path in place.rglob("*.py"):
                text = path.read_text()
                path.write_text(re.sub(r"^type (\w+) = ", r"\1 = ", text, flags=re.MULTILINE))
    return place


def peer_run(flow: list[Op], place: Path) -> Callable[[], None]:
    """Return a function that applies the flow to a new `matching-engine`."""
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    import importlib

    domain: Any = importlib.import_module("matching_engine.domain")
    engine: Any = importlib.import_module("matching_engine.engine").MatchingEngine()
    side = {True: domain.Side.BUY, False: domain.Side.SELL}
    terms = {
        LIMIT: (domain.OrderType.LIMIT, domain.TimeInForce.GTC),
        IOC: (domain.OrderType.LIMIT, domain.TimeInForce.IOC),
        MARKET: (domain.OrderType.MARKET, domain.TimeInForce.IOC),
    }
    commands = []
    for sequence, op in enumerate(flow, 1):
        if op.kind == CANCEL:
            command = domain.CancelOrder(op.order, op.account)
        else:
            kind, force = terms[op.kind]
            none = domain.SelfTradePrevention.NONE
            command = domain.NewOrder(op.order, op.account, side[op.buys], op.price, op.size, kind, force, False, none)
        commands.append(domain.SequencedCommand(sequence, sequence, command))

    def run() -> None:
        for command in commands:
            engine.process(command)

    return run

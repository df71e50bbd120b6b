"""The order flow of a client: generated from a seed, or read from a recording.

A generated flow is endless and a pure function of its arguments. It does not depend on answers, because a fast client
does not wait for them. It therefore also cancels orders that have traded, which the exchange rejects. All clients of
one seed place their prices around the same moving mid, so they trade with each other. A client remembers at most
`OPEN_MAX` orders and then cancels the oldest one, which bounds the books.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from loadtest.market import CURRENCIES, PRODUCTS, RECORDED, ProductSpec
from node.records.recording import read_ops, to_commands
from statemachine.commands import CancelAll, CancelOrder, PlaceOrder
from statemachine.types import OrderType, SelfTradePrevention, Side, StopType, TimeInForce

FlowCommand = PlaceOrder | CancelOrder | CancelAll

OPEN_MAX = 30
"""Orders that a client remembers."""

STEPS_A_MOVE = 8
"""A client's steps between two moves of the mid."""


class Kind(Enum):
    """The kinds of steps of a client."""

    PASSIVE = "a limit order away from the mid"
    POST_ONLY = "the same, rejected if it would take"
    CROSSING = "a limit order through the mid, whose rest stays"
    IOC = "the same, whose rest is cancelled"
    FOK = "the same, all or nothing"
    MARKET_SIZE = "a market order by size"
    MARKET_FUNDS = "a market order by funds"
    GOOD_TILL_TIME = "a limit order away from the mid that expires"
    STOP_LIMIT = "a limit order that waits for a trade a little away from the mid"
    STOP_MARKET = "a market order that does"
    CANCEL = "cancel an order that may still be open"
    CANCEL_ALL = "cancel everything of one product"
    RETRY = "send the last order again, same id and contents"


WEIGHTS: dict[Kind, int] = {
    Kind.PASSIVE: 390,
    Kind.POST_ONLY: 80,
    Kind.CROSSING: 90,
    Kind.IOC: 60,
    Kind.FOK: 30,
    Kind.MARKET_SIZE: 40,
    Kind.MARKET_FUNDS: 20,
    Kind.GOOD_TILL_TIME: 30,
    Kind.STOP_LIMIT: 25,
    Kind.STOP_MARKET: 15,
    Kind.CANCEL: 280,
    Kind.CANCEL_ALL: 2,
    Kind.RETRY: 8,
}
"""The weight of each kind in a usual flow."""

MARKET = frozenset({Kind.MARKET_SIZE, Kind.MARKET_FUNDS, Kind.STOP_MARKET})
STOPS = frozenset({Kind.STOP_LIMIT, Kind.STOP_MARKET})
STAYING = frozenset({Kind.PASSIVE, Kind.POST_ONLY, Kind.CROSSING, Kind.GOOD_TILL_TIME, *STOPS})
"""Kinds whose orders may rest, and are remembered."""

LIVES = (10**9, 86_400 * 10**9)
"""Lifetimes of good-till-time orders in nanoseconds: a second, or longer than any run."""

_STP = [SelfTradePrevention.DC] * 7 + [SelfTradePrevention.CO, SelfTradePrevention.CN, SelfTradePrevention.CB]


class MovingMid:
    """A product's mid in ticks, as a mean-reverting random walk. The n-th value depends only on the seed and the product."""

    def __init__(self, seed: int, spec: ProductSpec) -> None:
        self._random = Random(f"{seed}:{spec.product_id}")
        self._opening = spec.opening_ticks
        self._values = [spec.opening_ticks]

    def at(self, move: int) -> int:
        """Return the mid after `move` moves. Amortised O(1) if `move` grows."""
        while len(self._values) <= move:
            last = self._values[-1]
            pull = (self._opening - last) // 50
            self._values.append(max(100, last + pull + self._random.randint(-4, 4)))
        return self._values[move]


class ClientFlow(Iterator[FlowCommand]):
    """The endless flow of one client.

    `run` is part of every id, so each run on a cluster needs another one. Flows of the same `seed` share the
    mid's walk. `weights`: the weight of each kind.
    """

    def __init__(
        self,
        seed: int,
        account_id: str,
        run: str,
        products: Sequence[ProductSpec] = PRODUCTS,
        weights: Mapping[Kind, int] = WEIGHTS,
    ) -> None:
        self._account_id = account_id
        self._run = run
        self._products = products
        self._mids = {spec.product_id: MovingMid(seed, spec) for spec in products}
        self._random = Random(f"{seed}:{run}:{account_id}")
        self._kinds = list(weights)
        self._weights = list(weights.values())
        self._step = 0
        self._open: deque[tuple[str, str]] = deque()
        self._last: PlaceOrder | None = None

    def __next__(self) -> FlowCommand:
        self._step += 1
        if len(self._open) >= OPEN_MAX:
            return self._cancel(0)
        kind = self._random.choices(self._kinds, self._weights)[0]
        if kind is Kind.CANCEL and self._open:
            return self._cancel(self._random.randrange(len(self._open)))
        if kind is Kind.CANCEL_ALL:
            return self._cancel_all()
        if kind is Kind.RETRY and self._last is not None:
            return self._last
        return self._place(kind if kind not in (Kind.CANCEL, Kind.RETRY) else Kind.PASSIVE)

    def _new_oid(self) -> str:
        return f"{self._run}.{self._step}"

    def _cancel(self, place: int) -> CancelOrder:
        client_oid, product_id = self._open[place]
        del self._open[place]
        return CancelOrder(self._account_id, f"x:{self._new_oid()}", 0, client_oid, product_id)

    def _cancel_all(self) -> CancelAll:
        product_id = self._random.choice(self._products).product_id
        self._open = deque(item for item in self._open if item[1] != product_id)
        return CancelAll(self._account_id, f"a:{self._new_oid()}", product_id)

    def _place(self, kind: Kind) -> PlaceOrder:
        """Return a new order of a kind. Orders that stay open are recorded, to be cancelled later."""
        spec = self._random.choice(self._products)
        side = self._random.choice((Side.BUY, Side.SELL))
        lots = 1 + self._random.randrange(spec.typical_lots) * self._random.choice((1, 1, 1, 2, 5))
        size = max(spec.min_size, lots * spec.lot)
        oid = self._new_oid()
        self._last = self._order(kind, spec, side, size, oid)
        if kind in STAYING:
            self._open.append((oid, spec.product_id))
        return self._last

    def _order(self, kind: Kind, spec: ProductSpec, side: Side, size: int, oid: str) -> PlaceOrder:
        """Return an order of this kind, priced around the product's present mid price."""
        mid = self._mids[spec.product_id].at(self._step // STEPS_A_MOVE)
        market = kind in MARKET
        by_funds = kind is Kind.MARKET_FUNDS or (kind is Kind.STOP_MARKET and side is Side.BUY)
        return PlaceOrder(
            self._account_id,
            f"c:{oid}",
            spec.product_id,
            side,
            OrderType.MARKET if market else OrderType.LIMIT,
            price=0 if market else self._price(kind, spec, side, mid),
            size=0 if by_funds else size,
            funds=mid * spec.tick * size // 10 ** CURRENCIES[spec.base] if by_funds else 0,
            time_in_force=self._time_in_force(kind),
            post_only=kind is Kind.POST_ONLY,
            stp=self._random.choice(_STP),
            client_oid=oid,
            **self._waiting(kind, spec, side, mid),
        )

    def _waiting(self, kind: Kind, spec: ProductSpec, side: Side, mid: int) -> dict[str, Any]:
        """Return the fields of a stop order or a good-till-time order."""
        if kind is Kind.GOOD_TILL_TIME:
            return {"cancel_after": self._random.choice(LIVES)}
        if kind not in STOPS:
            return {}
        stop = StopType.ENTRY if side is Side.BUY else StopType.LOSS
        distance = 1 + self._random.randrange(30)
        return {"stop": stop, "stop_price": max(1, mid + distance if side is Side.BUY else mid - distance) * spec.tick}

    @staticmethod
    def _time_in_force(kind: Kind) -> TimeInForce:
        if kind in (Kind.IOC, Kind.MARKET_SIZE, Kind.MARKET_FUNDS):
            return TimeInForce.IOC
        return {Kind.FOK: TimeInForce.FOK, Kind.GOOD_TILL_TIME: TimeInForce.GTT}.get(kind, TimeInForce.GTC)

    def _price(self, kind: Kind, spec: ProductSpec, side: Side, mid: int) -> int:
        """Return a price. Orders that should rest get one away from the mid price, the others one through it."""
        if kind in (Kind.PASSIVE, Kind.POST_ONLY, Kind.GOOD_TILL_TIME):
            distance = 1 + min(self._random.randrange(40), self._random.randrange(40))
        else:
            distance = -self._random.randrange(25)
        ticks = mid - distance if side is Side.BUY else mid + distance
        return max(1, ticks) * spec.tick


def recorded_flow(path: Path, buyer: str, seller: str, run: str = "") -> Iterator[PlaceOrder | CancelOrder]:
    """Yield a recording's commands on the product `market.RECORDED`, in its order. `buyer` places all buys, `seller`
    all sells. Every id begins with `run`, unless that is empty. Each run on a cluster needs another one.

    Raises:
        OSError, RecordingError: the file cannot be read, or is not a recording.
    """
    operations = read_ops(path)
    if run:
        operations = (msgspec.structs.replace(operation, id=f"{run}.{operation.id}") for operation in operations)
    return to_commands(
        operations,
        product_id=RECORDED.product_id,
        buyer=buyer,
        seller=seller,
        quote_scale=CURRENCIES[RECORDED.quote],
        base_scale=CURRENCIES[RECORDED.base],
    )

"""The personalities of traders in a load test: the flows of a market maker, a taker, a canceller, and a mixed trader.

A flow is endless and a pure function of its arguments. All flows of one seed move around the same mid.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import product as pairs

from loadtest.flow import STEPS_A_MOVE, WEIGHTS, ClientFlow, FlowCommand, Kind, MovingMid
from loadtest.market import PRODUCTS, ProductSpec
from statemachine.commands import CancelOrder, PlaceOrder
from statemachine.types import OrderType, Side

TAKER_WEIGHTS: dict[Kind, int] = {
    Kind.IOC: 450,
    Kind.FOK: 120,
    Kind.MARKET_SIZE: 220,
    Kind.MARKET_FUNDS: 120,
    Kind.CROSSING: 60,
    Kind.STOP_MARKET: 20,
    Kind.RETRY: 10,
}
CANCELLER_WEIGHTS: dict[Kind, int] = {Kind.PASSIVE: 450, Kind.GOOD_TILL_TIME: 40, Kind.CANCEL: 490, Kind.CANCEL_ALL: 20}

LEVELS = 4
"""Quotes of a market maker on each side of a product. All its quotes together stay below the limit of open orders."""

TICKS_APART = 3
"""Ticks between two quotes of one side, and between the mid and the first quote."""


class Personality(Enum):
    """The kind of a trader. The value is its name in reports."""

    MAKER = "maker"
    TAKER = "taker"
    CANCELLER = "canceller"
    MIXED = "mixed"


SHARES: tuple[Personality, ...] = (
    Personality.MAKER,
    Personality.TAKER,
    Personality.CANCELLER,
    Personality.MAKER,
    Personality.TAKER,
    Personality.MIXED,
    Personality.MAKER,
    Personality.TAKER,
    Personality.CANCELLER,
    Personality.MAKER,
)
"""The personalities of ten consecutive users."""


class MarketMakerFlow(Iterator[FlowCommand]):
    """Quotes both sides of each product, and replaces one quote after the other: it cancels the quote, and places a new
    one at the same distance from the mid of that moment.
    """

    def __init__(self, seed: int, account_id: str, run: str) -> None:
        self._account_id = account_id
        self._run = run
        self._mids = {spec.product_id: MovingMid(seed, spec) for spec in PRODUCTS}
        self._places = list(pairs(PRODUCTS, (Side.BUY, Side.SELL), range(1, LEVELS + 1)))
        self._quotes: dict[int, str] = {}
        self._turn = 0
        self._step = 0

    def __next__(self) -> FlowCommand:
        self._step += 1
        place = self._turn % len(self._places)
        spec, side, level = self._places[place]
        quoted = self._quotes.pop(place, None)
        if quoted is not None:
            return CancelOrder(self._account_id, f"x:{self._run}.{self._step}", 0, quoted, spec.product_id)
        self._turn += 1
        oid = self._quotes[place] = f"{self._run}.{self._step}"
        return self._quote(spec, side, level, oid)

    def _quote(self, spec: ProductSpec, side: Side, level: int, oid: str) -> PlaceOrder:
        """Return a quote at a distance from the middle."""
        mid = self._mids[spec.product_id].at(self._step // STEPS_A_MOVE)
        distance = level * TICKS_APART
        ticks = max(1, mid - distance if side is Side.BUY else mid + distance)
        size = max(spec.min_size, spec.typical_lots * spec.lot)
        return PlaceOrder(
            self._account_id,
            f"c:{oid}",
            spec.product_id,
            side,
            OrderType.LIMIT,
            price=ticks * spec.tick,
            size=size,
            post_only=True,
            client_oid=oid,
        )


def personality_of(number: int) -> Personality:
    """Return the personality of the user with this number."""
    return SHARES[number % len(SHARES)]


def flow_of(personality: Personality, seed: int, account_id: str, run: str) -> Iterator[FlowCommand]:
    """Return a new flow. `run` is part of every id, and each user of an account needs another one."""
    if personality is Personality.MAKER:
        return MarketMakerFlow(seed, account_id, run)
    weights = {Personality.TAKER: TAKER_WEIGHTS, Personality.CANCELLER: CANCELLER_WEIGHTS}.get(personality, WEIGHTS)
    return ClientFlow(seed, account_id, run, weights=weights)

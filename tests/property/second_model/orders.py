"""Orders and products of the second model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from statemachine.commands import PlaceOrder, PutProductLimits
from statemachine.events import OrderState
from statemachine.types import DoneReason, OrderStatus, OrderType, ProductStatus, Side, StopType, TimeInForce

PPM = 1_000_000
SECOND = 10**9
DAY = 86_400 * SECOND
TRADING = (ProductStatus.ONLINE, ProductStatus.POST_ONLY, ProductStatus.LIMIT_ONLY)
RESTING = (TimeInForce.GTC, TimeInForce.GTT)
ENDLESS = 2**62


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """The exchange rejects the command."""


def need(condition: bool) -> None:
    """Refuse the command unless a condition holds."""
    if not condition:
        raise Refused


class Place(Enum):
    """Where an order that is not done is."""

    NEW = auto()
    """It is being checked, or it trades."""
    BOOK = auto()
    COLLECTED = auto()
    """An auction collected it."""
    WAITING = auto()
    """A stop order that was not triggered, or whose turn has not come."""
    QUEUED = auto()
    """An exit whose turn has not come."""


class Kind(Enum):
    """The kinds of interruptions by a price collar."""

    LIMIT_STATE = auto()
    HALT = auto()
    CALL = auto()


@dataclass
class Interruption:
    """An interruption of a product by its price collar."""

    kind: Kind
    ends: int
    resume: ProductStatus
    side: Side = Side.BUY
    """In a limit state, the side of the orders at the collar."""
    collar: tuple[int, int] = (0, ENDLESS)
    extensions: int = 0


@dataclass
class Product:
    """A product, with its state."""

    name: str
    base: str
    quote: str
    tick: int
    lot: int
    unit: int
    """Smallest units of a whole coin."""
    status: ProductStatus
    min_size: int = 0
    max_size: int = 0
    rates: tuple[int, int] = (0, 0)
    """The fee rates of makers and takers, in parts per million."""
    last_price: int = 0
    trades: int = 0
    prices: list[int] = field(default_factory=list)
    """The prices of trades that triggered no stop orders yet."""
    limits: PutProductLimits | None = None
    static_price: int = 0
    interruption: Interruption | None = None

    def worth(self, price: int, size: int) -> int:
        """Return the notional: always a whole number of quote units."""
        worth, rest = divmod(price * size, self.unit)
        assert not rest
        return worth


@dataclass(eq=False)
class Order:
    """An order, and the command that placed it."""

    owner: str
    product: Product
    terms: PlaceOrder
    price: int
    size: int
    stop: StopType
    stop_price: int
    rates: tuple[int, int]
    created: int
    expires: int = 0
    order_id: int = 0
    place: Place | None = None
    arrival: int = 0
    """Its place in time, at one price or in an auction."""
    left: int = 0
    """The size that is not traded; for an order by funds alone what it can still sell."""
    shown: int = 0
    """The part of `left` that the book shows."""
    money: int | None = None
    """What it may still spend or wants to raise; None without such a bound."""
    filled: int = 0
    value: int = 0
    fees: int = 0
    credit: int = 0
    """What it paid in fees above the exact rate, in millionths of a unit."""
    reason: DoneReason = DoneReason.NONE
    done_at: int = 0
    partner: Order | None = None
    client_oid: str = ""
    collar: tuple[int, int] = (0, ENDLESS)

    def __post_init__(self) -> None:
        self.client_oid = self.terms.client_oid

    @property
    def buys(self) -> bool:
        return self.terms.side is Side.BUY

    @property
    def is_limit(self) -> bool:
        return self.terms.order_type is OrderType.LIMIT

    @property
    def by_funds(self) -> bool:
        return self.size == 0

    @property
    def can_rest(self) -> bool:
        return self.is_limit and self.terms.time_in_force in RESTING

    @property
    def display(self) -> int:
        return self.terms.options.display_size if self.terms.options is not None else 0

    @property
    def session(self) -> str:
        return self.terms.options.session if self.terms.options is not None else ""

    @property
    def trail(self) -> int:
        return self.terms.options.trail if self.terms.options is not None else 0

    @property
    def exits(self) -> tuple[int, int, int]:
        """Take profit, stop loss, and the limit of the stop loss."""
        options = self.terms.options
        return (options.take_profit, options.stop_loss, options.stop_loss_limit) if options is not None else (0, 0, 0)

    @property
    def currency(self) -> str:
        """Return the currency that it holds."""
        return self.product.quote if self.buys else self.product.base

    @property
    def rank(self) -> tuple[int, int]:
        """Return the key by which orders of one side trade: price, then time."""
        return (-self.price if self.buys else self.price), self.arrival

    def accepts(self, price: int) -> bool:
        """Return whether it may trade at a price."""
        return not self.is_limit or (price <= self.price if self.buys else price >= self.price)

    def view(self, hold: int) -> dict[str, object]:
        """Return the fields that its owner sees, named as in `OrderState`."""
        done, rests = self.place is None, self.place is Place.BOOK
        return {
            "account_id": self.owner,
            "client_oid": self.client_oid,
            "side": self.terms.side,
            "price": self.price,
            "size": self.size,
            "stop": self.stop,
            "stop_price": self.stop_price,
            "expires_at": self.expires,
            "status": OrderStatus.DONE if done else OrderStatus.OPEN if rests else OrderStatus.ACTIVE,
            "done_reason": self.reason,
            "done_at": self.done_at,
            "filled_size": self.filled,
            "executed_value": self.value,
            "fill_fees": self.fees,
            "hold": hold,
            "remaining": None if done or self.by_funds else self.left,
            "link": None if done else self.partner.order_id if self.partner is not None else 0,
        }


def seen(state: OrderState, order: Order) -> dict[str, object]:
    """Return the same fields of the engine's order."""
    fields = {name: getattr(state, name, None) for name in order.view(0)}
    fields["link"] = state.terms.link if state.terms is not None else 0
    hidden = () if order.place is not None else ("remaining", "link")
    return fields | dict.fromkeys((*hidden, *(("remaining",) if order.by_funds else ())))

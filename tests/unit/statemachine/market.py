"""A small exchange for unit tests: XBT-USD in whole numbers, ann and bob with money."""

from __future__ import annotations

from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, OrderState, Placed, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import OrderType, Side, TimeInForce

PRODUCT = "XBT-USD"


def market(
    money: int = 10**15,
    maker_ppm: int = 0,
    taker_ppm: int = 0,
    names: tuple[str, ...] = ("ann", "bob"),
    engine: Engine | None = None,
) -> Engine:
    """Return an exchange with one product whose tick and lot are 1."""
    engine = engine or Engine()
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "usd", "USD", 0),
        PutCurrency(OPERATOR, "xbt", "XBT", 0),
        PutProduct(OPERATOR, "product", PRODUCT, "XBT", "USD", 1, 1, 1, AMOUNT_MAX, maker_ppm, taker_ppm),
    ]
    for name in names:
        commands.append(OpenAccount(OPERATOR, f"open-{name}", name))
        commands.extend(Deposit(name, f"deposit-{currency}", currency, money) for currency in ("USD", "XBT"))
    outcomes = engine.apply(Batch(1, commands)).outcomes
    assert not [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    return engine


def limit(account: str, command_id: str, side: Side, size: int, price: int, *, ioc: bool = False, oid: str = "") -> PlaceOrder:
    """Return a limit order, good till cancelled unless `ioc`."""
    tif = TimeInForce.IOC if ioc else TimeInForce.GTC
    return PlaceOrder(account, command_id, PRODUCT, side, OrderType.LIMIT, price, size, 0, tif, client_oid=oid)


def send(engine: Engine, command: AnyCommand) -> AnyOutcome:
    """Apply one command in a batch of its own."""
    return engine.apply(Batch(engine.time + 1, [command])).outcomes[0]


def placed(engine: Engine, command: PlaceOrder) -> OrderState:
    """Apply an order that must enter."""
    outcome = send(engine, command)
    assert isinstance(outcome, Placed), outcome
    return outcome.order

"""A small exchange with everything that a migration must convert: open orders in two products, holds, done orders,
cached outcomes.
"""

from __future__ import annotations

from random import Random

import msgspec

from snapshots.levels import states
from snapshots.levels.level import BROUGHT_TO
from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelOrder,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutApiKey,
    PutCurrency,
    PutProduct,
)
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Side

PRODUCTS = ("BTC-USD", "ETH-USD")
ACCOUNTS = ("ann", "bob", "eve")


def foundations() -> list[Batch]:
    """Return the commands for currencies, products without fees, and accounts with money and keys, one of them revoked."""
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, f"f:{name}", name, scale) for name, scale in (("USD", 2), ("BTC", 2), ("ETH", 2))
    ]
    commands.extend(PutProduct(OPERATOR, f"f:{name}", name, name[:3], "USD", 100, 1, 1, 1000, 0, 0) for name in PRODUCTS)
    for name in ACCOUNTS:
        commands.append(OpenAccount(OPERATOR, f"f:{name}", name))
        commands.append(PutApiKey(OPERATOR, f"f:key-{name}", f"key-{name}", name, "c2VjcmV0", "pass", 3))
        commands.extend(Deposit(name, f"f:{name}-{currency}", currency, 10_000_000) for currency in ("USD", "BTC", "ETH"))
    return [Batch(1_000, commands)]


def trading(seed: int, count: int, first: int = 0) -> list[Batch]:
    """Return orders around a few prices, and cancels of some. Every command has an id of its own."""
    random = Random(seed)
    batches = []
    for number in range(first, first + count):
        account = random.choice(ACCOUNTS)
        if random.random() < 0.15:
            command: AnyCommand = CancelOrder(account, f"x{number}", 0, f"o{random.randrange(max(number, 1))}")
        else:
            side = random.choice((Side.BUY, Side.SELL))
            price = 100 * (random.randrange(95, 101) if side is Side.BUY else random.randrange(100, 106))
            product, size = random.choice(PRODUCTS), random.randrange(1, 50)
            command = PlaceOrder(account, f"c:o{number}", product, side, OrderType.LIMIT, price, size, client_oid=f"o{number}")
        batches.append(Batch(2_000 + number, [command]))
    return batches


def encoded(batch: Batch, *, migrated: bool = False) -> bytes:
    """Return a log entry of version 0.2.0; `migrated`: one of an earlier version, converted."""
    entry = states.encoded(BROUGHT_TO.abi, batch.time, batch.commands)
    time, commands, _ = msgspec.msgpack.decode(entry)
    return msgspec.msgpack.encode([time, commands, True]) if migrated else entry


def applied_before(*flows: list[Batch], migrated: bool = False) -> Engine:
    """Return a state of version 0.2.0 that has applied them; `migrated`: as entries of an earlier version."""
    engine = states.empty(BROUGHT_TO)
    for flow in flows:
        for batch in flow:
            engine.apply_entry(encoded(batch, migrated=migrated))
    return engine


def applied(*flows: list[Batch]) -> Engine:
    """Return an engine that has applied them."""
    engine = Engine()
    for flow in flows:
        for batch in flow:
            engine.apply(batch)
    return engine

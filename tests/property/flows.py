"""Random flows on which the two cores are compared. Prints the results of one flow as JSON.

    python -m tests.property.flows SEED BATCHES

Half of the commands are those of traders. A quarter are any commands that a log entry may contain, with numbers at the
ends of 64 bits. A quarter are of rich traders: prices, sizes and holds near the largest possible. Between batches there
are snapshots, restores and reads.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from random import Random
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec

import statemachine
from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    Deposit,
    NoteStream,
    OpenAccount,
    PlaceOrder,
    PutCurrency,
    PutProduct,
    Transfer,
    encode_batch,
)
from statemachine.engine import Engine
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import OrderType, ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce
from tests.property.worlds import SECOND, busy_command, control_command, foundations, options_command

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    10,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    2**31,
    2**32,
    2**53,
    10**18,
    AMOUNT_MAX // 2,
    AMOUNT_MAX - 1,
    AMOUNT_MAX,
)
BEYOND = (-1, -(2**31), -(2**63), AMOUNT_MAX + 1, 2**64 - 1)
TEXTS = (
    "",
    "ann",
    "bob",
    "USD",
    "XBT",
    "XBT-ETH",
    "ETH-USD",
    "RICH-USD",
    "operator",
    "x" * 64,
    "y" * 97,
    "ä",
    "\U0001f4b0",
    "a b",
    "x" * 300,
)


def _number(random: Random) -> int:
    return random.choice(BEYOND) if random.random() < 0.2 else random.choice(NUMBERS)


def _value(random: Random, kind: Any) -> Any:
    if isinstance(kind, UnionType):
        return _value(random, get_args(kind)[0]) if random.random() < 0.3 else None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind(**{field.name: _value(random, field.type) for field in msgspec.structs.fields(kind)})
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return [_value(random, inner) for _ in range(random.choice((0, 1, 1, 2, 7, 7)))]
    if get_origin(kind) is tuple:
        return tuple(_value(random, inner) for inner in get_args(kind))
    if kind is bool:
        return random.random() < 0.3
    if kind is int:
        return _number(random)
    if kind is str:
        return random.choice(TEXTS)
    return random.choice(list(kind))


def anything(random: Random, number: int) -> AnyCommand:
    """Return a command of any kind, with any values that its types allow."""
    kind: Any = random.choice(AnyCommand.__args__)
    hints = msgspec.structs.fields(kind)
    values = {field.name: _value(random, field.type) for field in hints}
    values["account_id"] = random.choice(("ann", "bob", "rich", OPERATOR, "nobody"))
    if random.random() < 0.9:
        values["command_id"] = f"any-{number}" if random.random() < 0.9 else f"any-{number - 3}"
    command: AnyCommand = kind(**values)
    return command


def fortune(random: Random, number: int) -> AnyCommand:
    """Return an order, a cancel or a transfer of one of two traders who own most of the money that may exist."""
    account, other = random.sample(("rich", "richer"), 2)
    name = f"rich-{number}"
    choice = random.random()
    if choice < 0.1:
        return CancelAll(account, name)
    if choice < 0.15:
        return Transfer(account, name, other, random.choice(("USD", "RICH")), random.choice(NUMBERS))
    side, oid = random.choice(list(Side)), random.choice(("", f"o{number % 50}"))
    price = random.choice((1, 2, 10**9, 10**12, AMOUNT_MAX // 10**9, AMOUNT_MAX))
    size = random.choice((1, 10**9, 10**12, 10**18, AMOUNT_MAX // 2, AMOUNT_MAX))
    if choice < 0.4:
        funds = random.choice((0, 1, 10**15, AMOUNT_MAX // 3, AMOUNT_MAX))
        sizes = size if random.random() < 0.4 else 0
        return PlaceOrder(account, name, "RICH-USD", side, OrderType.MARKET, 0, sizes, funds, client_oid=oid, stp=_stp(random))
    stop = random.choice(list(StopType)) if random.random() < 0.1 else StopType.NONE
    force = random.choice(list(TimeInForce))
    return PlaceOrder(
        *(account, name, "RICH-USD", side, OrderType.LIMIT, price, size),
        time_in_force=force,
        post_only=random.random() < 0.1,
        stp=_stp(random),
        client_oid=oid,
        stop=stop,
        stop_price=price if stop else 0,
        cancel_after=random.choice((10**9, 60 * 10**9)) if force is TimeInForce.GTT else 0,
    )


def _stp(random: Random) -> SelfTradePrevention:
    return random.choice(list(SelfTradePrevention))


def fortunes() -> list[AnyCommand]:
    """Return the operator's commands that these traders need."""
    product = PutProduct(OPERATOR, "f3", "RICH-USD", "RICH", "USD", 1, 1, 1, AMOUNT_MAX, 100_000, 100_000)
    ground: list[AnyCommand] = [PutCurrency(OPERATOR, "f1", "RICH", 0), PutCurrency(OPERATOR, "f2", "USD", 2), product]
    for name, share in (("rich", AMOUNT_MAX // 2), ("richer", AMOUNT_MAX // 2 + 1)):
        ground += [OpenAccount(OPERATOR, f"open-{name}", name), Deposit(name, f"in-{name}", "RICH", share)]
        ground.append(Deposit(name, f"cash-{name}", "USD", AMOUNT_MAX // 2 - 10**15))
        ground.append(NoteStream(name, f"stream-{name}", f"{name}/o", "n1", "logon", open=True))
    ground.append(NoteStream("ann", "stream-ann", "ann/o", "n1", open=True))
    return ground


def run(seed: int, batches: int) -> dict[str, object]:
    """Apply a flow. Returns digests of all results."""
    random, engine, digest = Random(seed), Engine(), sha256()
    engine.apply(Batch(1, [*foundations((1_000, 3_000), 5_000), *fortunes()]))
    time, number = 1, 0
    for place in range(batches):
        time += random.choice((0, 1, SECOND, 40 * SECOND))
        commands: list[AnyCommand] = []
        for _ in range(random.choice((0, 1, 5, 30))):
            number += 1
            make = random.choice((busy_command, options_command, control_command, anything, fortune))
            commands.append(make(random, number))
        if random.random() < 0.05:
            status = random.choice(list(ProductStatus))
            commands.append(
                PutProduct(OPERATOR, f"s{number}", "RICH-USD", "RICH", "USD", 1, 1, 1, AMOUNT_MAX, 0, 100_000, status)
            )
        batch = Batch(time, commands)
        applied = engine.apply_entry(encode_batch(batch)) if random.random() < 0.5 else engine.apply(batch)
        for outcome in applied.encoded_outcomes:
            digest.update(outcome)
        for event in applied.encoded_events:
            digest.update(event)
        digest.update(msgspec.msgpack.encode([applied.outcomes, applied.events]))
        digest.update(engine.state_hash)
        if place % 7 == 0:
            digest.update(b"".join(key + row for _, rows in engine.tables() for key, row in rows))
        if place % 10 == 5:
            for chunk in engine.freeze(whole=random.random() < 0.2):
                digest.update(msgspec.msgpack.encode(chunk))
        if place % 25 == 20:
            engine = Engine.restore(dict(engine.tables()), verified=random.random() < 0.5)
        engine.check()
        digest.update(msgspec.msgpack.encode(_reads(engine)))
    return {"core": statemachine.CORE, "sequence": engine.sequence, "hash": engine.state_hash.hex(), "digest": digest.hexdigest()}


def _reads(engine: Engine) -> list[object]:
    found: list[object] = [engine.next_expiry, engine.currencies(), engine.products()]
    for product in engine.products():
        for side in Side:
            found += [engine.levels(product.product_id, side, 5), engine.book_orders(product.product_id, side)]
        found.append(engine.auction(product.product_id))
    for account in ("ann", "bob", "rich", "richer"):
        found += [
            engine.balances(account),
            engine.orders(account, done=True, limit=20),
            engine.order_by_client_oid(account, "o1"),
        ]
    return found


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))

"""Orders as raw HTTP requests and as native frames, which are made before the measurement."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator, Sequence
from random import Random

import msgspec

from loadtest.market import PRODUCTS, ProductSpec, Trader
from loadtest.rest import order_body
from node.native.protocol import Submit, frame
from statemachine.commands import AnyCommand, CancelOrder, PlaceOrder
from statemachine.types import OrderType, Side

PRODUCT: ProductSpec = PRODUCTS[0]

OPEN_MAX = 40
"""Orders that each trader leaves on the book; the native flow cancels the oldest beyond that."""

_json = msgspec.json.Encoder().encode


def orders(people: Sequence[Trader], run: str, seed: int) -> Iterator[PlaceOrder]:
    """Yield limit orders of all traders in turns, without end. Four in five rest near the mid, and one in five trades
    with a resting order.
    """
    random = Random(f"{seed}:{run}")
    spec = PRODUCT
    mid = spec.opening_ticks
    number = 0
    while True:
        for person in people:
            number += 1
            mid += random.randint(-1, 1)
            side = random.choice((Side.BUY, Side.SELL))
            distance = random.randrange(1, 40) if random.random() < 0.8 else -random.randrange(40)
            ticks = max(1, mid - distance if side is Side.BUY else mid + distance)
            size = spec.lot * random.randrange(1, spec.typical_lots)
            oid = f"{run}.{number}"
            yield PlaceOrder(
                person.account_id,
                f"c:{oid}",
                spec.product_id,
                side,
                OrderType.LIMIT,
                price=ticks * spec.tick,
                size=max(size, spec.min_size),
                client_oid=oid,
            )


def http_orders(people: Sequence[Trader], run: str, seed: int, count: int, host: str) -> Iterator[bytes]:
    """Yield `count` raw, signed `POST /orders`. A signature is valid for about a minute."""
    signers = {
        person.account_id: (person, hmac.new(base64.b64decode(person.secret), digestmod=hashlib.sha256)) for person in people
    }
    flow = orders(people, run, seed)
    for _ in range(count):
        command = next(flow)
        person, keyed = signers[command.account_id]
        body = _json(order_body(command))
        timestamp = f"{time.time():.6f}"
        signer = keyed.copy()
        signer.update(f"{timestamp}POST/orders".encode() + body)
        yield (
            f"POST /orders HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nCB-ACCESS-KEY: {person.key_id}\r\n"
            f"CB-ACCESS-SIGN: {base64.b64encode(signer.digest()).decode()}\r\nCB-ACCESS-TIMESTAMP: {timestamp}\r\n"
            f"CB-ACCESS-PASSPHRASE: {person.passphrase}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def native_frames(person: Trader, run: str, seed: int, frames: int, commands: int) -> list[bytes]:
    """Return `frames` encoded `Submit` requests of one trader with `commands` commands each. Above `OPEN_MAX` open
    orders, the cancel of the oldest order follows each order."""
    flow = _with_cancels(person, run, seed)
    return [frame(Submit(number, [next(flow) for _ in range(commands)])) for number in range(1, frames + 1)]


def _with_cancels(person: Trader, run: str, seed: int) -> Iterator[AnyCommand]:
    """Yield orders, and cancels of the oldest ones when too many are open."""
    placed: list[str] = []
    for order in orders([person], run, seed):
        yield order
        placed.append(order.client_oid)
        if len(placed) > OPEN_MAX:
            oldest = placed.pop(0)
            yield CancelOrder(person.account_id, f"x:{oldest}", 0, oldest, order.product_id)

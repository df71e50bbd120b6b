"""`python -m tests.golden.write VERSION`: keep a data directory of this software. An existing directory is never
written again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from node.migration.contents import LOG, SNAPSHOTS
from snapshots.abi import ABI
from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CancelOrder,
    PlaceOrder,
    PutApiKey,
    PutProduct,
    Transfer,
    Withdraw,
)
from statemachine.engine import Engine
from statemachine.limits import CANCEL_AFTER_MIN, OPERATOR
from statemachine.types import OrderType, ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce
from tests.unit.node.migrating import engine_at, entries_of, write_data
from tests.unit.snapshots.states import foundations, trading

DIRECTORY = Path(__file__).parent
EXPECTED = "expected.json"
CUT = 40


class Expected(msgspec.Struct, frozen=True):
    """What the data must come to, in any version: figures that no migration may change."""

    abi: str
    sequence: int
    money: dict[str, int]
    open_orders: dict[str, list[int]]
    """Order ids by product, in the order in which they trade, bids first."""


def expected_of(engine: Engine) -> Expected:
    """Return the figures of a state."""
    money = {row.currency: row.deposited - row.withdrawn for row in engine.currencies()}
    orders = {
        product.product_id: [order_id for side in Side for _, _, order_id in engine.book_orders(product.product_id, side)]
        for product in engine.products()
    }
    return Expected(ABI, engine.sequence, money, orders)


def flow() -> list[Batch]:
    """Return batches with every command, and every choice of an order."""
    product = PutProduct(OPERATOR, "p", "BTC-USD", "BTC", "USD", 100, 1, 1, 1000, 1_000, 2_000, ProductStatus.ONLINE)
    commands: list[AnyCommand] = [
        Withdraw("ann", "w1", "USD", 100),
        PlaceOrder("bob", "c:ioc", "BTC-USD", Side.BUY, OrderType.LIMIT, 10_500, 5, 0, TimeInForce.IOC, client_oid="ioc"),
        PlaceOrder("bob", "c:fok", "BTC-USD", Side.BUY, OrderType.LIMIT, 9_000, 5, 0, TimeInForce.FOK),
        PlaceOrder("eve", "c:post", "ETH-USD", Side.SELL, OrderType.LIMIT, 20_000, 5, post_only=True),
        PlaceOrder("eve", "c:funds", "BTC-USD", Side.BUY, OrderType.MARKET, 0, 0, 70_000),
        PlaceOrder("eve", "c:self", "ETH-USD", Side.BUY, OrderType.LIMIT, 20_000, 3, stp=SelfTradePrevention.CB),
        PlaceOrder("eve", "c:bad", "NO-SUCH", Side.BUY, OrderType.LIMIT, 20_000, 3),
        CancelOrder("bob", "x-none", 999_999),
        CancelAll("ann", "x-all", "ETH-USD"),
        Transfer("ann", "t1", "bob", "USD", 1_000),
        PutApiKey(OPERATOR, "k", "key-office", "eve", "c2VhbGVk", "cGFzcw==", 3, "192.0.2.0/24,2001:db8::/32", 1),
    ]
    return [
        *foundations(),
        Batch(1_500, [product]),
        *trading(11, 50),
        Batch(90_000, commands),
        *trading(12, 10, 50),
        Batch(91_000, waiting()),
        Batch(91_000 + CANCEL_AFTER_MIN, []),
    ]


def waiting() -> list[AnyCommand]:
    """Stop orders, one of them triggered; orders for a time, one of which is over soon; and an auction that collects."""
    order = PlaceOrder("ann", "c:", "BTC-USD", Side.SELL, OrderType.LIMIT, 12_000, 5)
    auction = PutProduct(OPERATOR, "a", "ETH-USD", "ETH", "USD", 100, 1, 1, 1000, 0, 0, ProductStatus.AUCTION)
    change = msgspec.structs.replace
    lasting = change(order, time_in_force=TimeInForce.GTT, cancel_after=CANCEL_AFTER_MIN)
    return [
        change(order, command_id="c:stop", price=8_000, stop=StopType.LOSS, stop_price=8_000),
        change(order, command_id="c:entry", side=Side.BUY, price=13_000, stop=StopType.ENTRY, stop_price=13_000),
        change(order, command_id="c:triggered", stop=StopType.LOSS, stop_price=20_000),
        change(order, command_id="c:behind"),
        change(order, command_id="c:trade", account_id="eve", side=Side.BUY, size=1),
        change(lasting, command_id="c:expires"),
        change(lasting, command_id="c:lasts", cancel_after=100 * CANCEL_AFTER_MIN),
        auction,
        change(order, command_id="c:collected", product_id="ETH-USD", price=9_000),
        change(order, command_id="c:with", account_id="bob", product_id="ETH-USD", side=Side.BUY, price=10_500, size=7),
    ]


def main() -> int:
    """Run the program. Returns its exit code."""
    entries = entries_of(flow())
    directory = DIRECTORY / f"{sys.argv[1]}-{ABI}"
    directory.mkdir()
    write_data(directory, entries, CUT)
    (directory / SNAPSHOTS / "writer.lock").unlink()
    expected = expected_of(engine_at(entries, len(entries)))
    (directory / EXPECTED).write_bytes(msgspec.json.format(msgspec.json.encode(expected)) + b"\n")
    sys.stdout.write(f"{directory}: {LOG}, {SNAPSHOTS}, {EXPECTED}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

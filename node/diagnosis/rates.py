"""Rates and recent durations of nodes and products, computed from two observations."""

from __future__ import annotations

import msgspec

from node.deployment.statuses import Statuses, leader_of
from node.native.protocol import BookView, NodeStatus
from node.system.durations import APPLY, COMMIT, FSYNC, REQUEST
from statemachine.tables import ProductRow


class ProductMoment(msgspec.Struct, frozen=True):
    """A product and its best prices at one moment."""

    row: ProductRow
    book: BookView


class Moment(msgspec.Struct, frozen=True):
    """The statuses of nodes and products at one moment. `at` is in monotonic seconds."""

    at: float
    statuses: Statuses
    products: dict[str, ProductMoment] = {}


class NodeRates(msgspec.Struct, frozen=True):
    """A node between two moments. Durations are 99th percentiles in seconds; None means that nothing was measured."""

    node_id: str
    role: str
    ready: bool
    applied: int
    lag: int | None
    commands_s: float
    entries_s: float
    queued: int
    fsync_p99_s: float | None
    commit_p99_s: float | None
    apply_p99_s: float | None
    request_p99_s: float | None
    disk_free_percent: float | None


class ProductRates(msgspec.Struct, frozen=True):
    """A product between two moments. Prices are in smallest units of the quote currency; 0 means none."""

    product_id: str
    status: str
    last_price: int
    bid: int
    ask: int
    trades: int
    trades_s: float
    events_s: float


def node_rates(before: Moment, after: Moment) -> list[NodeRates]:
    """Return the rates of all nodes that answer, in the order of their ids."""
    seconds = max(1e-6, after.at - before.at)
    leader = after.statuses.get(leader_of(after.statuses))
    return [
        _node(before.statuses.get(node_id), status, leader, seconds)
        for node_id, status in after.statuses.items()
        if status is not None
    ]


def _node(earlier: NodeStatus | None, status: NodeStatus, leader: NodeStatus | None, seconds: float) -> NodeRates:
    """Return the rates of a node between two statuses."""
    same = earlier if earlier is not None and earlier.engine_start == status.engine_start else None

    def p99(name: str) -> float | None:
        counts = status.durations.get(name)
        return None if counts is None else counts.since(same.durations.get(name) if same is not None else None).quantile(0.99)

    free, size = status.counters.get("disk_free_bytes", 0), status.counters.get("disk_size_bytes", 0)
    return NodeRates(
        status.node_id,
        status.role,
        status.ready,
        status.applied_index,
        None if leader is None else max(0, leader.commit_index - status.applied_index),
        (status.sequence - same.sequence) / seconds if same is not None else 0.0,
        (status.applied_index - same.applied_index) / seconds if same is not None else 0.0,
        status.counters.get("commands_queued", 0),
        p99(FSYNC),
        p99(COMMIT),
        p99(APPLY),
        p99(REQUEST),
        100 * free / size if size else None,
    )


def product_rates(before: Moment, after: Moment) -> list[ProductRates]:
    """Return the rates of all products, the busiest first."""
    seconds = max(1e-6, after.at - before.at)
    found = []
    for product_id, now in after.products.items():
        earlier = before.products.get(product_id, now).row
        row, book = now.row, now.book
        found.append(
            ProductRates(
                product_id,
                row.status.name.lower(),
                row.last_price,
                book.bids[0].price if book.bids else 0,
                book.asks[0].price if book.asks else 0,
                row.last_trade_id,
                (row.last_trade_id - earlier.last_trade_id) / seconds,
                (row.product_sequence - earlier.product_sequence) / seconds,
            )
        )
    return sorted(found, key=lambda each: (-each.events_s, each.product_id))

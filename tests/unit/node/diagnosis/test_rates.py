"""Rates and present durations are computed from two observations."""

from __future__ import annotations

from node.diagnosis.rates import Moment, ProductMoment, node_rates, product_rates
from node.native.protocol import BookLevel, BookView
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus
from tests.unit.node.diagnosis.statuses import counted, status, three


def product(sequence: int, trades: int) -> ProductMoment:
    row = ProductRow("BTC-USD", "BTC", "USD", 1, 1, 1, 10, 0, 0, ProductStatus.ONLINE, sequence, trades, 77)
    return ProductMoment(row, BookView("BTC-USD", sequence, [BookLevel(5, 1, 1)], [], [], []))


def test_rates_count_the_latest_interval() -> None:
    before = Moment(10.0, three())
    busy = status("n1", "leader", sequence=150, applied_index=110, durations={"fsync": counted(*[0.002] * 100, 0.04)})
    found = {each.node_id: each for each in node_rates(before, Moment(12.0, three(n1=busy, n3=None)))}
    assert set(found) == {"n1", "n2"}
    assert (found["n1"].commands_s, found["n1"].entries_s) == (50.0, 5.0)
    assert found["n1"].fsync_p99_s == 0.05, "of the last interval, not since the start"
    assert found["n1"].commit_p99_s is None
    assert found["n2"].commands_s == 0.0
    assert found["n2"].disk_free_percent == 50.0


def test_a_restart_in_between_gives_no_negative_rate() -> None:
    after = three(n2=status("n2", sequence=1, applied_index=1, engine_start="two"))
    found = {each.node_id: each for each in node_rates(Moment(0.0, three()), Moment(1.0, after))}
    assert found["n2"].commands_s == 0.0
    assert found["n2"].fsync_p99_s == 0.002, "all that was measured since the start"


def test_products_are_shown_by_how_busy_they_are() -> None:
    before = Moment(0.0, {}, {"BTC-USD": product(10, 1)})
    after = Moment(2.0, {}, {"BTC-USD": product(30, 5), "ETH-USD": ProductMoment(product(1, 1).row, product(1, 1).book)})
    first, second = product_rates(before, after)
    assert (first.product_id, first.events_s, first.trades_s, first.bid, first.ask) == ("BTC-USD", 10.0, 2.0, 5, 0)
    assert second.events_s == 0.0

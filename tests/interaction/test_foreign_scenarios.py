"""What other engines' tests state, as facts that this engine must meet; and where its rules differ, and why.

Sources: exchange-core 0.5.3, `OrderBookBaseTest`, `basic.feature`, `risk.feature`, `ITFeesExchange`; Liquibook 2.0,
`ut_immediate_or_cancel`, `ut_all_or_none`, `ut_market_price`, `ut_stop_orders`. Only the numbers are theirs.

Rules that differ, each with its own test below:

- exchange-core holds a buy order at a *reserve price* above its limit, so that it can move up without a second check of
  the balance. Here an order holds what its limit costs, and a move up is checked against the balance.
- exchange-core has fill-or-kill by budget (`FOK_BUDGET`). Here a fill-or-kill order has a limit price; a budget belongs
  to a market order by funds.
- exchange-core charges a fixed fee a lot, and holds the taker's fee at entry. Here a fee is a share of the notional,
  and the larger rate is held.
- exchange-core puts an IOC order's rest into the events as a rejection. Here the order is done with `cancelled`, and
  the rest in its state.
- exchange-core answers a cancel of somebody else's order like one of an unknown order. So does this engine.
- Liquibook lets a stop order at the market price enter at once. So does this engine.
- Liquibook has all-or-none orders that rest. Here all-or-none exists as fill-or-kill alone: an order that waits for its
  whole size lets the book lock.
- Liquibook has market buys by size with a stop. Here a market buy with a stop names its funds, so that it knows what to
  hold.
- Liquibook rests what is left of a market order. Here it is cancelled, as Coinbase Exchange does.
"""

from __future__ import annotations

import pytest

from tests.interaction.foreign import ForeignBook, Level, Trade

ASKS = [(1, 81600, 100), (2, 81599, 50), (3, 81599, 25), (8, 201000, 28), (9, 201000, 32), (10, 200954, 10)]
BIDS = [(4, 81593, 40), (5, 81590, 20), (6, 81590, 1), (7, 81200, 20), (11, 10000, 12), (12, 10000, 1), (13, 9136, 2)]
ASK_LEVELS: list[Level] = [(81599, 75, 2), (81600, 100, 1), (200954, 10, 1), (201000, 60, 2)]
BID_LEVELS: list[Level] = [(81593, 40, 1), (81590, 21, 2), (81200, 20, 1), (10000, 13, 2), (9136, 2, 1)]
ALL_ASKS: list[Trade] = [(2, 81599, 50), (3, 81599, 25), (1, 81600, 100), (10, 200954, 10), (8, 201000, 28), (9, 201000, 32)]
MANY = 400_000
"""exchange-core's greatest price, which stands for "at any price"."""


@pytest.fixture
def book() -> ForeignBook:
    """The book with which each test of exchange-core's `OrderBookBaseTest` begins."""
    book = ForeignBook()
    book.place(100, "ask", 81600, 13)
    assert book.cancel(100) == ""
    for side, orders in (("ask", ASKS), ("bid", BIDS)):
        for number, price, size in orders:
            assert book.place(number, side, price, size, account="uid-1").rests
    assert (book.levels("ask"), book.levels("bid")) == (ASK_LEVELS, BID_LEVELS)
    return book


def test_orders_that_do_not_cross_rest(book: ForeignBook) -> None:
    book.place(93, "ask", 81598, 1)
    book.place(94, "bid", 81594, 9_000_000)
    book.place(95, "ask", 130000, 13_000_000)
    book.place(96, "bid", 1000, 4)
    assert book.levels("ask") == [(81598, 1, 1), *ASK_LEVELS[:2], (130000, 13_000_000, 1), *ASK_LEVELS[2:]]
    assert book.levels("bid") == [(81594, 9_000_000, 1), *BID_LEVELS, (1000, 4, 1)]


def test_a_cancelled_order_leaves_its_level(book: ForeignBook) -> None:
    assert book.cancel(5) == ""
    assert book.levels("bid")[1] == (81590, 1, 1)
    assert book.cancel(2) == ""
    assert book.levels("ask")[0] == (81599, 25, 1)


def test_an_empty_level_disappears(book: ForeignBook) -> None:
    book.cancel(2)
    book.cancel(3)
    assert book.levels("ask") == ASK_LEVELS[1:]


@pytest.mark.parametrize(("number", "account"), [(5291, "uid-1"), (3, "uid-2")])
def test_a_cancel_of_an_unknown_order_or_somebody_elses_is_rejected(book: ForeignBook, number: int, account: str) -> None:
    book.owners.setdefault(number, account)
    assert book.cancel(number, account=account) == "UNKNOWN_ORDER"
    assert (book.levels("ask"), book.levels("bid")) == (ASK_LEVELS, BID_LEVELS)


@pytest.mark.parametrize(
    ("side", "price", "size", "trades", "left", "asks", "bids"),
    [
        ("ask", 1, 10, [(4, 81593, 10)], 0, ASK_LEVELS, [(81593, 30, 1), *BID_LEVELS[1:]]),
        ("ask", 1, 40, [(4, 81593, 40)], 0, ASK_LEVELS, BID_LEVELS[1:]),
        ("ask", 1, 41, [(4, 81593, 40), (5, 81590, 1)], 0, ASK_LEVELS, [(81590, 20, 2), *BID_LEVELS[2:]]),
        ("bid", MANY, 175, ALL_ASKS[:3], 0, ASK_LEVELS[2:], BID_LEVELS),
        ("bid", MANY, 270, ALL_ASKS, 25, [], BID_LEVELS),
    ],
    ids=["partial best", "full best", "two orders", "two levels", "whole side"],
)
def test_immediate_or_cancel_orders_trade_and_never_rest(
    book: ForeignBook, side: str, price: int, size: int, trades: list[Trade], left: int, asks: list[Level], bids: list[Level]
) -> None:
    assert book.place(123, side, price, size, "ioc", account="uid-2") == (trades, left, False, "")
    assert (book.levels("ask"), book.levels("bid")) == (asks, bids)


@pytest.mark.parametrize(
    ("price", "size", "trades", "left", "asks", "bids"),
    [
        (81599, 1, [(2, 81599, 1)], 0, [(81599, 74, 2), *ASK_LEVELS[1:]], BID_LEVELS),
        (81599, 77, ALL_ASKS[:2], 2, ASK_LEVELS[1:], [(81599, 2, 1), *BID_LEVELS]),
        (81600, 77, [*ALL_ASKS[:2], (1, 81600, 2)], 0, [(81600, 98, 1), *ASK_LEVELS[2:]], BID_LEVELS),
        (220000, 1000, ALL_ASKS, 755, [], [(220000, 755, 1), *BID_LEVELS]),
    ],
    ids=["all of it", "rest on the book", "two prices", "all liquidity"],
)
def test_marketable_limit_orders_trade_and_rest_as_recorded(
    book: ForeignBook, price: int, size: int, trades: list[Trade], left: int, asks: list[Level], bids: list[Level]
) -> None:
    assert book.place(123, "bid", price, size, account="uid-2") == (trades, left, left > 0, "")
    assert (book.levels("ask"), book.levels("bid")) == (asks, bids)


def test_fill_or_kill_has_a_limit_instead_of_a_budget(book: ForeignBook) -> None:
    # exchange-core: 180 for at most the sum less one is refused, for the exact sum it fills. Here the worst price
    # decides.
    assert book.place(123, "bid", 200953, 180, "fok", account="uid-2") == ([], 180, False, "")
    assert (book.levels("ask"), book.levels("bid")) == (ASK_LEVELS, BID_LEVELS)
    trades = [*ALL_ASKS[:3], (10, 200954, 5)]
    assert book.place(124, "bid", 200954, 180, "fok", account="uid-2") == (trades, 0, False, "")
    assert book.levels("ask") == [(200954, 5, 1), ASK_LEVELS[3]]


def test_a_market_order_cancels_its_unfilled_remainder(book: ForeignBook) -> None:
    # Liquibook rests it (`ut_market_price`); here it ends, as at Coinbase Exchange.
    assert book.place(123, "ask", 0, 100, account="uid-2") == (
        [(4, 81593, 40), (5, 81590, 20), (6, 81590, 1), (7, 81200, 20), (11, 10000, 12), (12, 10000, 1), (13, 9136, 2)],
        4,
        False,
        "",
    )
    assert book.levels("bid") == []


def test_two_clients_complete_a_full_cycle() -> None:
    # basic.feature, "basic full cycle test", up to the move of a price (test_moves below has that).
    book = ForeignBook()
    book.place(101, "ask", 1600, 7, account="alice")
    book.place(102, "bid", 1550, 4, account="alice")
    assert book.place(201, "bid", 1700, 2, "ioc", account="bob").trades == [(101, 1600, 2)]
    assert (book.levels("ask"), book.levels("bid")) == ([(1600, 5, 1)], [(1550, 4, 1)])
    assert book.place(202, "bid", 1583, 4, account="bob") == ([], 4, True, "")
    assert book.levels("bid") == [(1583, 4, 1), (1550, 4, 1)]


def test_an_order_needs_the_whole_balance() -> None:
    # risk.feature, "basic scenario": 7 at 30,000 with one unit too little on each side.
    book = ForeignBook()
    book.open("alice", usd=209_999, xbt=0)
    book.open("bob", usd=0, xbt=6)
    assert book.place(101, "bid", 30_000, 7, account="alice").reject == "INSUFFICIENT_FUNDS"
    assert book.balance("alice", "USD") == (209_999, 0)
    book.deposit("alice", "USD", 1)
    assert book.place(102, "bid", 30_000, 7, account="alice").rests
    assert book.balance("alice", "USD") == (0, 210_000)
    assert book.place(103, "ask", 30_000, 7, "ioc", account="bob").reject == "INSUFFICIENT_FUNDS"
    book.deposit("bob", "XBT", 1)
    assert book.place(104, "ask", 30_000, 7, "ioc", account="bob").trades == [(102, 30_000, 7)]
    assert (book.balance("alice", "XBT"), book.balance("alice", "USD")) == ((7, 0), (0, 0))
    assert (book.balance("bob", "USD"), book.balance("bob", "XBT")) == ((210_000, 0), (0, 0))


def test_a_cancel_gives_back_all_that_was_held() -> None:
    # basic.feature, "cancel BID order", and ITFeesExchange, "GTC BID cancel": the taker's fee is held and comes back.
    book = ForeignBook(taker_ppm=1_000)
    book.open("charlie", usd=9_259_249, xbt=0)
    assert book.place(203, "bid", 18_500, 500, account="charlie").reject == "INSUFFICIENT_FUNDS"
    book.deposit("charlie", "USD", 1)
    assert book.place(204, "bid", 18_500, 500, account="charlie").rests
    assert book.balance("charlie", "USD") == (0, 9_259_250)
    assert book.cancel(204) == ""
    assert book.balance("charlie", "USD") == (9_259_250, 0)


def test_maker_and_taker_pay_their_rates() -> None:
    # ITFeesExchange, "BidGtcMakerPartial_AskIocTaker": 1,731 bid, 1,000 sold; what is left holds at the larger rate.
    book = ForeignBook(maker_ppm=1_000, taker_ppm=2_000)
    book.open("maker", usd=10**9, xbt=0)
    book.open("taker", usd=0, xbt=1_000)
    book.place(101, "bid", 11_500, 1_731, account="maker")
    assert book.place(102, "ask", 11_493, 1_000, "ioc", account="taker").trades == [(101, 11_500, 1_000)]
    left = 731 * 11_500
    held = left + left * 2_000 // 1_000_000
    assert book.balance("maker", "USD") == (10**9 - 11_500_000 - 11_500 - held, held)
    assert book.balance("taker", "USD") == (11_500_000 - 23_000, 0)


# Liquibook


@pytest.mark.parametrize(
    ("asks", "price", "size", "force", "trades", "left_asks"),
    [
        ([(1, 1251, 100), (2, 1252, 100)], 1250, 100, "ioc", [], [(1251, 100, 1), (1252, 100, 1)]),
        ([(0, 1250, 100), (1, 1251, 100)], 1250, 300, "ioc", [(0, 1250, 100)], [(1251, 100, 1)]),
        ([(0, 1250, 400), (1, 1251, 100)], 1250, 300, "ioc", [(0, 1250, 300)], [(1250, 100, 1), (1251, 100, 1)]),
        ([(0, 1250, 400), (1, 1251, 100), (2, 1252, 100)], 1251, 500, "ioc", [(0, 1250, 400), (1, 1251, 100)], [(1252, 100, 1)]),
        ([(1, 1251, 100), (2, 1252, 100)], 1250, 100, "fok", [], [(1251, 100, 1), (1252, 100, 1)]),
        ([(0, 1250, 100), (1, 1251, 100)], 1250, 300, "fok", [], [(1250, 100, 1), (1251, 100, 1)]),
        ([(0, 1250, 400), (1, 1251, 100)], 1250, 300, "fok", [(0, 1250, 300)], [(1250, 100, 1), (1251, 100, 1)]),
        ([(0, 1250, 400), (1, 1251, 100), (2, 1252, 100)], 1251, 500, "fok", [(0, 1250, 400), (1, 1251, 100)], [(1252, 100, 1)]),
    ],
    ids=["ioc none", "ioc part", "ioc full", "ioc two", "fok none", "fok part", "fok full", "fok two"],
)
def test_liquibook_ioc_and_fok_bids_trade_as_recorded(
    asks: list[tuple[int, int, int]], price: int, size: int, force: str, trades: list[Trade], left_asks: list[Level]
) -> None:
    book = ForeignBook()
    for number, ask, quantity in asks:
        book.place(number, "ask", ask, quantity)
    for number, bid in ((11, 1249), (12, 1248)):
        book.place(number, "bid", bid, 100)
    result = book.place(20, "bid", price, size, force)
    assert (result.trades, result.rests) == (trades, False)
    assert result.left == size - sum(quantity for _, _, quantity in trades)
    assert (book.levels("ask"), book.levels("bid")) == (left_asks, [(1249, 100, 1), (1248, 100, 1)])


def traded_at_55() -> ForeignBook:
    """Make a trade at 55, which becomes the market price."""
    book = ForeignBook()
    book.place(90, "bid", 55, 100)
    assert book.place(91, "ask", 0, 100).trades == [(90, 55, 100)]
    return book


def test_liquibook_stops_away_from_the_market_wait() -> None:
    book = traded_at_55()
    assert book.place(2, "bid", 0, 100 * 57, stop=56).trades == []
    assert book.place(3, "ask", 0, 100, stop=54).trades == []
    assert book.triggered == []
    assert (book.cancel(2), book.cancel(3)) == ("", "")


def test_liquibook_stops_enter_when_a_trade_comes_to_their_price() -> None:
    book = traded_at_55()
    book.place(0, "bid", 53, 100)
    book.place(1, "ask", 57, 100)
    book.place(2, "bid", 0, 100 * 57, stop=56)
    book.place(3, "ask", 0, 100, stop=54)
    book.place(4, "bid", 56, 1000)
    # The trade at 56 triggers the buy stop, which takes the offer at 57.
    assert book.place(5, "ask", 56, 1000).trades == [(4, 56, 1000), (1, 57, 100)]
    assert book.triggered == [2]
    book.place(6, "bid", 54, 1000)
    assert book.place(7, "ask", 54, 1000).trades == [(6, 54, 1000), (0, 53, 100)]
    assert book.triggered == [2, 3]

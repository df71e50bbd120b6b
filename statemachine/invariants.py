"""The invariants of the whole state after every command. Tests check them after each step, production after every
restore.

No client can break them: a failure is a defect of this program or damage on disk.
"""

from __future__ import annotations

from itertools import pairwise
from operator import attrgetter

from statemachine import controls
from statemachine.auctions import TRADING
from statemachine.book import BookSide
from statemachine.entities import Account, Order, Product
from statemachine.entry import is_name
from statemachine.limits import (
    AMOUNT_MAX,
    DONE_ORDERS_PER_ACCOUNT,
    FEE_PPM_MAX,
    OPEN_ORDERS_PER_ACCOUNT,
    OPERATOR,
    PPM,
    SCALE_MAX,
    STREAMS_ACTIVE,
)
from statemachine.pending import is_unfinished
from statemachine.state import State
from statemachine.timers import OF_ACCOUNTS
from statemachine.turns import parts, turn
from statemachine.types import DoneReason, OrderStatus, OrderType, Side, TimeInForce
from statemachine.validation import can_rest

_ORDERS_PER_COMMAND = 3
"""Orders that may enter because of one command: an order and its two exits."""

# Looked up once, because a state may have millions of orders.
_remaining, _order_id = attrgetter("remaining"), attrgetter("order_id")
_ACTIVE: int = OrderStatus.ACTIVE
_DONE: int = OrderStatus.DONE
_NOT_DONE: int = DoneReason.NONE
_LIMIT: int = OrderType.LIMIT
_GTC: int = TimeInForce.GTC
_GTT: int = TimeInForce.GTT
_BUY: int = Side.BUY
_PPM: int = PPM


def check(state: State) -> None:
    """Assert all invariants. O(everything)."""
    check_contents(state)
    check_arrangement(state)


def check_contents(state: State, opened: OpenOrders | None = None) -> None:
    """Assert that each row of the tables is valid, and that the rows fit together. O(everything but the reply caches).

    Args:
        opened: it got all open orders already.
    """
    _check_counters(state)
    _check_money(state)
    for product in state.products.values():
        _check_product(state, product)
    for account in state.accounts.values():
        turn()
        _check_account(account)
        _check_done(state, account)
    (opened or _open_orders(state)).finish()
    for stream in state.streams.values():
        assert 0 <= stream.base <= stream.sequence, f"the numbers of stream {stream.stream_id} are not in order"
        assert stream.account_id in state.accounts, f"stream {stream.stream_id} has no account"
    controls.check_contents(state)


def check_arrangement(state: State) -> None:
    """Assert that counts, indexes, queues and books agree with the rows. After `loading` this holds by construction."""
    _check_counts(state)
    _check_expiring(state)
    _check_records(state)
    _check_streams(state)
    controls.check_arrangement(state)
    for product in state.products.values():
        _check_book(state, product)
        _check_stops(state, product)
        _check_unfinished(state, product)
    state.operator_replies.check(state.sequence)
    for account in state.accounts.values():
        _check_indexes(state, account)
        account.replies.check(state.sequence)
        for replies in account.other_replies.values():
            replies.check(state.sequence)


def _sides(product: Product) -> tuple[BookSide, BookSide]:
    return product.bids, product.asks


def _collecting(product: Product) -> tuple[BookSide, BookSide]:
    return product.buys, product.sells


def _check_counters(state: State) -> None:
    """Check the counters of the state, which do not depend on its tables."""
    assert state.sequence >= 0, "the sequence is negative"
    assert state.time >= 0, "the time is negative"
    assert len(state.hash) == 16, "the running hash is not 16 bytes"
    assert state.last_order_id <= _ORDERS_PER_COMMAND * state.sequence, "more orders than commands may enter"
    assert OPERATOR not in state.accounts, "the operator has an account"


def _check_counts(state: State) -> None:
    """Check the numbers of rows that the state keeps beside its tables."""
    accounts = state.accounts.values()
    assert state.done_count == sum(len(account.done) for account in accounts), "done orders are miscounted"
    assert state.balance_count == sum(len(account.balances) for account in accounts), "balances are miscounted"
    outcomes = len(state.operator_replies) + sum(len(account.replies) for account in accounts)
    outcomes += sum(len(replies) for account in accounts for replies in account.other_replies.values())
    assert state.outcome_count == outcomes, "outcomes are miscounted"
    opened = sum(account.open_count for account in accounts)
    known = opened + state.done_count
    assert known == len(state.orders), f"{len(state.orders)} orders are indexed, {known} are known to accounts"
    resting = sum(level.count for p in state.products.values() for s in (*_sides(p), *_collecting(p)) for level in s.in_order())
    waiting = sum(product.stops.count + len(product.triggered) + len(product.arrivals) for product in state.products.values())
    assert resting + waiting == opened, f"{resting} orders are on books or collected, {waiting} wait, {opened} are open"


def _check_money(state: State) -> None:
    """Check the conservation of money: per currency, balances + fees == deposited - withdrawn."""
    totals = dict.fromkeys(state.currencies, 0)
    for account in state.accounts.values():
        turn()
        for name, balance in account.balances.items():
            assert name in totals, f"account {account.account_id} has the unknown currency {name}"
            assert balance.available >= 0, f"account {account.account_id}: {balance.available} {name} available"
            assert balance.hold >= 0, f"account {account.account_id}: {balance.hold} {name} on hold"
            totals[name] += balance.available + balance.hold
    for name, currency in state.currencies.items():
        assert is_name(name), f"currency {name!r} is not a name"
        assert 0 <= currency.scale <= SCALE_MAX, f"currency {name}: scale {currency.scale}"
        assert 0 <= currency.withdrawn <= currency.deposited <= currency.withdrawn + AMOUNT_MAX, (
            f"currency {name}: deposits or withdrawals out of bounds"
        )
        assert currency.withdrawn <= AMOUNT_MAX and currency.turnover >= 0, f"currency {name}: counters"  # noqa: PT018
        assert currency.fees >= 0, f"currency {name}: negative fees"
        assert totals[name] + currency.fees == currency.deposited - currency.withdrawn, (
            f"currency {name}: balances {totals[name]} + fees {currency.fees} are not "
            f"deposits {currency.deposited} - withdrawals {currency.withdrawn}"
        )


def _check_product(state: State, product: Product) -> None:
    """Check a product's settings, counters and prices."""
    name = product.product_id
    assert is_name(name), f"product {name!r} is not a name"
    assert product.base in state.currencies, f"product {name}: unknown base"
    assert product.quote in state.currencies, f"product {name}: unknown quote"
    assert product.base != product.quote, f"product {name}: base and quote are the same"
    assert 1 <= product.tick <= AMOUNT_MAX, f"product {name}: tick {product.tick}"
    assert 1 <= product.lot <= AMOUNT_MAX, f"product {name}: lot {product.lot}"
    assert 1 <= product.min_size <= product.max_size <= AMOUNT_MAX, f"product {name}: sizes out of bounds"
    assert product.unit == 10 ** state.currencies[product.base].scale, f"product {name}: wrong unit"
    assert product.tick * product.lot % product.unit == 0, f"product {name}: notionals are not whole"
    assert -product.taker_fee_ppm <= product.maker_fee_ppm <= FEE_PPM_MAX, f"product {name}: maker fee"
    assert 0 <= product.taker_fee_ppm <= FEE_PPM_MAX, f"product {name}: taker fee"
    assert 0 <= product.last_trade_id <= product.sequence, f"product {name}: counters"
    assert 0 <= product.last_price <= AMOUNT_MAX, f"product {name}: last price {product.last_price}"
    assert product.last_price % product.tick == 0, f"product {name}: last price off the tick"
    assert product.last_price == 0 or product.last_trade_id > 0, f"product {name}: a last price, but no trade"
    bids, asks = _sides(product)
    if bids.best is not None and asks.best is not None:
        assert bids.best.price < asks.best.price, f"product {name}: the book is crossed"
    assert 0 <= product.trigger_low <= product.trigger_high <= AMOUNT_MAX, f"product {name}: prices that trigger"
    assert 0 <= product.opening_price <= AMOUNT_MAX, f"product {name}: opening price"
    assert product.opening_size >= 0, f"product {name}: opening size"
    if product.status in TRADING and not product.opening:
        assert all(side.best is None for side in _collecting(product)), f"product {name}: it trades, but has collected orders"


def _check_book(state: State, product: Product) -> None:
    """Check the order book and the auction book: levels are sorted, complete and not empty; the orders of a level are
    in time order.
    """
    (bids, asks), (collected_bids, collected_asks) = _sides(product), _collecting(product)
    _check_side(state, product, bids, Side.BUY, OrderStatus.OPEN)
    _check_side(state, product, asks, Side.SELL, OrderStatus.OPEN)
    _check_side(state, product, collected_bids, Side.BUY, _ACTIVE)
    _check_side(state, product, collected_asks, Side.SELL, _ACTIVE)


def _check_side(state: State, product: Product, side: BookSide, orders_side: int, status: int) -> None:
    """Check the levels and the orders of one side of a book."""
    name, orders, accounts = product.product_id, state.orders, state.accounts
    levels = list(side.in_order())
    assert side.best is (levels[0] if levels else None), f"product {name}: the best level is not the best"
    keys = [level.key for level in levels]
    assert all(key < following for key, following in pairwise(keys)), f"product {name}: levels out of order"
    for level in levels:
        assert level.key == level.price * side.direction, f"product {name}: a level under a wrong key"
        assert level.count > 0, f"product {name}: an empty level at {level.price}"
        queue = level.orders()
        assert level.count == len(queue), f"product {name}: orders at {level.price} are miscounted"
        assert level.total == sum(map(_remaining, queue)), f"product {name}: total at {level.price}"
        assert level.hidden == sum(order.reserve for order in queue), f"product {name}: reserves at {level.price}"
        times = [(order.opened_sequence, order.order_id) for order in queue]
        assert times == sorted(times), f"product {name}: time priority at {level.price}"
        for order in queue:
            order_id = order.order_id
            assert order.level is level, f"order {order_id}: does not know its level"
            assert order.status == status, f"order {order_id}: on the book but not open, or collected but not active"
            assert order.side == orders_side, f"order {order_id}: on the wrong side"
            assert order.product_id == name, f"order {order_id}: in the wrong book"
            assert order.price == level.price, f"order {order_id}: at the wrong level"
            assert orders.get(order_id) is order, f"order {order_id}: not indexed"
            assert order.listed and accounts[order.account_id] is order.account, f"order {order_id}: not its account's"  # noqa: PT018


def _check_stops(state: State, product: Product) -> None:
    """Check that each stop order waits once, and belongs to its account."""
    stops = product.stops
    trailing = sorted(order_id for _, order_id in (*stops.rising, *stops.falling))
    expected = [state.orders[order_id] for _, _, order_id in stops.waiting()]
    assert trailing == sorted(o.order_id for o in expected if o.terms is not None and o.terms.trail), "trailing stop orders"
    for stop, stop_price, order_id in product.stops.waiting():
        order = state.orders[order_id]
        assert order.status == _ACTIVE, f"order {order_id}: waits for a trade, but is not active"
        assert (order.stop, order.stop_price) == (stop, stop_price), f"order {order_id}: waits for another trade"
        assert order.product_id == product.product_id, f"order {order_id}: waits for another product's trades"
        assert order.listed, f"order {order_id}: not its account's"


def _check_expiring(state: State) -> None:
    """Check that the expiring orders are exactly the open orders with an expiry time, sorted."""
    expected: dict[str, list[tuple[int, int]]] = {name: [] for name in state.products}
    for account in state.accounts.values():
        for order in account.open_orders():
            if order.expires_at:
                expected[order.product_id].append((order.expires_at, order.order_id))
    for name, product in state.products.items():
        assert list(product.expiring) == sorted(expected[name]), f"product {name}: the index of expiring orders is wrong"
        for (_, order_id), order in product.expiring.items():
            assert state.orders[order_id] is order, f"order {order_id}: expires, but is not indexed"
    first = min((found[0][0] for found in map(sorted, expected.values()) if found), default=0)
    assert not first or 0 < state.next_expiry <= first, "an order expires before the next expiry"


def _check_records(state: State) -> None:
    """Check that kept rows are stored under their keys. The unfinished `CancelAll`s refer to orders that were placed."""
    for records in state.records.values():
        for key, row in records.rows.items():
            assert records.key_of(row) == key, f"table {records.table.name}: a row under the key {key}"
    for timer in state.records["timer"]:
        known = timer.kind not in OF_ACCOUNTS or timer.subject in state.accounts
        assert known, f"a timer of the unknown account {timer.subject}"
    for row in state.mass_cancels:
        assert 0 <= row.last_order_id <= state.last_order_id, (
            f"account {row.account_id}: cancels orders up to {row.last_order_id}"
        )


def _check_streams(state: State) -> None:
    """Check that each account lists its active streams."""
    for account in state.accounts.values():
        active = [name for name, each in sorted(state.streams.items()) if each.active and each.account_id == account.account_id]
        listed = [stream.stream_id for stream in account.streams or ()]
        assert listed == active, f"account {account.account_id} lists the streams {listed}, active are {active}"
        assert len(active) <= STREAMS_ACTIVE, f"account {account.account_id} has too many active streams"


def _check_unfinished(state: State, product: Product) -> None:
    """Check that queued orders are in the queues that their rows name; the orders of an auction book are indexed;
    products with unfinished work are marked busy.
    """
    name = product.product_id
    for queue, stop in ((product.triggered, True), (product.arrivals, False)):
        places = [order.queued for order in queue.values()]
        assert places == sorted(places), f"product {name}: orders that enter later are out of order"
        for order_id, order in queue.items():
            assert order.queued and bool(order.stop) is stop, f"order {order_id}: enters later, but has no place"  # noqa: PT018
            assert order.status == _ACTIVE, f"order {order_id}: enters later, but is not active"
            assert order.product is product, f"order {order_id}: enters another product's book"
            assert order.listed, f"order {order_id}: not its account's"
    collection = product.collection
    collected = {order.order_id: order for side in _collecting(product) for order in side.resting()}
    times = [(order.opened_sequence, order.order_id) for order in collection.orders.values()]
    assert times == sorted(times), f"product {name}: collected orders out of order"
    assert collection.orders == collected, f"product {name}: the index of the collected orders is wrong"
    own: dict[str, tuple[list[int], list[int]]] = {}
    for order in collected.values():
        own.setdefault(order.account_id, ([], []))[order.side != _BUY].append(order.price)
    kept = {account_id: (list(bids), list(asks)) for account_id, (bids, asks) in collection.own.items()}
    assert kept == {account_id: (sorted(bids), sorted(asks)) for account_id, (bids, asks) in own.items()}, (
        f"product {name}: the index of the prices of collected orders is wrong"
    )
    assert bool(product.busy) is (state.busy.get(name) is product), (
        f"product {name}: the state's index of busy products disagrees"
    )
    assert bool(product.busy) is is_unfinished(state, product), (
        f"product {name}: busy says {bool(product.busy)}, its queues say otherwise"
    )


def _check_account(account: Account) -> None:
    """Check the bounds of an account."""
    name = account.account_id
    assert is_name(name), f"account {name!r} is not a name"
    assert account.open_count <= OPEN_ORDERS_PER_ACCOUNT, f"account {name}: too many open orders"
    assert len(account.done) <= DONE_ORDERS_PER_ACCOUNT, f"account {name}: too many done orders"
    assert account.done_count >= len(account.done), f"account {name}: fewer done orders counted than kept"
    paired = account.paired
    if paired is not None:
        assert account.base is account.balances.get(paired.base), f"account {name}: its pair has another base balance"
        assert account.quote is account.balances.get(paired.quote), f"account {name}: its pair has another quote balance"


class AccountHolds:
    """The sums of what the open orders of an account hold, by currency.

    `base` and `quote` are the sums of the orders in `product`, the product of the last order; those of orders before it
    in other products are in `sums`.
    """

    __slots__ = ("base", "product", "quote", "sums")

    def __init__(self, account: Account) -> None:
        self.product: Product | None = None
        self.base = 0
        self.quote = 0
        self.sums = dict.fromkeys(account.balances, 0)

    def turn_to(self, product: Product) -> bool:
        """Prepare for orders in this product. Returns whether the account has both of its balances."""
        if product.base not in self.sums or product.quote not in self.sums:
            return False
        self.settle()
        self.product = product
        return True

    def settle(self) -> None:
        """Add the sums of the last product to `sums`."""
        product = self.product
        if product is not None:
            self.sums[product.base] += self.base
            self.sums[product.quote] += self.quote
            self.base = self.quote = 0


class OpenOrders:
    """The check of the open orders: each is valid, and the holds of an account's orders sum to its balances on hold.

    `add` each order, in any order, then `finish`. Both are fast if an order is checked while it is still in the
    processor's cache: right after it was read, or in the order of ids, which is that in memory after a restore.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._holds: dict[str, AccountHolds] = {}
        self._later: list[Order] = []
        self._count = 0

    def add(self, order: Order) -> None:
        """Count an order, and check it if it rests. Others, and those that are not valid, are left to `finish`, when
        all orders are known.
        """
        if order.status != _DONE:
            self._count += 1
            if not self._sum_up(order) or not self._is_valid(order):
                self._later.append(order)

    def _sum_up(self, order: Order) -> bool:
        """Add an order's hold to those of its account. Returns whether the account has both balances for it."""
        account_id, product = order.account.account_id, order.product
        holds = self._holds.get(account_id)
        if holds is None:
            holds = self._holds[account_id] = AccountHolds(order.account)
        if holds.product is not product and not holds.turn_to(product):
            return False
        if order.side == _BUY:
            holds.quote += order.hold
        else:
            holds.base += order.hold
        return True

    def _is_valid(self, order: Order) -> bool:
        """Return whether an order rests and is valid. Its product may not be checked yet."""
        state, product = self._state, order.product
        return (
            order.status != _ACTIVE
            and order.order_id <= state.last_order_id
            and product.tick > 0
            and product.lot > 0
            and _rests(order, product, state.time)
        )

    def finish(self) -> None:
        """Assert that all orders are valid, and that their holds fit the balances."""
        state = self._state
        for part in parts(self._later):
            for order in part:
                self._check(order)
        opened = sum(account.open_count for account in state.accounts.values())
        assert self._count == opened, f"{self._count} orders are marked open, {opened} are"
        for name, account in state.accounts.items():
            holds = self._holds.get(name) or AccountHolds(account)
            holds.settle()
            for currency, hold in holds.sums.items():
                on_hold = account.balances[currency].hold
                assert on_hold == hold, f"account {name}: {on_hold} {currency} on hold, its orders hold {hold}"

    def _check(self, order: Order) -> None:
        """Check one order by its status."""
        state, product = self._state, order.product
        _check_id(state, order)
        if order.status == _ACTIVE:
            _check_active(order, product, state.time, state.last_queued, _partner_hold(state, order))
        elif not _rests(order, product, state.time):
            raise AssertionError(f"{_name(order)}: {_fault(order, product, state.time)}")
        for currency in (product.base, product.quote):
            assert currency in order.account.balances, f"{_name(order)}: its account lacks a balance of {currency}"


def _open_orders(state: State) -> OpenOrders:
    """Check all open orders, and return their sums."""
    opened = OpenOrders(state)
    for part in parts(list(state.orders.values())):
        for order in part:
            opened.add(order)
    return opened


def _check_id(state: State, order: Order) -> None:
    assert order.order_id <= state.last_order_id, f"{_name(order)}: its id is above the last order id"


def _rests(order: Order, product: Product, time: int) -> bool:
    """Return whether an order on the book meets every condition. `_fault` names the one that it does not meet."""
    filled, remaining, reserve = order.filled_size, order.remaining, order.reserve
    return (
        order.done_reason == _NOT_DONE
        and order.order_type == _LIMIT
        and (
            order.expires_at == 0
            if order.time_in_force == _GTC
            else order.time_in_force == _GTT and (order.expires_at > time or product.busy)
        )
        and order.price > 0
        and order.price % product.tick == 0
        and remaining > 0
        and remaining % product.lot == 0
        and reserve % product.lot == 0
        and filled + remaining + reserve <= order.size
        and order.hold == product.hold_for(order)
        and 0 <= order.opened_sequence <= product.sequence
        and order.queued == 0
        and 0 <= order.fee_credit < _PPM
    )


def _partner_hold(state: State, order: Order) -> int:
    """Return the hold of the other order of a pair. Each order names the other."""
    if order.terms is None or not order.terms.link:
        return 0
    partner = state.orders.get(order.terms.link)
    assert partner is not None, f"{_name(order)}: its partner does not exist"
    assert partner.status != _DONE, f"{_name(order)}: its partner is done"
    assert partner.terms is not None, f"{_name(order)}: its partner is a plain order"
    assert partner.terms.link == order.order_id, f"{_name(order)}: its partner names another order"
    return partner.hold


def _fault(order: Order, product: Product, time: int) -> str:
    """Return the conditions that an order on the book does not meet."""
    conditions = {
        **_limits(order, product, time),
        "a market order rests": order.order_type == _LIMIT,
        "rests, but is not good till cancelled or till a time": can_rest(order.order_type, order.time_in_force),
        "more filled and left than placed": order.filled_size + order.remaining + order.reserve <= order.size,
        f"came to the book with the event {order.opened_sequence}": 0 <= order.opened_sequence <= product.sequence,
        "rests, but has a place in the queue": order.queued == 0,
        f"fee credit {order.fee_credit}": 0 <= order.fee_credit < PPM,
    }
    return next(text for text, met in conditions.items() if not met)


def _limits(order: Order, product: Product, time: int, partner_hold: int = 0) -> dict[str, bool]:
    """Return the conditions of every open order. Market orders have no price, and may have no size."""
    limit, needed = order.order_type == _LIMIT, _hold(order, product, partner_hold)
    return {
        "open, but with a reason for being done": order.done_reason == _NOT_DONE,
        f"price {order.price}": order.price > 0 if limit else order.price == 0,
        "price off the tick": order.price % product.tick == 0,
        "nothing remains, but it is open": order.remaining > 0 or not limit,
        "remaining size off the lot": order.remaining % product.lot == 0 and order.reserve % product.lot == 0,
        f"holds {order.hold}, needs {needed}": order.hold == needed,
        f"leaves at {order.expires_at}": (
            order.expires_at > time or bool(product.busy) if order.time_in_force == _GTT else order.expires_at == 0
        ),
    }


def _hold(order: Order, product: Product, partner_hold: int) -> int:
    """Return the hold that an open order must have. An open market order waits, and has traded nothing. Without an
    amount it holds the whole balance at its entry.
    """
    if order.stop and order.terms is not None and order.terms.link:
        needed = product.hold_for(order) if order.order_type == _LIMIT else order.size
        return max(0, needed - partner_hold)
    if order.order_type == _LIMIT:
        return product.hold_for(order)
    named = order.funds if order.side == _BUY else order.size
    return named if named or not order.queued else max(order.hold, 1)


def _check_active(order: Order, product: Product, time: int, last_queued: int, partner_hold: int) -> None:
    """Check that an accepted order that is not on the book has the values with which it was placed."""
    conditions = {
        **_limits(order, product, time, partner_hold),
        "waits, but has traded": order.filled_size + order.remaining <= order.size or order.size == 0,
        "waits, but was on the book": 0 <= order.opened_sequence <= (0 if order.stop or order.queued else last_queued),
        f"stop price {order.stop_price}": order.stop_price % product.tick == 0 and (order.stop_price > 0) == (order.stop > 0),
        "collected, but cannot rest": (
            order.stop > 0 or order.queued > 0 or (can_rest(order.order_type, order.time_in_force) and not order.post_only)
        ),
        f"has the place {order.queued}": 0 <= order.queued <= last_queued,
    }
    for text, met in conditions.items():
        assert met, f"{_name(order)}: {text}"


def _check_done(state: State, account: Account) -> None:
    """Check that each done order is valid."""
    for order in account.done:
        _check_id(state, order)
        assert order.product_id in state.products, f"{_name(order)}: its product is unknown"
        assert order.status == _DONE, f"{_name(order)}: done, but not so marked"
        assert order.done_reason != _NOT_DONE, f"{_name(order)}: done without a reason"
        assert order.hold == 0, f"{_name(order)}: done, but holds {order.hold}"


def _check_indexes(state: State, account: Account) -> None:
    """Check the indexes of orders: by id, and the latest one by client_oid."""
    name = account.account_id
    ids = [order.order_id for order in account.open_orders()]
    assert len(ids) == account.open_count, f"account {name}: open orders are miscounted"
    assert ids == sorted(ids), f"account {name}: open orders out of order"
    for order in account.done:
        assert state.orders.get(order.order_id) is order, f"{_name(order)}: not indexed"
    latest: dict[str, Order] = {}
    for order in sorted([*account.open_orders(), *account.done], key=_order_id):
        if order.client_oid:
            earlier = latest.get(order.client_oid)
            assert earlier is None or earlier.status == _DONE, f"account {name}: client_oid {order.client_oid} open twice"
            latest[order.client_oid] = order
    assert account.by_client_oid.keys() == latest.keys(), f"account {name}: the index of client_oids is wrong"
    for oid, order in latest.items():
        assert account.by_client_oid[oid] is order, f"account {name}: client_oid {oid} names another order"


def _name(order: Order) -> str:
    return f"order {order.order_id}"

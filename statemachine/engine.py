"""The engine: `Engine.apply` is the only way to change the state; all other methods read it.

It is deterministic: the same batches, in the same grouping, give the same bytes on every node and in every process. An
engine restored from `tables()` behaves exactly like the one that gave them. It is total: a batch that decodes never
raises. An exception out of `apply` is a defect, and the node must stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from statemachine import (
    access,
    auctions,
    consent,
    fees,
    invariants,
    limit_states,
    linked,
    loading,
    pending,
    persistence,
    timers,
    visibility,
)
from statemachine.answer import rejected
from statemachine.applied import AppliedBatch
from statemachine.commands import REJECTS, TRANSFER_KINDS, AnyCommand, Batch, encode_batch
from statemachine.entities import Account
from statemachine.entry import EntryReader, is_command_id, is_name
from statemachine.events import OrderState
from statemachine.freezing import Frozen, changes_since_freeze, freeze
from statemachine.handlers import OPERATOR_HANDLERS, TRADER_HANDLERS, cancel_order, place_order
from statemachine.limits import (
    AMOUNT_MAX,
    LOG_TIME_MAX,
    OPERATOR,
    REJECTS_CACHED,
    TRANSFER_LIFETIME,
    TRANSFERS_CACHED,
)
from statemachine.order_lists import Wanted, newest
from statemachine.patching import Patch
from statemachine.reject import Reject
from statemachine.reply_cache import (
    FINGERPRINT_SIZE,
    ReplyCache,
    fingerprint_fits,
    outcome_of,
)
from statemachine.state import State
from statemachine.tables import AccessRow, ApiKeyRow, BalanceRow, CurrencyRow, PhaseRow, ProductRow, ProposalRow, StreamRow
from statemachine.types import Permission, ProductStatus, Reason, Scope, Side
from statemachine.validation import bad_command_id, bad_name
from statemachine.writer import Writer

_encode = msgspec.msgpack.Encoder().encode

_OTHER = 0
_PLACE = 7
_CANCEL = 8
_FINGERPRINT: int = FINGERPRINT_SIZE
_REJECTS: int = REJECTS
_LOG_TIME_MAX = LOG_TIME_MAX

_REUSED = Reject(Reason.COMMAND_ID_REUSED, "command_id", "this id came before with other contents")
_TOO_MANY_TRANSFERS = Reject(
    Reason.TOO_MANY_TRANSFERS,
    "command_id",
    f"{TRANSFERS_CACHED} of this kind are remembered, the oldest for less than {TRANSFER_LIFETIME // (86_400 * 10**9)} days",
)
_UNKNOWN_ACCOUNT = Reject(Reason.UNKNOWN_ACCOUNT, "account_id", "no such account")
_NOT_A_TRADER = Reject(Reason.UNKNOWN_ACCOUNT, "account_id", "the operator has no money and does not trade")
_NOT_THE_OPERATOR = Reject(Reason.INVALID_ID, "account_id", f"only the account {OPERATOR!r} may send this")


class Engine:
    """The exchange.

    Change:    `apply`
    Whole:     `check`, `tables`, `freeze`, `changes_since_freeze`, `restore`, `release`, `full_hash`,
               `state_hash`, `sequence`, `time`
    Reads:     `next_expiry`, `has_pending_work`, `has_outcome`, `currencies`, `currency`, `products`, `product`,
               `product_sequence`, `sequences`, `stream`, `account_exists`, `balances`, `api_key`, `api_keys`, `order`,
               `order_by_client_oid`, `orders`, `encoded_orders`, `levels`, `book_orders`, `book_page`, `auction`

    Reads return rows and copies; changing them changes nothing here. Not safe for use by several threads.

    In the examples of the reads, `engine` has the product BTC-USD with four decimals for USD and eight for BTC. Alice,
    who has 1,000.00 USD, bids for 0.5 BTC at 100.00 (order 1); Bob, who has 2 BTC, offers 1 BTC at 110.00 (order 2) and
    1 BTC at 120.00 (order 3).

    >>> engine.sequence
    10
    """

    def __init__(self) -> None:
        self._state = State()

    @property
    def sequence(self) -> int:
        """How many commands were applied, rejected and duplicate ones included."""
        return self._state.sequence

    @property
    def time(self) -> int:
        """The time of the latest batch, in nanoseconds since the epoch. It never runs backwards, and is at most
        `limits.LOG_TIME_MAX`.
        """
        return self._state.time

    @property
    def state_hash(self) -> bytes:
        """The running hash, 16 bytes: of all batches applied so far, their commands, outcomes and events."""
        return self._state.hash

    def apply(self, batch: Batch) -> AppliedBatch:
        """Apply one committed batch. Expire the orders that are due, continue the unfinished work of earlier entries
        (`pending`), then execute the commands in order. Return one outcome per command, and all events. A batch without
        commands that does not advance the time changes nothing, so sequence and time together identify a state.

        The cost is O(1) for a command, O(log L) for each price level that is added or removed (L levels), O(1) for each
        fill or cancel, and O(log n) for each stop or good-till-time order that is added or removed. One batch does at
        most `limits.WORK_PER_ENTRY` + `limits.MAKERS_PER_ORDER` of these.
        """
        return self.apply_entry(encode_batch(batch))

    def apply_entry(self, payload: bytes) -> AppliedBatch:
        """Decode a log entry, and `apply` the batch in it.

        Raises:
            msgspec.DecodeError: not a batch of this schema.
        """
        return _apply(self._state, EntryReader(payload))

    def check(self) -> None:
        """Assert every invariant of the whole state. O(everything).

        Raises:
            AssertionError: an invariant is broken; the text says which.
        """
        invariants.check(self._state)

    def tables(self) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
        """Yield every table of `tables.SCHEMA`, in that order: its name, and (msgpack key, msgpack row) sorted by the
        key's bytes.
        """
        return persistence.dump(self._state)

    def freeze(self, *, whole: bool = False) -> Frozen:
        """Return a frozen view of what changed since the last freeze, since `restore`, or since the engine was created.
        Batches that are applied later do not change the view.

        Snapshots use it. The rows are encoded when they are iterated, and another thread may iterate them. The time for
        which the engine pauses does not grow with the state. Only the latest view may be iterated.

        Args:
            whole: everything counts as changed. This is needed when the snapshot of the last view failed. O(accounts).
        """
        return freeze(self._state, whole=whole)

    def changes_since_freeze(self) -> Frozen:
        """Return what `freeze` would return now. Nothing is frozen: the state may not change before the result is
        iterated, and the next freeze returns the same changes too. O(accounts that changed).
        """
        return changes_since_freeze(self._state)

    @classmethod
    def restore(cls, tables: Mapping[str, Iterable[tuple[bytes, bytes]]], *, verified: bool = False) -> Engine:
        """Return an engine with the state that `tables()` gave. The rows may come in any order. All of them are
        checked.

        Args:
            verified: the caller has compared hashes, so the rows are byte for byte those that `tables()` or `freeze()`
                of an engine with this schema gave. The outcomes in the reply caches are not decoded then.

        Raises:
            StateError: a table is missing or unknown, a row is malformed, or together they break an invariant.
        """
        engine = cls()
        engine._state = loading.load(tables, verified=verified)
        return engine

    def patch(self) -> Patch:
        """Return the object that puts single rows into this state, so that a copy can follow another engine (`patching`)."""
        return Patch(self._state)

    def release(self) -> None:
        """Empty the whole state in small steps, so that a background thread can do it. The engine is empty afterwards.
        O(everything).

        A frozen view of it may not be iterated afterwards.
        """
        state, self._state = self._state, State()
        state.clear()

    def full_hash(self) -> bytes:
        """Return a hash of all tables, 32 bytes. It is equal for equal states, whichever batches led to them. O(everything)."""
        return persistence.full_hash(self._state)

    @property
    def next_expiry(self) -> int:
        """The time at which the next good-till-time order expires or the next timer fires, in nanoseconds since the
        epoch. It happens with the first batch of that time or a later one.

        It is 0 if there is no such order and no timer. O(products).
        """
        times = [product.expiring.peekitem(0)[0][0] for product in self._state.products.values() if product.expiring]
        if self._state.timers:
            times.append(timers.next_due(self._state))
        return min(times, default=0)

    @property
    def has_pending_work(self) -> bool:
        """Whether there is unfinished work. The next log entry that advances the time continues it, even an entry
        without commands. O(1).
        """
        state = self._state
        return bool(state.busy or state.mass_cancels.rows or state.killing or 0 < timers.next_due(state) <= state.time)

    def has_outcome(self, account_id: str, command_id: str) -> bool:
        """Return whether a reply cache has the outcome of this command."""
        account = self._state.accounts.get(account_id)
        if account is None:
            return _is_operator(account_id) and self._state.operator_replies.find(command_id) is not None
        return any(replies.find(command_id) is not None for replies in (account.replies, *account.other_replies.values()))

    def currencies(self) -> list[CurrencyRow]:
        """Return all currencies, by name."""
        return [currency.row() for _, currency in sorted(self._state.currencies.items())]

    def currency(self, name: str) -> CurrencyRow | None:
        """Return one currency.

        >>> engine.currency("USD").scale
        4
        """
        currency = self._state.currencies.get(name)
        return currency.row() if currency is not None else None

    def products(self) -> list[ProductRow]:
        """Return all products, by id."""
        return [product.row() for _, product in sorted(self._state.products.items())]

    def product(self, product_id: str) -> ProductRow | None:
        """Return one product."""
        product = self._state.products.get(product_id)
        return product.row() if product is not None else None

    def product_sequence(self, product_id: str) -> int:
        """Return the number of the product's latest event; 0 before the first and for an unknown product.

        >>> engine.product_sequence("BTC-USD"), engine.product_sequence("ETH-USD")
        (7, 0)
        """
        product = self._state.products.get(product_id)
        return product.sequence if product is not None else 0

    def stream(self, stream_id: str) -> StreamRow | None:
        """Return one report stream."""
        stream = self._state.streams.get(stream_id)
        return stream.row() if stream is not None else None

    def sequences(self) -> dict[str, int]:
        """Return the number of the latest event of each product and report stream."""
        state = self._state
        found = {name: product.sequence for name, product in state.products.items()}
        return found | {name: stream.sequence for name, stream in state.streams.items()}

    def account_exists(self, account_id: str) -> bool:
        """Return whether this account exists. The operator is not an account."""
        return account_id in self._state.accounts

    def balances(self, account_id: str) -> list[BalanceRow]:
        """Return the balances of an account, by currency; empty for an unknown account.

        >>> [(row.currency, row.available, row.hold) for row in engine.balances("alice")]
        [('BTC', 0, 0), ('USD', 9500000, 500000)]
        """
        account = self._state.accounts.get(account_id)
        return account.balance_rows() if account is not None else []

    def api_key(self, key_id: str) -> ApiKeyRow | None:
        """Return one API key."""
        return self._state.api_keys.get(key_id)

    def api_keys(self) -> list[ApiKeyRow]:
        """Return all API keys, by id. O(n log n)."""
        return self._state.api_keys.in_order()

    def visible_keys(self, sender: str, after: str, limit: int) -> list[ApiKeyRow]:
        """Return a page of the API keys that a sender of the operator's commands may read (`visibility.visible_keys`)."""
        return visibility.visible_keys(self._state, sender, after, limit)

    def usable_key(self, key_id: str) -> ApiKeyRow | None:
        """Return one API key, with the permissions that it has by its user's roles (`access.effective`)."""
        key = self._state.api_keys.get(key_id)
        return access.effective(self._state, key) if key is not None else None

    def held_by(self, sender: str, scope: Scope, name: str) -> int:
        """Return the permissions of a sender of the operator's commands for a scope (`access`)."""
        return access.held_by(self._state, sender, scope, name)

    def sees(self, sender: str, table: str, row: Any) -> bool:
        """Return whether a sender of the operator's commands may read a row (`visibility.sees`)."""
        return visibility.sees(self._state, sender, table, row)

    def proposed_permission(self, proposal_id: int) -> Permission | None:
        """Return the permission that a decision about a proposal needs, None if there is no such proposal."""
        row: ProposalRow | None = self._state.records["proposal"].get(proposal_id)
        return row.permission if row is not None else None

    @property
    def access(self) -> AccessRow:
        """The settings of access."""
        return access.settings(self._state)

    def order(self, order_id: int) -> OrderState | None:
        """Return an order that is open or recently done.

        >>> order = engine.order(1)
        >>> order.account_id, order.price, order.remaining, order.hold
        ('alice', 1000000, 50000000, 500000)
        """
        order = self._state.orders.get(order_id)
        return order.row() if order is not None else None

    def order_by_client_oid(self, account_id: str, client_oid: str) -> OrderState | None:
        """Return the account's latest order under a `client_oid`, open or recently done.

        >>> engine.order_by_client_oid("bob", "offer-2").order_id
        3
        """
        account = self._state.accounts.get(account_id)
        order = account.by_client_oid.get(client_oid) if account is not None else None
        return order.row() if order is not None else None

    def orders(
        self,
        account_id: str,
        product_id: str = "",
        open: bool = True,  # noqa: A002 - named as in the native protocol's query
        done: bool = False,
        limit: int = 100,
        before_id: int = 0,
    ) -> list[OrderState]:
        """Return an account's open and recently done orders, newest first. `before_id` pages: only ids below it (0:
        all).

        >>> [order.order_id for order in engine.orders("bob")]
        [3, 2]
        >>> [order.order_id for order in engine.orders("bob", before_id=3)]
        [2]
        """
        return self.order_list(account_id, Wanted(product_id, open, done, before_id), limit)

    def order_list(self, account_id: str, wanted: Wanted, limit: int) -> list[OrderState]:
        """Return an account's orders of the wanted kind, newest first. O(orders of the account), a millisecond at most."""
        account = self._state.accounts.get(account_id)
        if account is None:
            return []
        return [order.row() for order in newest(account, self._state.products, wanted, limit)]

    def encoded_orders(self, account_id: str, wanted: Wanted, limit: int) -> bytes:
        """Return `order_list` as a msgpack array. It makes no objects, so it takes a twentieth of the time."""
        account, writer = self._state.accounts.get(account_id), Writer()
        orders = newest(account, self._state.products, wanted, limit) if account is not None else []
        writer.array(len(orders))
        for order in orders:
            order.write(writer)
        return writer.since(0)

    def records(self, table: str) -> list[Any]:
        """Return the rows of a table that is kept as it is, by key (`tables.KEPT`): firms, switches, limits, calendars,
        phases, corrections. O(n log n).
        """
        return self._state.records[table].in_order()

    def visible(self, sender: str, table: str, first: int, limit: int) -> list[Any]:
        """Return a page of the rows of such a table that a sender of the operator's commands may read
        (`visibility.visible`).
        """
        return visibility.visible(self._state, sender, table, first, limit)

    def phase(self, product_id: str) -> PhaseRow | None:
        """Return the product's phase in its calendar, or None if it follows no calendar."""
        return self._state.records["phase"].get(product_id)

    def fees_of(self, account_id: str, product_id: str = "") -> fees.Fees | None:
        """Return the fees of an account in a product, or its highest rates in any product; None for an unknown account
        or product. O(products).
        """
        account, product = self._state.accounts.get(account_id), self._state.products.get(product_id)
        if account is None or (product_id and product is None):
            return None
        return fees.of_account(self._state, account, [product] if product is not None else self._state.products.values())

    def orders_kept(self, account_id: str) -> int:
        """Return the number of orders of an account that can be read, open and recently done."""
        account = self._state.accounts.get(account_id)
        return account.open_count + len(account.done) if account is not None else 0

    def levels(self, product_id: str, side: Side, depth: int) -> list[tuple[int, int, int]]:
        """Return up to `depth` price levels of a side, best first: price, sum of remaining sizes, number of orders.

        A sum above `limits.AMOUNT_MAX` is given as that: no answer carries a larger number.

        >>> engine.levels("BTC-USD", Side.SELL, 10)
        [(1100000, 100000000, 1), (1200000, 100000000, 1)]
        """
        product = self._state.products.get(product_id)
        if product is None:
            return []
        levels = zip(range(depth), product.side(side).in_order(), strict=False)
        return [(level.price, min(level.total, AMOUNT_MAX), level.count) for _, level in levels]

    def auction(self, product_id: str) -> auctions.Indication | None:
        """Return the result of the product's auction if it opened now, or None if the product is not in an auction.
        O(levels that cross).
        """
        product = self._state.products.get(product_id)
        return auctions.indicate(product) if product is not None and product.status == ProductStatus.AUCTION else None

    def book_orders(self, product_id: str, side: Side) -> list[tuple[int, int, int]]:
        """Return every resting order of a side, in the order in which they trade: price, remaining size, order id.

        >>> engine.book_orders("BTC-USD", Side.BUY)
        [(1000000, 50000000, 1)]
        """
        product = self._state.products.get(product_id)
        if product is None:
            return []
        return [(order.price, order.remaining, order.order_id) for order in product.side(side).resting()]

    def book_page(self, product_id: str, side: Side, after: tuple[int, int, int], limit: int) -> list[tuple[int, int, int, int]]:
        """Return up to `limit` resting orders of a side, in the order in which they trade: price, remaining size, order
        id, opened sequence.

        Args:
            after: price, opened sequence and id of the last order of the page before; zeros for the first page. That
                order may be done by now.

        >>> first = engine.book_page("BTC-USD", Side.SELL, (0, 0, 0), 1)
        >>> first
        [(1100000, 100000000, 2, 5)]
        >>> engine.book_page("BTC-USD", Side.SELL, (1100000, 5, 2), 1)
        [(1200000, 100000000, 3, 7)]
        """
        product = self._state.products.get(product_id)
        if product is None:
            return []
        orders = product.side(side).page(*after, limit, self._state.orders.get(after[2]))
        return [(order.price, order.remaining, order.order_id, order.opened_sequence) for order in orders]

    def book_page_skips(self, product_id: str, side: Side, after: tuple[int, int, int]) -> int:
        """Return the largest number of orders that `book_page` skips before its first one: those of the price level,
        when the named order is done. O(log L).
        """
        product = self._state.products.get(product_id)
        price, _, order_id = after
        order = self._state.orders.get(order_id)
        if product is None or not price or (order is not None and order.level is not None and order.price == price):
            return 0
        return product.side(side).count_at(price)


def _apply(state: State, entry: EntryReader) -> AppliedBatch:
    """See `Engine.apply`.

    The running hash covers the bytes of the entry in the log, and its outcomes and events.
    """
    time = min(entry.time, _LOG_TIME_MAX)
    if time > state.time:
        state.time = time
    elif entry.count == 0:
        return AppliedBatch(b"", [], b"", [], [], [], [])
    state.events.clear()
    state.outcomes.clear()
    state.work = 0
    state.moment = timers.first_moment(state) if state.timers else state.time
    if state.busy or state.mass_cancels.rows or state.killing or 0 < state.next_expiry <= state.moment:
        pending.go_on(state)
    if state.timers:
        timers.go_off(state)
    if state.noted:
        linked.settle(state)
    if state.limited:
        limit_states.leave(state, 0)
    command_ends = [len(state.event_products)]
    for _ in range(entry.count):
        entry.advance()
        state.sequence += 1
        _answer(state, entry)
        if state.noted:
            linked.settle(state)
        if state.limited:
            limit_states.leave(state, command_ends[-1])
        state.outcomes.mark()
        command_ends.append(len(state.event_products))
    if state.busy:
        pending.forget_done(state)
    outcomes, events = state.outcomes.since(0), state.events.since(0)
    state.hash = sha256(b"".join((state.hash, entry.payload, outcomes, events))).digest()[:16]
    ends = state.outcomes.ends(), state.events.ends()
    applied = AppliedBatch(outcomes, ends[0], events, ends[1], state.event_products, command_ends, state.keys_put)
    state.event_products, state.keys_put = [], []
    return applied


def _answer(state: State, entry: EntryReader) -> None:
    """Execute the entry's current command, unless the reply cache has its id, and append the outcome to those of the
    batch.
    """
    account = state.accounts.get(entry.account_id)
    if account is None and not _is_operator(entry.account_id):
        _reject(state, _UNKNOWN_ACCOUNT if is_name(entry.account_id) else bad_name("account_id"))
    elif not is_command_id(entry.command_id):
        _reject(state, bad_command_id("command_id", Reason.INVALID_COMMAND_ID))
    elif account is not None and entry.kind == _OTHER and entry.tag in TRANSFER_KINDS:
        _answer_transfer(state, account, entry)
    else:
        replies = account.replies if account is not None else state.operator_replies
        seen = replies.find(entry.command_id)
        if seen is None and account is not None and account.other_replies:
            seen = _rejected_before(account, _REJECTS, entry.command_id)
        if seen is None:
            _answer_first(state, account, replies, entry)
        else:
            _answer_again(state, seen, entry.fingerprint())


def _is_operator(account_id: str) -> bool:
    """Return whether a command of this account is one of the operator, or of a user."""
    return account_id == OPERATOR or access.is_sender(account_id)


def _answer_first(state: State, account: Account | None, replies: ReplyCache, entry: EntryReader) -> None:
    """Execute a command, and put the outcome into the reply cache. The outcome of a trader's command that changed
    nothing goes into a cache of its own.
    """
    if account is not None:
        state.changes.touch(account)
    else:
        state.changes.touch_operator(replies)
    outcome = state.outcome
    outcome.clear()
    entry.write_fingerprint(outcome)
    state.unchanged = False
    reject = _carry_out(state, account, entry)
    if reject is not None:
        state.unchanged = True
        rejected(state, reject)
    state.outcomes.copy(outcome, _FINGERPRINT)
    if account is None or not state.unchanged:
        state.outcome_count += replies.add_written(entry.command_id, outcome)
    else:
        _cache_reject(state, account, _REJECTS, entry.command_id)


def _answer_transfer(state: State, account: Account, entry: EntryReader) -> None:
    """Answer a deposit, withdrawal or transfer; otherwise like `_answer`. Each kind has a reply cache of its own, which
    drops no recent entry.
    """
    fingerprint, kind = entry.fingerprint(), entry.tag
    replies = account.other_replies.get(kind)
    seen = replies.find(entry.command_id) if replies is not None else None
    if seen is None:
        seen = _rejected_before(account, _REJECTS - kind, entry.command_id)
    if seen is not None:
        _answer_again(state, seen, fingerprint)
    elif replies is not None and not replies.has_room(state.time - TRANSFER_LIFETIME):
        _reject(state, _TOO_MANY_TRANSFERS)
    else:
        state.changes.touch(account)
        state.outcome.clear()
        state.outcome.raw(fingerprint)
        reject = _carry_out_other(state, account, entry.command())
        if reject is not None:
            rejected(state, reject)
            state.outcomes.copy(state.outcome, _FINGERPRINT)
            _cache_reject(state, account, _REJECTS - kind, entry.command_id)
        else:
            if replies is None:
                replies = account.other_replies[kind] = ReplyCache(TRANSFERS_CACHED)
            state.outcomes.copy(state.outcome, _FINGERPRINT)
            state.outcome_count += replies.add_written(entry.command_id, state.outcome)


def _rejected_before(account: Account, kind: int, command_id: str) -> bytes | None:
    """Return the cached entry of a command that was rejected or changed nothing, if there is one."""
    replies = account.other_replies.get(kind)
    return replies.find(command_id) if replies is not None else None


def _cache_reject(state: State, account: Account, kind: int, command_id: str) -> None:
    """Cache the current outcome, which changed nothing, apart from the outcomes of changes. The caller has recorded the
    account (`Changes.touch`).
    """
    replies = account.other_replies.get(kind)
    if replies is None:
        replies = account.other_replies[kind] = ReplyCache(REJECTS_CACHED)
    state.outcome_count += replies.add_written(command_id, state.outcome)


def _answer_again(state: State, seen: bytes, fingerprint: bytes) -> None:
    """Answer a command whose id is in the reply cache."""
    if fingerprint_fits(seen, fingerprint):
        state.outcomes.raw(_encode(msgspec.structs.replace(outcome_of(seen), duplicate=True)))
    else:
        _reject(state, _REUSED)


def _carry_out(state: State, account: Account | None, entry: EntryReader) -> Reject | None:
    """Execute the current command. `account` is None for the operator."""
    if account is not None:
        if entry.kind == _PLACE:
            entry.placing(state.placing)
            return place_order(state, account, state.placing)
        if entry.kind == _CANCEL:
            entry.cancelling(state.cancelling)
            return cancel_order(state, account, state.cancelling)
    return _carry_out_other(state, account, entry.command())


def _carry_out_other(state: State, account: Account | None, command: AnyCommand) -> Reject | None:
    """Execute any other kind of command."""
    kind = type(command)
    operators = OPERATOR_HANDLERS.get(kind)
    if account is None:
        return consent.carry_out(state, command) if operators is not None else _NOT_A_TRADER
    return TRADER_HANDLERS[kind](state, account, command) if operators is None else _NOT_THE_OPERATOR


def _reject(state: State, reject: Reject) -> None:
    """Reject a command without an entry in the reply cache."""
    state.outcome.clear()
    rejected(state, reject)
    state.outcomes.copy(state.outcome, 0)

"""The engine: one door in, `Engine.apply`, and pure reads.

Deterministic: the same batches, in the same grouping, give the same bytes on every node and in every process; an engine restored from
`tables()` goes on exactly like the one they were taken from. Total: a batch that decodes never raises; an exception out of `apply` is a
defect, and the node must stop.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

import msgspec

from statemachine import auctions, invariants, loading, persistence
from statemachine.admission import Refusal, bad_command_id, bad_name, is_command_id, is_name
from statemachine.changes import Frozen
from statemachine.commands import AnyCommand, Batch
from statemachine.events import AnyOutcome, Applied, OrderState, Rejected
from statemachine.handlers import OPERATOR_HANDLERS, TRADER_HANDLERS
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.matching import take_out
from statemachine.order_lists import Wanted, newest
from statemachine.remember import ANY_CONTENTS, fingerprint, fingerprint_fits, outcome_of, pack
from statemachine.state import Account, State
from statemachine.tables import ApiKeyRow, BalanceRow, CurrencyRow, ProductRow
from statemachine.types import DoneReason, ProductStatus, Reason, Side
from statemachine.upgrade import upgrade

_encode = msgspec.msgpack.Encoder().encode

MIGRATED_HASH = b"\xff" * 16
"""The running hash of a state that another version's data was converted to, until a batch of this version is applied.

Nodes convert what they have, one a snapshot and ten log entries, another a later snapshot and none: a hash of that way would differ where the states
do not. So the first batch of this version begins a running hash anew, over the whole state: from there on a difference between nodes shows."""

_REUSED = Refusal(Reason.COMMAND_ID_REUSED, "command_id", "this id came before with other contents")
_UNKNOWN_ACCOUNT = Refusal(Reason.UNKNOWN_ACCOUNT, "account_id", "no such account")
_NOT_A_TRADER = Refusal(Reason.UNKNOWN_ACCOUNT, "account_id", "the operator has no money and does not trade")
_NOT_THE_OPERATOR = Refusal(Reason.INVALID_ID, "account_id", f"only the account {OPERATOR!r} may send this")


class Engine:
    """The exchange.

    Change:    `apply`
    Whole:     `check`, `tables`, `freeze`, `restore`, `release`, `full_hash`, `state_hash`, `sequence`, `time`
    Reads:     `next_expiry`, `remembers`, `currencies`, `currency`, `products`, `product`, `product_sequence`, `account_exists`,
               `balances`, `api_key`, `order`, `order_by_client_oid`, `orders`, `levels`, `book_orders`, `book_page`, `auction`

    Reads return rows and copies; changing them changes nothing here. Not safe for use by several threads.
    """

    def __init__(self) -> None:
        self._state = State()

    @property
    def sequence(self) -> int:
        """How many commands were applied, rejected and duplicate ones included."""
        return self._state.sequence

    @property
    def time(self) -> int:
        """The time of the latest batch, in nanoseconds since the epoch. Never runs backwards."""
        return self._state.time

    @property
    def state_hash(self) -> bytes:
        """The running hash, 16 bytes: of all batches applied so far, their commands, outcomes and events."""
        return self._state.hash

    def apply(self, batch: Batch) -> Applied:
        """Apply the commands of a log entry, in order: one outcome each, and all their events. Before the first, orders whose time is over leave.
        A batch that neither has commands nor moves the time on changes nothing, so sequence and time together name a state.

        O(1) for a command, plus O(log L) for each of the L price levels that comes or goes and O(1) for each fill or cancel; O(log n) for
        each stop or good-till-time order that comes or goes.
        """
        state = self._state
        if batch.time > state.time:
            state.time = batch.time
        elif not batch.commands:
            return Applied([], [])
        state.events = []
        state.former = (batch.former or 2) if batch.migrated else 0
        if state.hash == MIGRATED_HASH and not batch.migrated:
            upgrade(state)
            state.hash = blake2b(persistence.full_hash(state), digest_size=16).digest()
        if state.expiring:
            _expire(state)
        outcomes: list[AnyOutcome] = []
        digest = blake2b(state.hash, digest_size=16)
        digest.update(_encode(state.time))
        for command in batch.commands:
            state.sequence += 1
            encoded = _encode(command)
            outcome, encoded_outcome = self._answer(command, encoded, batch.migrated)
            outcomes.append(outcome)
            digest.update(encoded)
            digest.update(encoded_outcome)
        applied = Applied(outcomes, state.events)
        digest.update(_encode(state.events))
        state.hash = MIGRATED_HASH if batch.migrated else digest.digest()
        state.events = []
        return applied

    def _answer(self, command: AnyCommand, encoded: bytes, migrated: bool) -> tuple[AnyOutcome, bytes]:
        """Carry out a command, unless its id says that this happened before."""
        account = self._state.accounts.get(command.account_id)
        if account is not None:
            memory = account.memory
        elif command.account_id == OPERATOR:
            memory = self._state.operator_memory
        else:
            return self._reject(_UNKNOWN_ACCOUNT if is_name(command.account_id) else bad_name("account_id"))
        if not is_command_id(command.command_id):
            return self._reject(bad_command_id("command_id", Reason.INVALID_COMMAND_ID))
        mark = ANY_CONTENTS if migrated else fingerprint(encoded)
        seen = memory.find(command.command_id)
        if seen is not None:
            if not fingerprint_fits(seen, mark):
                return self._reject(_REUSED)
            outcome = msgspec.structs.replace(outcome_of(seen), duplicate=True)
            return outcome, _encode(outcome)
        self._state.changes.touch(command.account_id, account, memory)
        result = self._carry_out(account, command)
        outcome = self._rejected(result) if isinstance(result, Refusal) else result
        encoded_outcome = _encode(outcome)
        self._state.outcome_count += memory.remember(command.command_id, pack(mark, encoded_outcome))
        return outcome, encoded_outcome

    def _carry_out(self, account: Account | None, command: AnyCommand) -> AnyOutcome | Refusal:
        """`account` is None for the operator."""
        kind = type(command)
        handler = TRADER_HANDLERS.get(kind)
        if handler is not None:
            return handler(self._state, account, command) if account is not None else _NOT_A_TRADER
        return OPERATOR_HANDLERS[kind](self._state, command) if account is None else _NOT_THE_OPERATOR

    def _rejected(self, refusal: Refusal) -> Rejected:
        return Rejected(self._state.sequence, self._state.time, False, *refusal)

    def _reject(self, refusal: Refusal) -> tuple[AnyOutcome, bytes]:
        """A rejection that is not remembered."""
        outcome = self._rejected(refusal)
        return outcome, _encode(outcome)

    def check(self) -> None:
        """Assert every invariant of the whole state. O(everything).

        Raises:
            AssertionError: one is broken; the text says which.
        """
        invariants.check(self._state)

    def tables(self) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
        """Every table of `tables.TABLES`, in that order: its name, and (msgpack key, msgpack row) sorted by the key's bytes."""
        return persistence.dump(self._state)

    def freeze(self, *, whole: bool = False) -> Frozen:
        """What changed since the last freeze (or since `restore`, or since the engine began), as it is now, whatever is applied later.

        Made for snapshots: the rows are encoded when they are iterated, which another thread may do, and the engine pauses for a time that
        does not grow with the state. One frozen view at a time: the one before must not be iterated any more.

        Args:
            whole: everything counts as changed, as for an engine that began empty. Needed when what was frozen last came to nothing.
                O(accounts).
        """
        return self._state.changes.freeze(self._state, whole=whole)

    @classmethod
    def restore(cls, tables: Mapping[str, Iterable[tuple[bytes, bytes]]], *, verified: bool = False) -> Engine:
        """An engine with the state that `tables()` gave; rows may come in any order. What they say is checked whole.

        Args:
            verified: the rows are byte for byte those that `tables()` or `freeze()` of an engine with this schema gave, since their hashes were
                compared. Saves decoding the remembered outcomes.

        Raises:
            StateError: a table is missing or unknown, a row is malformed, or together they break an invariant.
        """
        engine = cls()
        engine._state = loading.load(tables, verified=verified)
        return engine

    def release(self) -> None:
        """Let go of the whole state in small steps, for a thread beside the one that serves; this is an empty engine then. O(everything).

        No view that was frozen of it may be iterated any more.
        """
        state, self._state = self._state, State()
        state.release()

    def full_hash(self) -> bytes:
        """32 bytes of all tables: equal for equal states, however they came about. O(everything)."""
        return persistence.full_hash(self._state)

    @property
    def next_expiry(self) -> int:
        """When the next good-till-time order leaves, in nanoseconds since the epoch: with the first batch of that time or later.

        0: none waits for that. O(log n).
        """
        expiring = self._state.expiring
        return expiring.peekitem(0)[0][0] if expiring else 0

    def remembers(self, account_id: str, command_id: str) -> bool:
        """Was this command carried out, as far as it is remembered?"""
        account = self._state.accounts.get(account_id)
        memory = account.memory if account is not None else self._state.operator_memory if account_id == OPERATOR else None
        return memory is not None and memory.find(command_id) is not None

    def currencies(self) -> list[CurrencyRow]:
        """All currencies, by name."""
        return [currency.row() for _, currency in sorted(self._state.currencies.items())]

    def currency(self, name: str) -> CurrencyRow | None:
        """One currency."""
        currency = self._state.currencies.get(name)
        return currency.row() if currency is not None else None

    def products(self) -> list[ProductRow]:
        """All products, by id."""
        return [product.row() for _, product in sorted(self._state.products.items())]

    def product(self, product_id: str) -> ProductRow | None:
        """One product."""
        product = self._state.products.get(product_id)
        return product.row() if product is not None else None

    def product_sequence(self, product_id: str) -> int:
        """The number of the product's latest event; 0 before the first and for an unknown product."""
        product = self._state.products.get(product_id)
        return product.sequence if product is not None else 0

    def account_exists(self, account_id: str) -> bool:
        """Was this account opened? The operator is none."""
        return account_id in self._state.accounts

    def balances(self, account_id: str) -> list[BalanceRow]:
        """What an account has, by currency; empty for an unknown one."""
        account = self._state.accounts.get(account_id)
        return account.balance_rows() if account is not None else []

    def api_key(self, key_id: str) -> ApiKeyRow | None:
        """One API key."""
        return self._state.api_keys.get(key_id)

    def api_keys(self) -> list[ApiKeyRow]:
        """All API keys, by id."""
        return [row for _, row in sorted(self._state.api_keys.items())]

    def order(self, order_id: int) -> OrderState | None:
        """An order that is open or recently done."""
        order = self._state.orders.get(order_id)
        return copy.copy(order) if order is not None else None

    def order_by_client_oid(self, account_id: str, client_oid: str) -> OrderState | None:
        """The account's latest order under a `client_oid`, open or recently done."""
        account = self._state.accounts.get(account_id)
        order = account.by_client_oid.get(client_oid) if account is not None else None
        return copy.copy(order) if order is not None else None

    def orders(
        self,
        account_id: str,
        product_id: str = "",
        open: bool = True,  # noqa: A002 - named as in the native protocol's query
        done: bool = False,
        limit: int = 100,
        before_id: int = 0,
    ) -> list[OrderState]:
        """An account's open and recently done orders, newest first. `before_id` pages: only ids below it (0: all)."""
        return self.order_list(account_id, Wanted(product_id, open, done, before_id), limit)

    def order_list(self, account_id: str, wanted: Wanted, limit: int) -> list[OrderState]:
        """An account's orders of the wanted kind, newest first. O(orders of the account), a millisecond at most."""
        account = self._state.accounts.get(account_id)
        if account is None:
            return []
        return [copy.copy(order) for order in newest(account, self._state.products, wanted, limit)]

    def orders_kept(self, account_id: str) -> int:
        """How many orders of an account there are to look at, open and recently done."""
        account = self._state.accounts.get(account_id)
        return len(account.open) + len(account.done) if account is not None else 0

    def levels(self, product_id: str, side: Side, depth: int) -> list[tuple[int, int, int]]:
        """Up to `depth` price levels of a side, best first: price, sum of remaining sizes, number of orders.

        A sum is told up to `limits.AMOUNT_MAX`: no answer carries a larger number.
        """
        product = self._state.products.get(product_id)
        if product is None:
            return []
        levels = zip(range(depth), product.book.side(side).in_order(), strict=False)
        return [(level.price, min(level.total, AMOUNT_MAX), len(level.orders)) for _, level in levels]

    def auction(self, product_id: str) -> auctions.Indication | None:
        """What the product's auction would do if it opened now; None when it is in none. O(levels that cross)."""
        product = self._state.products.get(product_id)
        return auctions.indicate(product) if product is not None and product.status is ProductStatus.AUCTION else None

    def book_orders(self, product_id: str, side: Side) -> list[tuple[int, int, int]]:
        """Every resting order of a side, in the order in which they trade: price, remaining size, order id."""
        product = self._state.products.get(product_id)
        if product is None:
            return []
        return [(order.price, order.remaining, order.order_id) for order in product.book.side(side).resting()]

    def book_page(self, product_id: str, side: Side, after: tuple[int, int, int], limit: int) -> list[tuple[int, int, int, int]]:
        """Up to `limit` resting orders of a side, in the order in which they trade: price, remaining size, order id, opened sequence.

        Args:
            after: price, opened sequence and id of the order behind which to go on, which may have left; zeros to begin.
        """
        product = self._state.products.get(product_id)
        if product is None:
            return []
        orders = product.book.side(side).page(*after, limit)
        return [(order.price, order.remaining, order.order_id, order.opened_sequence) for order in orders]


def _expire(state: State) -> None:
    """Orders whose time is over leave, wherever they are and whatever their product's status, the earliest first. O(log n) for each."""
    while state.expiring:
        (expires_at, _), order = state.expiring.peekitem(0)
        if expires_at > state.time:
            break
        state.touch(order)
        take_out(state, order, DoneReason.EXPIRED)

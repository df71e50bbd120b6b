"""Rows of version 0.3.0 as version 0.2.0 stores them: the way back of `v0_2_0_rows`, for a state in which nothing is
in use that 0.2.0 lacks.

A row is converted if 0.2.0 stores all of it: encoded by 0.2.0's struct and read again, it is the same. Every other row
is an obstacle, but for these fields, which are dropped or converted:

- `fee_credit` of an order. It is a part of one unit of the quote currency, and 0.2.0 rounds fees down. An open buy order
  then holds what 0.2.0's rules require, which is at most one unit less; the rest is available again;
- `opened_sequence` of an order that an auction collected, if the order ids give the same order in time;
- `version` of a product: it counts the operator's changes, and counts from 1 again at the next upgrade;
- `last_queued` and `turn` of the counters, which order unfinished work. There is no unfinished work;
- the reason of a cached reject, if 0.2.0 does not have it: `INVALID_ORDER` replaces it. The reject, its field and its
  text stay;
- fingerprints in the reply caches: they are of another encoding, so contents can no longer be compared.

0.2.0 has one reply cache for each account, with the latest `OUTCOMES_PER_ACCOUNT` commands. The further reply caches of
0.3.0 are merged into it. A command id in two of them, with two commands, is an obstacle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from snapshots.levels.obstacles import Narrow, Obstacles, Row, named
from statemachine.events import AnyOutcome, OrderState, Rejected
from statemachine.limits import PPM
from statemachine.persistence import numbered_key
from statemachine.reply_cache import ANY_CONTENTS
from statemachine.tables import BalanceRow, CounterRow, CurrencyRow, OutcomeRow, ProductRow
from statemachine.types import OrderStatus, OrderType, Reason, Side

from snapshots.levels.released.core_0_2_0 import events as core_events  # type: ignore[import-not-found]  # isort: skip  # in the archive
from snapshots.levels.released.core_0_2_0 import limits as core_limits  # isort: skip
from snapshots.levels.released.core_0_2_0 import tables as core_tables  # isort: skip
from snapshots.levels.released.core_0_2_0 import types as core_types  # isort: skip

_encode = msgspec.msgpack.Encoder().encode
_order = msgspec.msgpack.Decoder(OrderState).decode
outcome_row = msgspec.msgpack.Decoder(OutcomeRow).decode
_OUTCOMES = frozenset(kind.__name__ for kind in core_events.AnyOutcome.__args__)
_REASONS = frozenset(core_types.Reason)
_LIMIT, _BUY, _ACTIVE = OrderType.LIMIT, Side.BUY, OrderStatus.ACTIVE


def lowered(rows: Mapping[str, Iterable[Row]], first_hash: bytes, lowering: Lowering) -> dict[str, list[Row]]:
    """Return all tables of a state of 0.3.0, as 0.2.0 has them. They are of no use if obstacles were noted.
    O(everything).

    Args:
        first_hash: the running hash with which the level begins.
    """
    tables = {name: found if isinstance(found, list) else list(found) for name, found in rows.items()}
    made: dict[str, list[Row]] = {}
    lowering.learn(tables["currency"], tables["product"])
    for name, found in tables.items():
        if name == "outcome":
            made[name] = list(_outcomes(found, lowering))
        elif name in core_tables.TABLES:
            made[name] = [lowering.row(name, key, payload, first_hash) for key, payload in found]
        else:
            lowering.refuse(name, found)
    made["balance"] = [(key, lowering.balance(payload)) for key, payload in made["balance"]]
    lowering.check_collected()
    return made


class Lowering:
    """Converts single rows. Used for all rows of a state, and for those that changed since.

    Attributes:
        collected: of the orders that an auction has collected: product, side, price, and the place in time that 0.3.0
            gives them, by order id.
        moved: the entries of the reply caches that 0.2.0 lacks: sequence and command id, oldest first, by the name of
            the cache in rows.
    """

    def __init__(self, obstacles: Obstacles) -> None:
        self.obstacles = obstacles
        self.collected: dict[int, tuple[str, Side, int, int]] = {}
        self.moved: dict[str, deque[tuple[int, str]]] = {}
        self._narrow = {name: Narrow("0.2.0", name, former, obstacles) for name, former in core_tables.TABLES.items()}
        self._scales: dict[str, int] = {}
        self._units: dict[str, int] = {}
        self._quotes: dict[str, str] = {}
        self._released: dict[tuple[str, str], int] = {}
        """What open orders no longer hold, by account and currency."""

    def learn(self, currencies: Iterable[Row], products: Iterable[Row]) -> None:
        """Take these currencies and products from their rows. Rows of orders refer to them."""
        for _, payload in currencies:
            currency = msgspec.msgpack.decode(payload, type=CurrencyRow)
            self._scales[currency.currency] = currency.scale
        for _, payload in products:
            product = msgspec.msgpack.decode(payload, type=ProductRow)
            self._units[product.product_id] = 10 ** self._scales[product.base]
            self._quotes[product.product_id] = product.quote

    def refuse(self, table: str, rows: Iterable[Row]) -> None:
        """Note the rows of a table that 0.2.0 lacks."""
        for key, _ in rows:
            self.obstacles.add(table, "0.2.0 has no such table", named(key))

    def row(self, table: str, key: bytes, payload: bytes, first_hash: bytes = b"") -> Row:
        """Return a row of any table but `outcome`. `first_hash` is for the counters."""
        return self._narrow[table](key, self._without_dropped(table, key, payload, first_hash))

    def _without_dropped(self, table: str, key: bytes, payload: bytes, first_hash: bytes) -> bytes:
        """Return a row without the fields that may be dropped."""
        if table == "done_order":
            order = _order(payload)
            order.fee_credit = 0
            return _encode(order)
        if table == "order":
            return _encode(self._open(key, _order(payload)))
        if table == "product":
            return _encode(msgspec.structs.replace(msgspec.msgpack.decode(payload, type=ProductRow), version=0))
        if table == "counter":
            row = msgspec.msgpack.decode(payload, type=CounterRow)
            return _encode(msgspec.structs.replace(row, state_hash=first_hash, last_queued=0, turn=0))
        return payload

    def _open(self, key: bytes, order: OrderState) -> OrderState:
        """Convert an open order, and record what 0.2.0 cannot express."""
        if order.maker_fee_ppm < 0 or order.taker_fee_ppm < 0:
            self.obstacles.add("order", "a rebate, which 0.2.0 does not have", named(key))
        if order.status is _ACTIVE and not order.stop and not order.queued:
            self.collected[order.order_id] = order.product_id, order.side, order.price, order.opened_sequence
            order.opened_sequence = 0
        if order.side is _BUY and order.order_type is _LIMIT:
            cost = order.price * order.remaining // self._units[order.product_id]
            hold = cost + cost * max(order.maker_fee_ppm, order.taker_fee_ppm) // PPM
            owner = order.account_id, self._quotes[order.product_id]
            self._released[owner] = self._released.get(owner, 0) + order.hold - hold
            order.hold = hold
        order.fee_credit = 0
        return order

    def balance(self, payload: bytes) -> bytes:
        """Return a balance, after every open order was converted once."""
        row = msgspec.msgpack.decode(payload, type=BalanceRow)
        released = self._released.get((row.account_id, row.currency), 0)
        if not released:
            return payload
        return _encode(msgspec.structs.replace(row, available=row.available + released, hold=row.hold - released))

    def check_collected(self) -> None:
        """Note orders of an auction that 0.2.0 would put in another order in time. It goes by their ids."""
        latest: dict[tuple[str, Side, int], int] = {}
        for order_id in sorted(self.collected):
            product_id, side, price, opened_sequence = self.collected[order_id]
            before = latest.get((product_id, side, price), 0)
            if opened_sequence < before:
                self.obstacles.add("order", "its time in the auction is not that of its id, which 0.2.0 goes by", str(order_id))
            latest[product_id, side, price] = max(opened_sequence, before)

    def outcome(self, account_id: str, row: OutcomeRow) -> Row | None:
        """Return an entry in the one reply cache of an account. None if 0.2.0 does not have such an outcome."""
        outcome = _former_outcome(row.outcome)
        if type(outcome).__name__ not in _OUTCOMES:
            self.obstacles.add("outcome", f"an answer {type(outcome).__name__}, which 0.2.0 does not have", account_id)
            return None
        row = msgspec.structs.replace(row, account_id=account_id, fingerprint=ANY_CONTENTS, outcome=outcome)
        return self._narrow["outcome"](numbered_key(account_id, outcome.sequence), _encode(row))

    def refuse_id(self, account_id: str, command_id: str) -> None:
        """Note a command id that an account used for commands of two kinds."""
        self.obstacles.add("outcome", "two commands of an account have one command id", f"{account_id}, id {command_id}")

    def remember_moved(self, row: OutcomeRow) -> None:
        """Note an entry of a reply cache that 0.2.0 lacks; entries of others are ignored. Oldest first."""
        if "/" in row.account_id:
            self.moved.setdefault(row.account_id, deque()).append((row.outcome.sequence, row.command_id))


def _outcomes(found: list[Row], lowering: Lowering) -> Iterator[Row]:
    """Yield the table `outcome`: the reply caches of each account as one."""
    caches: dict[str, dict[int, OutcomeRow]] = {}
    for _, payload in found:
        row: OutcomeRow = outcome_row(payload)
        account_id = row.account_id.partition("/")[0]
        caches.setdefault(account_id, {})[row.outcome.sequence] = row
        lowering.remember_moved(row)
    for account_id in sorted(caches, key=_encode):
        cache = caches.pop(account_id)
        known: dict[str, int] = {}
        for sequence in sorted(cache)[-core_limits.OUTCOMES_PER_ACCOUNT :]:
            row = cache[sequence]
            if known.setdefault(row.command_id, sequence) != sequence:
                lowering.refuse_id(account_id, row.command_id)
            made = lowering.outcome(account_id, row)
            if made is not None:
                yield made


def _former_outcome(outcome: AnyOutcome) -> AnyOutcome:
    """Return an outcome without what may be dropped. Its orders are changed."""
    if isinstance(outcome, Rejected):
        known = outcome.reason in _REASONS
        return outcome if known else msgspec.structs.replace(outcome, reason=Reason.INVALID_ORDER)
    for field in outcome.__struct_fields__:
        value = getattr(outcome, field)
        for order in value if isinstance(value, list) else [value]:
            if isinstance(order, OrderState):
                order.fee_credit = 0
    return outcome

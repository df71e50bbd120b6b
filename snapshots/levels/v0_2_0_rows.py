"""Converts rows of version 0.2.0 to those of 0.3.0. Fields and tables that were added have their defaults. In addition:

- the fee in the hold of a buy order was rounded down. The missing fraction becomes the order's `fee_credit`, so that
  the hold suffices;
- every product has at least `version` 1;
- deposits, withdrawals and transfers have reply caches of their own. The outcome does not name the kind of command, so
  its entry is in all three caches, and the id is found if any of the three kinds repeats it;
- rejected ones of these have separate reply caches too, one for each kind. A reject does not name the kind of command
  either, so the latest `REJECTS_CACHED` rejects of an account are in all three;
- fingerprints in the reply caches are of another encoding, so contents can no longer be compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from typing import Any

import msgspec

from statemachine.commands import REJECTS, TRANSFER_KINDS
from statemachine.events import AnyOutcome, OrderState, Rejected, Transferred
from statemachine.limits import OPERATOR, PPM, REJECTS_CACHED, TRANSFERS_CACHED
from statemachine.persistence import numbered_key, reply_cache_owner
from statemachine.reply_cache import ANY_CONTENTS
from statemachine.tables import TABLES, CounterRow, CurrencyRow, OutcomeRow, ProductRow
from statemachine.teardown import clear
from statemachine.types import OrderType, Side

Row = tuple[bytes, bytes]

_encode = msgspec.msgpack.Encoder().encode
_outcome: msgspec.msgpack.Decoder[AnyOutcome] = msgspec.msgpack.Decoder(AnyOutcome)
_currency = msgspec.msgpack.Decoder(CurrencyRow).decode
_product = msgspec.msgpack.Decoder(ProductRow).decode


def open_order(row: OrderState, unit: int) -> OrderState:
    """Return an open order. `unit`: one whole coin of its product's base currency, in base units. The row itself is changed."""
    if row.side == Side.BUY and row.order_type == OrderType.LIMIT:
        cost = row.price * row.remaining // unit
        row.fee_credit = cost * max(row.maker_fee_ppm, row.taker_fee_ppm) % PPM
    return row


def product(row: ProductRow) -> ProductRow:
    """Return a product."""
    return row if row.version else msgspec.structs.replace(row, version=1)


def outcome(owner: str, encoded: bytes) -> tuple[bytes, list[str]]:
    """Return an outcome in a reply cache: encoded in the present schema, and the further reply caches that have it, as
    the table `outcome` names them.
    """
    found = _outcome.decode(encoded)
    return _encode(found), _further(owner, found)


def _further(owner: str, found: AnyOutcome) -> list[str]:
    """Return the further reply caches to which an outcome belongs in 0.3.0."""
    if owner == OPERATOR:
        return []
    if isinstance(found, Transferred):
        return [reply_cache_owner(owner, kind) for kind in TRANSFER_KINDS]
    return [reply_cache_owner(owner, REJECTS - kind) for kind in TRANSFER_KINDS] if isinstance(found, Rejected) else []


def converted(rows: Mapping[str, Iterable[Row]], first_hash: bytes) -> dict[str, list[Row]]:
    """Return all tables of a state of 0.2.0, as 0.3.0 has them. `first_hash`: the running hash with which its level begins."""
    tables = {name: found if isinstance(found, list) else list(found) for name, found in rows.items()}
    scales = {row.currency: row.scale for row in (_currency(payload) for _, payload in tables["currency"])}
    units = {row.product_id: 10 ** scales[row.base] for row in (_product(payload) for _, payload in tables["product"])}
    made: dict[str, list[Row]] = {name: [] for name in TABLES}
    for name, found in tables.items():
        decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(TABLES[name]).decode
        into = made[name]
        if name == "outcome":
            into += _outcomes(found, decode)
        elif name == "order":
            for key, payload in found:
                row = decode(payload)
                into.append((key, _encode(open_order(row, units[row.product_id]))))
        else:
            into += [(key, _encode(_present(decode(payload), first_hash))) for key, payload in found]
    return made


def _present(row: msgspec.Struct, first_hash: bytes) -> msgspec.Struct:
    """Return a row of 0.2.0 as 0.3.0 has it."""
    if isinstance(row, ProductRow):
        return product(row)
    if isinstance(row, CounterRow):
        return msgspec.structs.replace(row, state_hash=first_hash)
    return row


def _outcomes(found: list[Row], decode: Callable[[bytes], OutcomeRow]) -> Iterator[Row]:
    """Yield the table `outcome`. Its rows are merged and not sorted, because sorting a million rows would hold the
    interpreter lock for a second.
    """
    own: list[Row] = []
    moved: dict[str, deque[Row]] = {}
    for key, payload in found:
        row = msgspec.structs.replace(decode(payload), fingerprint=ANY_CONTENTS)
        own.append((key, _encode(row)))
        for owner in _further(row.account_id, row.outcome):
            there = msgspec.structs.replace(row, account_id=owner)
            bound = REJECTS_CACHED if isinstance(row.outcome, Rejected) else TRANSFERS_CACHED
            kept = moved.setdefault(owner, deque(maxlen=bound))
            kept.append((numbered_key(owner, row.outcome.sequence), _encode(there)))
    yield from merge(own, sorted(row for kept in moved.values() for row in kept))
    clear(own, *moved.values())

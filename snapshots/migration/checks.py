"""The checks of every migrated state. After one failure nothing of the result is used."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

from snapshots.errors import MigrationError
from snapshots.levels.states import restored
from snapshots.migration.codec import Codec, CodecError, Row
from snapshots.migration.plan import Facts, Tables
from snapshots.migration.report import CheckReport
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.reply_cache import ANY_CONTENTS
from statemachine.tables import KEYS, REFERENCES
from statemachine.types import Side

MIGRATED_HASH = b"\xff" * 16
"""The running hash of a migrated state, until the core applies an entry that was not migrated.

Nodes migrate from different starting points (a snapshot plus ten entries, or a later snapshot alone), so a hash over
the path would differ although the states are equal. So the first other entry restarts the running hash, over the whole
state (`level.BROUGHT_TO`). From there on it detects a divergence.
"""

MONEY, QUEUES, WHOLE_REFERENCES, STATE, UNIQUE_KEYS, ROWS = (
    "money is conserved",
    "every open order is at its place in its queue",
    "references are whole",
    "the engine takes the state, books uncrossed, check() passes",
    "keys are unique",
    "rows are accounted for",
)


def compare(before: Facts, after: Facts, dropped: Collection[int]) -> None:
    """Check that a step changes neither money nor queues, except orders that were dropped with a reason.

    Raises:
        MigrationError: they differ.
    """
    for currency in sorted({*before.money, *after.money}):
        was, now = before.money.get(currency, 0), after.money.get(currency, 0)
        if was != now:
            raise MigrationError(MONEY, f"currency {currency}", f"accounts and fees had {was}, and have {now}")
    for queue in sorted({*before.queues, *after.queues}):
        was_here = [order_id for order_id in before.queues.get(queue, []) if order_id not in dropped]
        here = after.queues.get(queue, [])
        if was_here != here:
            at = next((n for n, (a, b) in enumerate(zip(was_here, here, strict=False)) if a != b), min(len(was_here), len(here)))
            order_id = (was_here[at:] or here[at:])[0]
            product, side, price = queue
            raise MigrationError(
                QUEUES,
                f"order {order_id}",
                f"place {at + 1} at {product} {side} {price}: was {was_here[at:][:3]}, is {here[at:][:3]}",
            )


def check_keys(table: str, rows: list[Row], codec: Codec) -> None:
    """Check that no key occurs twice in rows sorted by key.

    Raises:
        MigrationError: one does.
    """
    for one, other in pairwise(rows):
        if one[0] == other[0]:
            shown = codec.read_row(table, one)
            raise MigrationError(UNIQUE_KEYS, f"table {table}", f"two rows have the key of {shown!r}"[:300])


def check_references(tables: Tables, there: Collection[str]) -> None:
    """Check that every row of the tables `there` refers to existing rows.

    Raises:
        MigrationError: one does not.
    """
    known: dict[str, set[object]] = {}
    for reference in REFERENCES:
        if reference.table not in there or reference.target not in there:
            continue
        if reference.target not in known:
            (key,) = KEYS[reference.target]
            known[reference.target] = {row[key] for row in tables[reference.target]}
        names = known[reference.target].union(reference.others)
        for row in tables[reference.table]:
            if row[reference.field] not in names:
                raise MigrationError(
                    WHOLE_REFERENCES,
                    f"table {reference.table}, row {row!r}"[:300],
                    f"{reference.field}: there is no {reference.target} {row[reference.field]!r}",
                )


def check_engine(rows: Mapping[str, list[Row]], facts: Facts, abi: str) -> Engine:
    """Restore an engine of the level with this ABI from the rows, and check that its books have the orders of `facts`
    in their order. Returns the engine.

    Raises:
        MigrationError: the engine rejects the rows, or a book differs.
    """
    try:
        engine = restored(abi, rows)
    except StateError as error:
        raise MigrationError(STATE, "", str(error)) from error
    for product in engine.products():
        for side in Side:
            _check_side(engine, facts, product.product_id, side)
    return engine


def _check_side(engine: Engine, facts: Facts, product_id: str, side: Side) -> None:
    """Check that a side of a book has the same queues as before."""
    queues: dict[int, list[int]] = {}
    for price, _, order_id in engine.book_orders(product_id, side):
        queues.setdefault(price, []).append(order_id)
    expected = {price: ids for (product, name, price), ids in facts.queues.items() if (product, name) == (product_id, side.name)}
    if queues != expected:
        price = next(price for price in sorted({*queues, *expected}) if queues.get(price) != expected.get(price))
        raise MigrationError(
            QUEUES,
            f"{product_id} {side.name} {price}",
            f"the book has {queues.get(price, [])[:5]}, expected {expected.get(price, [])[:5]}",
        )


def finish(rows: Mapping[str, list[Row]], codec: Codec) -> dict[str, list[Row]]:
    """Reset what depends on changed bytes: the running hash restarts, and fingerprints cannot be compared.

    Raises:
        MigrationError: the rows are not of the codec's schema.
    """
    done = dict(rows)
    try:
        for table, field, value in (("counter", "state_hash", MIGRATED_HASH), ("outcome", "fingerprint", ANY_CONTENTS)):
            done[table] = [codec.write_row(table, {**codec.read_row(table, row), field: value}) for row in rows[table]]
    except CodecError as error:
        raise MigrationError(STATE, "tables counter and outcome", str(error)) from error
    return done


def summary(facts: Facts, engine: Engine) -> list[CheckReport]:
    """Return the checks that a state has passed, with their figures."""
    money = ", ".join(f"{amount} {currency}" for currency, amount in sorted(facts.money.items())) or "no money"
    orders = sum(len(ids) for ids in facts.queues.values())
    return [
        CheckReport(ROWS, "each table's difference has its reason"),
        CheckReport(UNIQUE_KEYS, "in every table"),
        CheckReport(MONEY, f"{money}, in smallest units"),
        CheckReport(WHOLE_REFERENCES, "in every table"),
        CheckReport(QUEUES, f"{orders} orders in {len(facts.queues)} queues"),
        CheckReport(STATE, f"sequence {engine.sequence}, {len(engine.products())} products"),
    ]

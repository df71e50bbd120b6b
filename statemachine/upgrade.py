"""What this version keeps otherwise than version 0.2.0: done once, by the engine, before it applies the first entry
that this version wrote.

Not by the migration of the data: entries of 0.2.0 that lie behind a node's snapshot are applied after it, by the rules
of 0.2.0, and must find what 0.2.0 had. All nodes come to the first entry of this version with the same state, and so
leave it with the same.
"""

from __future__ import annotations

from statemachine.commands import TRANSFER_KINDS
from statemachine.entities import Account
from statemachine.events import Transferred
from statemachine.limits import PPM, TRANSFERS_REMEMBERED
from statemachine.reply_cache import ReplyCache, outcome_of
from statemachine.state import State
from statemachine.types import OrderType, Side


def upgrade(state: State) -> None:
    """Bring a state of version 0.2.0 to the rules of this one. O(everything)."""
    for product in state.products.values():
        product.version = max(product.version, 1)
        product.rounds_down = False
    for account in state.accounts.values():
        _credit(state, account)
        memory = account.replies
        booked = [
            (command_id, packed)
            for command_id, packed in memory.newest(len(memory))
            if isinstance(outcome_of(packed), Transferred)
        ]
        if not booked:
            continue
        state.changes.touch(account)
        ids, entries = [command_id for command_id, _ in booked], [packed for _, packed in booked]
        # The outcome does not say which of the three it was of. An id is found whichever it comes as again.
        for kind in TRANSFER_KINDS:
            moved = account.other_replies[kind] = ReplyCache(TRANSFERS_REMEMBERED)
            moved.fill(ids, entries)
            state.outcome_count += len(moved)


def _credit(state: State, account: Account) -> None:
    """The holds of buy orders had their fee rounded down: the fraction that they lack is their credit, so that what
    they hold suffices.
    """
    for order in account.open_orders():
        if order.side == Side.BUY and order.order_type == OrderType.LIMIT:
            cost = order.product.notional(order.price, order.remaining)
            credit = cost * max(order.maker_fee_ppm, order.taker_fee_ppm) % PPM
            if credit:
                state.touch(order)
                order.fee_credit = credit

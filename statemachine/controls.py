"""The indexes of the operator's controls: how they are rebuilt after a restore, and their invariants."""

from __future__ import annotations

from collections import Counter

from statemachine import access, calendar, consent, fees, limit_states, timers
from statemachine.errors import StateError
from statemachine.limits import MEMBERS_PER_FIRM
from statemachine.state import State
from statemachine.types import ProductStatus, Scope, Side, Switch, Timer

_NAMED = (Scope.FIRM, Scope.ACCOUNT, Scope.PRODUCT)


def arrange(state: State) -> None:
    """Build the indexes from the rows. O(rows)."""
    for row in state.records["firm_member"]:
        state.members.setdefault(row.firm_id, {})[row.account_id] = None
    for row in state.records["switch"]:
        if row.cancelling:
            state.killing[row.scope, row.name] = None
    for row in state.records["fee_override"]:
        fees.index(state, row)
    for row in state.records["product_limits"]:
        state.products[row.product_id].controls = row
    for row in state.records["interruption"]:
        if row.limit_side:
            limit_states.index(state, row)
    for row in state.records["timer"]:
        timers.index(state, row)
    for row in state.records["calendar"]:
        reject = calendar.check_hours(row)
        if reject is not None:
            raise StateError(f"table calendar: {row.calendar_id}: {reject.field}: {reject.detail}")
    access.arrange(state)
    state.guard()


def check_contents(state: State) -> None:
    """Assert that the rows fit together."""
    access.check_contents(state)
    consent.check_contents(state)
    records = state.records
    fees.check_rows(state)
    for row in records["switch"]:
        assert 0 < row.switches <= sum(Switch), f"switches of {row.name}: {row.switches}"
        assert not row.cancelling or row.switches & Switch.KILL, f"{row.name} cancels, and its kill switch is off"
        _check_name(state, row.scope, row.name)
    for row in records["risk"]:
        assert row.scope in (Scope.FIRM, Scope.ACCOUNT), f"risk limits of {row.name}: of what?"
        _check_name(state, row.scope, row.name)
    for row in records["interruption"]:
        product = state.products[row.product_id]
        status = ProductStatus.CANCEL_ONLY if row.halted else ProductStatus.AUCTION
        if row.limit_side:
            status = row.resume
            assert row.limit_side in tuple(Side), f"product {row.product_id}: a limit state of side {row.limit_side}"
            assert row.low >= 0 and row.high > 0, f"product {row.product_id}: the collar of its limit state"  # noqa: PT018
        assert product.status == status, f"product {row.product_id}: interrupted, and not in the status for it"
        found = records["timer"].get(Timer.INTERRUPTION, row.product_id, "")
        assert found is not None and found.at == row.ends_at, f"product {row.product_id}: an interruption without end"  # noqa: PT018
    for row in records["phase"]:
        assert records["timer"].get(Timer.PHASE, row.product_id, "") is not None, (
            f"product {row.product_id}: its phase has no end"
        )
    for row in records["timer"]:
        table = {Timer.PHASE: "phase", Timer.INTERRUPTION: "interruption"}.get(row.kind)
        assert row.at > 0, f"timer {row.kind} of {row.subject}: no time"
        assert table is None or records[table].get(row.subject) is not None, f"a timer of {row.subject} for nothing"
    for row in records["correction"]:
        product = state.products[row.product_id]
        assert 1 <= row.trade_id <= product.last_trade_id, (
            f"product {row.product_id}: trade {row.trade_id} was corrected, and never was"
        )


def _check_name(state: State, scope: Scope, name: str) -> None:
    """Assert that the scope that controls name exists."""
    known = {
        Scope.VENUE: name == "",
        Scope.FIRM: state.records["firm"].get(name) is not None,
        Scope.ACCOUNT: name in state.accounts,
        Scope.PRODUCT: name in state.products,
        Scope.GROUP: False,
    }
    assert known[scope], f"controls of the {scope.name.lower()} {name}, which does not exist"


def check_arrangement(state: State) -> None:
    """Assert that the indexes agree with the rows, and that no killed order is still open."""
    records = state.records
    members: dict[str, list[str]] = {}
    for row in records["firm_member"]:
        members.setdefault(row.firm_id, []).append(row.account_id)
    kept = {firm: sorted(accounts) for firm, accounts in state.members.items() if accounts}
    assert kept == {firm: sorted(accounts) for firm, accounts in members.items()}, "the accounts of the firms"
    assert all(len(accounts) <= MEMBERS_PER_FIRM for accounts in kept.values()), "a firm is too large"
    assert sorted(state.killing) == sorted((row.scope, row.name) for row in records["switch"] if row.cancelling), (
        "the kill switches that still cancel"
    )
    times = sorted((row.at, int(row.kind), row.subject, row.tag) for row in records["timer"])
    assert list(state.timers) == times, "the index of timers"
    own = Counter(row.subject for row in records["timer"] if row.kind in timers.OF_ACCOUNTS)
    assert state.cancel_afters == own, "the numbers of timers of accounts"
    for name, product in state.products.items():
        assert product.controls == records["product_limits"].get(name), f"product {name}: its limits"
    limited = {row.product_id: (row.low, row.high) for row in records["interruption"] if row.limit_side}
    bands = {name: product.band for name, product in state.products.items() if product.band is not None}
    assert limited == bands, "the collars of limit states"
    assert sorted(state.limited) == sorted(limited), "the products in a limit state"
    for name, product in state.limited.items():
        row = records["interruption"].get(name)
        assert row is not None and limit_states.is_in(product, row.limit_side), f"product {name}: its limit state is over"  # noqa: PT018
    guarded = any(len(records[table]) for table in ("switch", "product_limits", "risk"))
    assert state.guarded is guarded, "guarded, or not"
    currencies = dict.fromkeys(row.currency for row in records["fee_tiers"])
    assert state.fee_currencies == currencies, "the currencies with fee tiers"
    assert state.fee_rules is bool(currencies or len(records["fee_override"])), "fee rules, or not"
    for row in records["switch"]:
        if row.switches & Switch.KILL and not row.cancelling:
            left = list(_open_orders(state, row.scope, row.name))
            assert not left, f"the kill switch of {row.name} is on, and orders are open"


def _open_orders(state: State, scope: Scope, name: str) -> list[int]:
    """Return the ids of all open orders of a scope."""
    return [
        order.order_id
        for account in state.accounts.values()
        for order in account.open_orders()
        if scope == Scope.VENUE
        or (scope == Scope.ACCOUNT and account.account_id == name)
        or (scope == Scope.PRODUCT and order.product_id == name)
        or (scope == Scope.FIRM and account.account_id in state.members.get(name, {}))
    ]

"""Risk limits of accounts and firms, which `commands.PutRiskLimits` sets. They are checked before an order enters.

| limit | the quantity that is compared with it, the new order included |
|---|---|
| `orders_max` | open orders, those included that wait |
| `rate_max` | orders accepted in the current second of the log's time |
| `open_max` | what open orders hold of the currency: quote currency and fees of buys, base currency of sells |
| `volume_max` | notionals traded in the quote currency since the day began |
| `position_max` | what is owned of the base currency, on hold or not, and what open orders would buy |

Of a linked pair the position counts one order, the larger one: when one of them trades, the other is cancelled. A
firm's limit is compared with the sum over its accounts. The hold of an order is not known before it is accepted, so
`open_max` counts the notional of a buy at its price (a market order's funds), without fees, and the size of a sell. A
market order without a price counts with the price of the last trade. Cancels, and orders that were accepted before, are
never rejected.

The day begins at midnight in the time zone of the venue's calendar; without one, in UTC. A counter is stored with its
day, so nothing has to run at midnight. `rate_max` and `volume_max` count from the moment at which they are set; the
other limits also count what was there before.

Source: Commission Delegated Regulation (EU) 2017/584 (RTS 7), article 18(1)(a), orders a second by member, and article
20, pre-trade controls.
"""

from __future__ import annotations

import msgspec

from statemachine import answer, calendar
from statemachine.commands import PutRiskLimits
from statemachine.entities import Account, Order, Placing, Product
from statemachine.limits import AMOUNT_MAX, RISK_LOOKS_MAX, RISK_LOOKS_PER_UNIT, SECOND_NS, VENUE_ROWS_MAX
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.switches import firm_of
from statemachine.tables import RiskRow
from statemachine.types import OrderStatus, Reason, Scope, Side

_BUY: int = Side.BUY
_DONE: int = OrderStatus.DONE
_MONEY = ("open_max", "volume_max", "position_max")
_COUNTS = ("orders_max", "rate_max")

Key = tuple[Scope, str, str]


def put(state: State, command: PutRiskLimits) -> Reject | None:
    """Set the limits of an account or a firm."""
    rows, key = state.records["risk"], (command.scope, command.name, command.currency)
    reject = _admit(state, command)
    if reject is not None:
        return reject
    before: RiskRow | None = rows.get(*key)
    limits = {field: getattr(command, field) for field in (*_COUNTS, *_MONEY)}
    if before is None and any(limits.values()) and len(rows) >= VENUE_ROWS_MAX:
        return Reject(Reason.TOO_MANY_RULES, "name", f"at most {VENUE_ROWS_MAX} sets of risk limits")
    if before is not None and before.by_venue and not state.by_venue and _loosens(before, limits):
        text = "the operator of the venue has set them: they may only become tighter"
        return Reject(Reason.LOOSENED, "limits", text)
    changed = limits != ({field: getattr(before, field) for field in limits} if before is not None else dict.fromkeys(limits, 0))
    if any(limits.values()):
        base = before if before is not None else RiskRow(*key)
        rows.put(msgspec.structs.replace(base, **limits, by_venue=base.by_venue or state.by_venue))
    elif before is not None:
        rows.remove(*key)
    state.guard()
    answer.done(state, changed)
    return None


def _loosens(before: RiskRow, limits: dict[str, int]) -> bool:
    """Return whether a limit would become larger, or be removed."""
    return any(old and not 0 < limits[field] <= old for field, old in ((field, getattr(before, field)) for field in limits))


def _admit(state: State, command: PutRiskLimits) -> Reject | None:
    """Check the risk limits of an account or a firm. Returns the reject, or None."""
    if command.scope not in (Scope.ACCOUNT, Scope.FIRM):
        return Reject(Reason.INVALID_SCOPE, "scope", "expected an account or a firm")
    if command.scope == Scope.ACCOUNT and command.name not in state.accounts:
        return Reject(Reason.UNKNOWN_ACCOUNT, "name", "no such account")
    if command.scope == Scope.FIRM and state.records["firm"].get(command.name) is None:
        return Reject(Reason.UNKNOWN_FIRM, "name", "no such firm")
    if command.currency and command.currency not in state.currencies:
        return Reject(Reason.UNKNOWN_CURRENCY, "currency", "no such currency")
    for field in (*_COUNTS, *_MONEY):
        value = getattr(command, field)
        if not 0 <= value <= AMOUNT_MAX:
            return Reject(Reason.INVALID_LIMITS, field, f"expected 0 to {AMOUNT_MAX}")
        if value and (field in _MONEY) is not bool(command.currency):
            text = "a limit of money needs its currency" if field in _MONEY else "orders are counted without a currency"
            return Reject(Reason.INVALID_LIMITS, field, text)
    return None


def today(state: State) -> int:
    """Return the venue's date, in days since the epoch, in its calendar's time zone, or else in UTC. O(log offsets)."""
    found = state.calendar_of_venue()
    return calendar.day_at(found, state.time // SECOND_NS) if found is not None else state.time // (calendar.DAY_S * SECOND_NS)


def rejects(state: State, product: Product, account: Account, command: Placing, amended: Order | None) -> Reject | None:
    """Check an order against the limits of its account and firm. Its fields are not checked yet. `amended` is the open
    order that it replaces.
    """
    rows = state.records["risk"]
    if not len(rows):
        return None
    firm = firm_of(state, account.account_id)
    for scope, name in ((Scope.ACCOUNT, account.account_id), (Scope.FIRM, firm)):
        if not name:
            continue
        counts = rows.get(scope, name, "")
        if counts is not None:
            reject = _counts(state, counts, amended)
            if reject is not None:
                return reject
        paying = product.quote if command.side == _BUY else product.base
        for currency in (product.quote, product.base):
            row = rows.get(scope, name, currency)
            if row is not None:
                reject = _money(state, row, product, command, currency == paying, amended)
                if reject is not None:
                    return reject
    return None


def _accounts(state: State, row: RiskRow) -> list[Account]:
    names = state.members.get(row.name, ()) if row.scope == Scope.FIRM else (row.name,)
    return [state.accounts[name] for name in names]


def rejects_second(state: State, account: Account) -> Reject | None:
    """Check the number of orders for the second order of a pair, whose first order was checked and is not counted yet."""
    rows = state.records["risk"]
    for scope, name in ((Scope.ACCOUNT, account.account_id), (Scope.FIRM, firm_of(state, account.account_id))):
        counts = rows.get(scope, name, "") if name else None
        reject = _counts(state, counts, None, 1) if counts is not None else None
        if reject is not None:
            return reject
    return None


def _counts(state: State, row: RiskRow, amended: Order | None, more: int = 0) -> Reject | None:
    """Check the number of orders, `more` included that are not counted yet."""
    if row.orders_max and amended is None:
        opened = sum(account.open_count for account in _accounts(state, row)) + more
        if opened >= row.orders_max:
            return _reject(row, "orders_max", f"{opened} orders are open")
    if row.rate_max:
        came = (row.rate_count if row.rate_second == state.time // SECOND_NS else 0) + more
        if came >= row.rate_max:
            return _reject(row, "rate_max", f"{came} orders came in this second")
    return None


def _money(state: State, row: RiskRow, product: Product, command: Placing, pays: bool, amended: Order | None) -> Reject | None:
    """Check an order against the limits in money of a row."""
    price = command.price or command.stop_price or product.last_price
    size = command.size - (amended.filled_size if amended is not None and command.size else 0)
    notional = command.funds or size * price // product.unit
    size = size or (command.funds * product.unit // price if price else 0)
    if pays and row.open_max:
        held = sum(_held(account, row.currency) for account in _accounts(state, row)) - (
            amended.hold if amended is not None else 0
        )
        if held + (notional if command.side == _BUY else size) > row.open_max:
            return _reject(row, "open_max", f"open orders hold {held} {row.currency}")
    if row.volume_max and row.currency == product.quote:
        traded = row.volume if row.day == today(state) else 0
        if traded + notional > row.volume_max:
            return _reject(row, "volume_max", f"{traded} {row.currency} were traded since the day began")
    if row.position_max and row.currency == product.base and command.side == _BUY:
        if state.work >= state.work_max:
            return _reject(row, "position_max", "this log entry has no room to sum up the open orders: send it again")
        position = _position(state, row, amended)
        if position is None:
            return _reject(row, "position_max", f"more than {RISK_LOOKS_MAX} open orders are too many to sum up")
        if position + size > row.position_max:
            return _reject(row, "position_max", f"{position} {row.currency} are owned or being bought")
    return None


def _reject(row: RiskRow, field: str, found: str) -> Reject:
    whose = f"{row.scope.name.lower()} {row.name}"
    return Reject(Reason.RISK_LIMIT, field, f"the limit of the {whose} is {getattr(row, field)}; {found}")


def _held(account: Account, currency: str) -> int:
    """Return an account's amount on hold in a currency."""
    balance = account.balances.get(currency)
    return balance.hold if balance is not None else 0


def _position(state: State, row: RiskRow, amended: Order | None) -> int | None:
    """Return the amount of the row's currency that is owned, and the amount that open orders would buy; None if there
    are too many orders to read. O(open orders).
    """
    accounts = _accounts(state, row)
    looks = sum(account.open_count for account in accounts)
    if looks > RISK_LOOKS_MAX:
        return None
    state.work += looks // RISK_LOOKS_PER_UNIT
    position = 0
    for account in accounts:
        balance = account.balances.get(row.currency)
        if balance is not None:
            position += balance.available + balance.hold
        order = account.oldest
        while order is not None:
            if order.side == _BUY and order.product.base == row.currency and order is not amended and order.status != _DONE:
                link = order.terms.link if order.terms is not None else 0
                position += _buying(order) if not link else _buying_of_pair(order, state.orders.get(link))
            order = order.newer
    return position


def _buying_of_pair(order: Order, partner: Order | None) -> int:
    """Return the size that a linked pair would buy, counted with its first order. If the partner is done, or about to
    be replaced, the order leaves too.
    """
    if partner is None or partner.status == _DONE or partner.order_id < order.order_id:
        return 0
    return max(_buying(order), _buying(partner))


def _buying(order: Order) -> int:
    """Return the size that an open buy order would buy. A market order by funds counts as in `_money`."""
    price = order.stop_price or order.product.last_price
    if order.size or not price:
        return order.remaining + order.reserve
    return order.funds * order.product.unit // price


def accepted(state: State, account: Account) -> None:
    """Count an accepted order of the account in the current second."""
    rows = state.records["risk"]
    if not len(rows):
        return
    second = state.time // SECOND_NS
    for scope, name in ((Scope.ACCOUNT, account.account_id), (Scope.FIRM, firm_of(state, account.account_id))):
        row = rows.get(scope, name, "") if name else None
        if row is not None and row.rate_max:
            count = row.rate_count + 1 if row.rate_second == second else 1
            rows.put(msgspec.structs.replace(row, rate_second=second, rate_count=count))


def traded(state: State, product: Product, orders: tuple[Order, Order], value: int) -> None:
    """Count the notional of a trade for the accounts and firms of both orders."""
    rows = state.records["risk"]
    if not len(rows):
        return
    for order in orders:
        account_id = order.account.account_id
        for scope, name in ((Scope.ACCOUNT, account_id), (Scope.FIRM, firm_of(state, account_id))):
            row = rows.get(scope, name, product.quote) if name else None
            if row is not None and row.volume_max:
                day = today(state)
                volume = row.volume + value if row.day == day else value
                rows.put(msgspec.structs.replace(row, day=day, volume=min(volume, AMOUNT_MAX)))

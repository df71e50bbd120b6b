"""The handlers of commands. Each validates the command, then changes the state, then writes the outcome.

A handler gets the state, the account that the command acts for, and the command. It writes the outcome (`answer`) and
returns None, or it returns a `Reject` and has changed nothing. The two tables at the end map the operator's and the
traders' commands to handlers. Placing and cancelling an order are in neither, because the engine calls these two by
name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from statemachine import (
    access,
    amending,
    answer,
    auctions,
    collars,
    consent,
    corrections,
    dead_man,
    fees,
    kills,
    linked,
    options,
    pending,
    phases,
    risk,
    statuses,
    stops,
    streams,
    validation,
)
from statemachine.answer import cancelled, placed
from statemachine.commands import (
    AmendOrder,
    CancelAll,
    CancelAllAfter,
    Command,
    CorrectTrade,
    DecideProposal,
    Deposit,
    FollowCalendar,
    NoteStream,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutApiKey,
    PutCalendar,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutGroup,
    PutMember,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    PutUser,
    ReplaceOrder,
    SetAccess,
    SetCalendar,
    SetSwitches,
    Transfer,
    Withdraw,
)
from statemachine.entities import Account, Cancelling, Currency, Order, Placing, Product
from statemachine.entry import is_command_id
from statemachine.events import OrderTerms
from statemachine.matching import accept, close_order, enter
from statemachine.reject import Reject
from statemachine.state import Requested, State
from statemachine.tables import ApiKeyRow, ProductRow
from statemachine.types import DoneReason, ProductStatus, Reason
from statemachine.validation import bad_command_id
from statemachine.validation import cancel_order as validate_cancel
from statemachine.validation import place_order as validate_place

_AUCTION: int = ProductStatus.AUCTION
_CANCELLED: int = DoneReason.CANCELLED

C = TypeVar("C", bound=Command)
OperatorHandler = Callable[[State, C], Reject | None]
TraderHandler = Callable[[State, Account, C], Reject | None]


def put_currency(state: State, command: PutCurrency) -> Reject | None:
    """Add a currency."""
    reject = validation.put_currency(state, command)
    if reject is not None:
        return reject
    new = command.currency not in state.currencies
    if new:
        state.currencies[command.currency] = Currency(command.currency, command.scale)
    answer.done(state, new)
    return None


def put_product(state: State, command: PutProduct) -> Reject | None:
    """Add a product, or change sizes, fees and status of an existing one. Orders keep their fee rates.

    The status that the product has already is a change, too, if a calendar or the price collar would change it later:
    from then on it is set by hand, and stays.
    """
    reject = validation.put_product(state, command)
    if reject is not None:
        return reject
    existing = state.products.get(command.product_id)
    if existing is None:
        row = ProductRow(
            command.product_id,
            command.base,
            command.quote,
            command.tick,
            command.lot,
            command.min_size,
            command.max_size,
            command.maker_fee_ppm,
            command.taker_fee_ppm,
            command.status,
            version=1,
        )
        product = state.new_product(row)
        statuses.change(state, product, row.status)
        phases.follow(state, product)
        answer.done(state, True)
        return None
    differs = existing.status != command.status and not command.keep_status
    restated = differs or (not command.keep_status and phases.is_moved(state, existing))
    if restated and existing.opening:
        return Reject(Reason.AUCTION_OPENING, "status", "the auction is opening")
    before = existing.row()
    existing.min_size = command.min_size
    existing.max_size = command.max_size
    existing.maker_fee_ppm = command.maker_fee_ppm
    existing.taker_fee_ppm = command.taker_fee_ppm
    changed = differs or existing.row() != before
    if changed:
        existing.version += 1
    if restated:
        phases.by_hand(state, existing)
        statuses.change(state, existing, command.status)
    answer.done(state, changed or restated)
    return None


def open_account(state: State, command: OpenAccount) -> Reject | None:
    """Add an account."""
    reject = validation.open_account(command)
    if reject is not None:
        return reject
    new = command.new_account_id not in state.accounts
    if new:
        account = state.accounts[command.new_account_id] = Account(command.new_account_id, state.time)
        state.changes.touch(account)
    answer.done(state, new)
    return None


def put_api_key(state: State, command: PutApiKey) -> Reject | None:
    """Add or replace an API key."""
    reject = validation.put_api_key(state, command) or access.check_key(state, command)
    if reject is not None:
        return reject
    addresses = validation.networks(command.addresses)
    assert isinstance(addresses, str), "admitted"
    row = ApiKeyRow(
        command.key_id,
        command.owner_id,
        command.secret,
        command.passphrase,
        command.permissions,
        addresses,
        command.sealed_by,
        command.user_id,
    )
    access.index_key(state, state.api_keys.get(command.key_id), row)
    changed = state.api_keys.put(row)
    state.keys_put.append(command.key_id)
    answer.done(state, changed)
    return None


def deposit(state: State, account: Account, command: Deposit) -> Reject | None:
    """Credit the available balance."""
    reject = validation.deposit(state, command)
    if reject is not None:
        return reject
    state.currencies[command.currency].deposited += command.amount
    state.balance(account, command.currency).available += command.amount
    _transferred(state, account, command)
    return None


def withdraw(state: State, account: Account, command: Withdraw) -> Reject | None:
    """Debit the available balance."""
    reject = validation.withdraw(state, account, command)
    if reject is not None:
        return reject
    currency = state.currencies[command.currency]
    currency.withdraw(command.amount)
    account.balances[command.currency].available -= command.amount
    _transferred(state, account, command)
    return None


def transfer(state: State, account: Account, command: Transfer) -> Reject | None:
    """Debit the available balance, and credit another account's."""
    reject = validation.transfer(state, account, command)
    if reject is not None:
        return reject
    receiver = state.accounts[command.to_account_id]
    state.changes.touch(receiver)
    account.balances[command.currency].available -= command.amount
    state.balance(receiver, command.currency).available += command.amount
    _transferred(state, account, command)
    return None


def place_order(state: State, account: Account, command: Placing) -> Reject | None:
    """Enter an order."""
    reject = validate_place(state, account, command)
    if reject is not None:
        return reject
    product = command.product
    assert product is not None, "validated"
    if product.status == _AUCTION and not command.stop:
        reject = auctions.check_own(state, account, product, command.side, command.price)
        if reject is not None:
            return reject
    placed(state, _enter_new(state, account, product, command, None))
    return None


def place_with_options(state: State, account: Account, command: PlaceOrder) -> Reject | None:
    """Enter an order that has options."""
    placing = Placing()
    placing.take(command)
    reject = _with_options(state, placing, command.options)
    if reject is None:
        reject = validate_place(state, account, placing)
    if reject is not None:
        return reject
    product = state.products[placing.product_id]
    if product.status == _AUCTION and not placing.stop:
        reject = auctions.check_own(state, account, product, placing.side, placing.price)
        if reject is not None:
            return reject
    placed(state, _enter_new(state, account, product, placing, _terms(command.options)))
    return None


def _with_options(state: State, placing: Placing, found: OrderOptions | None) -> Reject | None:
    return options.check(state, placing, found) if found is not None else None


def _terms(found: OrderOptions | None) -> OrderTerms | None:
    return options.terms_of(found) if found is not None else None


def place_pair(state: State, account: Account, command: PlacePair) -> Reject | None:
    """Enter a linked pair of a limit order and a stop order."""
    if command.session and not is_command_id(command.session):
        return bad_command_id("session", Reason.INVALID_ID)
    limit, stop = linked.legs(command)
    reject = linked.check_pair(state, account, limit, stop)
    if reject is not None:
        return reject
    product = state.products[command.product_id]
    if product.status == _AUCTION:
        reject = auctions.check_own(state, account, product, limit.side, limit.price)
        if reject is not None:
            return reject
    first, second = linked.accept_pair(state, account, product, limit, stop, command.session)
    if state.guarded:
        risk.accepted(state, account)
        risk.accepted(state, account)
    _enter(state, product, first)
    if state.noted:
        linked.settle(state)  # the limit order may be done, and the outcome says what became of its partner
    answer.paired(state, first, second)
    return None


def _enter_new(state: State, account: Account, product: Product, command: Placing, terms: OrderTerms | None) -> Order:
    """Accept a validated order. It then enters, waits, or goes to the auction book."""
    order = accept(state, account, product, command)
    if state.guarded:
        risk.accepted(state, account)
    if terms is not None:
        order.terms = terms
    _enter(state, product, order)
    return order


def _enter(state: State, product: Product, order: Order) -> None:
    """Let an accepted order enter, wait, or go to the auction book."""
    if order.stop:
        stops.add(state, product, order)
    elif product.busy or state.work >= state.work_max:
        pending.queue(state, product, order)
    elif product.status == _AUCTION:
        auctions.collect(state, product, order)
    else:
        state.lowest = state.highest = 0
        enter(state, product, order)
        waiting = product.stops
        if order.filled_size and waiting.concerns(state.lowest, state.highest) and stops.trigger(state, product):
            pending.work_on(state, product, state.work_max)


def cancel_order(state: State, account: Account, command: Cancelling) -> Reject | None:
    """Cancel one order."""
    order = validate_cancel(state, account, command)
    if not isinstance(order, Order):
        return order
    if account.streams is not None:
        state.requested = Requested(order, command.command_id, order.client_oid)
    close_order(state, order, _CANCELLED)
    state.requested = None
    cancelled(state, [order], False)
    return None


def amend_order(state: State, account: Account, command: AmendOrder) -> Reject | None:
    """Amend one order."""
    order = amending.find(state, account, command)
    if isinstance(order, Reject):
        return order
    if account.streams is not None:
        state.requested = Requested(order, command.command_id, order.client_oid)
    reject = amending.amend(state, account, order, command)
    state.requested = None
    if reject is None:
        answer.amended(state, order)
    return reject


def replace_order(state: State, account: Account, command: ReplaceOrder) -> Reject | None:
    """Cancel one order and enter another, or neither."""
    order = amending.find(state, account, command)
    if isinstance(order, Reject):
        return order
    new = Placing()
    new.take(command.order)
    reject = _with_options(state, new, command.order.options) or amending.admit_replacement(state, account, order, new)
    if reject is not None:
        return reject
    close_order(state, order, _CANCELLED)
    stops.unlink(state, order)
    product = state.products[new.product_id]
    answer.replaced(state, order, _enter_new(state, account, product, new, _terms(command.order.options)))
    return None


def cancel_all(state: State, account: Account, command: CancelAll) -> Reject | None:
    """Cancel all orders of the account that the command selects, oldest first."""
    reject = validation.cancel_all(state, command)
    if reject is not None:
        return reject
    reason = int(DoneReason.TIMER) if command.disconnected else _CANCELLED
    chosen = pending.Chosen(command.product_id, command.side, command.price_min, command.price_max, command.session, reason)
    found = pending.cancel_all(state, account, chosen)
    if isinstance(found, Reject):
        return found
    orders, more = found
    state.unchanged = not orders and not more
    cancelled(state, orders, more)
    return None


def note_stream(state: State, account: Account, command: NoteStream) -> Reject | None:
    """Open or continue a report stream."""
    reject = streams.validate(state, account, command)
    if reject is not None:
        return reject
    stream = streams.note(state, account, command)
    answer.noted(state, stream.sequence, stream.base, stream.taken)
    return None


def _transferred(state: State, account: Account, command: Deposit | Withdraw | Transfer) -> None:
    answer.transferred(state, command.currency, command.amount, account.balances[command.currency])


OPERATOR_HANDLERS: dict[type[Command], OperatorHandler] = {  # type: ignore[type-arg]  # each takes its key's type
    PutCurrency: put_currency,
    PutProduct: put_product,
    OpenAccount: open_account,
    PutApiKey: put_api_key,
    PutFirm: kills.put_firm,
    PutMember: kills.put_member,
    SetSwitches: kills.set_switches,
    PutProductLimits: collars.put,
    PutRiskLimits: risk.put,
    PutCalendar: phases.put_calendar,
    SetCalendar: phases.set_calendar,
    PutGroup: phases.put_group,
    FollowCalendar: phases.follow_again,
    CorrectTrade: corrections.correct_trade,
    PutFeeTiers: fees.put_tiers,
    PutFeeOverride: fees.put_override,
    PutUser: access.put_user,
    SetAccess: access.set_access,
    DecideProposal: consent.decide,
}
"""Commands that only the operator may send, and who acts for the operator."""

consent.HANDLERS.update(OPERATOR_HANDLERS)

TRADER_HANDLERS: dict[type[Command], TraderHandler] = {  # type: ignore[type-arg]  # each takes its key's type
    Deposit: deposit,
    Withdraw: withdraw,
    Transfer: transfer,
    CancelAll: cancel_all,
    NoteStream: note_stream,
    PlaceOrder: place_with_options,
    PlacePair: place_pair,
    CancelAllAfter: dead_man.cancel_all_after,
    AmendOrder: amend_order,
    ReplaceOrder: replace_order,
}
"""Commands that act for an account."""

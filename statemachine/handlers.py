"""What each command does: admission first, then the change, then the outcome.

A handler gets the state, the account that the command acts for, and the command; it answers with an outcome, or with a `Refusal`
and then has changed nothing. The two tables at the end say which commands are whose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from statemachine import admission, auctions, stops
from statemachine.admission import Refusal
from statemachine.commands import (
    CancelAll,
    CancelOrder,
    Command,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutApiKey,
    PutCurrency,
    PutProduct,
    Transfer,
    Withdraw,
)
from statemachine.events import AnyOutcome, Cancelled, Done, OrderState, Placed, StatusChanged, Transferred
from statemachine.matching import accept, enter, take_out
from statemachine.state import Account, Currency, Product, State
from statemachine.tables import ApiKeyRow, ProductRow
from statemachine.types import DoneReason, ProductStatus

_AUCTION = ProductStatus.AUCTION  # a member of an enumeration costs ten times as much when it is looked up in its class

C = TypeVar("C", bound=Command)
OperatorHandler = Callable[[State, C], AnyOutcome | Refusal]
TraderHandler = Callable[[State, Account, C], AnyOutcome | Refusal]


def put_currency(state: State, command: PutCurrency) -> AnyOutcome | Refusal:
    """Add a currency."""
    refusal = admission.put_currency(state, command)
    if refusal is not None:
        return refusal
    new = command.currency not in state.currencies
    if new:
        state.currencies[command.currency] = Currency(command.currency, command.scale)
    return _done(state, new)


def put_product(state: State, command: PutProduct) -> AnyOutcome | Refusal:
    """Add a product, or change sizes, fees and status of a known one. Orders keep the fees of their entry."""
    refusal = admission.put_product(state, command)
    if refusal is not None:
        return refusal
    known = state.products.get(command.product_id)
    if known is None:
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
            version=_version_after(state, 0),
        )
        product = state.products[command.product_id] = Product(row, 10 ** state.currencies[command.base].scale)
        _status_changed(state, product)
        return _done(state, changed=True)
    before = known.row()
    known.min_size = command.min_size
    known.max_size = command.max_size
    known.maker_fee_ppm = command.maker_fee_ppm
    known.taker_fee_ppm = command.taker_fee_ppm
    if not command.keep_status:
        known.status = command.status
    changed = known.row() != before
    if changed:
        known.version = _version_after(state, known.version)
    if known.status is not before.status:
        _status_changed(state, known)
    return _done(state, changed)


def _version_after(state: State, version: int) -> int:
    """A product's version after a change. Versions before 0.3.0 counted none."""
    return version if state.former else version + 1


def _status_changed(state: State, product: Product) -> None:
    """Open the auction if there was one, tell the status, and let the stop orders enter that the opening triggers."""
    if state.former == 1:
        return  # 0.1.0 told nothing, and had neither auctions nor stop orders
    first = len(state.events)
    opened = auctions.open_auction(state, product) if product.status in auctions.TRADING else (0, 0)
    product.sequence += 1
    state.events.append(StatusChanged(product.product_id, product.sequence, state.time, product.status, *opened))
    if product.stops:
        stops.follow(state, product, first)


def open_account(state: State, command: OpenAccount) -> AnyOutcome | Refusal:
    """Add an account."""
    refusal = admission.open_account(command)
    if refusal is not None:
        return refusal
    new = command.new_account_id not in state.accounts
    if new:
        account = state.accounts[command.new_account_id] = Account(command.new_account_id, state.time)
        state.changes.touch(account.account_id, account, account.memory)
    return _done(state, new)


def put_api_key(state: State, command: PutApiKey) -> AnyOutcome | Refusal:
    """Add or replace an API key."""
    refusal = admission.put_api_key(state, command)
    if refusal is not None:
        return refusal
    addresses = admission.networks(command.addresses)
    assert isinstance(addresses, str), "admitted"
    row = ApiKeyRow(
        command.key_id,
        command.owner_id,
        command.secret,
        command.passphrase,
        command.permissions,
        addresses,
        command.sealed_by,
    )
    changed = state.api_keys.get(command.key_id) != row
    state.api_keys[command.key_id] = row
    state.changes.api_key_put(command.key_id)
    return _done(state, changed)


def deposit(state: State, account: Account, command: Deposit) -> AnyOutcome | Refusal:
    """Credit the available balance."""
    refusal = admission.deposit(state, command)
    if refusal is not None:
        return refusal
    state.currencies[command.currency].deposited += command.amount
    state.balance(account, command.currency).available += command.amount
    return _transferred(state, account, command)


def withdraw(state: State, account: Account, command: Withdraw) -> AnyOutcome | Refusal:
    """Debit the available balance."""
    refusal = admission.withdraw(state, account, command)
    if refusal is not None:
        return refusal
    state.currencies[command.currency].withdrawn += command.amount
    account.balances[command.currency].available -= command.amount
    return _transferred(state, account, command)


def transfer(state: State, account: Account, command: Transfer) -> AnyOutcome | Refusal:
    """Debit the available balance, and credit another account's."""
    refusal = admission.transfer(state, account, command)
    if refusal is not None:
        return refusal
    receiver = state.accounts[command.to_account_id]
    state.changes.touch(receiver.account_id, receiver, receiver.memory)
    account.balances[command.currency].available -= command.amount
    state.balance(receiver, command.currency).available += command.amount
    return _transferred(state, account, command)


def place_order(state: State, account: Account, command: PlaceOrder) -> AnyOutcome | Refusal:
    """Enter an order."""
    refusal = admission.place_order(state, account, command)
    if refusal is not None:
        return refusal
    product = state.products[command.product_id]
    order = accept(state, account, product, command)
    if order.stop:
        stops.wait(state, product, order)
    elif product.status is _AUCTION:
        auctions.collect(state, product, order)
    else:
        first = len(state.events)
        enter(state, account, product, order)
        if order.filled_size and product.stops:
            stops.follow(state, product, first)
    return Placed(state.sequence, state.time, False, copy.copy(order))


def cancel_order(state: State, account: Account, command: CancelOrder) -> AnyOutcome | Refusal:
    """Cancel one order."""
    order = admission.cancel_order(state, account, command)
    if isinstance(order, Refusal):
        return order
    return _cancel(state, [order])


def cancel_all(state: State, account: Account, command: CancelAll) -> AnyOutcome | Refusal:
    """Cancel all orders of the account, oldest first."""
    refusal = admission.cancel_all(state, command)
    if refusal is not None:
        return refusal
    wanted = command.product_id
    return _cancel(
        state,
        [
            order
            for order in account.open.values()
            if (not wanted or order.product_id == wanted) and admission.may_cancel(state.products[order.product_id])
        ],
    )


def _cancel(state: State, orders: list[OrderState]) -> Cancelled:
    for order in orders:
        take_out(state, order, DoneReason.CANCELLED)
    return Cancelled(state.sequence, state.time, False, [copy.copy(order) for order in orders])


def _done(state: State, changed: bool) -> Done:
    return Done(state.sequence, state.time, False, changed)


def _transferred(state: State, account: Account, command: Deposit | Withdraw | Transfer) -> Transferred:
    balance = account.balances[command.currency]
    return Transferred(state.sequence, state.time, False, command.currency, command.amount, balance.available, balance.hold)


OPERATOR_HANDLERS: dict[type[Command], OperatorHandler] = {  # type: ignore[type-arg]  # each takes its key's type
    PutCurrency: put_currency,
    PutProduct: put_product,
    OpenAccount: open_account,
    PutApiKey: put_api_key,
}
"""Commands that only the operator may send."""

TRADER_HANDLERS: dict[type[Command], TraderHandler] = {  # type: ignore[type-arg]  # each takes its key's type
    Deposit: deposit,
    Withdraw: withdraw,
    Transfer: transfer,
    PlaceOrder: place_order,
    CancelOrder: cancel_order,
    CancelAll: cancel_all,
}
"""Commands that act for an account."""

"""A trader's balances, fees, deposits, withdrawals and transfers."""

from __future__ import annotations

from typing import Any, Self

import msgspec
from msgspec import UNSET, UnsetType

from node.errors import RequestFailed
from node.gateway.calls import Answer, Call
from node.gateway.errors import ApiError, BadRequestError, rejection
from node.gateway.history import DOLLARS, own_user, usd_volume
from node.gateway.requests import DecimalText, decimal_units, parse
from node.gateway.values import account_text, check_name, iso, product_text, rate
from node.keys.credentials import permission_names
from node.native.protocol import BalancesQuery, FailCode, FeesQuery, FeesView
from statemachine.commands import Deposit, Transfer, Withdraw
from statemachine.decimals import to_text
from statemachine.events import AnyOutcome, Rejected, Transferred
from statemachine.limits import OPERATOR
from statemachine.tables import BalanceRow, CurrencyRow
from statemachine.types import Permission, Scope


class TransferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /deposits and /withdrawals. The caller chooses `transfer_id`; a repeated one books nothing.

    The custody system handles the destination on a blockchain. Those fields are accepted and not stored.
    """

    currency: str
    amount: DecimalText
    transfer_id: str | None = None
    crypto_address: str | None = None
    payment_method_id: str | None = None
    coinbase_account_id: str | None = None
    destination_tag: str | None = None
    no_destination_tag: bool | None = None
    add_network_fee_to_total: bool | None = None
    network: str | None = None
    nonce: int | str | None = None
    two_factor_code: str | None = None
    is_intermediary: bool | None = None
    intermediary_jurisdiction: str | None = None
    travel_rule_data: dict[str, Any] | None = None
    profile_id: str | None = None


class ProfileTransferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /profiles/transfer: a transfer from one account to another. The caller chooses `transfer_id`; a repeated one
    books nothing.
    """

    sender: str = msgspec.field(name="from")
    receiver: str = msgspec.field(name="to")
    currency: str
    amount: DecimalText
    transfer_id: str | None = None


class AddressRequest(msgspec.Struct, frozen=True):
    """POST /coinbase-accounts/{id}/addresses, which is refused with any content."""


class AccountJson(msgspec.Struct, kw_only=True):
    """A balance of one currency."""

    id: str
    currency: str
    balance: str
    available: str
    hold: str
    profile_id: str
    trading_enabled: bool

    @classmethod
    def of(cls, row: BalanceRow, scale: int) -> Self:
        """Return the object of a balance. `scale` is the currency's."""
        return cls(
            id=account_text(row.account_id, row.currency),
            currency=row.currency,
            balance=to_text(row.available + row.hold, scale),
            available=to_text(row.available, scale),
            hold=to_text(row.hold, scale),
            profile_id=row.account_id,
            trading_enabled=True,
        )


class ProfileJson(msgspec.Struct, kw_only=True):
    """The single profile of an account."""

    id: str
    user_id: str
    name: str
    active: bool
    is_default: bool
    has_margin: bool

    @classmethod
    def of(cls, account_id: str) -> Self:
        """Return the single profile of an account."""
        return cls(id=account_id, user_id=account_id, name=account_id, active=True, is_default=True, has_margin=False)


class UserJson(msgspec.Struct, kw_only=True):
    """The account, the user and the permissions of a key. A key without an account has the account `operator`."""

    id: str
    permissions: list[str]
    user: str | UnsetType = UNSET


class FeesJson(msgspec.Struct, kw_only=True):
    """The fee rates of the account's next order. A negative `maker_fee_rate` is a rebate. `usd_volume` is the 30-day
    volume in products quoted in USD, or null if it is not counted.
    """

    maker_fee_rate: str
    taker_fee_rate: str
    usd_volume: str | None


class WalletJson(msgspec.Struct, kw_only=True):
    """A payment method or an external wallet. The exchange has neither, so their lists are empty."""

    id: str


class FeeEstimateJson(msgspec.Struct, kw_only=True):
    """The fee of a withdrawal."""

    fee: str


class ExchangeLimitsJson(msgspec.Struct, kw_only=True):
    """The limits of transfers. The exchange has none, so `transfer_limits` is empty."""

    limit_currency: str
    transfer_limits: dict[str, dict[str, str]]


class TransferJson(msgspec.Struct, kw_only=True):
    """A booked deposit or withdrawal, with the balance after it."""

    id: str
    amount: str
    currency: str
    available: str
    hold: str
    created_at: str
    duplicate: bool

    @classmethod
    def of(cls, outcome: Transferred, transfer_id: str, scale: int) -> Self:
        """Return the object of a booked deposit or withdrawal. `scale` is the currency's."""
        return cls(
            id=transfer_id,
            amount=to_text(outcome.amount, scale),
            currency=outcome.currency,
            available=to_text(outcome.available, scale),
            hold=to_text(outcome.hold, scale),
            created_at=iso(outcome.time),
            duplicate=outcome.duplicate,
        )


class ProfileTransferJson(TransferJson, kw_only=True):
    """A transfer between accounts. `available` and `hold` are those of the sending account after it."""

    sender: str = msgspec.field(name="from")
    receiver: str = msgspec.field(name="to")

    @classmethod
    def between(cls, outcome: Transferred, transfer_id: str, scale: int, sender: str, receiver: str) -> Self:
        """Return the object of a transfer from one account to another. `scale` is the currency's."""
        booked = msgspec.structs.asdict(TransferJson.of(outcome, transfer_id, scale))
        return cls(**booked, sender=sender, receiver=receiver)


async def account_list(call: Call) -> Answer[list[AccountJson]]:
    """GET /accounts: one balance for each currency of the exchange, including unused ones."""
    return Answer(list((await _accounts(call)).values()))


async def account(call: Call) -> Answer[AccountJson]:
    """GET /accounts/{id}: one balance."""
    found = (await _accounts(call)).get(call.path("id"))
    if found is None:
        raise ApiError(404, "NotFound", "id")
    return Answer(found)


async def _accounts(call: Call) -> dict[str, AccountJson]:
    """Return the account's balances by their ids."""
    account_id = call.account_id
    currencies = await call.gateway.catalogue.all_currencies()
    try:
        balances: list[BalanceRow] = await call.read(BalancesQuery(account_id))
    except RequestFailed as error:
        if error.code is not FailCode.NOT_FOUND:
            raise
        raise ApiError(404, "Account not found", "account_id") from None
    rows = {row.currency: row for row in balances}
    empty = {row.currency: BalanceRow(account_id, row.currency, 0, 0) for row in currencies}
    return {
        account_text(account_id, row.currency): AccountJson.of(rows.get(row.currency, empty[row.currency]), row.scale)
        for row in currencies
    }


async def profile_list(call: Call) -> Answer[list[ProfileJson]]:
    """GET /profiles: an account here has one profile, itself, which is active."""
    return Answer([ProfileJson.of(call.account_id)] if _active(call) else [])


async def profile(call: Call) -> Answer[ProfileJson]:
    """GET /profiles/{id}: the profile of the account."""
    if not _active(call) or call.path("id") != call.account_id:
        raise ApiError(404, "NotFound", "id")
    return Answer(ProfileJson.of(call.account_id))


def _active(call: Call) -> bool:
    """Return whether active profiles are requested. Raises BadRequestError."""
    active = call.parameters().get("active", "true")
    if active not in ("true", "false"):
        raise BadRequestError("active must be true or false", "active")
    return active == "true"


async def verify(call: Call) -> Answer[UserJson]:
    """GET /users/self/verify: the account and the permissions of the key."""
    return Answer(
        UserJson(
            id=call.caller.account_id, permissions=permission_names(call.caller.permissions), user=call.caller.user_id or UNSET
        )
    )


async def fees(call: Call) -> Answer[FeesJson]:
    """GET /fees: the account's rates in `product_id`, or its highest in any product, and its 30-day volume in USD. The
    operator's key gets the rates of products.
    """
    text = call.parameters().get("product_id")
    catalogue = call.gateway.catalogue
    products = [await catalogue.recent(product_text(text))] if text is not None else await catalogue.all_products()
    if call.caller.account_id == OPERATOR:
        makers, takers = [each.row.maker_fee_ppm for each in products], [each.row.taker_fee_ppm for each in products]
        return Answer(_fees_json(max(makers, default=0), max(takers, default=0), None))
    view: FeesView = await call.read(FeesQuery(call.account_id, products[0].row.product_id if text is not None else ""))
    counted = dict(view.volumes)
    if DOLLARS in counted:
        volume: str | None = to_text(counted[DOLLARS], (await catalogue.currency(DOLLARS)).scale)
    else:
        volume = await usd_volume(call)
    return Answer(_fees_json(view.maker_fee_ppm, view.taker_fee_ppm, volume))


def _fees_json(maker_ppm: int, taker_ppm: int, volume: str | None) -> FeesJson:
    return FeesJson(maker_fee_rate=rate(maker_ppm), taker_fee_rate=rate(taker_ppm), usd_volume=volume)


async def no_wallets(_call: Call) -> Answer[list[WalletJson]]:
    """GET /payment-methods and /coinbase-accounts: always empty lists. The custody system moves money in and out."""
    return Answer([])


async def no_address(_call: Call) -> Answer[WalletJson]:
    """POST /coinbase-accounts/{id}/addresses: refused, because the exchange has no such accounts. The custody system
    assigns addresses.
    """
    raise ApiError(404, "NotFound", "id", detail="the exchange keeps no wallets: deposit addresses come from the custody system")


async def fee_estimate(call: Call) -> Answer[FeeEstimateJson]:
    """GET /withdrawals/fee-estimate: always zero, because withdrawals are free."""
    name = call.parameters().get("currency")
    if name is not None:
        await call.gateway.catalogue.currency(name)
    return Answer(FeeEstimateJson(fee="0"))


async def exchange_limits(call: Call) -> Answer[ExchangeLimitsJson]:
    """GET /users/{id}/exchange-limits: always empty, because the exchange sets no limits. The id is `self` or the
    account of the key.
    """
    own_user(call)
    return Answer(ExchangeLimitsJson(limit_currency=DOLLARS, transfer_limits={}))


async def deposit(call: Call) -> Answer[TransferJson]:
    """POST /deposits: credit the key's own account."""
    return await transfer(call, call.account_id, Deposit)


async def withdraw(call: Call) -> Answer[TransferJson]:
    """POST /withdrawals and /withdrawals/crypto: debit the key's own account."""
    return await transfer(call, call.account_id, Withdraw)


async def transfer(call: Call, account_id: str, kind: type[Deposit] | type[Withdraw]) -> Answer[TransferJson]:
    """Book a deposit or withdrawal. A repeated transfer_id books nothing and gets the same answer."""
    request = parse(call.body, TransferRequest)
    if request.profile_id not in (None, account_id):
        raise BadRequestError("profile_id must be the account of the API key", "profile_id")
    currency = await call.gateway.catalogue.currency(request.currency)
    amount = decimal_units(request.amount, currency.scale, "amount")
    transfer_id = check_name(request.transfer_id, "transfer_id") if request.transfer_id is not None else call.command_id()
    outcome = await call.command(kind(account_id, transfer_id, currency.currency, amount))
    if isinstance(outcome, Transferred):
        return Answer(TransferJson.of(outcome, transfer_id, currency.scale))
    raise _refused(outcome, currency)


def _refused(outcome: AnyOutcome, currency: CurrencyRow) -> ApiError:
    """Return the answer to a rejected transfer."""
    assert isinstance(outcome, Rejected), outcome
    return rejection(outcome, number=lambda units: to_text(units, currency.scale), command_id="transfer_id")


async def transfer_between(call: Call) -> Answer[ProfileTransferJson]:
    """POST /profiles/transfer: transfer money from the key's own account, or with an operator's key from any account,
    to another.
    """
    request = parse(call.body, ProfileTransferRequest)
    sender, receiver = check_name(request.sender, "from"), check_name(request.receiver, "to")
    if call.caller.account_id != sender:
        if not call.caller.user_id and not call.caller.permissions & Permission.ADMIN:
            raise ApiError(403, "from must be the account of the API key", "from", reason="forbidden")
        await call.require(Permission.TRANSFER, Scope.ACCOUNT, sender)
    currency = await call.gateway.catalogue.currency(check_name(request.currency, "currency"))
    amount = decimal_units(request.amount, currency.scale, "amount")
    transfer_id = check_name(request.transfer_id, "transfer_id") if request.transfer_id is not None else call.command_id()
    outcome = await call.command(Transfer(sender, transfer_id, receiver, currency.currency, amount))
    if isinstance(outcome, Transferred):
        return Answer(ProfileTransferJson.between(outcome, transfer_id, currency.scale, sender, receiver))
    error = _refused(outcome, currency)
    if error.field == "account_id":
        error.field = "from"
    raise error

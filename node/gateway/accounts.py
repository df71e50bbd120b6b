"""A trader's balances, fees, deposits and withdrawals."""

from __future__ import annotations

from node.errors import RequestFailed
from node.gateway.decimals import to_units
from node.gateway.errors import ApiError, BadRequestError
from node.gateway.ids import account_text, check_name, product_text
from node.gateway.reasons import rejection
from node.gateway.requests import ProfileTransferRequest, TransferRequest, parse, raw_text
from node.gateway.responses import account_json, profile_json, rate, transfer_json
from node.gateway.shapes import (
    AccountJson,
    ExchangeLimitsJson,
    FeeEstimateJson,
    FeesJson,
    ProfileJson,
    ProfileTransferJson,
    TransferJson,
    UserJson,
    WalletJson,
)
from node.gateway.volumes import DOLLARS, own_user, usd_volume
from node.gateway.web import Answer, Call
from node.native.protocol import BalancesQuery, FailCode
from statemachine.commands import Deposit, Transfer, Withdraw
from statemachine.decimals import to_text
from statemachine.events import AnyOutcome, Rejected, Transferred
from statemachine.tables import BalanceRow, CurrencyRow
from statemachine.types import Permission


async def account_list(call: Call) -> Answer[list[AccountJson]]:
    """GET /accounts: one a currency of the exchange, also where nothing was ever booked."""
    return Answer(list((await _accounts(call)).values()))


async def account(call: Call) -> Answer[AccountJson]:
    """GET /accounts/{id}: one of them."""
    found = (await _accounts(call)).get(call.path("id"))
    if found is None:
        raise ApiError(404, "NotFound", "id")
    return Answer(found)


async def _accounts(call: Call) -> dict[str, AccountJson]:
    """The account's balances by their ids."""
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
        account_text(account_id, row.currency): account_json(rows.get(row.currency, empty[row.currency]), row.scale)
        for row in currencies
    }


async def profile_list(call: Call) -> Answer[list[ProfileJson]]:
    """GET /profiles: an account here has one profile, itself, which is active."""
    return Answer([profile_json(call.account_id)] if _active(call) else [])


async def profile(call: Call) -> Answer[ProfileJson]:
    """GET /profiles/{id}: the same."""
    if not _active(call) or call.path("id") != call.account_id:
        raise ApiError(404, "NotFound", "id")
    return Answer(profile_json(call.account_id))


def _active(call: Call) -> bool:
    """Whether active profiles are asked for. Raises BadRequestError."""
    active = call.parameters().get("active", "true")
    if active not in ("true", "false"):
        raise BadRequestError("active must be true or false", "active")
    return active == "true"


async def verify(call: Call) -> Answer[UserJson]:
    """GET /users/self/verify: whose key it is."""
    return Answer({"id": call.account_id})


async def fees(call: Call) -> Answer[FeesJson]:
    """GET /fees: of `product_id`, or the highest of any product. `usd_volume`: traded in 30 days, null without a history."""
    product_id = call.parameters().get("product_id")
    if product_id is not None:
        products = [await call.gateway.catalogue.product(product_text(product_id))]
    else:
        products = await call.gateway.catalogue.all_products()
    return Answer(
        {
            "maker_fee_rate": rate(max((product.row.maker_fee_ppm for product in products), default=0)),
            "taker_fee_rate": rate(max((product.row.taker_fee_ppm for product in products), default=0)),
            "usd_volume": await usd_volume(call),
        }
    )


async def no_wallets(_call: Call) -> Answer[list[WalletJson]]:
    """GET /payment-methods and /coinbase-accounts: none. Money comes and goes by the custody system."""
    return Answer([])


async def no_address(_call: Call) -> Answer[WalletJson]:
    """POST /coinbase-accounts/{id}/addresses: refused, since there are no such accounts: the custody system gives out addresses."""
    raise ApiError(404, "NotFound", "id", detail="the exchange keeps no wallets: deposit addresses come from the custody system")


async def fee_estimate(call: Call) -> Answer[FeeEstimateJson]:
    """GET /withdrawals/fee-estimate: nothing is taken for a withdrawal."""
    name = call.parameters().get("currency")
    if name is not None:
        await call.gateway.catalogue.currency(name)
    return Answer({"fee": "0"})


async def exchange_limits(call: Call) -> Answer[ExchangeLimitsJson]:
    """GET /users/{id}/exchange-limits: none are set; the id is `self` or the account of the key."""
    own_user(call)
    return Answer({"limit_currency": DOLLARS, "transfer_limits": {}})


async def deposit(call: Call) -> Answer[TransferJson]:
    """POST /deposits: credit the key's own account."""
    return await transfer(call, call.account_id, Deposit)


async def withdraw(call: Call) -> Answer[TransferJson]:
    """POST /withdrawals and /withdrawals/crypto: debit the key's own account."""
    return await transfer(call, call.account_id, Withdraw)


async def transfer(call: Call, account_id: str, kind: type[Deposit] | type[Withdraw]) -> Answer[TransferJson]:
    """Book a deposit or withdrawal; the same transfer_id again books nothing and answers the same."""
    request = parse(call.body, TransferRequest)
    if request.profile_id not in (None, account_id):
        raise BadRequestError("profile_id must be the account of the API key", "profile_id")
    currency = await call.gateway.catalogue.currency(request.currency)
    amount = to_units(raw_text(request.amount, "amount"), currency.scale, "amount")
    transfer_id = check_name(request.transfer_id, "transfer_id") if request.transfer_id is not None else call.command_id()
    outcome = await call.command(kind(account_id, transfer_id, currency.currency, amount))
    if isinstance(outcome, Transferred):
        return Answer(transfer_json(outcome, transfer_id, currency.scale))
    raise _refused(outcome, currency)


def _refused(outcome: AnyOutcome, currency: CurrencyRow) -> ApiError:
    """The answer to a transfer that was not booked."""
    assert isinstance(outcome, Rejected), outcome
    return rejection(outcome, number=lambda units: to_text(units, currency.scale), command_id="transfer_id")


async def transfer_between(call: Call) -> Answer[ProfileTransferJson]:
    """POST /profiles/transfer: from the key's own account, or with an operator's key from any, to another."""
    request = parse(call.body, ProfileTransferRequest)
    sender, receiver = check_name(request.sender, "from"), check_name(request.receiver, "to")
    assert call.identity is not None, "the route asks for a permission"
    if call.identity.account_id != sender and not call.identity.permissions & Permission.ADMIN:
        raise ApiError(403, "from must be the account of the API key", "from", reason="forbidden")
    currency = await call.gateway.catalogue.currency(check_name(request.currency, "currency"))
    amount = to_units(raw_text(request.amount, "amount"), currency.scale, "amount")
    transfer_id = check_name(request.transfer_id, "transfer_id") if request.transfer_id is not None else call.command_id()
    outcome = await call.command(Transfer(sender, transfer_id, receiver, currency.currency, amount))
    if isinstance(outcome, Transferred):
        return Answer({**transfer_json(outcome, transfer_id, currency.scale), "from": sender, "to": receiver})
    error = _refused(outcome, currency)
    if error.field == "account_id":
        error.field = "from"
    raise error

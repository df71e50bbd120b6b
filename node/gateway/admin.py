"""The operator's calls: currencies, products, accounts, API keys, and money for any account. Each call may be
repeated safely with a new signature.

Only the call that creates a key returns its secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Self

import msgspec
from msgspec import UNSET, UnsetType

from node.errors import RequestFailed, UnfitSecretError
from node.gateway.accounts import TransferJson, transfer
from node.gateway.calls import Answer, Call
from node.gateway.errors import ApiError, BadRequestError, NewKeyJson, ProposedError, UnknownHereError, rejection
from node.gateway.requests import DecimalText, absent, choice, decimal_units, given, page_limit, parse
from node.gateway.values import PRODUCT_STATUSES, ProductStatusWord, check_name, optional_name, product_text
from node.keys import addresses
from node.keys.credentials import PERMISSIONS, generate, permission_names, revocation
from node.keys.encryption import TEXT_BYTES_MAX, check_texts
from node.native.products import put_again
from node.native.protocol import ApiKeyQuery, ApiKeysQuery, FailCode, ProductsQuery
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PutApiKey, PutCurrency, PutProduct
from statemachine.decimals import to_text
from statemachine.events import AnyOutcome, Done, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR, PPM_DIGITS, SCALE_MAX
from statemachine.tables import ApiKeyRow, ProductRow
from statemachine.types import Permission, ProductStatus, Scope

NO_SCALES: Mapping[str, int] = {}
HAND_OVER_SECONDS = 5.0
"""Seconds to wait for a new leader: several election timeouts."""
HAND_OVER_POLL = 0.05


class CurrencyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PUT /admin/currencies/{id}."""

    scale: int


class ProductRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PUT /admin/products/{id}, with the fields of GET /products. Without `status` an existing product keeps its
    status, and a new one is online.
    """

    base_currency: str
    quote_currency: str
    base_increment: DecimalText
    quote_increment: DecimalText
    base_min_size: DecimalText = msgspec.field(default_factory=absent)
    base_max_size: DecimalText = msgspec.field(default_factory=absent)
    maker_fee_rate: DecimalText = msgspec.field(default_factory=absent)
    taker_fee_rate: DecimalText = msgspec.field(default_factory=absent)
    status: ProductStatusWord | None = None


class ProductPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /admin/products/{id}: the fields to change."""

    base_min_size: DecimalText = msgspec.field(default_factory=absent)
    base_max_size: DecimalText = msgspec.field(default_factory=absent)
    maker_fee_rate: DecimalText = msgspec.field(default_factory=absent)
    taker_fee_rate: DecimalText = msgspec.field(default_factory=absent)
    status: ProductStatusWord | None = None


class StatusRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /admin/products: a status for all products."""

    status: str


class LeadershipRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /admin/leadership: the next leader. Without `node_id` it is the member with the longest log."""

    node_id: str | None = None


class LeadershipJson(msgspec.Struct, kw_only=True):
    """The leader after the call."""

    leader: str
    term: int


class AccountRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PUT /admin/accounts/{id}, which has no fields."""


class NewKeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /admin/keys. `addresses` are the networks from which the key may be used; empty for any. `user_id` is the
    user who owns the key. `account_id` is then an account, or `operator` for a key without an account.
    """

    account_id: str
    permissions: list[str]
    addresses: list[str] = []
    user_id: str = ""


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PUT /admin/keys/{id}. `secret` is base64; `addresses` as in `NewKeyRequest`."""

    account_id: str
    secret: str
    passphrase: str
    permissions: list[str]
    addresses: list[str] = []
    user_id: str = ""


class PutJson(msgspec.Struct, kw_only=True):
    """The result of a PUT of the operator. `changed` is false if an equal object existed before."""

    id: str
    changed: bool
    sequence: int


class KeyJson(msgspec.Struct, kw_only=True):
    """An API key without its secret. `addresses` are the networks from which it may be used; empty for any. `encrypted`
    says whether its secret is encrypted by a cluster key.
    """

    id: str
    account_id: str
    permissions: list[str]
    addresses: list[str]
    encrypted: bool
    user_id: str | UnsetType = UNSET

    @classmethod
    def of(cls, row: ApiKeyRow) -> Self:
        """Return the object of a key."""
        return cls(
            id=row.key_id,
            account_id=row.owner_id,
            permissions=permission_names(row.permissions),
            addresses=row.addresses.split(",") if row.addresses else [],
            encrypted=row.sealed_by != 0,
            user_id=row.user_id or UNSET,
        )


async def put_currency(call: Call) -> Answer[PutJson]:
    """PUT /admin/currencies/{id}: add a currency."""
    name = check_name(call.path("id"), "id")
    request = parse(call.body, CurrencyRequest)
    if not 0 <= request.scale <= SCALE_MAX:
        raise BadRequestError(f"scale must be a whole number from 0 to {SCALE_MAX}", "scale")
    return await put(call, PutCurrency(OPERATOR, call.command_id(), name, request.scale), name)


async def put_product(call: Call) -> Answer[PutJson]:
    """PUT /admin/products/{id}: add or replace a product. Sizes are in the base currency, the tick in the quote currency."""
    product_id = check_name(call.path("id"), "id")
    request = parse(call.body, ProductRequest)
    base = (await call.gateway.catalogue.currency(check_name(request.base_currency, "base_currency"))).scale
    quote = (await call.gateway.catalogue.currency(check_name(request.quote_currency, "quote_currency"))).scale
    status = choice(request.status, PRODUCT_STATUSES, "status") if request.status is not None else ProductStatus.ONLINE
    lot = decimal_units(request.base_increment, base, "base_increment")
    command = PutProduct(
        OPERATOR,
        call.command_id(),
        product_id,
        request.base_currency,
        request.quote_currency,
        decimal_units(request.quote_increment, quote, "quote_increment"),
        lot,
        decimal_units(request.base_min_size, base, "base_min_size", lot),
        _max_size(request, base, lot),
        decimal_units(request.maker_fee_rate, PPM_DIGITS, "maker_fee_rate", 0, signed=True),
        decimal_units(request.taker_fee_rate, PPM_DIGITS, "taker_fee_rate", 0),
        status,
        keep_status=request.status is None,
    )
    _check_notionals(command, base, quote)
    return await put(call, command, product_id, {"tick": quote, "lot": base})


def _check_notionals(command: PutProduct, base: int, quote: int) -> None:
    """Raise BadRequestError if a price times a size may be a fraction of the quote currency's smallest unit. The
    message names values that are valid.

    It is the exchange's rule in decimals. `base` and `quote` are the numbers of digits of the currencies.
    """
    if command.tick <= 0 or command.lot <= 0 or command.tick * command.lot % 10**base == 0:
        return
    least = to_text(command.tick * command.lot, base + quote)
    digits = len(least.partition(".")[2])
    unit = 10**base // gcd(10**base, command.tick)
    detail = (
        f"a lot of {to_text(command.lot, base)} {command.base} at a price of {to_text(command.tick, quote)} {command.quote} is worth {least} "
        f"{command.quote}, and {command.quote} has {quote} digits: every price times every size must be a whole number of its smallest unit, "
        f"{to_text(1, quote)}. Take a base_increment that is a multiple of {to_text(unit, base)}, a larger quote_increment, or a quote currency "
        f"with {digits} digits"
    )
    raise BadRequestError(
        "quote_increment times base_increment is too small", "quote_increment", reason="invalid_product", detail=detail
    )


def _max_size(request: ProductRequest, scale: int, lot: int) -> int:
    """Return the maximum size: the given one, or a million units of the base currency."""
    if given(request.base_max_size):
        return decimal_units(request.base_max_size, scale, "base_max_size")
    most: int = min(10 ** (scale + 6), AMOUNT_MAX)
    return max(lot, most - most % max(lot, 1))


async def patch_product(call: Call) -> Answer[PutJson]:
    """PATCH /admin/products/{id}: change the named fields. It is refused with 409 if the product was changed at the
    same time.
    """
    product_id = product_text(call.path("id"))
    request = parse(call.body, ProductPatch)
    row = (await _latest_products(call)).get(product_id)
    if row is None:
        raise ApiError(404, "Product not found", "id")
    product = await call.gateway.catalogue.recent(product_id)
    changes: dict[str, object] = {
        name: decimal_units(text, scale, field, signed=name == "maker_fee_ppm")
        for name, field, text, scale in (
            ("min_size", "base_min_size", request.base_min_size, product.base_scale),
            ("max_size", "base_max_size", request.base_max_size, product.base_scale),
            ("maker_fee_ppm", "maker_fee_rate", request.maker_fee_rate, PPM_DIGITS),
            ("taker_fee_ppm", "taker_fee_rate", request.taker_fee_rate, PPM_DIGITS),
        )
        if given(text)
    }
    if request.status is not None:
        changes["status"] = choice(request.status, PRODUCT_STATUSES, "status")
    if not changes:
        raise BadRequestError("the body must name something to change")
    return await put(call, put_again(row, call.command_id(), **changes), product_id)


async def patch_products(call: Call) -> Answer[list[PutJson]]:
    """PATCH /admin/products: set the same status for every product in one log entry."""
    status = choice(parse(call.body, StatusRequest).status, PRODUCT_STATUSES, "status")
    rows = await _latest_products(call)
    outcomes = await call.commands([put_again(row, call.command_id(row.product_id), status=status) for row in rows.values()])
    return Answer([_put_json(outcome, name) for name, outcome in zip(rows, outcomes, strict=True)])


async def _latest_products(call: Call) -> dict[str, ProductRow]:
    """Return the leader's products by id. They reflect everything acknowledged before the call."""
    rows: list[ProductRow] = await call.gateway.backend.query_leader(ProductsQuery())
    return {row.product_id: row for row in rows}


async def put_account(call: Call) -> Answer[PutJson]:
    """PUT /admin/accounts/{id}: open an account."""
    account_id = check_name(call.path("id"), "id")
    if call.body.strip():
        parse(call.body, AccountRequest)
    return await put(call, OpenAccount(OPERATOR, call.command_id(), account_id), account_id)


async def deposit(call: Call) -> Answer[TransferJson]:
    """POST /admin/accounts/{id}/deposits: credit an account."""
    account_id = check_name(call.path("id"), "id")
    await call.require(Permission.DEPOSIT, Scope.ACCOUNT, account_id)
    return await transfer(call, account_id, Deposit)


async def put(call: Call, command: AnyCommand, name: str, scales: Mapping[str, int] = NO_SCALES) -> Answer[PutJson]:
    """Apply a PUT command and return its effect. `scales` are the digits of the command's amounts by field. Raises
    ApiError if it was rejected.
    """
    return Answer(_put_json(await call.command(command), name, scales))


def _put_json(outcome: AnyOutcome, name: str, scales: Mapping[str, int] = NO_SCALES) -> PutJson:
    """Return the effect of a PUT command. Raises ApiError if it was rejected."""
    if isinstance(outcome, Done):
        return PutJson(id=name, changed=outcome.changed, sequence=outcome.sequence)
    assert isinstance(outcome, Rejected), outcome
    scale = scales.get(outcome.field, 0)
    raise rejection(outcome, number=lambda units: to_text(units, scale))


async def hand_over(call: Call) -> Answer[LeadershipJson]:
    """POST /admin/leadership: transfer leadership. The answer names the new leader that this node sees, or is 409 if
    the leader stays the same.
    """
    request = parse(call.body, LeadershipRequest) if call.body.strip() else LeadershipRequest()
    wanted = optional_name(request.node_id, "node_id")
    monitor = call.gateway.monitor
    before = await monitor.now()
    await call.gateway.backend.hand_over(wanted)
    end = asyncio.get_running_loop().time() + HAND_OVER_SECONDS
    while asyncio.get_running_loop().time() < end:
        status = call.status = await monitor.now()
        if status is not None and status.leader_id and (before is None or status.term > before.term):
            return Answer(LeadershipJson(leader=status.leader_id, term=status.term))
        await asyncio.sleep(HAND_OVER_POLL)
    raise ApiError(409, "The leader did not change", "node_id", reason="conflict", detail="no other member took over in time")


async def key_list(call: Call) -> Answer[list[KeyJson]]:
    """GET /admin/keys: API keys by id, beginning after `after`, without secrets. A revoked key has no permissions."""
    query = call.parameters()
    limit = page_limit(query)
    after = optional_name(query.get("after"), "after")
    rows: list[ApiKeyRow] = await call.read(ApiKeysQuery(after, limit, call.caller.viewer))
    return Answer([KeyJson.of(row) for row in rows], {"cb-after": rows[-1].key_id} if len(rows) == limit else {})


async def create_key(call: Call) -> Answer[NewKeyJson]:
    """POST /admin/keys: create an API key. Only this answer contains its secret and passphrase, even if the key waits
    for consent.
    """
    request = parse(call.body, NewKeyRequest)
    key = generate()
    permissions, limits = _permissions(request.permissions), _addresses(request.addresses)
    owner = check_name(request.account_id, "account_id")
    command = PutApiKey(
        OPERATOR, call.command_id(), key.key_id, owner, key.secret, key.passphrase, permissions, limits, user_id=request.user_id
    )
    made = NewKeyJson(id=key.key_id, secret=key.secret, passphrase=key.passphrase)
    try:
        made.sequence = (await put(call, command, key.key_id)).body.sequence
    except ProposedError as waits:
        waits.key = made
        raise
    return Answer(made)


async def put_key(call: Call) -> Answer[PutJson]:
    """PUT /admin/keys/{id}: add or replace an API key with the caller's secret. The answer does not contain it."""
    key_id = check_name(call.path("id"), "id")
    request = parse(call.body, KeyRequest)
    owner = check_name(request.account_id, "account_id")
    if not (request.passphrase and request.passphrase.isprintable()):
        raise BadRequestError(f"passphrase must be 1 to {TEXT_BYTES_MAX} printable characters", "passphrase")
    try:
        check_texts(request.secret, request.passphrase)
    except UnfitSecretError as error:
        field, _, expected = str(error).partition(": expected ")
        raise BadRequestError(f"{field} must be {expected}", field) from None
    permissions, limits = _permissions(request.permissions), _addresses(request.addresses)
    texts = (request.secret, request.passphrase)
    return await put(
        call, PutApiKey(OPERATOR, call.command_id(), key_id, owner, *texts, permissions, limits, user_id=request.user_id), key_id
    )


async def revoke_key(call: Call) -> Answer[PutJson]:
    """DELETE /admin/keys/{id}: revoke an API key at once on every node. Its secret is deleted, and the id stays in the
    list.
    """
    key_id = check_name(call.path("id"), "id")
    try:
        row: ApiKeyRow = await call.gateway.backend.query(ApiKeyQuery(key_id))
    except RequestFailed as failure:
        if failure.code is not FailCode.NOT_FOUND:
            raise
        raise UnknownHereError(404, "NotFound", "id") from None
    return await put(call, revocation(row, call.command_id()), key_id)


def _permissions(names: Sequence[str]) -> int:
    if not names or not set(names) <= set(PERMISSIONS):
        raise BadRequestError(f"permissions must be some of {', '.join(PERMISSIONS)}", "permissions")
    return sum({PERMISSIONS[name] for name in names})


def _addresses(given: Sequence[str]) -> str:
    """Return networks in the exchange's form. Raises BadRequestError that names an invalid one."""
    found = []
    for place, text in enumerate(given):
        try:
            found.append(str(addresses.network(text)))
        except ValueError:
            expected = "a network such as 192.0.2.0/24 or 2001:db8::/32, or an address"
            raise BadRequestError(f"addresses[{place}] must be {expected}", f"addresses[{place}]") from None
    return ",".join(found)

"""Calls that the history answers: fills, ledgers, transfers, candles, sessions, and orders and trades that the engine
no longer keeps.

Every answer reflects at least what the node had applied when the call arrived, unless the history is more than a second
behind. The header `x-quorumbook-sequence` is the sequence up to which the answer is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from node.budget import Cost
from node.gateway.calls import Answer, Call, Route
from node.gateway.errors import ApiError, BadRequestError
from node.gateway.requests import choice, cursors, moment, page_limit, period, whole_number
from node.gateway.values import (
    SIDE_WORDS,
    CorrectionWord,
    ProductStatusWord,
    SideWord,
    account_text,
    iso,
    one_of,
    order_number,
    order_span,
    order_text,
    product_text,
)
from node.history.candles import GRANULARITIES, HOUR, Candle, bucket
from node.history.pages import PageRequest, Place, TransferKind
from node.native.protocol import OrdersQuery
from statemachine.decimals import to_text
from statemachine.events import OrderState
from statemachine.limits import SECOND_NS
from statemachine.tables import CurrencyRow
from statemachine.types import Permission, ProductStatus, Side

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from node.gateway.catalogue import Product
    from node.gateway.history_source import HistorySource
    from node.history.partitions import Row
    from node.history.queries import HistoryReader

_Result = TypeVar("_Result")

CANDLES_MAX = 300
SPARK_HOURS = 24
LEDGER_KINDS = {1: "transfer", 2: "match", 3: "fee"}
LEDGER_TYPES = {name: kind for kind, name in LEDGER_KINDS.items()} | {"rebate": 0, "conversion": 0}
"""Kinds by the types of Coinbase Exchange. The last two types do not occur here."""
TRANSFER_TYPES = {
    "deposit": TransferKind(incoming=True, internal=False),
    "withdraw": TransferKind(incoming=False, internal=False),
    "internal_deposit": TransferKind(incoming=True, internal=True),
    "internal_withdraw": TransferKind(incoming=False, internal=True),
}
TRANSFER_NAMES = {kind: name for name, kind in TRANSFER_TYPES.items()}


LiquidityWord = Annotated[str, one_of(("M", "T"))]
LedgerWord = Annotated[str, one_of(LEDGER_KINDS.values())]
TransferWord = Annotated[str, one_of(TRANSFER_TYPES)]


class FillJson(msgspec.Struct, kw_only=True):
    """A trade from the view of one party; `side` is its own side. A trade that an operator busted or corrected has a
    `correction`, and the second also the `corrected_price`.
    """

    trade_id: int
    product_id: str
    order_id: str
    user_id: str
    profile_id: str
    liquidity: LiquidityWord
    price: str
    size: str
    fee: str
    side: SideWord
    settled: bool
    created_at: str
    correction: CorrectionWord | UnsetType = UNSET
    corrected_price: str | UnsetType = UNSET

    @classmethod
    def of(cls, row: Row, account_id: str, product: Product, corrections: Mapping[int, int]) -> Self:
        """Return a trade from the view of the account. `corrections` are those of the product."""
        correction, corrected_price = product.correction(row["trade_id"], corrections)
        is_maker = row["maker_account_id"] == account_id
        side = Side(row["side"]) if is_maker else Side.BUY if row["side"] == Side.SELL else Side.SELL
        return cls(
            trade_id=row["trade_id"],
            product_id=row["product_id"],
            order_id=order_text(row["maker_order_id"] if is_maker else row["taker_order_id"]),
            user_id=account_id,
            profile_id=account_id,
            liquidity="M" if is_maker else "T",
            price=product.price(row["price"]),
            size=product.size(row["size"]),
            fee=product.price(row["maker_fee"] if is_maker else row["taker_fee"]),
            side=SIDE_WORDS[side],
            settled=True,
            created_at=iso(row["time"]),
            correction=correction,
            corrected_price=corrected_price,
        )


class TransferEndsJson(msgspec.Struct, kw_only=True):
    """The accounts of a transfer between two accounts; empty for a deposit or withdrawal."""

    sender: str | UnsetType = msgspec.field(name="from", default=UNSET)
    receiver: str | UnsetType = msgspec.field(name="to", default=UNSET)

    @classmethod
    def of(cls, row: Row) -> Self:
        """Return the accounts of a transfer between accounts."""
        own, other = row["account_id"], row["other_account_id"]
        if not other:
            return cls()
        return cls(sender=other, receiver=own) if row["amount"] > 0 else cls(sender=own, receiver=other)


class LedgerDetailsJson(TransferEndsJson, kw_only=True):
    """The cause of a change of a balance: a trade or a transfer."""

    order_id: str | UnsetType = UNSET
    trade_id: str | UnsetType = UNSET
    product_id: str | UnsetType = UNSET
    transfer_id: str | UnsetType = UNSET
    transfer_type: str | UnsetType = UNSET

    @classmethod
    def of(cls, row: Row) -> Self:
        """Return the cause of a row of the ledger."""
        if row["transfer_id"]:
            ends = TransferEndsJson.of(row)
            return cls(
                transfer_id=row["transfer_id"],
                transfer_type=_transfer_type(row),
                sender=ends.sender,
                receiver=ends.receiver,
            )
        if row["trade_id"]:
            return cls(order_id=order_text(row["order_id"]), trade_id=str(row["trade_id"]), product_id=row["product_id"])
        return cls()


class LedgerEntryJson(msgspec.Struct, kw_only=True):
    """A change of a balance, and the balance after it."""

    id: str
    amount: str
    balance: str
    created_at: str
    type: LedgerWord
    details: LedgerDetailsJson

    @classmethod
    def of(cls, row: Row, scale: int) -> Self:
        """Return the object of a row of the ledger. `scale` is the currency's."""
        return cls(
            id=f"{row['sequence']}-{row['position']}",
            amount=to_text(row["amount"], scale),
            balance=to_text(row["balance"], scale),
            created_at=iso(row["time"]),
            type=LEDGER_KINDS[row["kind"]],
            details=LedgerDetailsJson.of(row),
        )


class HoldJson(msgspec.Struct, kw_only=True):
    """The hold of an open order."""

    id: str
    created_at: str
    updated_at: str
    type: str
    ref: str
    amount: str

    @classmethod
    def of(cls, order: OrderState, scale: int) -> Self:
        """Return the hold of an order. `scale` is the currency's."""
        order_id, placed = order_text(order.order_id), iso(order.created_at)
        return cls(
            id=order_id, created_at=placed, updated_at=placed, type="order", ref=order_id, amount=to_text(order.hold, scale)
        )


class BookedTransferJson(msgspec.Struct, kw_only=True):
    """A booked deposit, withdrawal or transfer."""

    id: str
    type: TransferWord
    created_at: str
    completed_at: str
    processed_at: str
    canceled_at: None
    account_id: str
    user_id: str
    amount: str
    currency: str
    details: TransferEndsJson

    @classmethod
    def of(cls, row: Row, scale: int) -> Self:
        """Return the object of a booked transfer. `scale` is the currency's."""
        booked = iso(row["time"])
        return cls(
            id=row["transfer_id"],
            type=_transfer_type(row),
            created_at=booked,
            completed_at=booked,
            processed_at=booked,
            canceled_at=None,
            account_id=account_text(row["account_id"], row["currency"]),
            user_id=row["account_id"],
            amount=to_text(abs(row["amount"]), scale),
            currency=row["currency"],
            details=TransferEndsJson.of(row),
        )


class TrailingVolumeJson(msgspec.Struct, kw_only=True):
    """The volumes of the account and of the exchange in a product in 30 days, in the base currency."""

    product_id: str
    exchange_volume: str
    volume: str
    recorded_at: str

    @classmethod
    def of(cls, product: Product, own: int, hours: Sequence[Candle], now: int) -> Self:
        """Return the volumes: `own` of the account, and that of `hours`. `now` is in nanoseconds since the epoch."""
        return cls(
            product_id=product.row.product_id,
            exchange_volume=product.size(sum(candle.volume for candle in hours)),
            volume=product.size(own),
            recorded_at=iso(now),
        )


class StatusChangeJson(msgspec.Struct, kw_only=True):
    """A change of a product's status, at `sequence` of the product's feed. If an auction opened with trades, it has the
    opening price and size.
    """

    product_id: str
    sequence: int
    time: str
    status: ProductStatusWord
    open_price: str | UnsetType = UNSET
    open_size: str | UnsetType = UNSET

    @classmethod
    def of(cls, row: RowMapping, product: Product) -> Self:
        """Return the object of a status change."""
        opened = bool(row["open_size"])
        return cls(
            product_id=row["product_id"],
            sequence=row["product_sequence"],
            time=iso(row["time"]),
            status=ProductStatus(row["status"]).name.lower(),
            open_price=product.price(row["open_price"]) if opened else UNSET,
            open_size=product.size(row["open_size"]) if opened else UNSET,
        )


async def history(call: Call) -> HistorySource:
    """Return the history, not older than the node's state when the call arrived. Raises ApiError 404 if the node keeps
    no history, and 503 if it cannot be read.
    """
    source = await call.past()
    if source is None:
        raise ApiError(
            404,
            "This node keeps no history",
            reason="no_history",
            detail="set history.enabled = true in the node's configuration, or ask a node where it is set",
        )
    return source


async def _asked(call: Call, question: Callable[[HistoryReader], _Result]) -> _Result:
    """Return the history's answer to a query. Raises as `history`."""
    return await (await history(call)).ask(question)


async def fills(call: Call) -> Answer[list[FillJson]]:
    """GET /fills: the account's trades, optionally of one product or one order."""
    parameters = call.parameters()
    account_id, page = call.account_id, _page(parameters)
    product_id = ""
    if "product_id" in parameters:
        product_id = (await call.gateway.catalogue.product(product_text(parameters["product_id"]))).row.product_id
    order_id = order_number(parameters["order_id"], "order_id") if "order_id" in parameters else 0
    if "order_id" in parameters and not order_id:
        return Answer([])
    rows = await _asked(call, lambda past: past.fills(account_id, product_id, order_id, page))
    body = []
    for row in rows:
        product = await call.gateway.catalogue.product(row["product_id"])
        body.append(FillJson.of(row, account_id, product, (await call.gateway.feeds.feed(product)).corrections))
    return Answer(body, _cursors([(row["sequence"], row["trade_id"]) for row in rows]))


async def ledger(call: Call) -> Answer[list[LedgerEntryJson]]:
    """GET /accounts/{id}/ledger: every change of the account's balance, or those of one type."""
    parameters = call.parameters()
    account_id, page = call.account_id, _page(parameters)
    kind = choice(parameters["type"], LEDGER_TYPES, "type") if "type" in parameters else None
    currency = await _currency(call)
    rows = await _asked(call, lambda past: past.ledger(account_id, currency.currency, kind, page))
    body = [LedgerEntryJson.of(row, currency.scale) for row in rows]
    return Answer(body, _cursors([(row["sequence"], row["position"]) for row in rows]))


async def holds(call: Call) -> Answer[list[HoldJson]]:
    """GET /accounts/{id}/holds: the hold of each open order of the account, newest first. The engine answers this call."""
    parameters = call.parameters()
    limit = page_limit(parameters)
    before_id, newer_than = order_span(parameters)
    start, end = period(parameters)
    currency = await _currency(call)
    orders: list[OrderState] = await call.read(
        OrdersQuery(
            call.account_id,
            limit=limit,
            before_id=before_id,
            above_id=newer_than,
            created_from=max(0, start or 0),
            created_to=0 if end is None else max(1, end),
            holds=currency.currency,
        )
    )
    return Answer(
        [HoldJson.of(order, currency.scale) for order in orders], cursors(orders, lambda order: order_text(order.order_id))
    )


async def account_transfers(call: Call) -> Answer[list[BookedTransferJson]]:
    """GET /accounts/{id}/transfers: deposits and withdrawals of one currency."""
    return await _transfers(call, (await _currency(call)).currency)


async def transfers(call: Call) -> Answer[list[BookedTransferJson]]:
    """GET /transfers: deposits and withdrawals, of all currencies or of one."""
    name = call.parameters().get("currency")
    return await _transfers(call, (await call.gateway.catalogue.currency(name)).currency if name is not None else "")


async def _transfers(call: Call, currency: str) -> Answer[list[BookedTransferJson]]:
    """Answer the transfers of an account in one currency, or in all ("")."""
    parameters = call.parameters()
    account_id, page = call.account_id, _page(parameters)
    kind = choice(parameters["type"], TRANSFER_TYPES, "type") if "type" in parameters else None
    rows = await _asked(call, lambda past: past.transfers(account_id, currency, kind, page))
    body = [BookedTransferJson.of(row, (await call.gateway.catalogue.currency(row["currency"])).scale) for row in rows]
    return Answer(body, _cursors([(row["sequence"], row["sequence"]) for row in rows]))


async def transfer(call: Call) -> Answer[BookedTransferJson]:
    """GET /transfers/{id}, by the transfer_id that the caller gave."""
    account_id, transfer_id = call.account_id, call.path("id")
    row = await _asked(call, lambda past: past.transfer(account_id, transfer_id))
    if row is None:
        raise ApiError(404, "NotFound", "id")
    return Answer(BookedTransferJson.of(row, (await call.gateway.catalogue.currency(row["currency"])).scale))


def _transfer_type(row: Row) -> str:
    return TRANSFER_NAMES[TransferKind(row["amount"] > 0, row["other_account_id"] != "")]


async def candles(call: Call) -> Answer[list[list[int | str]]]:
    """GET /products/{id}/candles: [time, low, high, open, close, volume], newest first. A bucket without trades is left
    out.
    """
    parameters = call.parameters()
    granularity = whole_number(parameters.get("granularity"), "granularity", 60, 1, 86_400)
    if granularity not in GRANULARITIES:
        raise BadRequestError(f"granularity must be one of {', '.join(map(str, GRANULARITIES))}", "granularity")
    start, end = _span(parameters, granularity)
    product = await call.gateway.catalogue.product(product_text(call.path("id")))
    found = await _asked(call, lambda past: past.candles(product.row.product_id, granularity, start, end))
    return Answer(_candle_rows(product, found))


async def spark_lines(call: Call) -> Answer[dict[str, list[list[int | str]]]]:
    """GET /products/spark-lines: each product's candles of an hour, of the latest 24 hours, newest first."""
    products = await call.gateway.catalogue.all_products()
    ids = [product.row.product_id for product in products]
    call.spend(Cost.rows(SPARK_HOURS * len(ids)))
    first = bucket(int(time.time()), HOUR) - (SPARK_HOURS - 1) * HOUR
    found = await _asked(call, lambda past: past.hours(ids, first))
    return Answer({product.row.product_id: _candle_rows(product, found.get(product.row.product_id, [])) for product in products})


def _candle_rows(product: Product, candles: Sequence[Candle]) -> list[list[int | str]]:
    """Return the rows of time, low, high, open, close and volume, newest first."""
    return [
        [
            candle.start,
            *(product.price(price) for price in (candle.low, candle.high, candle.open, candle.close)),
            product.size(candle.volume),
        ]
        for candle in reversed(candles)
    ]


async def status_changes(call: Call) -> Answer[list[StatusChangeJson]]:
    """GET /products/{id}/status-changes: the changes of the product's status, newest first. `after` selects older ones,
    `before` newer ones.
    """
    parameters = call.parameters()
    limit, after, before = page_limit(parameters), _sequence(parameters, "after"), _sequence(parameters, "before")
    product = await call.gateway.catalogue.product(product_text(call.path("id")))
    rows = await _asked(call, lambda past: past.status_changes(product.row.product_id, limit, after, before))
    body = [StatusChangeJson.of(row, product) for row in rows]
    return Answer(body, cursors(body, lambda item: str(item.sequence)))


class OperationJson(msgspec.Struct, kw_only=True):
    """A command of the operator: its sender (a user, `key/` and a key without a user, or `operator`), its fields with
    numbers in smallest units, and its outcome (`done`, `unchanged`, `proposed`, or the reason of a rejection).
    """

    sequence: int
    time: str
    sender: str
    command: str
    fields: dict[str, Any]
    outcome: str


async def operations(call: Call) -> Answer[list[OperationJson]]:
    """GET /admin/operations: the operator's commands, newest first. `sender` selects those of one user, `after` older
    ones, `before` newer ones. The caller must have the right to see the whole venue. The call needs a history.
    """
    await call.require_view_of_venue()
    parameters = call.parameters()
    limit, after, before = page_limit(parameters), _sequence(parameters, "after"), _sequence(parameters, "before")
    rows = await _asked(call, lambda past: past.operations(parameters.get("sender", ""), limit, after, before))
    body = [
        OperationJson(
            sequence=row["sequence"],
            time=iso(row["time"]),
            sender=row["sender"],
            command=row["command"],
            fields=msgspec.json.decode(row["fields"]),
            outcome=row["outcome"],
        )
        for row in rows
    ]
    return Answer(body, cursors(body, lambda item: str(item.sequence)))


def _span(parameters: Mapping[str, str], granularity: int) -> tuple[int, int]:
    """Return the first and last second in which a bucket may begin. Without `start` and `end` these are the latest 300."""
    if "start" not in parameters or "end" not in parameters:
        end = int(time.time())
        return bucket(end, granularity) - (CANDLES_MAX - 1) * granularity, end
    first, last = moment(parameters["start"], "start"), moment(parameters["end"], "end")
    start, end = first // SECOND_NS, last // SECOND_NS
    if end < start:
        raise BadRequestError("end must not be before start", "end")
    if (end - start) // granularity > CANDLES_MAX:
        raise BadRequestError(
            f"granularity too small for the requested time range. Count of aggregations requested exceeds {CANDLES_MAX}",
            "granularity",
        )
    return start, end


def _sequence(parameters: Mapping[str, str], name: str) -> int:
    """Return the sequence that a cursor names; 0 for none."""
    return whole_number(parameters.get(name), name, 0, 0, 2**62)


async def _currency(call: Call) -> CurrencyRow:
    """Return the currency of the account in the path. Raises ApiError 404."""
    account_id = call.account_id
    text, prefix = call.path("id"), account_text(account_id, "")
    if not text.startswith(prefix):
        raise ApiError(404, "NotFound", "id")
    return await call.gateway.catalogue.currency(text.removeprefix(prefix))  # currency names may contain colons, too


def _page(parameters: Mapping[str, str]) -> PageRequest:
    """Return the page that the parameters select."""
    start, end = period(parameters)
    return PageRequest(
        page_limit(parameters),
        _place(parameters, "after"),
        _place(parameters, "before"),
        start,
        end,
    )


def _place(parameters: Mapping[str, str], name: str) -> Place | None:
    """Return the place that a cursor names."""
    if name not in parameters:
        return None
    sequence, _, number = parameters[name].partition("-")
    sound = all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (sequence, number))
    if not sound:
        raise BadRequestError(f"{name} must be a cursor that cb-before or cb-after gave", name)
    return int(sequence), int(number)


def _cursors(places: Sequence[Place]) -> dict[str, str]:
    """Return the headers with the cursors of newer and older rows."""
    return cursors(places, lambda place: f"{place[0]}-{place[1]}")


DAYS = 30
DOLLARS = "USD"


async def trailing_volume(call: Call) -> Answer[list[TrailingVolumeJson]]:
    """GET /users/self/trailing-volume: the volume of 30 days for each product that the account traded in this time. The
    30 days begin at a full hour.
    """
    return await _volumes(call, call.account_id)


async def trading_volumes(call: Call) -> Answer[list[TrailingVolumeJson]]:
    """GET /users/{id}/trading-volumes: as trailing-volume. The id is `self` or the account of the key."""
    return await _volumes(call, own_user(call))


async def _volumes(call: Call, account_id: str) -> Answer[list[TrailingVolumeJson]]:
    """Answer the traded volumes of an account by product."""
    now = time.time_ns()
    first = _first_hour(now)
    source = await history(call)
    own = await source.ask(lambda past: past.traded(account_id, first))
    hours = await source.ask(lambda past: past.hours(sorted(own), first))
    return Answer(
        [
            TrailingVolumeJson.of(await call.gateway.catalogue.product(name), own[name][0], hours.get(name, []), now)
            for name in sorted(own)
        ]
    )


async def usd_volume(call: Call) -> str | None:
    """Return the account's 30-day volume in products quoted in USD, in USD. Returns None if the node keeps no history,
    the history cannot be read, or the key is the operator's.
    """
    first = _first_hour(time.time_ns())
    with suppress(ApiError):
        account_id = call.account_id
        own = await _asked(call, lambda past: past.traded(account_id, first))
        total = 0
        for name, (_, value) in own.items():
            product = await call.gateway.catalogue.product(name)
            total += value if product.row.quote == DOLLARS else 0
        return to_text(total, (await call.gateway.catalogue.currency(DOLLARS)).scale) if total else "0"
    return None


def _first_hour(now: int) -> int:
    return bucket(now // SECOND_NS - DAYS * 86_400, HOUR)


def own_user(call: Call) -> str:
    """Return the account of the key if the path names it or is `self`. Raises ApiError 404 for other accounts."""
    account_id = call.account_id
    if call.path("id") not in ("self", account_id):
        raise ApiError(404, "NotFound", "id")
    return account_id


PAGE = ("limit", "after", "before", "start_date", "end_date", "profile_id")
ROUTES = (
    Route("GET", "/products/{id}/candles", candles, query=("granularity", "start", "end")),
    Route("GET", "/products/spark-lines", spark_lines),
    Route("GET", "/products/{id}/status-changes", status_changes, Permission.VIEW, ("limit", "after", "before")),
    Route("GET", "/admin/operations", operations, Permission.VIEW, ("sender", "limit", "after", "before")),
    Route("GET", "/accounts/{id}/ledger", ledger, Permission.VIEW, ("type", *PAGE)),
    Route("GET", "/accounts/{id}/holds", holds, Permission.VIEW, PAGE),
    Route("GET", "/accounts/{id}/transfers", account_transfers, Permission.VIEW, ("type", *PAGE)),
    Route("GET", "/transfers", transfers, Permission.VIEW, ("type", "currency", *PAGE)),
    Route("GET", "/transfers/{id}", transfer, Permission.VIEW),
    Route("GET", "/fills", fills, Permission.VIEW, ("product_id", "order_id", "market_type", *PAGE)),
    Route("GET", "/users/self/trailing-volume", trailing_volume, Permission.VIEW),
    Route("GET", "/users/{id}/trading-volumes", trading_volumes, Permission.VIEW),
)
"""The calls of this module."""

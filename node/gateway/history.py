"""Calls that the history answers: fills, ledgers, transfers, candles, sessions; and what it adds to orders and trades that the engine has let go.

Every answer reflects at least what the node had applied when the call came, unless the history is more than a second behind; the header
`x-quorumbook-sequence` says which commands are in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from node.gateway.errors import ApiError, BadRequestError
from node.gateway.history_shapes import (
    BookedTransferJson,
    FillJson,
    HoldJson,
    LedgerDetailsJson,
    LedgerEntryJson,
    StatusChangeJson,
    TransferEndsJson,
)
from node.gateway.ids import account_text, order_number, order_span, order_text, product_text
from node.gateway.requests import choice, moment, page_limit, period, whole_number
from node.gateway.responses import SIDES, iso
from node.gateway.web import Answer, Call, Route
from node.history.candles import GRANULARITIES, HOUR, NANOSECONDS, Candle, bucket
from node.history.pages import Page, Place, TransferKind
from node.native.protocol import OrdersQuery
from statemachine.decimals import to_text
from statemachine.events import OrderState
from statemachine.tables import CurrencyRow
from statemachine.types import Permission, ProductStatus, Side

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from node.gateway.catalogue import Product
    from node.gateway.history_source import HistorySource
    from node.history.archived import Row

CANDLES_MAX = 300
SPARK_HOURS = 24
LEDGER_KINDS = {1: "transfer", 2: "match", 3: "fee"}
LEDGER_TYPES = {name: kind for kind, name in LEDGER_KINDS.items()} | {"rebate": 0, "conversion": 0}
"""Kinds by the types of Coinbase Exchange, of which the last two do not occur here."""
TRANSFER_TYPES = {
    "deposit": TransferKind(incoming=True, internal=False),
    "withdraw": TransferKind(incoming=False, internal=False),
    "internal_deposit": TransferKind(incoming=True, internal=True),
    "internal_withdraw": TransferKind(incoming=False, internal=True),
}
TRANSFER_NAMES = {kind: name for name, kind in TRANSFER_TYPES.items()}


async def history(call: Call) -> HistorySource:
    """The history, not older than the node was when the call came. Raises ApiError 404 where the node keeps none, 503 where it cannot be read."""
    source = await call.past()
    if source is None:
        raise ApiError(
            404,
            "This node keeps no history",
            reason="no_history",
            detail="set history.enabled = true in the node's configuration, or ask a node where it is set",
        )
    return source


async def fills(call: Call) -> Answer[list[FillJson]]:
    """GET /fills: the account's trades, of one product or one order where it is named."""
    given = call.parameters()
    account_id, page = call.account_id, _page(given)
    product_id = ""
    if "product_id" in given:
        product_id = (await call.gateway.catalogue.product(product_text(given["product_id"]))).row.product_id
    order_id = order_number(given["order_id"], "order_id") if "order_id" in given else 0
    if "order_id" in given and not order_id:
        return Answer([])
    source = await history(call)
    rows = await source.ask(lambda past: past.fills(account_id, product_id, order_id, page))
    body = [await _fill(call, row, account_id) for row in rows]
    return Answer(body, _cursors([(row["sequence"], row["trade_id"]) for row in rows]))


async def _fill(call: Call, row: Row, account_id: str) -> FillJson:
    product = await call.gateway.catalogue.product(row["product_id"])
    is_maker = row["maker_account_id"] == account_id
    side = Side(row["side"]) if is_maker else Side.BUY if row["side"] == Side.SELL else Side.SELL
    return {
        "trade_id": row["trade_id"],
        "product_id": row["product_id"],
        "order_id": order_text(row["maker_order_id"] if is_maker else row["taker_order_id"]),
        "user_id": account_id,
        "profile_id": account_id,
        "liquidity": "M" if is_maker else "T",
        "price": product.price(row["price"]),
        "size": product.size(row["size"]),
        "fee": product.price(row["maker_fee"] if is_maker else row["taker_fee"]),
        "side": SIDES[side],
        "settled": True,
        "created_at": iso(row["time"]),
    }


async def ledger(call: Call) -> Answer[list[LedgerEntryJson]]:
    """GET /accounts/{id}/ledger: every change of the account's balance, or those of one type."""
    given = call.parameters()
    account_id, page = call.account_id, _page(given)
    kind = choice(given["type"], LEDGER_TYPES, "type") if "type" in given else None
    currency = await _currency(call)
    source = await history(call)
    rows = await source.ask(lambda past: past.ledger(account_id, currency.currency, kind, page))
    body = [_entry(row, currency) for row in rows]
    return Answer(body, _cursors([(row["sequence"], row["position"]) for row in rows]))


def _entry(row: Row, currency: CurrencyRow) -> LedgerEntryJson:
    details: LedgerDetailsJson = {}
    if row["trade_id"]:
        details = {
            "order_id": order_text(row["order_id"]),
            "trade_id": str(row["trade_id"]),
            "product_id": row["product_id"],
        }
    if row["transfer_id"]:
        details = {"transfer_id": row["transfer_id"], "transfer_type": _transfer_type(row)}
        details.update(_ends(row))  # type: ignore[typeddict-item]  # its keys are among these
    return {
        "id": f"{row['sequence']}-{row['position']}",
        "amount": to_text(row["amount"], currency.scale),
        "balance": to_text(row["balance"], currency.scale),
        "created_at": iso(row["time"]),
        "type": LEDGER_KINDS[row["kind"]],
        "details": details,
    }


async def holds(call: Call) -> Answer[list[HoldJson]]:
    """GET /accounts/{id}/holds: what each open order holds of the account, newest first. Asked of the engine."""
    given = call.parameters()
    limit = page_limit(given)
    before_id, newer_than = order_span(given)
    start, end = period(given)
    currency = await _currency(call)
    found: list[OrderState] = await call.read(
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
    headers = {"cb-before": order_text(found[0].order_id), "cb-after": order_text(found[-1].order_id)} if found else {}
    return Answer([_hold(order, currency) for order in found], headers)


def _hold(order: OrderState, currency: CurrencyRow) -> HoldJson:
    order_id = order_text(order.order_id)
    placed = iso(order.created_at)
    return {
        "id": order_id,
        "created_at": placed,
        "updated_at": placed,
        "type": "order",
        "ref": order_id,
        "amount": to_text(order.hold, currency.scale),
    }


async def account_transfers(call: Call) -> Answer[list[BookedTransferJson]]:
    """GET /accounts/{id}/transfers: deposits and withdrawals of one currency."""
    return await _transfers(call, (await _currency(call)).currency)


async def transfers(call: Call) -> Answer[list[BookedTransferJson]]:
    """GET /transfers: deposits and withdrawals, of all currencies or of one."""
    name = call.parameters().get("currency")
    return await _transfers(call, (await call.gateway.catalogue.currency(name)).currency if name is not None else "")


async def _transfers(call: Call, currency: str) -> Answer[list[BookedTransferJson]]:
    given = call.parameters()
    account_id, page = call.account_id, _page(given)
    kind = choice(given["type"], TRANSFER_TYPES, "type") if "type" in given else None
    source = await history(call)
    rows = await source.ask(lambda past: past.transfers(account_id, currency, kind, page))
    body = [await _transfer(call, row) for row in rows]
    return Answer(body, _cursors([(row["sequence"], row["sequence"]) for row in rows]))


async def transfer(call: Call) -> Answer[BookedTransferJson]:
    """GET /transfers/{id}, by the transfer_id that the caller gave."""
    account_id, transfer_id = call.account_id, call.path("id")
    source = await history(call)
    row = await source.ask(lambda past: past.transfer(account_id, transfer_id))
    if row is None:
        raise ApiError(404, "NotFound", "id")
    return Answer(await _transfer(call, row))


async def _transfer(call: Call, row: Row) -> BookedTransferJson:
    currency = await call.gateway.catalogue.currency(row["currency"])
    booked = iso(row["time"])
    return {
        "id": row["transfer_id"],
        "type": _transfer_type(row),
        "created_at": booked,
        "completed_at": booked,
        "processed_at": booked,
        "canceled_at": None,
        "account_id": account_text(row["account_id"], row["currency"]),
        "user_id": row["account_id"],
        "amount": to_text(abs(row["amount"]), currency.scale),
        "currency": row["currency"],
        "details": _ends(row),
    }


def _transfer_type(row: Row) -> str:
    return TRANSFER_NAMES[TransferKind(row["amount"] > 0, row["other_account_id"] != "")]


def _ends(row: Row) -> TransferEndsJson:
    """From where to where, for a transfer between accounts."""
    own, other = row["account_id"], row["other_account_id"]
    if not other:
        return {}
    return {"from": other, "to": own} if row["amount"] > 0 else {"from": own, "to": other}


async def candles(call: Call) -> Answer[list[list[int | str]]]:
    """GET /products/{id}/candles: [time, low, high, open, close, volume], newest first. A bucket without trades is left out."""
    given = call.parameters()
    granularity = whole_number(given.get("granularity"), "granularity", 60, 1, 86_400)
    if granularity not in GRANULARITIES:
        raise BadRequestError(f"granularity must be one of {', '.join(map(str, GRANULARITIES))}", "granularity")
    start, end = _span(given, granularity)
    product = await call.gateway.catalogue.product(product_text(call.path("id")))
    source = await history(call)
    found = await source.ask(lambda past: past.candles(product.row.product_id, granularity, start, end))
    return Answer(_candle_rows(product, found))


async def spark_lines(call: Call) -> Answer[dict[str, list[list[int | str]]]]:
    """GET /products/spark-lines: each product's candles of an hour, of the latest 24 hours, newest first."""
    products = await call.gateway.catalogue.all_products()
    ids = [product.row.product_id for product in products]
    first = bucket(int(time.time()), HOUR) - (SPARK_HOURS - 1) * HOUR
    source = await history(call)
    found = await source.ask(lambda past: past.hours(ids, first))
    return Answer({product.row.product_id: _candle_rows(product, found.get(product.row.product_id, [])) for product in products})


def _candle_rows(product: Product, candles: Sequence[Candle]) -> list[list[int | str]]:
    """Rows of time, low, high, open, close and volume, newest first."""
    return [
        [
            candle.start,
            *(product.price(price) for price in (candle.low, candle.high, candle.open, candle.close)),
            product.size(candle.volume),
        ]
        for candle in reversed(candles)
    ]


async def status_changes(call: Call) -> Answer[list[StatusChangeJson]]:
    """GET /products/{id}/status-changes: the product's sessions, newest first; `after` leads to older ones, `before` gives only newer ones."""
    given = call.parameters()
    limit = page_limit(given)
    after = whole_number(given.get("after"), "after", 0, 0, 2**62)
    before = whole_number(given.get("before"), "before", 0, 0, 2**62)
    product = await call.gateway.catalogue.product(product_text(call.path("id")))
    source = await history(call)
    rows = await source.ask(lambda past: past.status_changes(product.row.product_id, limit, after, before))
    body = [_status_change(row, product) for row in rows]
    return Answer(body, {"cb-before": str(body[0]["sequence"]), "cb-after": str(body[-1]["sequence"])} if body else {})


def _status_change(row: RowMapping, product: Product) -> StatusChangeJson:
    found: StatusChangeJson = {
        "product_id": row["product_id"],
        "sequence": row["product_sequence"],
        "time": iso(row["time"]),
        "status": ProductStatus(row["status"]).name.lower(),
    }
    if row["open_size"]:
        found |= {"open_price": product.price(row["open_price"]), "open_size": product.size(row["open_size"])}
    return found


def _span(given: Mapping[str, str], granularity: int) -> tuple[int, int]:
    """First and last second that a bucket may begin in. Without both `start` and `end`: the latest 300 buckets."""
    if "start" not in given or "end" not in given:
        end = int(time.time())
        return bucket(end, granularity) - (CANDLES_MAX - 1) * granularity, end
    first, last = moment(given["start"], "start"), moment(given["end"], "end")
    start, end = first // NANOSECONDS, last // NANOSECONDS
    if end < start:
        raise BadRequestError("end must not be before start", "end")
    if (end - start) // granularity > CANDLES_MAX:
        raise BadRequestError(
            f"granularity too small for the requested time range. Count of aggregations requested exceeds {CANDLES_MAX}",
            "granularity",
        )
    return start, end


async def _currency(call: Call) -> CurrencyRow:
    """The currency of the account in the path. Raises ApiError 404."""
    account_id = call.account_id
    text, prefix = call.path("id"), account_text(account_id, "")
    if not text.startswith(prefix):
        raise ApiError(404, "NotFound", "id")
    return await call.gateway.catalogue.currency(text.removeprefix(prefix))  # names of currencies may have colons, too


def _page(given: Mapping[str, str]) -> Page:
    """The page that the parameters ask for."""
    start, end = period(given)
    return Page(
        page_limit(given),
        _place(given, "after"),
        _place(given, "before"),
        start,
        end,
    )


def _place(given: Mapping[str, str], name: str) -> Place | None:
    """A cursor out of a page's headers."""
    if name not in given:
        return None
    sequence, _, number = given[name].partition("-")
    sound = all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (sequence, number))
    if not sound:
        raise BadRequestError(f"{name} must be a cursor that cb-before or cb-after gave", name)
    return int(sequence), int(number)


def _cursors(places: Sequence[Place]) -> dict[str, str]:
    """The headers that lead to newer rows and to older ones."""
    if not places:
        return {}
    first, last = places[0], places[-1]
    return {"cb-before": f"{first[0]}-{first[1]}", "cb-after": f"{last[0]}-{last[1]}"}


PAGE = ("limit", "after", "before", "start_date", "end_date", "profile_id")

ROUTES = (
    Route("GET", "/products/{id}/candles", candles, query=("granularity", "start", "end")),
    Route("GET", "/products/spark-lines", spark_lines),
    Route("GET", "/products/{id}/status-changes", status_changes, Permission.VIEW, ("limit", "after", "before")),
    Route("GET", "/accounts/{id}/ledger", ledger, Permission.VIEW, ("type", *PAGE)),
    Route("GET", "/accounts/{id}/holds", holds, Permission.VIEW, PAGE),
    Route("GET", "/accounts/{id}/transfers", account_transfers, Permission.VIEW, ("type", *PAGE)),
    Route("GET", "/transfers", transfers, Permission.VIEW, ("type", "currency", *PAGE)),
    Route("GET", "/transfers/{id}", transfer, Permission.VIEW),
    Route("GET", "/fills", fills, Permission.VIEW, ("product_id", "order_id", "market_type", *PAGE)),
)
"""The calls of this module."""

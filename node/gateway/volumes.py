"""What an account traded in thirty days, which the history counts by the hour."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from node.gateway.errors import ApiError
from node.gateway.history import history
from node.gateway.history_shapes import TrailingVolumeJson
from node.gateway.responses import iso
from node.gateway.web import Answer, Call, Route
from node.history.candles import HOUR, NANOSECONDS, Candle, bucket
from statemachine.decimals import to_text
from statemachine.types import Permission

DAYS = 30
DOLLARS = "USD"


async def trailing_volume(call: Call) -> Answer[list[TrailingVolumeJson]]:
    """GET /users/self/trailing-volume: of 30 days, for each product that the account has traded in them. Counts from a full hour on."""
    return await _volumes(call, call.account_id)


async def trading_volumes(call: Call) -> Answer[list[TrailingVolumeJson]]:
    """GET /users/{id}/trading-volumes: the same; the id is `self` or the account of the key."""
    return await _volumes(call, own_user(call))


async def _volumes(call: Call, account_id: str) -> Answer[list[TrailingVolumeJson]]:
    now = time.time_ns()
    first = _first_hour(now)
    source = await history(call)
    own = await source.ask(lambda past: past.traded(account_id, first))
    hours = await source.ask(lambda past: past.hours(sorted(own), first))
    return Answer([await _volume(call, name, own[name][0], hours.get(name, []), now) for name in sorted(own)])


async def usd_volume(call: Call) -> str | None:
    """What the account traded for US dollars in 30 days, in products quoted in them; None where nobody can tell: the node keeps no history, it
    cannot be read, or the key is the operator's."""
    first = _first_hour(time.time_ns())
    with suppress(ApiError):
        account_id = call.account_id
        source = await history(call)
        own = await source.ask(lambda past: past.traded(account_id, first))
        total = 0
        for name, (_, value) in own.items():
            product = await call.gateway.catalogue.product(name)
            total += value if product.row.quote == DOLLARS else 0
        return to_text(total, (await call.gateway.catalogue.currency(DOLLARS)).scale) if total else "0"
    return None


def _first_hour(now: int) -> int:
    return bucket(now // NANOSECONDS - DAYS * 86_400, HOUR)


async def _volume(call: Call, product_id: str, own: int, hours: Sequence[Candle], now: int) -> TrailingVolumeJson:
    product = await call.gateway.catalogue.product(product_id)
    return {
        "product_id": product_id,
        "exchange_volume": product.size(sum(candle.volume for candle in hours)),
        "volume": product.size(own),
        "recorded_at": iso(now),
    }


def own_user(call: Call) -> str:
    """The account of the key, where the path names it or says `self`. Raises ApiError 404 for anybody else."""
    account_id = call.account_id
    if call.path("id") not in ("self", account_id):
        raise ApiError(404, "NotFound", "id")
    return account_id


ROUTES = (
    Route("GET", "/users/self/trailing-volume", trailing_volume, Permission.VIEW),
    Route("GET", "/users/{id}/trading-volumes", trading_volumes, Permission.VIEW),
)
"""The calls of this module."""

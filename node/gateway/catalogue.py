"""The gateway's copy of the currencies and products. All requests share it.

Scales, ticks and lots of a product never change, so a copy of any age converts the numbers of an order correctly, and
no order waits for a newer copy. Status, fees and switches change, and are read from a copy that is at most `AGE_MAX`
seconds old. A request with an id that is not in the copy causes a new copy, at most every `REFRESH_MIN` seconds, so
that unknown ids cost the engine little.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec
from msgspec import UNSET, UnsetType

from node.errors import QuorumbookError, RequestFailed
from node.gateway.backend import Backend
from node.gateway.errors import ApiError, UnavailableError, UnknownHereError
from node.gateway.values import amount_text, product_text, rate
from node.native.protocol import ControlsQuery, CurrenciesQuery, FailCode, OrderQuery, ProductsQuery
from statemachine.decimals import to_text
from statemachine.events import OrderState
from statemachine.tables import CurrencyRow, ProductRow, SwitchRow
from statemachine.types import ProductStatus, Scope, Switch

SWITCHES_PAGE = 1_000
"""Rows of one query: the most that a node answers."""
AGE_MAX = 1.0
REFRESH_MIN = 0.05
LEADER_MIN = 0.25
"""Seconds between two queries of the leader's products. Only an id that this node does not know causes one."""
APPLIED_MAX = 1.0
"""Seconds for which a caller waits until this node has applied the listing of a product that the leader has."""


@dataclass(frozen=True)
class Product:
    """A product with the scales of its numbers. Prices and funds have the quote currency's scale, sizes the base's."""

    row: ProductRow
    base_scale: int
    quote_scale: int
    switched_off: int = 0
    """The `Switch` bits that the operator set for the product or for the whole venue."""
    note: str = ""

    @property
    def stopped(self) -> bool:
        """Whether the switches refuse new orders."""
        both = Switch.BUY_OFF + Switch.SELL_OFF
        return bool(self.switched_off & Switch.KILL) or self.switched_off & both == both

    def message(self) -> str:
        """Return the switches as text for a client."""
        names = ", ".join(switch.name.lower().replace("_", " ") for switch in Switch if self.switched_off & switch)
        return f"switched off: {names}{f' ({self.note})' if self.note else ''}" if names else ""

    def price(self, units: int) -> str:
        """Return a price, notional, fee or funds as text."""
        return amount_text(units, self.quote_scale)

    def size(self, units: int) -> str:
        """Return a size as text."""
        return amount_text(units, self.base_scale)

    def correction(self, trade_id: int, corrections: Mapping[int, int]) -> tuple[str | UnsetType, str | UnsetType]:
        """Return what an operator did to a trade and its corrected price, UNSET if there is none. `corrections` are
        those of the product by trade: the new price, 0 for a bust.
        """
        price = corrections.get(trade_id)
        if price is None:
            return UNSET, UNSET
        return ("price", self.price(price)) if price else ("bust", UNSET)


class ProductJson(msgspec.Struct, kw_only=True):
    """A product."""

    id: str
    display_name: str
    base_currency: str
    quote_currency: str
    base_increment: str
    quote_increment: str
    base_min_size: str
    base_max_size: str
    min_market_funds: str
    maker_fee_rate: str
    taker_fee_rate: str
    status: str
    status_message: str
    trading_disabled: bool
    cancel_only: bool
    post_only: bool
    limit_only: bool
    auction_mode: bool
    margin_enabled: bool

    @classmethod
    def of(cls, product: Product) -> Self:
        """Return the JSON object of a product."""
        row = product.row
        offline = row.status is ProductStatus.OFFLINE
        return cls(
            id=row.product_id,
            display_name=f"{row.base}-{row.quote}",
            base_currency=row.base,
            quote_currency=row.quote,
            base_increment=product.size(row.lot),
            quote_increment=product.price(row.tick),
            base_min_size=product.size(row.min_size),
            base_max_size=product.size(row.max_size),
            min_market_funds=product.price(_least_notional(product)),
            maker_fee_rate=rate(row.maker_fee_ppm),
            taker_fee_rate=rate(row.taker_fee_ppm),
            status="offline" if offline else "online",
            status_message=product.message(),
            trading_disabled=offline,
            cancel_only=row.status is ProductStatus.CANCEL_ONLY or product.stopped,
            post_only=row.status is ProductStatus.POST_ONLY,
            limit_only=row.status is ProductStatus.LIMIT_ONLY,
            auction_mode=row.status is ProductStatus.AUCTION,
            margin_enabled=False,
        )


def _least_notional(product: Product) -> int:
    """Return the notional of the minimum size at the last trade's price, or at the lowest possible price before the
    first trade. Clients that do not read `base_min_size` use it as the minimum order.
    """
    row = product.row
    whole: int = 10**product.base_scale
    return -(-(row.last_price or row.tick) * row.min_size // whole)


class CurrencyDetailsJson(msgspec.Struct, kw_only=True):
    """Further fields of a currency that clients of Coinbase read."""

    type: str
    symbol: str
    sort_order: int
    push_payment_methods: list[str]
    group_types: list[str]


class CurrencyJson(msgspec.Struct, kw_only=True):
    """A currency; `max_precision` is its smallest unit."""

    id: str
    name: str
    status: str
    message: str
    max_precision: str
    min_size: str
    convertible_to: list[str]
    details: CurrencyDetailsJson
    default_network: str
    supported_networks: list[str]

    @classmethod
    def of(cls, row: CurrencyRow) -> Self:
        """Return the JSON object of a currency."""
        unit = to_text(1, row.scale)
        return cls(
            id=row.currency,
            name=row.currency,
            status="online",
            message="",
            max_precision=unit,
            min_size=unit,
            convertible_to=[],
            details=CurrencyDetailsJson(
                type="crypto", symbol=row.currency, sort_order=0, push_payment_methods=[], group_types=[]
            ),
            default_network="",
            supported_networks=[],
        )


@dataclass
class Catalogue:
    """The copy. `products` and `currencies` are sorted by id."""

    backend: Backend
    products: dict[str, Product] = field(default_factory=dict)
    currencies: dict[str, CurrencyRow] = field(default_factory=dict)
    _taken_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _at_leader: frozenset[str] = frozenset()
    _leader_asked_at: float = float("-inf")
    _leader_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def known(self, product_id: str) -> Product | None:
        """Return the product for its scales, if the copy has it."""
        return self.products.get(product_id)

    async def product(self, product_id: str) -> Product:
        """Return the product for its scales, tick and lot. Its status, fees and switches may be of any age.

        Raises:
            UnknownHereError: 404.
        """
        if (product := self.products.get(product_id)) is not None:
            return product
        return await self.recent(product_id)

    async def recent(self, product_id: str) -> Product:
        """Return the product as it was at most `AGE_MAX` seconds ago. Raises UnknownHereError 404."""
        await self._at_most(AGE_MAX)
        if product_id not in self.products:
            await self._newer_than_now()
        if product_id not in self.products:
            raise UnknownHereError(404, "Product not found", "product_id", detail=f"no product {product_id[:64]!r}")
        return self.products[product_id]

    async def listed(self, product_id: str) -> Product:
        """Return the product as `recent`, even if it was listed a moment ago and this node has not applied that yet.
        Sessions use this, because they cannot forward a message to the leader.

        Raises:
            UnknownHereError: 404. Neither this node nor the leader knows it, or the leader does not answer.
            UnavailableError: this node is too far behind.
        """
        try:
            return await self.recent(product_id)
        except UnknownHereError:
            if not await self._leader_has(product_id):
                raise
        until = asyncio.get_running_loop().time() + APPLIED_MAX
        while product_id not in self.products:
            if asyncio.get_running_loop().time() >= until:
                raise UnavailableError(f"this node has not caught up: it does not have the product {product_id[:64]!r} yet")
            await self._newer_than_now()
        return self.products[product_id]

    async def _leader_has(self, product_id: str) -> bool:
        """Return whether the leader had the product after this call began. Concurrent callers share a query."""
        loop = asyncio.get_running_loop()
        called_at = loop.time()
        async with self._leader_lock:
            if self._leader_asked_at < called_at:
                await asyncio.sleep(max(0.0, self._leader_asked_at + LEADER_MIN - loop.time()))
                self._leader_asked_at, self._at_leader = loop.time(), frozenset()
                with contextlib.suppress(QuorumbookError):
                    rows: list[ProductRow] = await self.backend.query_leader(ProductsQuery())
                    self._at_leader = frozenset(row.product_id for row in rows)
            return product_id in self._at_leader

    async def product_of(
        self, product_id: str | None, query: OrderQuery, ask: Callable[[OrderQuery], Awaitable[Any]], unknown: ApiError
    ) -> Product:
        """Return the product that a request names, or else the product of the order that `query` asks for.

        Raises:
            ApiError: `unknown` if the order does not exist; 404 if the product does not exist.
        """
        if product_id is None:
            try:
                order: OrderState = await ask(query)
            except RequestFailed as error:
                if error.code is not FailCode.NOT_FOUND:
                    raise
                raise unknown from None
            product_id = order.product_id
        name = product_text(product_id)
        return self.known(name) or await self.listed(name)

    async def currency(self, name: str) -> CurrencyRow:
        """Return the currency, whose scale never changes. Raises UnknownHereError 404."""
        if name not in self.currencies:
            await self._newer_than_now()
        if name not in self.currencies:
            raise UnknownHereError(404, "Currency not found", "currency", detail=f"no currency {name[:64]!r}")
        return self.currencies[name]

    async def all_products(self) -> list[Product]:
        """Return all products from a copy made after the call."""
        await self._newer_than_now()
        return list(self.products.values())

    async def all_currencies(self) -> list[CurrencyRow]:
        """Return all currencies from a copy made after the call."""
        await self._newer_than_now()
        return list(self.currencies.values())

    async def _at_most(self, age: float) -> None:
        """Wait for a copy that is at most `age` seconds old."""
        now = asyncio.get_running_loop().time()
        if now - self._taken_at > age:
            await self._newer_than(now)

    async def _newer_than_now(self) -> None:
        await self._newer_than(asyncio.get_running_loop().time())

    async def _newer_than(self, moment: float) -> None:
        """Wait for a copy that was begun after `moment`. Concurrent callers share it."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._taken_at > moment:
                return
            await asyncio.sleep(max(0.0, self._taken_at + REFRESH_MIN - loop.time()))
            begun = loop.time()
            products = await self.backend.query(ProductsQuery())
            currencies = await self.backend.query(CurrenciesQuery())
            switches = await self._switches()
            self.currencies = {row.currency: row for row in currencies}
            self.products = {
                row.product_id: Product(
                    row, self.currencies[row.base].scale, self.currencies[row.quote].scale, *_switched(switches, row.product_id)
                )
                for row in products
            }
            self._taken_at = begun

    async def _switches(self) -> dict[str, SwitchRow]:
        """Read the switches of the venue (named "") and of products. Those of firms and accounts come before the latter."""
        found: dict[str, SwitchRow] = {}
        read = 0
        while True:
            page: list[SwitchRow] = (await self.backend.query(ControlsQuery("switch", read, SWITCHES_PAGE))).switch
            found |= {row.name: row for row in page if row.scope in (Scope.VENUE, Scope.PRODUCT)}
            read += len(page)
            if len(page) < SWITCHES_PAGE:
                return found


def _switched(switches: Mapping[str, SwitchRow], product_id: str) -> tuple[int, str]:
    """Return the switches of a product combined with those of the venue (named ""), and the operator's note."""
    found = [switches[name] for name in (product_id, "") if name in switches]
    off = 0
    for row in found:
        off |= row.switches
    return off, next((row.note for row in found if row.note), "")

"""Currencies and products as the gateway needs them for every request: kept for a second, asked once for many.

Scales, ticks and lots never change once they exist, so an old copy never misreads a number. An id that is not in the copy makes a new one,
at most every `REFRESH_MIN` seconds: a caller with wrong ids costs the engine no more than that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from node.gateway.backend import Backend
from node.gateway.errors import UnknownHereError
from node.native.protocol import CurrenciesQuery, ProductsQuery
from statemachine.decimals import to_text
from statemachine.tables import CurrencyRow, ProductRow

AGE_MAX = 1.0
REFRESH_MIN = 0.05


@dataclass(frozen=True)
class Product:
    """A product and the scales of its numbers: prices and funds have the quote currency's, sizes the base currency's."""

    row: ProductRow
    base_scale: int
    quote_scale: int

    def price(self, units: int) -> str:
        """A price, notional, fee or funds as text."""
        return to_text(units, self.quote_scale)

    def size(self, units: int) -> str:
        """A size as text."""
        return to_text(units, self.base_scale)


@dataclass
class Catalogue:
    """The copy. `products` and `currencies` are by id, in order of id."""

    backend: Backend
    products: dict[str, Product] = field(default_factory=dict)
    currencies: dict[str, CurrencyRow] = field(default_factory=dict)
    _taken_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def product(self, product_id: str) -> Product:
        """The product. Raises UnknownHereError 404."""
        await self._at_most(AGE_MAX)
        if product_id not in self.products:
            await self._newer_than_now()
        if product_id not in self.products:
            raise UnknownHereError(404, "Product not found", "product_id", detail=f"no product {product_id[:64]!r}")
        return self.products[product_id]

    async def currency(self, name: str) -> CurrencyRow:
        """The currency. Raises UnknownHereError 404."""
        await self._at_most(AGE_MAX)
        if name not in self.currencies:
            await self._newer_than_now()
        if name not in self.currencies:
            raise UnknownHereError(404, "Currency not found", "currency", detail=f"no currency {name[:64]!r}")
        return self.currencies[name]

    async def all_products(self) -> list[Product]:
        """Every product, from a copy no older than this call."""
        await self._newer_than_now()
        return list(self.products.values())

    async def all_currencies(self) -> list[CurrencyRow]:
        """Every currency, from a copy no older than this call."""
        await self._newer_than_now()
        return list(self.currencies.values())

    async def _at_most(self, age: float) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._taken_at > age:
            await self._newer_than(now)

    async def _newer_than_now(self) -> None:
        await self._newer_than(asyncio.get_running_loop().time())

    async def _newer_than(self, moment: float) -> None:
        """Have a copy begun after `moment`. Callers that wait together share one."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._taken_at > moment:
                return
            await asyncio.sleep(max(0.0, self._taken_at + REFRESH_MIN - loop.time()))
            begun = loop.time()
            products = await self.backend.query(ProductsQuery())
            currencies = await self.backend.query(CurrenciesQuery())
            self.currencies = {row.currency: row for row in currencies}
            self.products = {
                row.product_id: Product(row, self.currencies[row.base].scale, self.currencies[row.quote].scale)
                for row in products
            }
            self._taken_at = begun

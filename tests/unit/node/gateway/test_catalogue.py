"""The gateway's copy of currencies and products: what waits for a new one, and what does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.gateway import catalogue as subject
from node.gateway.backend import Backend
from node.gateway.catalogue import Catalogue
from node.gateway.errors import UnknownHereError
from node.native.protocol import CurrenciesQuery, ProductsQuery
from statemachine.commands import Batch, SetSwitches
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import Scope, Switch
from tests.unit.node.fakes import WORLD


class CountingBackend:
    """Answers from an engine, and counts the requests for the products."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.engine.apply(Batch(1, WORLD))
        self.asked = 0

    async def query(self, query: Any) -> Any:
        if isinstance(query, ProductsQuery):
            self.asked += 1
            return self.engine.products()
        if isinstance(query, CurrenciesQuery):
            return self.engine.currencies()
        return SimpleNamespace(switch=self.engine.records("switch")[query.after : query.after + query.limit])


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> CountingBackend:
    monkeypatch.setattr(subject, "REFRESH_MIN", 0.0)
    return CountingBackend()


async def test_constant_fields_are_read_from_a_copy_of_any_age(backend: CountingBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Catalogue(cast(Backend, backend))
    first = await kept.product("BTC-USD")
    monkeypatch.setattr(subject, "AGE_MAX", -1.0)  # every copy is too old
    assert kept.known("BTC-USD") is first
    assert await kept.product("BTC-USD") is first
    assert (await kept.currency("USD")).currency == "USD"
    assert backend.asked == 1


async def test_changeable_fields_of_a_product_are_read_from_a_recent_copy(
    backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Catalogue(cast(Backend, backend))
    await kept.recent("BTC-USD")
    await kept.recent("BTC-USD")
    assert backend.asked == 1
    monkeypatch.setattr(subject, "AGE_MAX", -1.0)
    await kept.recent("BTC-USD")
    assert backend.asked == 2


async def test_an_unknown_product_is_looked_for_in_a_new_copy(backend: CountingBackend) -> None:
    kept = Catalogue(cast(Backend, backend))
    await kept.product("BTC-USD")
    assert kept.known("ETH-EUR") is None
    with pytest.raises(UnknownHereError, match="Product not found"):
        await kept.product("ETH-EUR")
    assert backend.asked == 2


async def test_the_switches_of_products_are_seen_behind_those_of_many_accounts(
    backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "SWITCHES_PAGE", 2)
    off = [(Scope.ACCOUNT, "alice"), (Scope.ACCOUNT, "bob"), (Scope.PRODUCT, "BTC-USD")]
    commands = [SetSwitches(OPERATOR, f"off-{name}", scope, name, int(Switch.BUY_OFF)) for scope, name in off]
    backend.engine.apply(Batch(2, list(commands)))
    assert (await Catalogue(cast(Backend, backend)).recent("BTC-USD")).switched_off == Switch.BUY_OFF

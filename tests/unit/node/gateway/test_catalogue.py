"""The gateway's copy of currencies and products: what waits for a new one, and what does not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from node.gateway import catalogue as subject
from node.gateway.backend import Backend
from node.gateway.catalogue import Catalogue
from node.gateway.errors import UnavailableError, UnknownHereError
from node.native.protocol import CurrenciesQuery, ProductsQuery
from statemachine.commands import Batch, PutCurrency, PutProduct, SetSwitches
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import Scope, Switch
from tests.unit.node.fakes import WORLD

LISTED = next(command for command in WORLD if isinstance(command, PutProduct))


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


async def test_an_unknown_product_is_searched_for_in_a_new_copy(backend: CountingBackend) -> None:
    kept = Catalogue(cast(Backend, backend))
    await kept.product("BTC-USD")
    assert kept.known("ETH-EUR") is None
    with pytest.raises(UnknownHereError, match="Product not found"):
        await kept.product("ETH-EUR")
    assert backend.asked == 2


class Follower(CountingBackend):
    """A follower that has not applied the listing of ETH-USD for `behind` queries. The leader has."""

    def __init__(self, behind: int) -> None:
        super().__init__()
        self.behind = behind
        self.asked_leader = 0
        self.leader_down = False

    async def query(self, query: Any) -> Any:
        rows = await super().query(query)
        if isinstance(query, ProductsQuery) and self.asked <= self.behind:
            return [row for row in rows if row.product_id != "ETH-USD"]
        return rows

    async def query_leader(self, query: Any) -> Any:
        self.asked_leader += 1
        if self.leader_down:
            raise UnavailableError("no leader")
        return self.engine.products()


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Follower:
    monkeypatch.setattr(subject, "REFRESH_MIN", 0.0)
    monkeypatch.setattr(subject, "LEADER_MIN", 0.01)
    made = Follower(behind=3)
    made.engine.apply(
        Batch(2, [PutCurrency(OPERATOR, "eth", "ETH", 8), replace(LISTED, command_id="listed", product_id="ETH-USD", base="ETH")])
    )
    return made


async def test_a_session_at_a_follower_finds_a_product_that_was_listed_a_moment_ago(follower: Follower) -> None:
    kept = Catalogue(cast(Backend, follower))
    found = await asyncio.gather(*(kept.listed("ETH-USD") for _ in range(3)))
    assert {product.row.product_id for product in found} == {"ETH-USD"}
    assert follower.asked == 4
    assert 1 <= follower.asked_leader <= 2


async def test_what_the_leader_does_not_know_is_unknown(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Catalogue(cast(Backend, follower))
    for down, name in ((False, "NO-SUCH"), (True, "ETH-USD")):
        follower.leader_down = down
        with pytest.raises(UnknownHereError, match="Product not found"):
            await kept.listed(name)
    monkeypatch.setattr(subject, "APPLIED_MAX", -1.0)
    follower.leader_down, follower.behind = False, 99
    with pytest.raises(UnavailableError, match="has not caught up"):
        await kept.listed("ETH-USD")


async def test_the_switches_of_products_are_seen_behind_those_of_many_accounts(
    backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "SWITCHES_PAGE", 2)
    off = [(Scope.ACCOUNT, "alice"), (Scope.ACCOUNT, "bob"), (Scope.PRODUCT, "BTC-USD")]
    commands = [SetSwitches(OPERATOR, f"off-{name}", scope, name, int(Switch.BUY_OFF)) for scope, name in off]
    backend.engine.apply(Batch(2, list(commands)))
    assert (await Catalogue(cast(Backend, backend)).recent("BTC-USD")).switched_off == Switch.BUY_OFF

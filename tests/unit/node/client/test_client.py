"""The client library without a cluster: what it imports, what it refuses, how it writes numbers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from node.client import AsyncClient, AsyncRestClient, Client, RestClient
from node.client.blocking import Loop
from node.client.shapes import scaled, units_of
from node.cluster_directory import KeyFile
from node.errors import ConnectionLost, DirectoryError
from node.native.protocol import AnyQuery, CurrenciesQuery, OrdersQuery
from statemachine.commands import Batch
from statemachine.decimals import DecimalError
from statemachine.types import Side
from tests.unit.statemachine.market import limit, market

HEAVY = ("rocksdict", "locust", "gevent", "sqlalchemy", "pysyncobj", "aiohttp", "rich", "click")
KEY = KeyFile("k", "c2VjcmV0", "p", "alice")


def test_importing_it_brings_nothing_heavy() -> None:
    program = f"import sys, node.client; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_every_name_exists() -> None:
    import node.client as library

    assert all(hasattr(library, name) for name in library.__all__)
    with pytest.raises(AttributeError):
        _ = library.nonsense


@pytest.mark.parametrize(
    ("key", "text"),
    [(KEY, "has no addresses of nodes"), (Path("/nonsense"), "cannot be read"), ("/nonsense.json", "cannot be read")],
)
def test_a_key_that_leads_to_no_cluster_is_refused(key: KeyFile | Path | str, text: str) -> None:
    with pytest.raises(DirectoryError, match=text):
        Client(key)


def test_an_authority_is_needed() -> None:
    with pytest.raises(DirectoryError, match="no certificate authority"):
        Client(KEY, nodes=["127.0.0.1:1"])


def test_a_file_that_is_not_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text('{"key_id": 3}')
    with pytest.raises(DirectoryError, match="expected JSON"):
        Client(path)


def test_rest_needs_an_address_and_gives_up_in_time() -> None:
    with pytest.raises(ValueError, match="urls"):
        RestClient([])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with RestClient([f"http://127.0.0.1:{taken.getsockname()[1]}"], deadline=0.2) as client, pytest.raises(ConnectionLost):
            client.get("/products")


@pytest.mark.parametrize(
    ("number", "units"), [("1.5", 150), (2, 200), (Decimal("0.010"), 1), (Decimal("1E+2"), 10_000), (Decimal("0"), 0)]
)
def test_numbers_are_converted_to_units(number: str | int | Decimal, units: int) -> None:
    assert units_of(number, 2, "size") == units
    assert scaled(units, 2) == Decimal(str(number))


@pytest.mark.parametrize("number", ["0.001", "-1", "1e3", "", "NaN", Decimal("NaN"), Decimal("Infinity"), Decimal("-1"), 0.1])
def test_text_that_is_not_a_number_is_refused(number: str | Decimal) -> None:
    with pytest.raises(DecimalError, match="size"):
        units_of(number, 0, "size")


def test_a_generator_is_closed_when_its_reader_stops() -> None:
    closed: list[bool] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                yield number
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    loop = Loop()
    try:
        assert list(loop.iterate(numbers())) == [0, 1, 2]
        items = loop.iterate(numbers())
        assert next(iter(items)) == 0
        items.close()  # type: ignore[attr-defined]  # it is a generator
        assert closed == [True, True]
        left = loop.iterate(numbers())
        assert next(iter(left)) == 0
        loop.close_generators()
        assert closed == [True, True, True]
    finally:
        loop.close()


def test_a_client_without_an_account_places_no_orders(tmp_path: Path) -> None:
    from node.deployment.setup import initialise

    initialise(tmp_path / "exchange", 1)

    async def ask() -> None:
        async with AsyncClient(tmp_path / "exchange") as client:
            with pytest.raises(DirectoryError, match="account="):
                await client.cancel_all()

    asyncio.run(ask())


@pytest.mark.parametrize(("method", "signatures"), [("POST", 1), ("DELETE", 1), ("GET", 2)])
def test_a_command_is_sent_again_with_the_same_signature(monkeypatch: pytest.MonkeyPatch, method: str, signatures: int) -> None:
    """The exchange knows it by that, so a request without an id is not carried out twice after a lost answer."""
    tried: list[Mapping[str, str]] = []

    async def attempt(
        _client: AsyncRestClient, _method: str, _target: str, _data: bytes, headers: Mapping[str, str]
    ) -> tuple[int, object]:
        tried.append(headers)
        return (504, {"message": "unknown"}) if len(tried) == 1 else (200, {})

    monkeypatch.setattr(AsyncRestClient, "_try", attempt)
    with RestClient(["http://127.0.0.1:1"], KEY) as client:
        assert client.request(method, "/orders/pair") == {}
    assert len(tried) == 2
    assert len({headers["CB-ACCESS-SIGN"] for headers in tried}) == signatures


def test_all_orders_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if they are more than one answer of a node has."""
    from node.deployment.setup import initialise

    initialise(tmp_path / "exchange", 1)
    monkeypatch.setattr("node.client.native.ORDERS_PAGE", 3)
    engine = market(10_000, 10_000, 20_000)
    for number in range(7):
        engine.apply(Batch(engine.time + 1, [limit("ann", f"o{number}", Side.SELL, 1, 100 + number)]))

    async def query(wanted: AnyQuery) -> object:
        if isinstance(wanted, OrdersQuery):
            return engine.orders("ann", wanted.product_id, done=wanted.done, limit=wanted.limit, before_id=wanted.before_id)
        return engine.currencies() if isinstance(wanted, CurrenciesQuery) else engine.products()

    async def ask() -> None:
        async with AsyncClient(tmp_path / "exchange", account="ann") as client:
            monkeypatch.setattr(type(client.cluster), "query", property(lambda _cluster: query))
            assert [order.order_id for order in await client.orders()] == list(range(7, 0, -1))

    asyncio.run(ask())

"""The OpenAPI document lists what the router serves, and its parameters are those that the handlers take."""

from __future__ import annotations

import pytest

from node.gateway.app import ROUTES
from node.gateway.openapi import QUERIES, document
from node.gateway.web import Route
from tests.unit.node.gateway.harness import Exchange

DOCUMENT = document(ROUTES, "1")


def test_every_route_is_listed_with_its_answers() -> None:
    listed = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert listed == {(route.method, route.path) for route in ROUTES}
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert {"200", "400", "404", "429", "503"} <= set(operation["responses"])


def test_private_calls_say_so() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert ("security" in operation) == (route.permission is not None)
        assert ("401" in operation["responses"]) == (route.permission is not None)


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids)) == len(ROUTES)


def test_every_described_parameter_is_used() -> None:
    assert set(QUERIES) == {"consistency", *(name for route in ROUTES for name in route.query)}


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=lambda route: str(route.path))
async def test_a_parameter_that_is_not_listed_is_refused(exchange: Exchange, route: Route) -> None:
    who = "admin" if route.path.startswith("/admin") else "alice"
    status, answer = await exchange.call(who, "GET", route.path.replace("{id}", "BTC-USD") + "?unlisted=1")
    assert (status, answer["field"]) == (400, "unlisted")


async def test_the_document_is_served(exchange: Exchange) -> None:
    status, answer = await exchange.get("/openapi.json")
    assert status == 200
    assert answer["openapi"] == "3.1.0"
    assert answer["paths"] == DOCUMENT["paths"]

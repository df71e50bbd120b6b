"""The OpenAPI document lists what the router serves, and its parameters are those that the handlers take."""

from __future__ import annotations

import pytest

from node.gateway.app import ROUTES
from node.gateway.calls import Route
from node.gateway.health import CALLS
from node.gateway.openapi import QUERIES, document
from tests.unit.node.gateway.harness import Exchange

DOCUMENT = document(ROUTES, CALLS, "1")
MACHINES = [call.path for call in CALLS]


def test_every_call_is_listed_with_its_answers() -> None:
    listed = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert listed == {(route.method, route.path) for route in ROUTES} | {("GET", path) for path in MACHINES}
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            assert operation["summary"]
            least = {"200"} if path in MACHINES else {"200", "400", "404", "429", "503"}
            assert least <= set(operation["responses"])


def test_private_calls_need_a_signature() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert ("security" in operation) == (route.permission is not None)
        assert ("401" in operation["responses"]) == (route.permission is not None)


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids)) == len(ROUTES) + len(CALLS)


async def test_every_path_that_answers_is_in_the_document(exchange: Exchange) -> None:
    """The exceptions are the document's own path, the page's files, and the WebSocket, which OpenAPI cannot describe."""
    served = {path for path in exchange.client.app.router.paths if not path.startswith("/ui")}
    assert served - set(DOCUMENT["paths"]) == {"/openapi.json", "/", "/ws"}


@pytest.mark.parametrize(("path", "found"), [("/healthz", {}), ("/readyz", {}), ("/readyz", {"ready": False}), ("/status", {})])
async def test_machines_are_answered_as_listed(exchange: Exchange, path: str, found: dict[str, object]) -> None:
    exchange.backend.status = found
    status, answer = await exchange.get(path)
    schema = DOCUMENT["paths"][path]["get"]["responses"][str(status)]["content"]["application/json"]["schema"]
    assert set(schema["required"]) <= set(answer) <= set(schema["properties"])
    for name in ("node", "members"):
        if name in answer:
            parts, inner = (
                ([answer[name]], schema["properties"][name])
                if name == "node"
                else (answer[name], schema["properties"][name]["items"])
            )
            assert all(list(part) == inner["required"] for part in parts)


def test_every_described_parameter_is_used() -> None:
    assert set(QUERIES) == {"consistency", *(name for route in ROUTES for name in route.query)}


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=lambda route: str(route.path))
async def test_a_parameter_that_is_not_listed_changes_nothing(exchange: Exchange, route: Route) -> None:
    who = "admin" if route.path.startswith("/admin") else "alice"
    path = route.path.replace("{id}", "BTC-USD")
    with_it, without = await exchange.call(who, "GET", path + "?unlisted=1"), await exchange.call(who, "GET", path)
    assert with_it[0] == without[0]
    assert ("unlisted" in str(with_it[1])) is False


def test_where_an_unlisted_parameter_would_change_the_meaning_it_is_refused() -> None:
    lenient = {(route.method, route.path) for route in ROUTES if not route.strict and route.method != "GET"}
    assert lenient == {("DELETE", "/orders/{id}"), ("DELETE", "/admin/keys/{id}")}


async def test_the_document_is_served(exchange: Exchange) -> None:
    status, answer = await exchange.get("/openapi.json")
    assert status == 200
    assert answer["openapi"] == "3.1.0"
    assert answer["paths"] == DOCUMENT["paths"]

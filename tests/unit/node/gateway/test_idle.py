"""A gateway without clients sets no timers for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from node.gateway import balances, feeds
from node.gateway.balances import Balances
from node.gateway.feeds import Feeds
from node.gateway.http import server
from node.gateway.http.server import HttpServer

TURNS = 20


async def pauses(
    work: Coroutine[Any, Any, None], monkeypatch: pytest.MonkeyPatch, module: Any, begin: Any, end: Any
) -> list[int]:
    """Return how often `work` pauses in `TURNS` turns of the event loop: before `begin`, after it, and after `end`."""
    loop, count, sleep, timeout = asyncio.get_running_loop(), 0, asyncio.sleep, asyncio.timeout

    async def counted(_seconds: float) -> None:
        nonlocal count
        count += 1
        await sleep(0)

    def shortened(_seconds: float) -> asyncio.Timeout:
        nonlocal count
        count += 1
        return timeout(0)

    monkeypatch.setattr(module.asyncio, "sleep", counted)
    monkeypatch.setattr(module.asyncio, "timeout", shortened)
    task, found = loop.create_task(work), []
    for change in (lambda: None, begin, end):
        change()
        await sleep(0)
        count = 0
        for _ in range(TURNS):
            await sleep(0)
        found.append(count)
    monkeypatch.undo()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return found


class Session:
    """A WebSocket session without subscriptions."""

    def __init__(self) -> None:
        self.identity = None
        self.balance_sent: dict[str, tuple[int, int]] = {}

    def tick(self) -> None:
        pass

    def send_status(self, message: bytes) -> None:
        pass


class Catalogue:
    """An empty catalogue."""

    currencies: dict[str, Any] = {}  # noqa: RUF012 - nothing writes to it

    async def all_products(self) -> list[Any]:
        return []

    async def all_currencies(self) -> list[Any]:
        return []


@pytest.mark.parametrize("work", ["timers", "status", "balances"])
async def test_without_sessions_nothing_is_done_for_them(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = cast(Any, None)
    made = Feeds(nothing, cast(Any, Catalogue()), nothing)
    session = cast(Any, Session())
    run, module = {
        "timers": (made.run_timers, feeds),
        "status": (made.run_status, feeds),
        "balances": (Balances(nothing, cast(Any, Catalogue()), made.sessions, made.occupied).run, balances),
    }[work]
    none, some, after = await pauses(run(), monkeypatch, module, lambda: made.join(session), lambda: made.leave(session))
    assert none == 0
    assert some > 3
    assert after <= 1, "the pause that was under way"


async def test_without_connections_no_deadline_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        peer = "127.0.0.1"
        holder = ""

        def tick(self, _now: float) -> None:
            pass

    http = HttpServer(cast(Any, None), socket_protocol=cast(Any, None), refused=lambda _kind, _peer: None)
    connection = cast(Any, Connection())
    none, some, after = await pauses(
        http._run_clock(), monkeypatch, server, lambda: http.enter(connection), lambda: http.leave(connection)
    )
    assert (none, after <= 1) == (0, True)
    assert some > 3

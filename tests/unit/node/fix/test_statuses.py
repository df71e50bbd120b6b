"""Product statuses when the engine does not answer for a moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.fix import market as subject
from node.fix.market import Statuses
from node.gateway.errors import UnavailableError
from statemachine.types import ProductStatus
from tests.waiting import until


class Sender:
    def __init__(self) -> None:
        self.sent: list[dict[int, str]] = []

    def send(self, fields: list[tuple[int, str]], _taken: int = 0) -> None:
        self.sent.append(dict(fields))


async def test_after_lost_events_the_status_is_sent_as_soon_as_it_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has restarted, so neither its events nor the product can be had for a moment."""
    monkeypatch.setattr(subject, "AGAIN_S", 0.001)
    feed: Any = SimpleNamespace(product_id="BTC-USD", readers={})
    fails = 3

    async def recent(_product_id: str) -> object:
        nonlocal fails
        fails -= 1
        if fails >= 0:
            raise UnavailableError("the engine of this node does not answer")
        return SimpleNamespace(row=SimpleNamespace(status=ProductStatus.ONLINE))

    sender = Sender()
    made = Statuses(
        cast(Any, None), cast(Any, SimpleNamespace(recent=recent)), cast(Any, sender), cast(Any, None), "k", cast(Any, None)
    )
    made._requests["s"] = subject._StatusRequest(feed)
    made.gap(feed)
    await until(lambda: bool(sender.sent))
    assert (sender.sent[0][35], sender.sent[0][324], fails) == ("f", "s", -1)
    made.close()
    await asyncio.sleep(0)

"""The channel `balance`: an account's balance of each currency, sent after it has changed.

No event of the exchange carries a balance, so the gateway polls the engine. It queries each account that has a listener
in turn, once for all listeners of the account, and sends at most `LOOKS_PER_SECOND` queries a second in total.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Protocol

from node.errors import QuorumbookError
from node.gateway import channels
from node.gateway.auth import Identity
from node.gateway.backend import Backend
from node.gateway.catalogue import Catalogue
from node.gateway.errors import ApiError, BadRequestError
from node.gateway.values import account_text
from node.native.protocol import BalancesQuery
from statemachine.limits import OPERATOR
from statemachine.tables import BalanceRow, CurrencyRow

LOOK_EVERY = 0.2
"""Seconds between two queries for an account, while there are few accounts."""

LOOKS_PER_SECOND = 200
"""Queries to the engine a second. With more than 40 accounts, each account is queried less often."""


async def wanted_currencies(catalogue: Catalogue, identity: Identity, account_ids: list[str]) -> list[str]:
    """Return the currencies of the named accounts, which must belong to the key, or all currencies if none is named. Raises
    BadRequestError, and ApiError 403 for a key without an account.
    """
    if identity.account_id == OPERATOR:
        raise ApiError(403, "The key has no account, so it has no balances", "channels", reason="forbidden")
    known = {account_text(identity.account_id, row.currency): row.currency for row in await catalogue.all_currencies()}
    for name in account_ids:
        if name not in known:
            raise BadRequestError(f"account_ids: {name[:80]} is not an account of the API key", "account_ids")
    return [known[name] for name in account_ids] or list(known.values())


class Listener(Protocol):
    """A connection that may subscribe to the channel `balance`."""

    identity: Identity | None
    balance_sent: dict[str, tuple[int, int]]
    """By subscribed currency, the available and held amounts sent last. (-1, -1): none was sent yet."""

    def send(self, message: bytes) -> None:
        """Queue a message."""


class Balances:
    """Polls balances for the connections that listen."""

    def __init__(self, backend: Backend, catalogue: Catalogue, sessions: Iterable[Listener], occupied: asyncio.Event) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._sessions = sessions
        self._occupied = occupied

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._occupied.wait()
            begun = asyncio.get_running_loop().time()
            count = await self.look()
            spent = asyncio.get_running_loop().time() - begun
            await asyncio.sleep(max(0.0, LOOK_EVERY - spent, count / LOOKS_PER_SECOND - spent))

    async def look(self) -> int:
        """Query each account that has a listener, and send what has changed. Return the number of accounts."""
        listeners: dict[str, list[Listener]] = {}
        for session in list(self._sessions):
            if session.balance_sent and session.identity is not None:
                listeners.setdefault(session.identity.account_id, []).append(session)
        for account_id, account_listeners in listeners.items():
            with contextlib.suppress(QuorumbookError):
                rows: list[BalanceRow] = await self._backend.query(BalancesQuery(account_id))
                balances = {row.currency: row for row in rows}
                for listener in account_listeners:
                    if listener.identity is not None and listener.identity.account_id == account_id:
                        _tell(listener, account_id, balances, self._catalogue.currencies)
        return len(listeners)


def _tell(listener: Listener, account_id: str, found: dict[str, BalanceRow], currencies: dict[str, CurrencyRow]) -> None:
    """Send a listener the balances that differ from those sent before."""
    now = time.time_ns()
    for currency, sent in list(listener.balance_sent.items()):
        row, known = found.get(currency), currencies.get(currency)
        present = (row.available, row.hold) if row is not None else (0, 0)
        if present != sent and known is not None:
            listener.balance_sent[currency] = present
            listener.send(channels.balance(account_id, known, *present, now))

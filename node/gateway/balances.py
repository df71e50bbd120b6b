"""The channel `balance`: what an account has of each currency, told when it has changed.

No event of the exchange says what a deposit or a hold makes of a balance, so the engine is asked: for each account that
somebody listens for, once for all its listeners, in turn, and no more often than `LOOKS_PER_SECOND` in all.
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
from node.gateway.errors import BadRequestError
from node.gateway.values import account_text
from node.native.protocol import BalancesQuery
from statemachine.tables import BalanceRow, CurrencyRow

LOOK_EVERY = 0.2
"""Seconds between looks at an account, while there are few."""

LOOKS_PER_SECOND = 200
"""Questions to the engine: with more than 40 accounts each is looked at less often."""


async def wanted_currencies(catalogue: Catalogue, identity: Identity, account_ids: list[str]) -> list[str]:
    """The currencies of the accounts named, which must be the key's own; of all where none is named. Raises
    BadRequestError.
    """
    known = {account_text(identity.account_id, row.currency): row.currency for row in await catalogue.all_currencies()}
    for name in account_ids:
        if name not in known:
            raise BadRequestError(f"account_ids: {name[:80]} is not an account of the API key", "account_ids")
    return [known[name] for name in account_ids] or list(known.values())


class Listener(Protocol):
    """A connection, as far as it has the channel `balance`."""

    identity: Identity | None
    balance_told: dict[str, tuple[int, int]]
    """By currency that it listens for: what it was told last, available and on hold. (-1, -1): nothing yet."""

    def send(self, message: bytes) -> None:
        """Queue a message."""


class Balances:
    """Looks at balances for the connections that listen."""

    def __init__(self, backend: Backend, catalogue: Catalogue, sessions: Iterable[Listener]) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._sessions = sessions

    async def run(self) -> None:
        """Look for ever."""
        while True:
            begun = asyncio.get_running_loop().time()
            count = await self.look()
            spent = asyncio.get_running_loop().time() - begun
            await asyncio.sleep(max(0.0, LOOK_EVERY - spent, count / LOOKS_PER_SECOND - spent))

    async def look(self) -> int:
        """Ask once for each account that somebody listens for, and tell what has changed. How many there were."""
        listeners: dict[str, list[Listener]] = {}
        for session in list(self._sessions):
            if session.balance_told and session.identity is not None:
                listeners.setdefault(session.identity.account_id, []).append(session)
        for account_id, those in listeners.items():
            with contextlib.suppress(QuorumbookError):
                rows: list[BalanceRow] = await self._backend.query(BalancesQuery(account_id))
                found = {row.currency: row for row in rows}
                for listener in those:
                    if listener.identity is not None and listener.identity.account_id == account_id:
                        _tell(listener, account_id, found, self._catalogue.currencies)
        return len(listeners)


def _tell(listener: Listener, account_id: str, found: dict[str, BalanceRow], currencies: dict[str, CurrencyRow]) -> None:
    now = time.time_ns()
    for currency, told in list(listener.balance_told.items()):
        row, known = found.get(currency), currencies.get(currency)
        present = (row.available, row.hold) if row is not None else (0, 0)
        if present != told and known is not None:
            listener.balance_told[currency] = present
            listener.send(channels.balance(account_id, known, *present, now))

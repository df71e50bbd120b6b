"""What happens to open WebSocket connections when an API key changes: who is not the key's owner any more gets nothing of the owner's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from node.errors import QuorumbookError
from node.gateway.auth import Authenticator, Identity
from statemachine.types import Permission

RETRY = 0.1
"""Seconds between attempts to look a key up while no engine answers; it sends no events either."""


class Signed(Protocol):
    """A connection, as far as it is somebody's."""

    identity: Identity | None
    ended: bool

    def lose_identity(self, key_id: str) -> None:
        """The connection is nobody's from now on: take away what only its owner may see, and say so."""


class Revocation:
    """Looks again at the identities of connections whose keys changed."""

    def __init__(self, auth: Authenticator, sessions: Iterable[Signed]) -> None:
        self._auth = auth
        self._sessions = sessions
        self._tasks: set[asyncio.Task[None]] = set()
        auth.on_change = self._changed

    def check(self, session: Signed) -> None:
        """A session has got an identity; its key may have changed since it was looked up."""
        identity = session.identity
        if identity is not None and not self._auth.is_current(identity):
            self._look_again(session, identity)

    async def close(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _changed(self, key_ids: list[str]) -> None:
        for session in list(self._sessions):
            identity = session.identity
            if identity is not None and (not key_ids or identity.key_id in key_ids):
                self._look_again(session, identity)

    def _look_again(self, session: Signed, identity: Identity) -> None:
        task = asyncio.get_running_loop().create_task(self._settle(session, identity))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, session: Signed, identity: Identity) -> None:
        while session.identity is identity and not session.ended:
            try:
                now = await self._auth.again(identity)
            except QuorumbookError:
                await asyncio.sleep(RETRY)
                continue
            if session.identity is not identity or session.ended:
                return
            if now is None or not now.permissions & Permission.VIEW:
                session.lose_identity(identity.key_id)
            else:
                session.identity = now
            return

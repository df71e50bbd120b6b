"""Cancel on disconnect over the WebSocket: the orders of an account, or of one of its sessions, leave with a connection.

While the connection is there, its gateway sets the exchange's timer (`CancelAllAfter`) again and again. When it ends,
the gateway cancels the orders and takes the timer off. When the gateway, the node or the leader dies with it, nobody
sets the timer again: it goes off by itself. A node that is stopped cancels nothing: its clients have as long to come
back at another node as when it had died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets

from node.errors import QuorumbookError, RequestFailed
from node.gateway.backend import Backend
from node.gateway.errors import BadRequestError
from statemachine.commands import CancelAll, CancelAllAfter
from statemachine.events import Cancelled

log = logging.getLogger(__name__)

TIMEOUT_MIN, TIMEOUT_DEFAULT, TIMEOUT_MAX = 10, 10, 300
"""Seconds of the timer: a change of the leader and a new connection must fit in three times; a client that is gone for
longer than the last has no use for its orders.
"""
SETS_PER_TIMEOUT = 3
"""How often the timer is set anew in its time."""
CANCEL_SECONDS = 5.0
"""How long the cancelling of a connection's orders may take. What fails is left to the timer."""
NANOSECONDS = 1_000_000_000

Holders = dict[tuple[str, str], "OnDisconnect"]
"""By account and session tag, the connection whose end cancels: the latest that asked for it here. One that the client
has replaced, and whose end is noticed late, cancels nothing.
"""


def check_timeout(timeout: int) -> int:
    """The timer's seconds, as nanoseconds. Raises BadRequestError."""
    if timeout and not TIMEOUT_MIN <= timeout <= TIMEOUT_MAX:
        raise BadRequestError(f"timeout must be 0, or a whole number of seconds from {TIMEOUT_MIN} to {TIMEOUT_MAX}", "timeout")
    return timeout * NANOSECONDS


class OnDisconnect:
    """What one connection wants cancelled when it ends: nothing, or the orders of an account with a session tag.

    Attributes:
        stopping: the node stops, and ends the connection for that.
    """

    def __init__(self, backend: Backend, holders: Holders) -> None:
        self.stopping = False
        self._backend = backend
        self._holders = holders
        self._timer: CancelAllAfter | None = None
        self._setting: asyncio.Task[None] | None = None
        self._ended = False
        self._token = secrets.token_hex(8)
        self._commands = 0

    def check(self, session: str) -> None:
        """Raise BadRequestError where the connection has a timer of another session already."""
        if self._timer is not None and self._timer.session != session:
            raise BadRequestError("the connection has asked for another session: take that off first, with timeout 0", "session")

    def accepted(self, timer: CancelAllAfter) -> None:
        """The exchange has set this timer, or taken it off (timeout 0): go on from there."""
        self._leave_off()
        if timer.timeout and not self._ended:
            self._timer = timer
            self._holders[timer.account_id, timer.session] = self
            self.go_on()

    def pause(self) -> None:
        """Do not set the timer while a command is under way that takes it off: it would be set again behind that."""
        if self._setting is not None:
            self._setting.cancel()
            self._setting = None

    def go_on(self) -> None:
        """That command did not succeed: go on as before."""
        if self._timer is not None and self._setting is None:
            self._setting = asyncio.get_running_loop().create_task(self._keep_set(self._timer))

    async def end(self) -> None:
        """The connection is over: cancel, unless it asked for nothing, was replaced, or the node stops."""
        timer, holds = self._timer, self._holds
        self._ended = True
        self._leave_off()
        if timer is None or not holds or self.stopping:
            return
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                (outcome,) = await self._backend.submit([CancelAll(timer.account_id, self._command_id(), session=timer.session)])
                if isinstance(outcome, Cancelled):
                    await self._backend.submit([CancelAllAfter(timer.account_id, self._command_id(), 0, timer.session)])
        except (TimeoutError, QuorumbookError, RequestFailed) as error:
            log.info("orders of a connection that ended are left to their timer: %s", error)

    @property
    def _holds(self) -> bool:
        timer = self._timer
        return timer is not None and self._holders.get((timer.account_id, timer.session)) is self

    def _leave_off(self) -> None:
        """Set no timer any more."""
        self.pause()
        if self._timer is not None and self._holds:
            del self._holders[self._timer.account_id, self._timer.session]
        self._timer = None

    async def _keep_set(self, timer: CancelAllAfter) -> None:
        """Set the timer again, well before it goes off, while this connection is the one whose end cancels."""
        while self._holds:
            again = CancelAllAfter(timer.account_id, self._command_id(), timer.timeout, timer.session)
            with contextlib.suppress(QuorumbookError, RequestFailed):
                await self._backend.submit([again])
            await asyncio.sleep(timer.timeout / NANOSECONDS / SETS_PER_TIMEOUT)

    def _command_id(self) -> str:
        self._commands += 1
        return f"wd:{self._token}:{self._commands}"

"""Cancel on disconnect over the WebSocket: the end of a connection cancels the orders of an account, or of one session.

While the connection lasts, its gateway sets the exchange's timer (`CancelAllAfter`) again and again. When the connection
ends, the gateway cancels the orders and clears the timer. If the gateway, the node or the leader fails, the timer is not
set again, and expires. A node that is stopped cancels nothing, so its clients have the time of the timer to connect to
another node, as after a failure.
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
from statemachine.limits import SECOND_NS

log = logging.getLogger(__name__)

TIMEOUT_MIN, TIMEOUT_DEFAULT, TIMEOUT_MAX = 10, 10, 300
"""Minimum and maximum seconds of the timer. A change of the leader and a new connection must fit in the minimum. A client
that is absent for longer than the maximum does not need its orders.
"""
SETS_PER_TIMEOUT = 3
"""How often the timer is set again within its time."""
CANCEL_SECONDS = 5.0
"""Seconds in which the orders of an ended connection are cancelled. Otherwise the timer cancels them."""

Holders = dict[tuple[str, str], "OnDisconnect"]
"""By account and session tag, the connection whose end cancels: the latest one that requested it at this gateway. A replaced
connection whose end is noticed late therefore cancels nothing.
"""


def check_timeout(timeout: int) -> int:
    """Return the timer's seconds as nanoseconds. Raises BadRequestError."""
    if timeout and not TIMEOUT_MIN <= timeout <= TIMEOUT_MAX:
        raise BadRequestError(f"timeout must be 0, or a whole number of seconds from {TIMEOUT_MIN} to {TIMEOUT_MAX}", "timeout")
    return timeout * SECOND_NS


class OnDisconnect:
    """The orders that the end of one connection cancels: none, or those of an account with a session tag.

    Attributes:
        stopping: whether the connection ends because the node stops.
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
        """Raise BadRequestError if the connection already has a timer of another session."""
        if self._timer is not None and self._timer.session != session:
            raise BadRequestError("the connection has asked for another session: take that off first, with timeout 0", "session")

    def accepted(self, timer: CancelAllAfter) -> None:
        """The exchange has set this timer, or cleared it (timeout 0). Keep it set from now on."""
        self._leave_off()
        if timer.timeout and not self._ended:
            self._timer = timer
            self._holders[timer.account_id, timer.session] = self
            self.go_on()

    def pause(self) -> None:
        """Stop setting the timer while a command that clears it is under way. It could be set again after that command."""
        if self._setting is not None:
            self._setting.cancel()
            self._setting = None

    def go_on(self) -> None:
        """Continue to set the timer after that command failed."""
        if self._timer is not None and self._setting is None:
            self._setting = asyncio.get_running_loop().create_task(self._keep_set(self._timer))

    async def end(self) -> None:
        """Cancel the orders of the ended connection, unless it requested nothing, was replaced, or the node stops."""
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
        """Stop setting the timer."""
        self.pause()
        if self._timer is not None and self._holds:
            del self._holders[self._timer.account_id, self._timer.session]
        self._timer = None

    async def _keep_set(self, timer: CancelAllAfter) -> None:
        """Set the timer again well before it expires, while this connection is the one whose end cancels."""
        while self._holds:
            again = CancelAllAfter(timer.account_id, self._command_id(), timer.timeout, timer.session)
            with contextlib.suppress(QuorumbookError, RequestFailed):
                await self._backend.submit([again])
            await asyncio.sleep(timer.timeout / SECOND_NS / SETS_PER_TIMEOUT)

    def _command_id(self) -> str:
        self._commands += 1
        return f"wd:{self._token}:{self._commands}"

"""Passes the commands of a request to the batcher: determines who pays for them, their cost, and the chunks in which
they queue.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cluster.batcher import Batcher, ItemDone, Refusal
from node.budget import Cost
from node.engine.principal import Principal
from node.errors import RequestFailed
from node.native.protocol import FailCode
from statemachine.access import is_sender
from statemachine.commands import AnyCommand, CancelAll
from statemachine.limits import OPERATOR

CHUNK = 100
"""Commands of one request that queue as one item: about 5 ms of work on each node. No client waits longer for an item
of another client.
"""

_encode = msgspec.msgpack.Encoder().encode


def share_of(principal: Principal, commands: Sequence[AnyCommand]) -> str:
    """Return the share that pays for commands: their account's, whichever session sends them. The sender's own share
    pays for commands of several accounts or of the operator.
    """
    account_id = commands[0].account_id
    if account_id == OPERATOR or ("/" in account_id and is_sender(account_id)):
        return principal.name
    if len(commands) > 1 and any(command.account_id != account_id for command in commands):
        return principal.name
    return account_id


def commands_cost(commands: Sequence[AnyCommand]) -> float:
    """Return the cost of commands, in units of `node.budget`."""
    if len(commands) == 1:
        return Cost.CANCEL_ALL if type(commands[0]) is CancelAll else Cost.COMMAND
    many = list(map(type, commands)).count(CancelAll)
    return many * Cost.CANCEL_ALL + (len(commands) - many) * Cost.COMMAND


def rate_limited(what: str, seconds: float) -> RequestFailed:
    """Return the refusal of a request whose sender is out of budget for so many seconds."""
    return RequestFailed(FailCode.RATE_LIMITED, f"{what}; send it again in {seconds:.2f} s")


def queue_chunks(
    batcher: Batcher[Sequence[AnyCommand]], commands: Sequence[AnyCommand], size: int, done: ItemDone, share: str
) -> None:
    """Submit many commands to the batcher in order, in chunks, so that other shares have their turns in between.

    `size` bounds their bytes in the log. `done` gets the outcomes of all commands, or one refusal for all. If only some
    chunks were applied, the refusal is OUTCOME_UNKNOWN, and the client may send the same commands with the same ids
    again.
    """
    if size > batcher.bytes_max:
        done(Refusal.TOO_LARGE, ())
        return
    if not batcher.has_room(len(commands), share):
        done(Refusal.OVERLOADED, ())
        return
    chunks = [commands[start : start + CHUNK] for start in range(0, len(commands), CHUNK)]
    whole = _Whole(len(chunks), done)
    for place, chunk in enumerate(chunks):
        batcher.submit(chunk, len(chunk), len(_encode(chunk)), whole.part(place), share)


class _Whole:
    """Collects the results of the chunks."""

    def __init__(self, count: int, done: ItemDone) -> None:
        self._missing = count
        self._results: list[Sequence[object]] = [()] * count
        self._refusals: list[Refusal] = []
        self._done = done

    def part(self, place: int) -> ItemDone:
        """Called by the batcher with the result of one chunk."""

        def done(refusal: Refusal | None, results: Sequence[object]) -> None:
            self._missing -= 1
            self._results[place] = results
            if refusal is not None:
                self._refusals.append(refusal)
            if not self._missing:
                self._end()

        return done

    def _end(self) -> None:
        """Give the outcomes, or the refusal if all parts have the same one. Otherwise a part may have been applied:
        OUTCOME_UNKNOWN.
        """
        refusals = set(self._refusals)
        if not refusals:
            self._done(None, [outcome for results in self._results for outcome in results])
        elif len(self._refusals) == len(self._results) and len(refusals) == 1:
            self._done(refusals.pop(), ())
        else:
            self._done(Refusal.OUTCOME_UNKNOWN, ())

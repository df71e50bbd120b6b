"""Signed requests that are carried out once.

A request that changes something and names no id of its own takes its command id from its signature, so the replicated memory of commands knows
it again on every node. That memory is bounded by commands; this one, of a single process, by time: as long as a signature is good.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from node.gateway.errors import ApiError
from node.gateway.ids import order_text
from statemachine.commands import AnyCommand
from statemachine.events import AnyOutcome, Cancelled, Done, Placed, Rejected, Transferred
from statemachine.types import Reason

KEPT_MAX = 100_000
"""Signatures remembered by one process; beyond it the oldest is left to the replicated memory."""

REPEAT_SECONDS = 2.0
"""For so long after a timestamp in whole seconds equal requests may be further ones: some clients cannot sign them differently. Cancels
are, since one that is refused costs more than one that is repeated; orders are where the connection shows that they are not sent again
(ADR 0034)."""

UNDER_WAY = "it is being carried out"

_PREFIX = "s:"
_TOLD_MAX = 5
"""Commands of a batch that an answer tells of."""


def signed_id(key_id: str, signature: str) -> str:
    """The command id of a signed request. It has 66 characters, more than any id that a client may choose, so it meets none of those."""
    return _PREFIX + hashlib.blake2b(f"{key_id}\n{signature}".encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def is_signed(command_id: str) -> bool:
    """Whether a command has its id from a signature."""
    return command_id.startswith(_PREFIX) and len(command_id) >= len(_PREFIX) + 64


class Replays:
    """The signatures that this process has carried out, for as long as they are good.

    Args:
        seconds: for which a signature is good at most, from the moment when it is first seen.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def begin(self, request_id: str) -> None:
        """Take a request. Raises ApiError 400 when it was taken before."""
        now = self._clock()
        while self._seen and (len(self._seen) >= KEPT_MAX or next(iter(self._seen.values()))[0] < now):
            self._seen.popitem(last=False)
        if request_id in self._seen:
            raise replayed(self._seen[request_id][1])
        self._seen[request_id] = (now + self._seconds, UNDER_WAY)

    def done(self, request_id: str, outcomes: Sequence[AnyOutcome]) -> None:
        """Note what the request did."""
        if request_id in self._seen:
            self._seen[request_id] = (self._seen[request_id][0], told(outcomes))

    def undone(self, request_id: str) -> None:
        """The request was not carried out, or nobody knows: it may be sent again, and the replicated memory decides."""
        self._seen.pop(request_id, None)


def anew(commands: Sequence[AnyCommand]) -> list[AnyCommand]:
    """The same commands as further ones."""
    return [msgspec.structs.replace(command, command_id=f"g:{uuid.uuid4()}") for command in commands]


def find(commands: Sequence[AnyCommand], outcomes: Sequence[AnyOutcome], known: int, *, resent: bool) -> list[AnyOutcome]:
    """The outcomes that were there before a request was sent.

    Args:
        known: the sequence that this node had applied before.
        resent: the commands may have gone out twice, so that a repetition may be their own.
    """
    return [
        outcome
        for command, outcome in zip(commands, outcomes, strict=True)
        if is_signed(command.command_id) and _is_replay(outcome, known, resent=resent)
    ]


def _is_replay(outcome: AnyOutcome, known: int, *, resent: bool) -> bool:
    if isinstance(outcome, Rejected) and outcome.reason is Reason.COMMAND_ID_REUSED and outcome.field == "command_id":
        return True
    return outcome.duplicate and (not resent or outcome.sequence <= known)


def replayed(first: str) -> ApiError:
    """The refusal. `first` says what the first request did."""
    detail = (
        f"a request with this signature came before: {first}. To have an equal one carried out, sign it with another timestamp "
        "(fractions of a second count), or name a client_oid or transfer_id"
    )
    return ApiError(400, "request replayed", "CB-ACCESS-SIGN", reason="replayed", detail=detail)


def told(outcomes: Sequence[AnyOutcome]) -> str:
    """What commands did, in words."""
    words = [_told(outcome) for outcome in outcomes[:_TOLD_MAX]]
    return ", ".join(words) + (f" and {len(outcomes) - _TOLD_MAX} more" if len(outcomes) > _TOLD_MAX else "")


def _told(outcome: AnyOutcome) -> str:
    match outcome:
        case Placed(order=order):
            return f"it placed order {order_text(order.order_id)}"
        case Cancelled(orders=orders):
            return f"it cancelled {', '.join(order_text(order.order_id) for order in orders[:_TOLD_MAX]) or 'nothing'}"
        case Transferred():
            return f"it was booked with sequence {outcome.sequence}"
        case Rejected(reason=Reason.COMMAND_ID_REUSED):
            return "it was carried out"
        case Rejected(reason=reason):
            return f"it was refused ({reason.name.lower()})"
        case Done():
            return f"it was done with sequence {outcome.sequence}"
    raise AssertionError(f"no words for {outcome!r}")

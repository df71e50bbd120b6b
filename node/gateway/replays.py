"""Signed requests that come again.

A request that changes something without an id of its own takes its command id from its signature, so the reply cache
recognises it on every node. The reply cache is bounded by the number of commands. `Replays`, which belongs to one
process, is bounded by time: it keeps a signature while it is valid.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from node.gateway.errors import ApiError
from node.gateway.values import order_text
from statemachine.commands import AnyCommand
from statemachine.events import (
    Amended,
    AnyOutcome,
    Armed,
    Cancelled,
    Done,
    Paired,
    Placed,
    Proposed,
    Rejected,
    Replaced,
    Switched,
    Transferred,
)
from statemachine.types import Reason

KEPT_MAX = 100_000
"""Signatures kept by one process. Beyond this number the oldest is dropped, and only the reply cache recognises it."""

REPEAT_SECONDS = 2.0
"""Seconds after a timestamp in whole seconds in which an equal request may be a new one, because some clients cannot
sign two such requests differently. An equal cancel is a new one, because refusing it does more harm than repeating it.
An equal order is a new one if the connection shows that it is not a replay (ADR 0034).
"""

UNDER_WAY = "it is being carried out"

_PREFIX = "s:"
_SUMMARY_MAX = 5
"""Commands of a batch that the answer to a replay describes."""


def signed_id(key_id: str, signature: str) -> str:
    """Return the command id of a signed request. It has 66 characters, more than any id that a client may choose, so it
    cannot equal one.
    """
    return _PREFIX + hashlib.blake2b(f"{key_id}\n{signature}".encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def is_signed(command_id: str) -> bool:
    """Return whether a command id was derived from a signature."""
    return command_id.startswith(_PREFIX) and len(command_id) >= len(_PREFIX) + 64


class Replays:
    """The signed requests that this process has carried out, kept while their signatures are valid.

    Args:
        seconds: the maximum validity of a signature, counted from its first use.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def begin(self, request_id: str) -> None:
        """Record a request. Raises ApiError 400 if it was recorded before."""
        now = self._clock()
        while self._seen and (len(self._seen) >= KEPT_MAX or next(iter(self._seen.values()))[0] < now):
            self._seen.popitem(last=False)
        if request_id in self._seen:
            raise replayed(self._seen[request_id][1])
        self._seen[request_id] = (now + self._seconds, UNDER_WAY)

    def knows(self, request_id: str) -> bool:
        """Return whether a request was recorded before."""
        return request_id in self._seen

    def done(self, request_id: str, outcomes: Sequence[AnyOutcome]) -> None:
        """Record the effect of the request."""
        if request_id in self._seen:
            self._seen[request_id] = (self._seen[request_id][0], summary(outcomes))

    def undone(self, request_id: str) -> None:
        """Forget a request that was not applied or whose outcome is unknown. It may be sent again, and the reply cache
        decides.
        """
        self._seen.pop(request_id, None)


def with_new_ids(commands: Sequence[AnyCommand]) -> list[AnyCommand]:
    """Return the commands, with a new id where the id comes from the signature, so that they are carried out again. An
    order with a `client_oid` keeps its id, and is placed once.
    """
    return [
        msgspec.structs.replace(command, command_id=f"g:{uuid.uuid4()}") if is_signed(command.command_id) else command
        for command in commands
    ]


def find(commands: Sequence[AnyCommand], outcomes: Sequence[AnyOutcome], known: int, *, resent: bool) -> list[AnyOutcome]:
    """Return the outcomes that existed before a request was sent.

    Args:
        known: the sequence that this node had applied before the request was sent.
        resent: whether the commands may have been sent twice, so that an earlier outcome may be their own.
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
    """Return the refusal of a replay. `first` describes the effect of the first request."""
    detail = (
        f"a request with this signature came before: {first}. To have an equal one carried out, sign it with another timestamp "
        "(fractions of a second count), or name a client_oid or transfer_id"
    )
    return ApiError(400, "request replayed", "CB-ACCESS-SIGN", reason="replayed", detail=detail)


def summary(outcomes: Sequence[AnyOutcome]) -> str:
    """Return a text that describes the outcomes of commands."""
    words = [_summary_of(outcome) for outcome in outcomes[:_SUMMARY_MAX]]
    return ", ".join(words) + (f" and {len(outcomes) - _SUMMARY_MAX} more" if len(outcomes) > _SUMMARY_MAX else "")


def _summary_of(outcome: AnyOutcome) -> str:
    """Return in words what a command did."""
    match outcome:
        case Placed(order=order):
            return f"it placed order {order_text(order.order_id)}"
        case Amended(order=order):
            return f"it amended order {order_text(order.order_id)}"
        case Replaced(cancelled=old, placed=new):
            return f"it replaced order {order_text(old.order_id)} by {order_text(new.order_id)}"
        case Cancelled(orders=orders):
            return f"it cancelled {', '.join(order_text(order.order_id) for order in orders[:_SUMMARY_MAX]) or 'nothing'}"
        case Paired(limit=limit, stop=stop):
            return f"it placed orders {order_text(limit.order_id)} and {order_text(stop.order_id)}"
        case Armed():
            return f"the timer was set with sequence {outcome.sequence}"
        case Transferred():
            return f"it was booked with sequence {outcome.sequence}"
        case Rejected(reason=Reason.COMMAND_ID_REUSED):
            return "it was carried out"
        case Rejected(reason=reason):
            return f"it was refused ({reason.name.lower()})"
        case Proposed(proposal_id=proposal_id):
            return f"it is proposal {proposal_id}"
        case Done() | Switched():
            return f"it was done with sequence {outcome.sequence}"
    raise AssertionError(f"no words for {outcome!r}")

"""The rules of FIXT.1.1 for a client's messages after its Logon.

- Only a message with the next number is processed. If the number is higher, the session sends one ResendRequest for the
  gap. If it is lower, the session ends, unless the message has PossDupFlag.
- A malformed message uses up its number, and is answered with a Reject that names the field. Without a number it ends
  the session.
- A client that sends nothing gets a TestRequest after 1.2 heartbeat intervals, and is disconnected after 2.4.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from node.errors import QuorumbookError
from node.fix import tags
from node.fix.fields import (
    COMP_ID,
    INCORRECT,
    INVALID_TYPE,
    OTHER,
    SENDING_TIME_PROBLEM,
    FieldError,
    FixMessage,
)
from node.fix.logon import Terms
from node.fix.orders import NOT_AUTHORIZED, OTHER_REASON, UNAVAILABLE, business_reject
from node.fix.sending import Link, Sender
from node.fix.wire import Fields

TEST_AFTER, LOST_AFTER = 1.2, 2.4
"""Heartbeat intervals without a message after which the client gets a TestRequest, and is disconnected."""

SENDING_TIME_MAX = 120.0
"""Seconds by which SendingTime may differ from this node's clock."""

APPLICATION_TYPES = frozenset({"D", "F", "G", "H", "q", "V", "e"})
"""Message types that a client of any service may send. Another known type is answered with a BusinessMessageReject, and
an unknown type with a Reject.
"""

_NOT_KNOWN = "sent before the Logon of a session that the exchange does not know: send it under another number"

Handler = Callable[[FixMessage, int], Awaitable[None]]


class QuietSender(Sender, Protocol):
    """A sender that reports the time since its last message."""

    @property
    def quiet_seconds(self) -> float:
        """Return the seconds since the last message was sent."""


class FixSession:
    """Processes the messages of a logged-on client. `handle` gets its application messages.

    Args:
        expected: the number of the client's next message.
    """

    def __init__(self, terms: Terms, expected: int, sender: QuietSender, link: Link, handle: Handler) -> None:
        self.expected = expected
        self.allowed = True
        """Whether the key still has the permission that the session needs."""
        self._terms = terms
        self._sender = sender
        self._link = link
        self._handle = handle
        self._asked_to = 0
        self._unknown_before = 0
        self._received = time.monotonic()
        self._tested = False
        self._beating = False
        self._ended = False
        self._admin: dict[str, Handler] = {
            "0": self._heartbeat,
            "1": self._test_request,
            "2": self._resend_request,
            "3": self._reject,
            "5": self._logout,
            "A": self._logon,
            "j": self._reject,  # a reject of a reject would not end
        }

    @property
    def ended(self) -> bool:
        """Whether a Logout was sent."""
        return self._ended

    def begin(self, number: int, *, known: bool = True) -> None:
        """Record the number of the client's Logon. If the exchange does not know the numbers of the session, it may have
        forgotten them with the outcomes of requests. It then carries out no request with a lower number.
        """
        self._unknown_before = 0 if known else number
        if number > self.expected:
            self._ask_for_gap(number)
        else:
            self.expected = number + 1

    async def take(self, message: FixMessage, frame_number: int) -> None:
        """Process a message. `frame_number` is its MsgSeqNum, or 0 if none can be read."""
        if self._ended:
            return
        self._received = time.monotonic()
        self._tested = False
        if frame_number == 0:
            self.end("MsgSeqNum (34) is required")
            return
        if _begin_string(message) != tags.BEGIN_STRING:
            self.end("Incorrect BeginString")
            return
        if message.type == "4" and self._is_reset(message):
            self._reset(message, frame_number)
            return
        if not self._next(message, frame_number):
            return
        self.expected = frame_number + 1
        try:
            message.check()
            self._check_header(message)
            await self._dispatch(message, frame_number)
        except FieldError as error:
            self._sender.send(session_reject(message, frame_number, error), frame_number)
            if error.reason in (COMP_ID, SENDING_TIME_PROBLEM):
                self.end(str(error))
        except QuorumbookError as error:
            self._sender.send(business_reject(message, frame_number, UNAVAILABLE, str(error)[:200]), frame_number)

    def stop(self) -> None:
        """Ignore all further messages after a Logout."""
        self._ended = True

    def end(self, why: str) -> None:
        """Log the client out."""
        if not self._ended:
            self._ended = True
            self._sender.send([(tags.MSG_TYPE, "5"), (tags.TEXT, why)], self.expected - 1)
            self._sender.close()

    def look(self) -> None:
        """Send a Heartbeat or TestRequest if it is due. The caller calls it a few times a second."""
        interval = self._terms.heartbeat
        if self._sender.quiet_seconds < interval:
            self._beating = False
        elif not self._beating and not self._ended:
            self._beating = True  # without a leader it is delayed, and one is enough
            self._sender.send([(tags.MSG_TYPE, "0")])
        quiet = time.monotonic() - self._received
        if quiet > LOST_AFTER * interval:
            self._link.close("no message from the client")
        elif quiet > TEST_AFTER * interval and not self._tested:
            self._tested = True
            self._sender.send([(tags.MSG_TYPE, "1"), (tags.TEST_REQ_ID, f"T{time.time_ns()}")])

    # Numbers

    def _next(self, message: FixMessage, number: int) -> bool:
        """Return whether a message has the next number. If not, this method handles it."""
        if number == self.expected:
            return True
        if number > self.expected:
            if message.type == "5":
                self.end("logged out, with messages missing before")
            elif message.type == "2":
                self._resend_early(message)
            self._ask_for_gap(number)
            return False
        if message.type != "A" and _is_possible_duplicate(message):
            return False
        self.end(f"MsgSeqNum too low, expecting {self.expected} but received {number}")
        return False

    def _ask_for_gap(self, number: int) -> None:
        """Send one ResendRequest for all missing messages before a number."""
        if self._asked_to < self.expected and not self._ended:
            self._asked_to = number
            self._sender.send([(tags.MSG_TYPE, "2"), (tags.BEGIN_SEQ_NO, str(self.expected)), (tags.END_SEQ_NO, "0")])

    def _resend_early(self, message: FixMessage) -> None:
        """Answer a ResendRequest even if messages before it are missing. Otherwise both sides could miss messages and
        wait for each other.
        """
        with contextlib.suppress(FieldError):  # it is checked when it is sent again
            self._sender.resend(*_range(message))

    def _is_reset(self, message: FixMessage) -> bool:
        """Return whether the message is a SequenceReset in reset mode, whose own number is ignored."""
        try:
            return not message.flag(tags.GAP_FILL)
        except FieldError:
            return False

    def _reset(self, message: FixMessage, number: int) -> None:
        """Handle a SequenceReset in reset mode."""
        try:
            message.check()
            following = message.number(tags.NEW_SEQ_NO)
            if following < self.expected:
                raise FieldError(tags.NEW_SEQ_NO, INCORRECT, f"NewSeqNo must be at least {self.expected}")
        except FieldError as error:
            self._sender.send(session_reject(message, number, error))
            return
        self.expected = following
        self._sender.settled(following - 1)

    # Messages

    def _check_header(self, message: FixMessage) -> None:
        """Check the names and the sending time of a message. Raises FieldError."""
        for tag, expected in ((tags.SENDER, self._terms.sender), (tags.TARGET, self._terms.target)):
            if message.text(tag) != expected:
                raise FieldError(tag, COMP_ID, f"field {tag} must be {expected}")
        sent = message.time(tags.SENDING_TIME)
        if message.flag(tags.POSS_DUP):
            if message.time(tags.ORIG_SENDING_TIME) > sent:
                raise FieldError(tags.ORIG_SENDING_TIME, SENDING_TIME_PROBLEM, "OrigSendingTime is later than SendingTime")
        elif abs(time.time() - sent / 1e9) > SENDING_TIME_MAX:
            raise FieldError(
                tags.SENDING_TIME, SENDING_TIME_PROBLEM, f"SendingTime must be within {SENDING_TIME_MAX:g} s of ours"
            )

    async def _dispatch(self, message: FixMessage, number: int) -> None:
        """Handle a message by its type. Raises FieldError."""
        kind = message.type
        if kind == "4":
            self._gap_fill(message, number)
        elif kind in self._admin:
            await self._admin[kind](message, number)
        elif kind not in APPLICATION_TYPES:
            if len(kind) > 2 or not kind.isalnum():
                raise FieldError(tags.MSG_TYPE, INVALID_TYPE, "there is no such MsgType")
            await self._handle(message, number)
        elif number < self._unknown_before:
            self._sender.send(business_reject(message, number, OTHER_REASON, _NOT_KNOWN), number)
        elif not self.allowed:
            self._sender.send(business_reject(message, number, NOT_AUTHORIZED, "the API key may not do this any more"), number)
        else:
            await self._handle(message, number)

    def _gap_fill(self, message: FixMessage, number: int) -> None:
        """Handle a gap fill: continue after the skipped numbers."""
        following = message.number(tags.NEW_SEQ_NO)
        if following <= number:
            raise FieldError(tags.NEW_SEQ_NO, INCORRECT, f"NewSeqNo must be above {number}")
        self.expected = following
        self._sender.settled(following - 1)

    async def _heartbeat(self, _message: FixMessage, number: int) -> None:
        self._sender.settled(number)

    async def _test_request(self, message: FixMessage, number: int) -> None:
        self._sender.send([(tags.MSG_TYPE, "0"), (tags.TEST_REQ_ID, message.text(tags.TEST_REQ_ID)[:200])], number)

    async def _resend_request(self, message: FixMessage, number: int) -> None:
        self._sender.resend(*_range(message))
        self._sender.settled(number)

    async def _reject(self, _message: FixMessage, number: int) -> None:
        self._sender.settled(number)

    async def _logout(self, _message: FixMessage, _number: int) -> None:
        self.end("logged out")

    async def _logon(self, _message: FixMessage, number: int) -> None:
        raise FieldError(tags.MSG_TYPE, OTHER, f"message {number}: the session is logged on already")


def _range(message: FixMessage) -> tuple[int, int]:
    """Return the first and last number that a ResendRequest names."""
    begin, end = message.number(tags.BEGIN_SEQ_NO), message.number(tags.END_SEQ_NO)
    if begin < 1 or (end and end < begin):
        raise FieldError(tags.BEGIN_SEQ_NO, INCORRECT, "BeginSeqNo must be 1 or more, and not above EndSeqNo")
    return begin, end


def _begin_string(message: FixMessage) -> str | None:
    try:
        return message.optional(8)
    except FieldError:
        return None


def _is_possible_duplicate(message: FixMessage) -> bool:
    try:
        return message.flag(tags.POSS_DUP)
    except FieldError:
        return False


def session_reject(message: FixMessage, number: int, error: FieldError) -> Fields:
    """Return a Reject (3)."""
    fields: Fields = [(tags.MSG_TYPE, "3"), (tags.REF_SEQ_NUM, str(number))]
    if error.tag > 0:
        fields.append((tags.REF_TAG_ID, str(error.tag)))
    if message.type.isalnum():
        fields.append((tags.REF_MSG_TYPE, message.type[:8]))
    return [*fields, (tags.REJECT_REASON, str(error.reason)), (tags.TEXT, str(error)[:200])]

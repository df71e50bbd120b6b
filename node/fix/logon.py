"""Who logs on, and on what terms: the fields of a Logon as Coinbase Exchange has them.

The client's API key is SenderCompID (and Username, where given), its passphrase is Password, and RawData is the
signature. That is base64 of an HMAC-SHA256, with the key's secret, of SendingTime, MsgType, MsgSeqNum, SenderCompID,
TargetCompID and Password, joined by SOH. TargetCompID says which of the services the session is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from node.errors import QuorumbookError
from node.fix import tags
from node.fix.fields import FieldError, Message
from node.fix.wire import SOH, Fields
from node.gateway.auth import Authenticator, Claim, Identity
from node.gateway.errors import ApiError
from statemachine.limits import OPERATOR
from statemachine.types import Permission

HEARTBEAT_MIN, HEARTBEAT_MAX = 1, 300
"""Seconds of HeartBtInt. Coinbase Exchange caps it at 300 likewise."""

TARGET = "QUORUMBOOK"


class Service(Enum):
    """What a session is for: the value ends the name of its report stream."""

    ORDERS = "o"
    DROP_COPY = "d"
    MARKET = "m"


class CancelOnDisconnect(Enum):
    """Which orders leave when the connection ends without a Logout, or with one."""

    NONE = "N"
    ACCOUNT = "Y"
    """All open orders of the account."""
    SESSION = "S"
    """The open orders that were placed over FIX with this key."""


SERVICES = {TARGET: Service.ORDERS, f"{TARGET}-DC": Service.DROP_COPY, f"{TARGET}-MD": Service.MARKET}


class LogonRefusedError(QuorumbookError):
    """Nobody is logged on; the text is for the client."""


@dataclass(frozen=True)
class Terms:
    """Who is logged on and how. `target` is what the client calls us; `number` is that of its Logon."""

    identity: Identity
    service: Service
    target: str
    number: int
    heartbeat: int
    reset: bool
    cancel: CancelOnDisconnect

    @property
    def sender(self) -> str:
        """What the client calls itself: its API key."""
        return self.identity.key_id

    @property
    def stream_id(self) -> str:
        """The session's report stream."""
        return f"{self.identity.key_id}/{self.service.value}"

    def answer(self) -> Fields:
        """The Logon that answers."""
        fields = [(tags.MSG_TYPE, "A"), (tags.ENCRYPT_METHOD, "0"), (tags.HEART_BT_INT, str(self.heartbeat))]
        if self.reset:
            fields.append((tags.RESET_SEQ_NUM, "Y"))
        return [*fields, (tags.DEFAULT_APPL_VER, tags.FIX50SP2)]


class Doorkeeper:
    """Reads Logons. `now` is the wall clock in seconds."""

    def __init__(self, auth: Authenticator, age_max: float, now: Callable[[], float] = time.time) -> None:
        self._auth = auth
        self._age_max = age_max
        self._now = now

    async def admit(self, message: Message, address: str) -> Terms:
        """The terms of a Logon. Raises LogonRefusedError; UnavailableError and RequestFailed where nobody can tell."""
        try:
            return await self._admit(message, address)
        except FieldError as error:
            raise LogonRefusedError(str(error)) from None
        except ApiError as error:
            raise LogonRefusedError(error.message) from None

    async def _admit(self, message: Message, address: str) -> Terms:
        message.check()
        if message.type != "A":
            raise LogonRefusedError("the first message must be a Logon (35=A)")
        if message.text(8) != tags.BEGIN_STRING:
            raise LogonRefusedError(f"BeginString must be {tags.BEGIN_STRING}")
        target, sender = message.text(tags.TARGET), message.text(tags.SENDER)
        if target not in SERVICES:
            raise LogonRefusedError(f"TargetCompID must be one of {', '.join(SERVICES)}")
        if message.optional(tags.USERNAME) not in (None, sender):
            raise LogonRefusedError("Username must be the API key that SenderCompID is")
        message.choice(tags.ENCRYPT_METHOD, {"0": True})
        message.choice(tags.DEFAULT_APPL_VER, {tags.FIX50SP2: True})
        number = message.number(tags.MSG_SEQ_NUM)
        reset = message.flag(tags.RESET_SEQ_NUM)
        if number < 1 or (reset and number != 1):
            raise LogonRefusedError("MsgSeqNum must be 1 with ResetSeqNumFlag, and at least 1 without")
        self._check_age(message.time(tags.SENDING_TIME))
        identity = await self._identity(message, sender, target, address)
        service = SERVICES[target]
        if service is Service.ORDERS and message.flag(tags.DROP_COPY):
            service = Service.DROP_COPY
        identity.require(Permission.TRADE if service is Service.ORDERS else Permission.VIEW)
        if identity.account_id == OPERATOR and service is not Service.MARKET:
            raise LogonRefusedError("the operator's key has no account: it reads market data only")
        cancel = message.choice(
            tags.CANCEL_ON_DISCONNECT, {each.value: each for each in CancelOnDisconnect}, default=CancelOnDisconnect.NONE
        )
        heartbeat = max(HEARTBEAT_MIN, min(message.number(tags.HEART_BT_INT, 10**6), HEARTBEAT_MAX))
        return Terms(identity, service, target, number, heartbeat, reset, cancel)

    def _check_age(self, sent_ns: int) -> None:
        if abs(self._now() - sent_ns / 1e9) > self._age_max:
            raise LogonRefusedError(f"SendingTime must be within {self._age_max:g} s of the server's time")

    async def _identity(self, message: Message, sender: str, target: str, address: str) -> Identity:
        passphrase = message.text(tags.PASSWORD)
        signed = (
            *(message.text(tags.SENDING_TIME), "A", message.text(tags.MSG_SEQ_NUM), sender, target),
            passphrase,
        )
        claim = Claim(sender, message.text(tags.RAW_DATA), message.text(tags.SENDING_TIME), passphrase)
        return await self._auth.prove(claim, address, SOH.join(signed).encode())

"""Authenticates a Logon. Its fields are those of Coinbase Exchange.

SenderCompID (and Username, if given) is the client's API key, Password is its passphrase, and RawData is the signature.
The signature is base64 of an HMAC-SHA256, with the key's secret, of SendingTime, MsgType, MsgSeqNum, SenderCompID,
TargetCompID and Password, joined by SOH. TargetCompID selects the service.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from node.errors import QuorumbookError
from node.fix import tags
from node.fix.fields import FieldError, FixMessage
from node.fix.wire import SOH, Fields
from node.gateway.auth import Authenticator, Claim, Identity
from node.gateway.backend import Backend
from node.gateway.errors import ApiError, UnknownHereError
from node.gateway.values import NAME
from node.native.protocol import RightsQuery
from statemachine.limits import NAME_MAX, OPERATOR
from statemachine.types import Permission, Scope

HEARTBEAT_MIN, HEARTBEAT_MAX = 1, 300
"""Limits of HeartBtInt in seconds. Coinbase Exchange has the same maximum."""

TARGET = "QUORUMBOOK"


class Service(Enum):
    """The service of a session. The value is the suffix of its report stream's name."""

    ORDERS = "o"
    DROP_COPY = "d"
    MARKET = "m"


class CancelOnDisconnect(Enum):
    """The orders that are cancelled when the connection ends, with or without a Logout."""

    NONE = "N"
    ACCOUNT = "Y"
    """All open orders of the account."""
    SESSION = "S"
    """The open orders that were placed over FIX with this key."""


SERVICES = {TARGET: Service.ORDERS, f"{TARGET}-DC": Service.DROP_COPY, f"{TARGET}-MD": Service.MARKET}


class LogonRefusedError(QuorumbookError):
    """The Logon is refused. The client gets the text."""


@dataclass(frozen=True)
class Terms:
    """The terms of a session. `target` is the TargetCompID of the client's messages, and `number` the MsgSeqNum of its
    Logon. `account_id` is the account whose reports the session gets. A drop copy by a user's role may be for another
    account than the key's own.
    """

    identity: Identity
    account_id: str
    service: Service
    target: str
    number: int
    heartbeat: int
    reset: bool
    cancel: CancelOnDisconnect

    @property
    def sender(self) -> str:
        """The client's SenderCompID, which is its API key."""
        return self.identity.key_id

    @property
    def stream_id(self) -> str:
        """The id of the session's report stream."""
        name = self.identity.key_id if not self.is_of_another else f"{self.account_id}:{self.identity.key_id}"
        return f"{name}/{self.service.value}"

    @property
    def is_of_another(self) -> bool:
        """Whether the session gets the reports of another account than the key's own."""
        return self.account_id != self.identity.account_id

    def answer(self) -> Fields:
        """Return the Logon that answers the client's."""
        fields = [(tags.MSG_TYPE, "A"), (tags.ENCRYPT_METHOD, "0"), (tags.HEART_BT_INT, str(self.heartbeat))]
        if self.reset:
            fields.append((tags.RESET_SEQ_NUM, "Y"))
        return [*fields, (tags.DEFAULT_APPL_VER, tags.FIX50SP2)]


class LogonCheck:
    """Authenticates Logons. `now` is the wall clock in seconds since the epoch."""

    def __init__(self, auth: Authenticator, backend: Backend, age_max: float, now: Callable[[], float] = time.time) -> None:
        self._auth = auth
        self._backend = backend
        self._age_max = age_max
        self._now = now

    async def admit(self, message: FixMessage, address: str) -> Terms:
        """Return the terms of a Logon. Raises LogonRefusedError, or UnavailableError and RequestFailed if no node answers."""
        try:
            return await self._admit(message, address)
        except FieldError as error:
            raise LogonRefusedError(str(error)) from None
        except ApiError as error:
            raise LogonRefusedError(error.message) from None

    async def _admit(self, message: FixMessage, address: str) -> Terms:
        """Check a Logon. Returns the terms of the session."""
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
        account_id = await self._account(message, identity, service)
        if account_id == OPERATOR and service is not Service.MARKET:
            raise LogonRefusedError("the key has no account: it reads market data, or with Account a drop copy")
        cancel = message.choice(
            tags.CANCEL_ON_DISCONNECT, {each.value: each for each in CancelOnDisconnect}, default=CancelOnDisconnect.NONE
        )
        heartbeat = max(HEARTBEAT_MIN, min(message.number(tags.HEART_BT_INT, 10**6), HEARTBEAT_MAX))
        return Terms(identity, account_id, service, target, number, heartbeat, reset, cancel)

    async def _account(self, message: FixMessage, identity: Identity, service: Service) -> str:
        """Return the session's account: the key's own or, for a drop copy, the Account that the user may see."""
        wanted = message.optional(tags.ACCOUNT)
        if wanted is None or wanted == identity.account_id:
            return identity.account_id
        if service is not Service.DROP_COPY:
            raise LogonRefusedError("Account is for drop copies only")
        if NAME.fullmatch(wanted) is None or len(wanted) + 1 + len(identity.key_id) > NAME_MAX:
            raise LogonRefusedError(f"Account must be a name, with at most {NAME_MAX - 1} characters together with the key's id")
        if not await self.sees(identity, wanted):
            raise LogonRefusedError(f"the key's user may not see the account {wanted}")
        return wanted

    async def sees(self, identity: Identity, account_id: str) -> bool:
        """Return whether the user's roles allow the key to see an account. Raises UnavailableError, RequestFailed."""
        if not identity.user_id:
            return False
        held: int = await self._backend.query(RightsQuery(identity.sender, Scope.ACCOUNT, account_id))
        return bool(held & Permission.VIEW)

    def _check_age(self, sent_ns: int) -> None:
        if abs(self._now() - sent_ns / 1e9) > self._age_max:
            raise LogonRefusedError(f"SendingTime must be within {self._age_max:g} s of the server's time")

    async def _identity(self, message: FixMessage, sender: str, target: str, address: str) -> Identity:
        """Return the identity of the key that signed a Logon."""
        passphrase = message.text(tags.PASSWORD)
        signed = (
            *(message.text(tags.SENDING_TIME), "A", message.text(tags.MSG_SEQ_NUM), sender, target),
            passphrase,
        )
        claim = Claim(sender, message.text(tags.RAW_DATA), message.text(tags.SENDING_TIME), passphrase)
        text = SOH.join(signed).encode()
        try:
            return await self._auth.prove(claim, address, text)
        except UnknownHereError:  # a follower may not have a new key yet
            return await self._auth.prove(claim, address, text, at_leader=True)

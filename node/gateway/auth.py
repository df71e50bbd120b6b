"""Who is asking: API keys and signatures.

A request is signed as base64(HMAC-SHA256(base64-decoded secret, timestamp + METHOD + request target + body)), with the target and the timestamp
exactly as they were sent. The operator's key stands in the configuration, every other one in the replicated state; those
are looked up in the engine and kept for `KEY_AGE_MAX` seconds, so a replaced key works that long. Unknown ids are kept too, and asked for
at a bounded rate: guessing keys costs the engine no more than that.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from node.config.settings import AdminConfig
from node.credentials import same_text, sign
from node.errors import RequestFailed
from node.gateway.backend import Backend
from node.gateway.errors import ApiError, UnknownHereError
from node.gateway.ids import NAME
from node.gateway.limits import Bucket
from node.native.protocol import ApiKeyQuery
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission

KEY_AGE_MAX = 2.0
KEYS_KEPT = 10_000
UNKNOWN_PER_SECOND = 100.0
UNKNOWN_BURST = 500.0
"""Look-ups that found no key: how many a second on average, and how many at once."""

TIMESTAMP_HEADER = "CB-ACCESS-TIMESTAMP"
SOCKET_METHOD, SOCKET_TARGET = "GET", "/users/self/verify"
"""What a subscribe message signs."""

_TIMESTAMP = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True)
class Identity:
    """Whose request it is, by which key, and what the key may do."""

    key_id: str
    account_id: str
    permissions: int

    def require(self, permission: Permission) -> None:
        """Raise ApiError 403 unless the key has `permission`."""
        if not self.permissions & permission:
            name = permission.name.lower()
            raise ApiError(403, f"The API key needs the permission {name}", reason="forbidden", detail=name)


@dataclass(frozen=True)
class Claim:
    """What a client presents: on the WebSocket in the message, else in the CB-ACCESS headers."""

    key_id: str
    signature: str
    timestamp: str
    passphrase: str


@dataclass
class Authenticator:
    """Checks claims. `now` is the wall clock in seconds since the epoch."""

    backend: Backend
    admin: AdminConfig
    age_max: float
    now: Callable[[], float] = time.time
    _keys: OrderedDict[str, tuple[float, ApiKeyRow | None]] = field(default_factory=OrderedDict)
    _asking: dict[str, asyncio.Task[ApiKeyRow | None]] = field(default_factory=dict)
    _unknown: Bucket = field(default_factory=lambda: Bucket(UNKNOWN_PER_SECOND, UNKNOWN_BURST, time.monotonic()))

    async def identify(self, claim: Claim, method: str, target: str, body: bytes) -> Identity:
        """Whose claim it is. Raises ApiError 401 with the text that foreign clients map."""
        self._check_age(claim.timestamp)
        key = await self._key(claim.key_id)
        if key is None:
            raise UnknownHereError(401, "Invalid API Key", "CB-ACCESS-KEY", reason="unauthorized")
        if not _signed(key.secret, claim, method, target, body):
            raise _refused("invalid signature", "CB-ACCESS-SIGN")
        if not same_text(claim.passphrase, key.passphrase):
            raise _refused("Invalid Passphrase", "CB-ACCESS-PASSPHRASE")
        return Identity(key.key_id, key.owner_id, key.permissions)

    def forget(self, key_id: str) -> None:
        """Look the key up anew at its next use."""
        self._keys.pop(key_id, None)

    def _check_age(self, timestamp: str) -> None:
        if _TIMESTAMP.fullmatch(timestamp) is None:
            raise _refused("invalid timestamp", TIMESTAMP_HEADER, "Unix time in seconds, such as 1795304779.123")
        if abs(self.now() - float(timestamp)) > self.age_max:
            raise _refused("request timestamp expired", TIMESTAMP_HEADER, f"within {self.age_max:g} s of the server's time")

    async def _key(self, key_id: str) -> ApiKeyRow | None:
        if same_text(key_id, self.admin.key_id):
            return ApiKeyRow(key_id, OPERATOR, self.admin.secret, self.admin.passphrase, sum(Permission))
        if NAME.fullmatch(key_id) is None:
            return None
        kept = self._keys.get(key_id)
        if kept is not None and time.monotonic() - kept[0] < KEY_AGE_MAX:
            return kept[1]
        if key_id not in self._asking:
            if self._unknown.wait(time.monotonic()):
                raise ApiError(429, "Private rate limit exceeded", headers={"Retry-After": "1"})
            self._asking[key_id] = asyncio.create_task(self._look_up(key_id))
        return await asyncio.shield(self._asking[key_id])

    async def _look_up(self, key_id: str) -> ApiKeyRow | None:
        try:
            row: ApiKeyRow | None = await self.backend.query(ApiKeyQuery(key_id))
        except RequestFailed:
            row = None
            self._unknown.spend()
        finally:
            del self._asking[key_id]
        self._keys[key_id] = (time.monotonic(), row)
        self._keys.move_to_end(key_id)
        if len(self._keys) > KEYS_KEPT:
            self._keys.popitem(last=False)
        return row


def _signed(secret: str, claim: Claim, method: str, target: str, body: bytes) -> bool:
    try:
        expected = sign(secret, claim.timestamp, method, target, body)
    except ValueError:  # a target that is not text, or a key whose secret is not base64
        return False
    return same_text(claim.signature, expected)


def _refused(message: str, header: str, detail: str = "") -> ApiError:
    return ApiError(401, message, header, reason="unauthorized", detail=detail)

"""Who is asking: API keys and signatures.

A request is signed as base64(HMAC-SHA256(base64-decoded secret, timestamp + METHOD + request target + body)), with the target and the timestamp
exactly as they were sent. The operator's key stands in the configuration, every other one in the replicated state; those are looked up
in the engine and kept, opened, until the engine tells that they changed, or is lost. Unknown ids are kept too, and asked for at a bounded rate:
guessing keys costs the engine no more than that.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from node.budget import Bucket
from node.config.settings import AdminConfig
from node.credentials import same_text
from node.errors import ClusterKeyError, RequestFailed
from node.gateway.backend import Backend
from node.gateway.errors import ApiError, UnknownHereError
from node.gateway.ids import NAME
from node.keys import addresses
from node.keys.sealing import ApiKey, ClusterKeys
from node.native.protocol import ApiKeyQuery, FailCode
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission

KEYS_KEPT = 10_000
"""Keys, and ids of which there is none; the one that was not used for the longest goes first."""
UNKNOWN_PER_SECOND = 100.0
UNKNOWN_BURST = 500.0
"""Look-ups that found no key: how many a second on average, and how many at once."""

TIMESTAMP_HEADER = "CB-ACCESS-TIMESTAMP"
SOCKET_METHOD, SOCKET_TARGET = "GET", "/users/self/verify"
"""What a subscribe message signs."""

UNPROVEN = "no API key of this id, as this node knows it, has made this signature of timestamp, method, request target and body"

_TIMESTAMP = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


class Identity(msgspec.Struct, frozen=True):
    """Whose request it is, by which key, from where, and what the key may do."""

    key_id: str
    account_id: str
    permissions: int
    address: str = ""
    key: ApiKey | None = None

    def require(self, permission: Permission) -> None:
        """Raise ApiError 403 unless the key has `permission`."""
        if not self.permissions & permission:
            name = permission.name.lower()
            raise ApiError(403, f"The API key needs the permission {name}", reason="forbidden", detail=name)


class Claim(msgspec.Struct, frozen=True):
    """What a client presents: on the WebSocket in the message, else in the CB-ACCESS headers."""

    key_id: str
    signature: str
    timestamp: str
    passphrase: str

    def __repr__(self) -> str:
        """Without the passphrase: a repr ends up in logs."""
        return f"Claim(key_id={self.key_id!r}, signature={self.signature!r}, timestamp={self.timestamp!r})"


@dataclass
class Authenticator:
    """Checks claims. `now` is the wall clock in seconds since the epoch; `on_change` is told which keys changed, none of them: any may have."""

    backend: Backend
    admin: AdminConfig
    cluster_keys: ClusterKeys
    age_max: float
    now: Callable[[], float] = time.time
    on_change: Callable[[list[str]], None] = lambda _key_ids: None
    _keys: OrderedDict[str, ApiKey | None] = field(default_factory=OrderedDict)
    _asking: dict[str, asyncio.Task[ApiKey | None]] = field(default_factory=dict)
    _outdated: set[str] = field(default_factory=set)
    _unknown: Bucket = field(default_factory=lambda: Bucket(UNKNOWN_PER_SECOND, UNKNOWN_BURST, time.monotonic()))

    def __post_init__(self) -> None:
        admin = self.admin
        self._nobody = ApiKey("", "", "", "", 0)
        self._operator = ApiKey(
            admin.key_id, OPERATOR, admin.secret, admin.passphrase, sum(Permission), addresses.networks(admin.addresses)
        )
        self.backend.follow_keys(self._changed)

    async def identify(self, claim: Claim, address: str, method: str, target: str, body: bytes) -> Identity:
        """Whose claim it is, from an address. Raises ApiError: 401 with the text that foreign clients map, or 503 without the cluster key."""
        self._check_age(claim.timestamp)
        try:
            key = await self._key(claim.key_id)
        except ClusterKeyError as error:
            text = "This node lacks the cluster key of the API key"
            raise ApiError(503, text, reason="cluster_key", detail=str(error)) from None
        # An id of which there is no key is answered like a signature that does not fit: nobody learns which ids exist. A node that is behind
        # may have the secret of before, as it may not have the key yet.
        message = f"{claim.timestamp}{method}{target}".encode("utf-8", "surrogateescape") + body
        if not (key or self._nobody).proves(claim.signature, message) or key is None:
            raise unproven()
        if not same_text(claim.passphrase, key.passphrase):
            raise _refused("Invalid Passphrase", "CB-ACCESS-PASSPHRASE")
        if not key.allows(address):
            detail = f"this key may not be used from {address or 'an unknown address'}"
            raise _refused("IP does not match IP whitelist", "CB-ACCESS-KEY", detail)
        return Identity(key.key_id, key.owner_id, key.permissions, address, key)

    async def again(self, identity: Identity, *, at_leader: bool = False) -> Identity | None:
        """The identity with today's permissions; None where its key was revoked or replaced, or may not be used from there any more, or cannot be
        opened here, so that nobody can tell. Whoever guesses keys does not delay it. `at_leader`: as the leader has it, whatever this node knows."""
        key_id, before = identity.key_id, identity.key
        if key_id == self.admin.key_id:
            return identity
        try:
            key = await (self._asked(key_id, linearizable=True) if at_leader else self._key(key_id, guessed=False))
        except ClusterKeyError:
            return None
        if key is None or before is None or (key.secret, key.passphrase) != (before.secret, before.passphrase):
            return None
        if not key.allows(identity.address):
            return None
        return Identity(key.key_id, key.owner_id, key.permissions, identity.address, key)

    def is_current(self, identity: Identity) -> bool:
        """Whether the identity's key is the one that is kept: nothing has changed it since."""
        return identity.key_id == self.admin.key_id or self._keys.get(identity.key_id) is identity.key

    def _changed(self, key_ids: list[str]) -> None:
        """The engine put these keys; with none named, trust nothing that is kept."""
        for key_id in key_ids or list(self._keys):
            self._keys.pop(key_id, None)
        self._outdated.update(key_id for key_id in key_ids or self._asking if key_id in self._asking)
        self.on_change(key_ids)

    def _check_age(self, timestamp: str) -> None:
        if _TIMESTAMP.fullmatch(timestamp) is None:
            raise _refused("invalid timestamp", TIMESTAMP_HEADER, "Unix time in seconds, such as 1795304779.123")
        if abs(self.now() - float(timestamp)) > self.age_max:
            raise _refused("request timestamp expired", TIMESTAMP_HEADER, f"within {self.age_max:g} s of the server's time")

    async def _key(self, key_id: str, *, guessed: bool = True) -> ApiKey | None:
        """The key; None if there is none. Raises ClusterKeyError, ApiError 429 where too many were asked for that do not exist."""
        if key_id == self.admin.key_id:
            return self._operator
        if NAME.fullmatch(key_id) is None:
            return None
        if key_id in self._keys:
            self._keys.move_to_end(key_id)
            return self._keys[key_id]
        if key_id not in self._asking:
            if guessed and self._unknown.wait(time.monotonic()):
                raise ApiError(429, "Private rate limit exceeded", headers={"Retry-After": "1"})
            self._asking[key_id] = asyncio.create_task(self._look_up(key_id))
        return await asyncio.shield(self._asking[key_id])

    async def _look_up(self, key_id: str) -> ApiKey | None:
        """Ask until no change came in between: the answer may be older than the change."""
        try:
            while True:
                self._outdated.discard(key_id)
                key = await self._asked(key_id)
                if key_id not in self._outdated:
                    break
        finally:
            self._outdated.discard(key_id)
            del self._asking[key_id]
        if self.backend.follows_keys:
            self._keys[key_id] = key
        if len(self._keys) > KEYS_KEPT:
            self._keys.popitem(last=False)
        return key

    async def _asked(self, key_id: str, *, linearizable: bool = False) -> ApiKey | None:
        """The key as the engine has it; None for one that is unknown or revoked. Raises ClusterKeyError for one that cannot be opened here."""
        try:
            row: ApiKeyRow = await self.backend.query(ApiKeyQuery(key_id), linearizable)
        except RequestFailed as failure:
            if failure.code is not FailCode.NOT_FOUND:
                raise
            self._unknown.take(time.monotonic())  # no debts: many guesses at once must not shut out everybody for long
            return None
        return self.cluster_keys.open(row) if row.permissions else None


def unproven(kind: type[ApiError] = UnknownHereError) -> ApiError:
    """The refusal of a request whose signature no key proves."""
    return kind(401, "invalid signature", "CB-ACCESS-SIGN", reason="unauthorized", detail=UNPROVEN)


def _refused(message: str, header: str, detail: str = "") -> ApiError:
    return ApiError(401, message, header, reason="unauthorized", detail=detail)

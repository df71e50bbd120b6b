"""Authentication: API keys and signatures, and connections whose key changes.

A request is signed as base64(HMAC-SHA256(base64-decoded secret, timestamp + METHOD + request target + body)), with the
target and the timestamp exactly as they were sent. The operator's key is in the configuration. Every other key is in
the replicated state: it is looked up in the engine and cached, decrypted, until the engine reports a change or the
connection to it is lost. Unknown ids are cached, too, and looked up at a bounded rate, which limits what guessing keys
costs the engine.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from node.budget import Bucket
from node.config.settings import AdminConfig
from node.errors import ClusterKeyError, QuorumbookError, RequestFailed
from node.gateway.backend import Backend
from node.gateway.errors import ApiError, UnknownHereError
from node.gateway.values import NAME
from node.keys import addresses
from node.keys.credentials import same_text
from node.keys.encryption import ApiKey, ClusterKeys, operator_key
from node.native.protocol import ApiKeyQuery, ControlsQuery, ControlsView, FailCode, RightsQuery
from node.system import tasks as background
from statemachine.access import widened
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission, Scope

KEYS_KEPT = 10_000
"""Cached keys and unknown ids. The least recently used one is dropped first."""
UNKNOWN_PER_SECOND = 100.0
UNKNOWN_BURST = 500.0
"""Lookups that found no key: the average per second, and the burst."""

ROWS_MAX = 1_000
"""Rows of an answer. A user has at most `GRANTS_PER_USER` firms of `MEMBERS_PER_FIRM` accounts, which is fewer."""

TIMESTAMP_HEADER = "CB-ACCESS-TIMESTAMP"
SOCKET_METHOD, SOCKET_TARGET = "GET", "/users/self/verify"
"""Method and request target that a subscribe message signs."""

UNPROVEN = "no API key of this id, as this node knows it, has made this signature of timestamp, method, request target and body"

_TIMESTAMP = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


class Identity(msgspec.Struct, frozen=True):
    """The identity behind a request: account, key, address and permissions."""

    key_id: str
    account_id: str
    permissions: int
    address: str = ""
    key: ApiKey | None = None
    user_id: str = ""
    sender: str = OPERATOR
    """The account id of operator commands that this key sends (`statemachine.access`)."""

    accounts: frozenset[str] = frozenset()
    """Further accounts whose orders and trades the key may see (`Authenticator.with_accounts`)."""
    all_accounts: bool = False

    def own(self, parties: tuple[str, ...]) -> tuple[str, ...]:
        """Return the parties of an event whose data this key may see."""
        if self.all_accounts:
            return parties
        if not self.accounts:
            return (self.account_id,) if self.account_id in parties else ()
        return tuple(party for party in parties if party == self.account_id or party in self.accounts)

    @property
    def viewer(self) -> str:
        """The sender in queries that are limited to what the key may see, or "" for all."""
        return "" if self.sender == OPERATOR else self.sender

    def require(self, permission: Permission) -> None:
        """Raise ApiError 403 unless the key has `permission`. ADMIN stands for all permissions of the operator."""
        if not widened(self.permissions) & permission:
            name = permission.name.lower()
            raise ApiError(403, f"The API key needs the permission {name}", reason="forbidden", detail=name)


def _identity(key: ApiKey, address: str) -> Identity:
    """Return the identity of an authenticated key."""
    return Identity(key.key_id, key.owner_id, key.permissions, address, key, key.user_id, key.sender)


class Claim(msgspec.Struct, frozen=True):
    """The credentials that a client presents, in a WebSocket message or in the CB-ACCESS headers."""

    key_id: str
    signature: str
    timestamp: str
    passphrase: str

    def __repr__(self) -> str:
        """Leave out the passphrase, because a repr may be logged."""
        return f"Claim(key_id={self.key_id!r}, signature={self.signature!r}, timestamp={self.timestamp!r})"


@dataclass
class Authenticator:
    """Checks claims. `now` is the wall clock in seconds since the epoch. `on_change` is called with the ids of changed
    keys; an empty list means that any key may have changed.
    """

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
        self._bootstrap_off: bool | None = None
        self._changes = 0
        self._operator = operator_key(admin.key_id, admin.secret, admin.passphrase, addresses.networks(admin.addresses))
        self.backend.follow_keys(self._changed)

    async def identify(self, claim: Claim, address: str, method: str, target: str, body: bytes) -> Identity:
        """Return the identity of a signed request from an address. Raises ApiError: 401 with the text that foreign
        clients recognise, or 503 if this node lacks the cluster key.
        """
        self._check_age(claim.timestamp)
        message = f"{claim.timestamp}{method}{target}".encode("utf-8", "surrogateescape") + body
        return await self.prove(claim, address, message)

    async def prove(self, claim: Claim, address: str, message: bytes, *, at_leader: bool = False) -> Identity:
        """Return the identity if the claim's key has signed the message. The caller checks the message's age.
        `at_leader` queries the leader for the key. Raises as `identify`.
        """
        try:
            key = await self._key(claim.key_id, at_leader=at_leader)
        except ClusterKeyError as error:
            text = "This node lacks the cluster key of the API key"
            raise ApiError(503, text, reason="cluster_key", detail=str(error)) from None
        # An unknown id gets the same answer as a wrong signature, so that a client cannot learn which ids exist. A node
        # that is behind may have an old secret, or may not have the key yet.
        if not (key or self._nobody).proves(claim.signature, message) or key is None:
            raise unproven()
        if not same_text(claim.passphrase, key.passphrase):
            raise _refused("Invalid Passphrase", "CB-ACCESS-PASSPHRASE")
        if not key.allows(address):
            detail = f"this key may not be used from {address or 'an unknown address'}"
            raise _refused("IP does not match IP whitelist", "CB-ACCESS-KEY", detail)
        return _identity(key, address)

    def identify_known(self, claim: Claim, address: str, method: str, target: str, body: bytes) -> Identity | None:
        """Return the identity if the key is cached and the claim is valid. Otherwise the caller uses `identify`."""
        key = self._keys.get(claim.key_id)
        timestamp = claim.timestamp
        if key is None or _TIMESTAMP.fullmatch(timestamp) is None or abs(self.now() - float(timestamp)) > self.age_max:
            return None
        message = f"{timestamp}{method}{target}".encode("utf-8", "surrogateescape") + body
        proven = key.proves(claim.signature, message) and same_text(claim.passphrase, key.passphrase)
        if not proven or not key.allows(address):
            return None
        self._keys.move_to_end(claim.key_id)
        return _identity(key, address)

    async def again(self, identity: Identity, *, at_leader: bool = False) -> Identity | None:
        """Return the identity with current permissions. Returns None if the key was revoked or replaced, may no longer
        be used from the address, or cannot be decrypted by this node. The limit on unknown keys does not delay this
        lookup. `at_leader` queries the leader.
        """
        key_id, before = identity.key_id, identity.key
        if key_id == self.admin.key_id:
            off = await (self._asked_bootstrap_off(linearizable=True) if at_leader else self._is_bootstrap_off())
            return None if off else identity
        try:
            key = await (self._asked(key_id, linearizable=True) if at_leader else self._key(key_id, guessed=False))
        except ClusterKeyError:
            return None
        if key is None or before is None or (key.secret, key.passphrase) != (before.secret, before.passphrase):
            return None
        if not key.allows(identity.address):
            return None
        now = _identity(key, identity.address)
        return await self.with_accounts(now) if identity.accounts or identity.all_accounts else now

    async def with_accounts(self, identity: Identity) -> Identity:
        """Return the identity with the accounts that it may see. A key without an account sees those of the user's
        roles. The key of an account sees only that account.
        """
        if not identity.user_id or identity.account_id != OPERATOR:
            return identity
        seen: int = await self.backend.query(RightsQuery(identity.sender, Scope.VENUE, ""))
        if seen & Permission.VIEW:
            return msgspec.structs.replace(identity, all_accounts=True)
        members: ControlsView = await self.backend.query(ControlsQuery("firm_member", 0, ROWS_MAX, identity.sender))
        users: ControlsView = await self.backend.query(ControlsQuery("user", 0, ROWS_MAX, identity.sender))
        own = [grant.name for row in users.user for grant in row.grants if grant.scope is Scope.ACCOUNT]
        return msgspec.structs.replace(identity, accounts=frozenset([*own, *(row.account_id for row in members.firm_member)]))

    def is_current(self, identity: Identity) -> bool:
        """Return whether the identity's key is still the cached one, which means that it has not changed."""
        if identity.key_id == self.admin.key_id:
            return self._bootstrap_off is False
        return self._keys.get(identity.key_id) is identity.key

    def _changed(self, key_ids: list[str]) -> None:
        """Drop these keys from the cache after a change, or all keys if none is named."""
        self._changes += 1
        if not key_ids or OPERATOR in key_ids:
            self._bootstrap_off = None
            key_ids = [*key_ids, self.admin.key_id] if key_ids else key_ids
        for key_id in key_ids or list(self._keys):
            self._keys.pop(key_id, None)
        self._outdated.update(key_id for key_id in key_ids or self._asking if key_id in self._asking)
        self.on_change(key_ids)

    def _check_age(self, timestamp: str) -> None:
        if _TIMESTAMP.fullmatch(timestamp) is None:
            raise _refused("invalid timestamp", TIMESTAMP_HEADER, "Unix time in seconds, such as 1795304779.123")
        if abs(self.now() - float(timestamp)) > self.age_max:
            raise _refused("request timestamp expired", TIMESTAMP_HEADER, f"within {self.age_max:g} s of the server's time")

    async def _key(self, key_id: str, *, guessed: bool = True, at_leader: bool = False) -> ApiKey | None:
        """Return the key, or None if it does not exist. `at_leader` passes the cache by. Raises ClusterKeyError, and
        ApiError 429 after too many lookups of unknown keys.
        """
        if key_id == self.admin.key_id:
            return None if await self._is_bootstrap_off() else self._operator
        if NAME.fullmatch(key_id) is None:
            return None
        if key_id in self._keys and not at_leader:
            self._keys.move_to_end(key_id)
            return self._keys[key_id]
        if (at_leader or key_id not in self._asking) and guessed and self._unknown.wait(time.monotonic()):
            raise ApiError(429, "Private rate limit exceeded", headers={"Retry-After": "1"})
        if at_leader:
            return await self._asked(key_id, linearizable=True)
        if key_id not in self._asking:
            self._asking[key_id] = asyncio.create_task(self._look_up(key_id))
        return await asyncio.shield(self._asking[key_id])

    async def _is_bootstrap_off(self) -> bool:
        """Return whether the operator's key of the configuration file is switched off."""
        while self._bootstrap_off is None:
            before = self._changes
            off = await self._asked_bootstrap_off()
            if not self.backend.follows_keys:
                return off
            if self._changes == before:  # else the answer may be older than the change
                self._bootstrap_off = off
        return self._bootstrap_off

    async def _asked_bootstrap_off(self, *, linearizable: bool = False) -> bool:
        query = ControlsQuery("access")
        view: ControlsView = await (self.backend.query_leader(query) if linearizable else self.backend.query(query))
        return any(row.bootstrap_off for row in view.access)

    async def _look_up(self, key_id: str) -> ApiKey | None:
        """Look a key up. The query is repeated if the key changed meanwhile, because the answer may be older."""
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
        """Return the engine's key, or None if it is unknown or revoked. Raises ClusterKeyError if this node cannot
        decrypt it.
        """
        try:
            row: ApiKeyRow = await self.backend.query(ApiKeyQuery(key_id), linearizable)
        except RequestFailed as failure:
            if failure.code is not FailCode.NOT_FOUND:
                raise
            self._unknown.take(time.monotonic())  # never below zero, so that concurrent guesses do not block others for long
            return None
        return self.cluster_keys.open(row) if row.permissions else None


def unproven(kind: type[ApiError] = UnknownHereError) -> ApiError:
    """Return the refusal of a request whose signature matches no key."""
    return kind(401, "invalid signature", "CB-ACCESS-SIGN", reason="unauthorized", detail=UNPROVEN)


def _refused(message: str, header: str, detail: str = "") -> ApiError:
    return ApiError(401, message, header, reason="unauthorized", detail=detail)


RETRY = 0.1
"""Seconds between attempts to look a key up while the engine does not answer."""


class Signed(Protocol):
    """A connection with an identity."""

    identity: Identity | None
    ended: bool

    def lose_identity(self, key_id: str) -> None:
        """Remove the identity. The connection must stop its private channels and inform the client."""


class Revocation:
    """Checks the identities of connections again after their keys have changed."""

    def __init__(self, auth: Authenticator, sessions: Iterable[Signed]) -> None:
        self._auth = auth
        self._sessions = sessions
        self._tasks: set[asyncio.Task[None]] = set()
        auth.on_change = self._changed

    def check(self, session: Signed) -> None:
        """Check a session that has a new identity, whose key may have changed since its lookup."""
        identity = session.identity
        if identity is not None and not self._auth.is_current(identity):
            self._look_again(session, identity)

    async def close(self) -> None:
        """Stop looking up sessions."""
        await background.cancel(self._tasks)

    def _changed(self, key_ids: list[str]) -> None:
        for session in list(self._sessions):
            identity = session.identity
            if identity is not None and (not key_ids or identity.key_id in key_ids):
                self._look_again(session, identity)

    def _look_again(self, session: Signed, identity: Identity) -> None:
        """Look the session's identity up again, in a task."""
        background.keep(self._tasks, self._settle(session, identity))

    async def _settle(self, session: Signed, identity: Identity) -> None:
        """Look a session's identity up again until that succeeds. A revoked key ends it."""
        while session.identity is identity and not session.ended:
            try:
                now = await self._auth.again(identity)
            except QuorumbookError:
                await asyncio.sleep(RETRY)
                continue
            if session.identity is not identity or session.ended:
                return
            if now is None or not now.permissions & Permission.VIEW:
                session.lose_identity(identity.key_id)
            else:
                session.identity = now
            return

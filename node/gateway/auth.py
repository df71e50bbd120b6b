"""Authentication: API keys and signatures, and connections whose key changes.

A request is signed as base64(HMAC-SHA256(base64-decoded secret, timestamp + METHOD + request target + body)), with the
target and the timestamp exactly as they were sent. The operator's key is in the configuration. Every other key is in
the replicated state: it is looked up in the engine and cached, decrypted, until the engine reports a change or the
connection to it is lost.

A claim that no cached key proves costs one look-up, whether its key exists or not, and an address has a bounded rate of
them. So guessing keys costs the engine little, does not delay the clients of other addresses, and neither the answer
nor its time says which keys exist.
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

from node.budget import AddressShares
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
"""Cached keys. The least recently used one is dropped first."""
UNPROVEN_PER_SECOND = 100.0
UNPROVEN_BURST = 500.0
"""Claims of one address that no key proves: the average per second, and the burst."""

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
    _keys: OrderedDict[str, ApiKey] = field(default_factory=OrderedDict)
    _identities: dict[str, Identity] = field(default_factory=dict)
    """The latest identity of each key. It holds for this key object and one address, which the key allows."""
    _asking: dict[str, asyncio.Task[ApiKey | None]] = field(default_factory=dict)
    _outdated: set[str] = field(default_factory=set)
    _unproven: AddressShares = field(default_factory=lambda: AddressShares(UNPROVEN_PER_SECOND, UNPROVEN_BURST))

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
        `at_leader` queries the leader for the key. Raises as `identify`, and ApiError 429 after too many claims of the
        address that no key proved.
        """
        key = None if at_leader else await self._known(claim.key_id)
        if key is None or not key.proves(claim.signature, message):
            key = await self._looked_up(claim, address, message, at_leader=at_leader)
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
        if not key.proves(claim.signature, message) or not same_text(claim.passphrase, key.passphrase):
            return None
        identity = self._identities.get(claim.key_id)
        if identity is None or identity.key is not key or identity.address != address:
            if not key.allows(address):
                return None
            if len(self._identities) >= KEYS_KEPT:
                self._identities.clear()
            identity = self._identities[claim.key_id] = _identity(key, address)
        self._keys.move_to_end(claim.key_id)
        return identity

    async def _looked_up(self, claim: Claim, address: str, message: bytes, *, at_leader: bool) -> ApiKey:
        """Return the key, as the engine has it now, if it has signed the message. Raises ApiError."""
        if self._unproven.wait(address):
            raise ApiError(429, "Private rate limit exceeded", headers={"Retry-After": "1"})
        try:
            key = await self._asked_key(claim.key_id, at_leader=at_leader)
        except ClusterKeyError as error:
            text = "This node lacks the cluster key of the API key"
            raise ApiError(503, text, reason="cluster_key", detail=str(error)) from None
        # An unknown id gets the same answer as a wrong signature, so that a client cannot learn which ids exist. A node
        # that is behind may have an old secret, or may not have the key yet.
        if not (key or self._nobody).proves(claim.signature, message) or key is None:
            self._unproven.take(address)  # never below zero, so that concurrent guesses do not block the address for long
            raise unproven()
        return key

    async def again(self, identity: Identity, *, at_leader: bool = False) -> Identity | None:
        """Return the identity with current permissions. Returns None if the key was revoked or replaced, may no longer
        be used from the address, or cannot be decrypted by this node. `at_leader` queries the leader.
        """
        key_id, before = identity.key_id, identity.key
        if key_id == self.admin.key_id:
            is_off = await (self._asked_bootstrap_off(linearizable=True) if at_leader else self._is_bootstrap_off())
            return None if is_off else identity
        try:
            key = await self._asked_key(key_id, at_leader=True) if at_leader else await self._key(key_id)
        except ClusterKeyError:
            return None
        if key is None or before is None or (key.secret, key.passphrase) != (before.secret, before.passphrase):
            return None
        return _identity(key, identity.address) if key.allows(identity.address) else None

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
            self._identities.pop(key_id, None)
        self._outdated.update(key_id for key_id in key_ids or self._asking if key_id in self._asking)
        self.on_change(key_ids)

    def _check_age(self, timestamp: str) -> None:
        if _TIMESTAMP.fullmatch(timestamp) is None:
            raise _refused("invalid timestamp", TIMESTAMP_HEADER, "Unix time in seconds, such as 1795304779.123")
        if abs(self.now() - float(timestamp)) > self.age_max:
            raise _refused("request timestamp expired", TIMESTAMP_HEADER, f"within {self.age_max:g} s of the server's time")

    async def _known(self, key_id: str) -> ApiKey | None:
        """Return the operator's key or a cached key, or None."""
        if key_id == self.admin.key_id:
            return None if await self._is_bootstrap_off() else self._operator
        key = self._keys.get(key_id)
        if key is not None:
            self._keys.move_to_end(key_id)
        return key

    async def _key(self, key_id: str) -> ApiKey | None:
        """Return the key, or None if it does not exist. Raises ClusterKeyError."""
        return await self._known(key_id) or await self._asked_key(key_id)

    async def _asked_key(self, key_id: str, *, at_leader: bool = False) -> ApiKey | None:
        """Return the key as the engine has it, or None if it does not exist. Concurrent callers share the query.
        `at_leader` asks the leader, and does not cache the key. Raises ClusterKeyError.
        """
        if NAME.fullmatch(key_id) is None:
            return None
        if at_leader or key_id == self.admin.key_id:
            found = await self._asked(key_id, linearizable=at_leader)
            return await self._known(key_id) if key_id == self.admin.key_id else found
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
        before = self._keys.pop(key_id, None)
        if key is not None and self.backend.follows_keys:
            self._keys[key_id] = key = before if before == key else key  # `is_current` compares objects
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
    """A connection with an identity. It keeps the identity while that has one of the permissions `enough`."""

    identity: Identity | None
    ended: bool

    @property
    def enough(self) -> int: ...

    def lose_identity(self, key_id: str) -> None:
        """Remove the identity. The connection must stop its private channels and inform the client."""


class Revocation:
    """Checks the identities of connections again after their keys have changed."""

    def __init__(self, auth: Authenticator, sessions: Iterable[Signed]) -> None:
        self._auth = auth
        self._sessions = sessions
        self._tasks: dict[Signed, asyncio.Task[None]] = {}
        auth.on_change = self._changed

    def check(self, session: Signed) -> None:
        """Check a session that has a new identity, whose key may have changed since its lookup."""
        identity = session.identity
        if identity is not None and not self._auth.is_current(identity):
            self._look_again(session, identity)

    async def close(self) -> None:
        """Stop checking."""
        await background.cancel(self._tasks.values())

    def _changed(self, key_ids: list[str]) -> None:
        for session in list(self._sessions):
            identity = session.identity
            if identity is not None and (not key_ids or identity.key_id in key_ids):
                self._look_again(session, identity)

    def _look_again(self, session: Signed, identity: Identity) -> None:
        """Check a session. This ends an earlier check of it, whose answers may be older than the change."""
        earlier = self._tasks.pop(session, None)
        if earlier is not None:
            earlier.cancel()
        task = self._tasks[session] = asyncio.get_running_loop().create_task(self._settle(session, identity))
        task.add_done_callback(lambda done: self._forget(session, done))

    def _forget(self, session: Signed, done: asyncio.Task[None]) -> None:
        if self._tasks.get(session) is done:
            del self._tasks[session]

    async def _settle(self, session: Signed, identity: Identity) -> None:
        """Look a session's identity up again until that succeeds. A revoked key ends it."""
        while session.identity is identity and not session.ended:
            try:
                now = await self._auth.again(identity)
                if now is not None:
                    now = await self._auth.with_accounts(now)
            except QuorumbookError:
                await asyncio.sleep(RETRY)
                continue
            if session.identity is not identity or session.ended:
                return
            if now is None or not now.permissions & session.enough:
                session.lose_identity(identity.key_id)
            else:
                session.identity = now
            return

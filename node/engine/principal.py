"""Identifies the client of a connection, and decides what it may do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from node.config.settings import AdminConfig
from node.engine.feed import Audience
from node.errors import RequestFailed
from node.keys import addresses
from node.keys.credentials import HELLO_METHOD, HELLO_TARGET, same_text
from node.keys.encryption import ApiKey, operator_key
from node.native.protocol import (
    AnyQuery,
    ApiKeyQuery,
    ApiKeysQuery,
    BalancesQuery,
    ControlsQuery,
    FailCode,
    FeesQuery,
    Hello,
    LeaderHint,
    LogQuery,
    OrderQuery,
    OrdersQuery,
    Query,
    RightsQuery,
    StreamQuery,
    TradesQuery,
)
from statemachine import access
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    DecideProposal,
    Deposit,
    PlaceOrder,
    PlacePair,
    ReplaceOrder,
    Transfer,
    Withdraw,
)
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission, Scope

HELLO_AGE_MAX = 30.0
"""Seconds by which the clocks of a client and a node may differ, including the transit time of the greeting."""

_NEEDED: dict[type[msgspec.Struct], Permission] = {
    PlaceOrder: Permission.TRADE,
    CancelOrder: Permission.TRADE,
    CancelAll: Permission.TRADE,
    AmendOrder: Permission.TRADE,
    ReplaceOrder: Permission.TRADE,
    PlacePair: Permission.TRADE,
    CancelAllAfter: Permission.TRADE,
    Deposit: Permission.DEPOSIT,
    Withdraw: Permission.TRANSFER,
    Transfer: Permission.TRANSFER,
}
"""The permission that a command of an account needs. Those of the operator need another one (`access`), and every other
command needs ADMIN.
"""

_NOBODY = ApiKey("", "", "", "", 0)

Held = Callable[[str, Scope, str], int]
"""The permissions of a sender of the operator's commands for a scope; see `Engine.held_by`."""

Proposed = Callable[[int], Permission | None]
"""The permission that a decision about a proposal needs, None if this node cannot know that yet."""


class Principal(msgspec.Struct, frozen=True):
    """The identity of a client and its address. `operator` may act for every account; `node` is a node of the cluster.

    `row` is the replicated key that signed the greeting, if any, and `key` is the same key, decrypted.
    """

    name: str
    operator: bool
    account_id: str = ""
    permissions: int = 0
    row: ApiKeyRow | None = None
    key: ApiKey | None = None
    address: str = ""
    node: bool = False

    @property
    def sender(self) -> str:
        """The account of the operator's commands of this client (`access`): a user, a key without a user, or the
        operator itself.
        """
        if self.row is None:
            return OPERATOR
        return access.sender_of_user(self.row.user_id) if self.row.user_id else access.sender_of_key(self.row.key_id)

    @property
    def audience(self) -> Audience:
        """The part of the feed that this client may see."""
        return Audience.FULL if self.operator else Audience.PUBLIC

    def audience_of(self, query: AnyQuery, held: Held) -> Audience:
        """Return the form of the trades in an answer: with both parties also for a user or a key that may correct
        trades of the product, because a correction names them.
        """
        correct = Permission.CORRECT
        if isinstance(query, TradesQuery) and self.row is not None and self.permissions & correct:
            return Audience.FULL if held(self.sender, Scope.PRODUCT, query.product_id) & correct else self.audience
        return self.audience

    def own(self, commands: list[AnyCommand], proposed: Proposed = lambda _proposal_id: None) -> list[AnyCommand]:
        """Return the commands as this client sends them: the operator's commands of a key say which key or user sent
        them.

        Raises:
            RequestFailed: FORBIDDEN, naming the first command that this client may not send. NO_LEADER for a decision about
                a proposal that this node has not applied.
        """
        if self.node:
            return commands
        sender = self.sender
        for place, command in enumerate(commands):
            if access.is_sender(command.account_id) and command.account_id != sender:
                text = f"commands[{place}].account_id: this key sends commands of the operator as {sender!r} only"
                raise RequestFailed(FailCode.FORBIDDEN, text)
            if self.row is None and self.operator:
                continue
            if command.account_id in (OPERATOR, sender):
                needed = access.PERMISSIONS.get(type(command), Permission.MARKET)
                if isinstance(command, DecideProposal):
                    needed = _of_decision(place, command, proposed)
                _require(place, command, access.widened(self.permissions), needed)  # the exchange checks the scope
            elif not self.operator:
                self._check_own(place, command)
        if not any(command.account_id == OPERATOR for command in commands):
            return commands
        return access.sent_by(sender, commands)

    def _check_own(self, place: int, command: AnyCommand) -> None:
        """Check a command of an account."""
        _require(place, command, self.permissions, _NEEDED.get(type(command), Permission.ADMIN))
        if command.account_id != self.account_id:
            text = f"commands[{place}].account_id: this key acts for {self.account_id!r} only"
            raise RequestFailed(FailCode.FORBIDDEN, text)

    def own_query(self, query: Query, held: Held) -> Query:
        """Return the query as this client asks it: lists of controls and keys have what it may see.

        Raises:
            RequestFailed: FORBIDDEN for a read of data that belongs to others.
        """
        inner = query.query
        if isinstance(inner, ApiKeyQuery):
            self.check_node("query: an API key with its secret")
        if isinstance(inner, RightsQuery):
            self.check_node("query: the permissions of a sender")
        if isinstance(inner, StreamQuery):
            self.check_node("query: a report stream")
        if isinstance(inner, LogQuery) and not self.node:
            raise RequestFailed(FailCode.FORBIDDEN, "query: the log is read by nodes only")
        if self.operator:
            return query
        if isinstance(inner, ControlsQuery | ApiKeysQuery):
            needed = Permission.VIEW if isinstance(inner, ControlsQuery) else Permission.ACCESS
            user = self.row is not None and bool(self.row.user_id)
            if not self.permissions & needed or not (user or self.permissions & access.OF_OPERATOR):
                text = f"query: {type(inner).__name__} needs the permission {needed.name} of a user or of the operator"
                raise RequestFailed(FailCode.FORBIDDEN, text)
            return msgspec.structs.replace(query, query=msgspec.structs.replace(inner, sender=self.sender))
        if isinstance(inner, BalancesQuery | OrderQuery | OrdersQuery | FeesQuery):
            if not self.permissions & Permission.VIEW:
                raise RequestFailed(FailCode.FORBIDDEN, f"query: {type(inner).__name__} needs the permission VIEW")
            seen = self.row is not None and self.row.user_id and held(self.sender, Scope.ACCOUNT, inner.account_id)
            if inner.account_id != self.account_id and not (seen and seen & Permission.VIEW):
                raise RequestFailed(FailCode.FORBIDDEN, f"query.account_id: this key acts for {self.account_id!r} only")
        return query

    def check_node(self, what: str) -> None:
        """Raises `RequestFailed` (FORBIDDEN) unless the client is a node of the cluster. `what` names the request."""
        if not self.node:
            raise RequestFailed(FailCode.FORBIDDEN, f"{what} is for gateways only")

    def check_cluster(self, what: str) -> None:
        """Raises `RequestFailed` (FORBIDDEN) unless the client may operate the cluster. `what` names the request."""
        if not self.operates_cluster:
            raise RequestFailed(FailCode.FORBIDDEN, f"{what} needs the permission CLUSTER")

    @property
    def operates_cluster(self) -> bool:
        """Whether the client may operate the cluster, and so see its whole status."""
        return self.operator or bool(self.permissions & Permission.CLUSTER)


def _of_decision(place: int, command: DecideProposal, proposed: Proposed) -> Permission:
    """Return the permission that a decision needs. The exchange knows what the user may do, but not what the key may
    do, so a decision must not reach the log before its proposal is known here.
    """
    needed = proposed(command.proposal_id)
    if needed is None:
        text = f"commands[{place}].proposal_id: this node has not applied command {command.proposal_id} yet"
        raise RequestFailed(FailCode.NO_LEADER, text)
    return needed


def _require(place: int, command: AnyCommand, held: int, needed: Permission) -> None:
    """Raise `RequestFailed` (FORBIDDEN) unless the permissions held include the needed one."""
    if not held & needed:
        text = f"commands[{place}]: {type(command).__name__} needs the permission {needed.name}"
        raise RequestFailed(FailCode.FORBIDDEN, text)


def gateway(name: str) -> Principal:
    """Return the principal of a connection over the node's own socket or with a node's certificate."""
    return Principal(name=name, operator=True, node=True)


class Keys(Protocol):
    """The replicated API keys; see `engine.api_keys.EngineKeys`."""

    def find(self, key_id: str) -> ApiKeyRow | None:
        """Return the key as stored, or None if it does not exist or was revoked."""

    def open(self, row: ApiKeyRow) -> ApiKey:
        """Return the decrypted key. Raises RequestFailed."""

    @property
    def bootstrap_off(self) -> bool:
        """Whether the operator's key of the configuration file is switched off."""


def of_key(row: ApiKeyRow, key: ApiKey, address: str) -> Principal:
    """Return the principal of a replicated key. A key with ADMIN could create any other key, so it may act for every
    account.
    """
    operator = bool(row.permissions & Permission.ADMIN)
    return Principal(f"key {row.key_id}", operator, row.owner_id, row.permissions, row, key, address)


def refresh(principal: Principal, keys: Keys) -> Principal:
    """Return the same principal with the current permissions: the key may have changed since the greeting. The result
    has no permissions if the key has a new secret or may no longer be used from this address.
    """
    signed = principal.row
    if signed is None or principal.key is None:
        if principal.operator and not principal.node and keys.bootstrap_off:
            return Principal("the operator's key, which is switched off", operator=False)
        return principal
    row = keys.find(signed.key_id)
    if row == signed:
        return principal
    with contextlib.suppress(RequestFailed):  # what cannot be opened here cannot be the same key
        if row is not None and _still_good(principal.key, now := keys.open(row), principal.address):
            return of_key(row, now, principal.address)
    return Principal(f"revoked key {signed.key_id}", operator=False, row=signed)


def _still_good(before: ApiKey, now: ApiKey, address: str) -> bool:
    """Return whether a changed key still authenticates the session that used it."""
    return (now.secret, now.passphrase) == (before.secret, before.passphrase) and now.allows(address)


def authenticate(hello: Hello, admin: AdminConfig, keys: Keys, now: float, address: str) -> Principal:
    """Verify a signed greeting from an address. `now` is in Unix seconds.

    Raises:
        RequestFailed: UNAUTHORIZED, naming the fault. An unknown key and a wrong signature get the same text, so that
            nobody learns which keys exist. CONFLICT: this node lacks the cluster key that the key is encrypted under.
    """
    if not hello.key_id:
        raise RequestFailed(FailCode.UNAUTHORIZED, "key_id: sign the greeting with an API key, or show a node's certificate")
    _check_age(hello.timestamp, now)
    if same_text(hello.key_id, admin.key_id):
        if keys.bootstrap_off:
            raise RequestFailed(FailCode.UNAUTHORIZED, "key_id: the operator's key of the configuration file is switched off")
        _check(hello, operator_key(admin.key_id, admin.secret, admin.passphrase, addresses.networks(admin.addresses)), address)
        return Principal(name="operator", operator=True)
    row = keys.find(hello.key_id)
    if row is None:
        _check(hello, None, address)
    assert row is not None, "_check refuses the greeting of an unknown key"
    key = keys.open(row)
    _check(hello, key, address)
    return of_key(row, key, address)


class Gate:
    """Authenticates the clients of this node.

    Args:
        ready: whether this node has applied all entries that a known leader has committed.
        caught_up: whether it has caught up with a leader since it started. Before that it may lack a key or hold an old
            version of it.
        elsewhere: the leader, if it is another node.
    """

    def __init__(
        self,
        admin: AdminConfig,
        keys: Keys,
        *,
        ready: Callable[[], bool],
        caught_up: Callable[[], bool],
        elsewhere: Callable[[], LeaderHint | None] = lambda: None,
    ) -> None:
        self._admin = admin
        self._keys = keys
        self._ready = ready
        self._elsewhere = elsewhere
        self.caught_up = caught_up

    def authenticate(self, hello: Hello, now: float, address: str) -> Principal:
        """Return the principal that sent a signed greeting from an address.

        A follower learns of a committed entry later than the leader's clients do. So it accepts a key that it has, and
        leaves every refusal of a replicated key to the leader.

        Raises:
            RequestFailed: UNAUTHORIZED; CONFLICT without the cluster key; NO_LEADER while this node cannot judge the
                key; NOT_LEADER, with the leader, which can.
        """
        if not hello.key_id or hello.key_id == self._admin.key_id:
            return authenticate(hello, self._admin, self._keys, now, address)
        _check_age(hello.timestamp, now)
        try:
            if not self.caught_up():
                raise RequestFailed(FailCode.UNAUTHORIZED, "it may have changed since")
            return authenticate(hello, self._admin, self._keys, now, address)
        except RequestFailed as error:
            if not self._ready():
                text = f"this node has not caught up, and cannot judge the key yet ({error.message})"
                raise RequestFailed(FailCode.NO_LEADER, text) from error
            leader = self._elsewhere()
            if leader is None or error.code is not FailCode.UNAUTHORIZED:
                raise
            text = f"{leader.node_id} leads and judges the key; this node does not accept it ({error.message})"
            raise RequestFailed(FailCode.NOT_LEADER, text, leader) from error

    def refresh(self, principal: Principal) -> Principal:
        """Return the same principal with the current permissions."""
        return refresh(principal, self._keys)


def _check_age(timestamp: str, now: float) -> None:
    """Check that a greeting is recent. Raises RequestFailed (UNAUTHORIZED)."""
    try:
        age = now - float(timestamp)
    except ValueError:
        age = float("nan")
    if not abs(age) <= HELLO_AGE_MAX:
        text = f"timestamp: expected Unix seconds within {HELLO_AGE_MAX:g} s of this node's clock ({now:.0f})"
        raise RequestFailed(FailCode.UNAUTHORIZED, text)


def _check(hello: Hello, key: ApiKey | None, address: str) -> None:
    """Check that the key signed the greeting and allows its address. None is a key that does not exist: it takes the
    same work. Raises RequestFailed (UNAUTHORIZED).
    """
    message = f"{hello.timestamp}{HELLO_METHOD}{HELLO_TARGET}".encode("utf-8", "surrogatepass")
    proven = (key or _NOBODY).proves(hello.signature, message)
    if key is None or not proven:
        raise RequestFailed(FailCode.UNAUTHORIZED, "signature: invalid signature")
    if not same_text(hello.passphrase, key.passphrase):
        raise RequestFailed(FailCode.UNAUTHORIZED, "passphrase: invalid passphrase")
    if not key.allows(address):
        raise RequestFailed(FailCode.UNAUTHORIZED, f"key_id: this key may not be used from {address}")

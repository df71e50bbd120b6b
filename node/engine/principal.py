"""Who speaks on a connection, and what they may do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from node.config.settings import AdminConfig
from node.credentials import HELLO_METHOD, HELLO_TARGET, same_text
from node.engine.feed import Audience
from node.errors import RequestFailed
from node.keys import addresses
from node.keys.sealing import ApiKey, operator_key
from node.native.protocol import (
    ApiKeyQuery,
    ApiKeysQuery,
    BalancesQuery,
    ControlsQuery,
    FailCode,
    Hello,
    LogQuery,
    OrderQuery,
    OrdersQuery,
    Query,
    StreamQuery,
)
from statemachine.commands import (
    AnyCommand,
    CancelAll,
    CancelOrder,
    Deposit,
    PlaceOrder,
    Transfer,
    Withdraw,
)
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission

HELLO_AGE_MAX = 30.0
"""Seconds by which the clocks of a client and a node may differ, the way of the greeting included."""

_NEEDED: dict[type[msgspec.Struct], Permission] = {
    PlaceOrder: Permission.TRADE,
    CancelOrder: Permission.TRADE,
    CancelAll: Permission.TRADE,
    Deposit: Permission.TRANSFER,
    Withdraw: Permission.TRANSFER,
    Transfer: Permission.TRANSFER,
}
"""Every other command is the operator's."""


class Principal(msgspec.Struct, frozen=True):
    """Who speaks, from which address. `operator` may act for every account, `node` is a node itself.

    `row` is the replicated key they signed with, if they did, and `key` the same, opened.
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
    def audience(self) -> Audience:
        """What of the feed they see."""
        return Audience.FULL if self.operator else Audience.PUBLIC

    def check_commands(self, commands: list[AnyCommand]) -> None:
        """Raises `RequestFailed` (FORBIDDEN) naming the first command that they may not send."""
        if self.operator:
            return
        for place, command in enumerate(commands):
            needed = _NEEDED.get(type(command), Permission.ADMIN)
            if not self.permissions & needed:
                text = f"commands[{place}]: {type(command).__name__} needs the permission {needed.name}"
                raise RequestFailed(FailCode.FORBIDDEN, text)
            if command.account_id != self.account_id:
                text = f"commands[{place}].account_id: this key acts for {self.account_id!r} only"
                raise RequestFailed(FailCode.FORBIDDEN, text)

    def check_query(self, query: Query) -> None:
        """Raises `RequestFailed` (FORBIDDEN) for a read of what is not theirs."""
        wanted = query.query
        if isinstance(wanted, ApiKeyQuery):
            self.check_node("query: an API key with its secret")
        if isinstance(wanted, StreamQuery):
            self.check_node("query: a report stream")
        if isinstance(wanted, LogQuery) and not self.node:
            raise RequestFailed(FailCode.FORBIDDEN, "query: the log is read by nodes only")
        if self.operator:
            return
        if isinstance(wanted, ControlsQuery):
            raise RequestFailed(FailCode.FORBIDDEN, "query: the controls are shown to operators only")
        if isinstance(wanted, ApiKeysQuery):
            raise RequestFailed(FailCode.FORBIDDEN, "query: API keys are listed for operators only")
        if isinstance(wanted, BalancesQuery | OrderQuery | OrdersQuery):
            if not self.permissions & Permission.VIEW:
                raise RequestFailed(FailCode.FORBIDDEN, f"query: {type(wanted).__name__} needs the permission VIEW")
            if wanted.account_id != self.account_id:
                raise RequestFailed(FailCode.FORBIDDEN, f"query.account_id: this key acts for {self.account_id!r} only")

    def check_node(self, what: str) -> None:
        """Raises `RequestFailed` (FORBIDDEN) unless they are a node of the cluster; `what` they ask for."""
        if not self.node:
            raise RequestFailed(FailCode.FORBIDDEN, f"{what} is for gateways only")

    def check_operator(self, what: str) -> None:
        """Raises `RequestFailed` (FORBIDDEN) unless they are an operator; `what` they ask for."""
        if not self.operator:
            raise RequestFailed(FailCode.FORBIDDEN, f"{what} needs the permission ADMIN")


def gateway(name: str) -> Principal:
    """Who speaks over the node's own socket or with a node's certificate."""
    return Principal(name=name, operator=True, node=True)


class Keys(Protocol):
    """The replicated API keys; see `engine.api_keys.EngineKeys`."""

    def find(self, key_id: str) -> ApiKeyRow | None:
        """A key as it is stored, None if there is none or it was revoked."""

    def open(self, row: ApiKeyRow) -> ApiKey:
        """The key, ready for use. Raises RequestFailed."""


def of_key(row: ApiKeyRow, key: ApiKey, address: str) -> Principal:
    """Who speaks with a replicated key. ADMIN could give itself any key, so it may act for every account at once."""
    operator = bool(row.permissions & Permission.ADMIN)
    return Principal(f"key {row.key_id}", operator, row.owner_id, row.permissions, row, key, address)


def refresh(principal: Principal, keys: Keys) -> Principal:
    """The same with today's permissions: a key may have changed since the greeting. A key with a new secret, or one
    that may not be used from there any more, is another key: nothing is left."""
    signed = principal.row
    if signed is None or principal.key is None:
        return principal
    row = keys.find(signed.key_id)
    if row == signed:
        return principal
    with contextlib.suppress(RequestFailed):  # what cannot be opened here cannot be the same key
        if row is not None and _still_good(principal.key, now := keys.open(row), principal.address):
            return of_key(row, now, principal.address)
    return Principal(f"revoked key {signed.key_id}", operator=False, row=signed)


def _still_good(before: ApiKey, now: ApiKey, address: str) -> bool:
    return (now.secret, now.passphrase) == (before.secret, before.passphrase) and now.allows(address)


def authenticate(hello: Hello, admin: AdminConfig, keys: Keys, now: float, address: str) -> Principal:
    """Check a signed greeting from an address. `now` is Unix seconds.

    Raises:
        RequestFailed: UNAUTHORIZED, saying what is wrong; a wrong key, passphrase or signature look alike in time, not
            in words. CONFLICT: this node lacks the cluster key that the key is encrypted under.
    """
    if not hello.key_id:
        raise RequestFailed(FailCode.UNAUTHORIZED, "key_id: sign the greeting with an API key, or show a node's certificate")
    _check_age(hello.timestamp, now)
    if same_text(hello.key_id, admin.key_id):
        _check(hello, operator_key(admin.key_id, admin.secret, admin.passphrase, addresses.networks(admin.addresses)), address)
        return Principal(name="operator", operator=True)
    row = keys.find(hello.key_id)
    if row is None:
        raise RequestFailed(FailCode.UNAUTHORIZED, "key_id: invalid API key")
    key = keys.open(row)
    _check(hello, key, address)
    return of_key(row, key, address)


class Gate:
    """Decides who may speak on this node.

    Args:
        ready: whether this node has applied what a known leader has committed.
        caught_up: whether it has, since it started, been level with a leader: before that it may lack a key, or have an
            old state of it.
    """

    def __init__(self, admin: AdminConfig, keys: Keys, *, ready: Callable[[], bool], caught_up: Callable[[], bool]) -> None:
        self._admin = admin
        self._keys = keys
        self._ready = ready
        self.caught_up = caught_up

    def authenticate(self, hello: Hello, now: float, address: str) -> Principal:
        """Who sent a signed greeting from an address.

        Raises:
            RequestFailed: UNAUTHORIZED; CONFLICT without the cluster key; NO_LEADER while this node cannot judge the
                key.
        """
        try:
            if hello.key_id != self._admin.key_id and not self.caught_up():
                raise RequestFailed(FailCode.UNAUTHORIZED, "it may have changed since")
            return authenticate(hello, self._admin, self._keys, now, address)
        except RequestFailed as error:
            if not hello.key_id or hello.key_id == self._admin.key_id or self._ready():
                raise
            text = f"this node has not caught up, and cannot judge the key yet ({error.message})"
            raise RequestFailed(FailCode.NO_LEADER, text) from error

    def refresh(self, principal: Principal) -> Principal:
        """The same with today's permissions."""
        return refresh(principal, self._keys)


def _check_age(timestamp: str, now: float) -> None:
    try:
        age = now - float(timestamp)
    except ValueError:
        age = float("nan")
    if not abs(age) <= HELLO_AGE_MAX:
        text = f"timestamp: expected Unix seconds within {HELLO_AGE_MAX:g} s of this node's clock ({now:.0f})"
        raise RequestFailed(FailCode.UNAUTHORIZED, text)


def _check(hello: Hello, key: ApiKey, address: str) -> None:
    """Raises `RequestFailed` (UNAUTHORIZED) unless the greeting is signed with the key and comes from where it may."""
    message = f"{hello.timestamp}{HELLO_METHOD}{HELLO_TARGET}".encode("utf-8", "surrogatepass")
    if not key.proves(hello.signature, message):
        raise RequestFailed(FailCode.UNAUTHORIZED, "signature: invalid signature")
    if not same_text(hello.passphrase, key.passphrase):
        raise RequestFailed(FailCode.UNAUTHORIZED, "passphrase: invalid passphrase")
    if not key.allows(address):
        raise RequestFailed(FailCode.UNAUTHORIZED, f"key_id: this key may not be used from {address}")

"""Who speaks on a connection, and what they may do."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from node.config.settings import AdminConfig
from node.credentials import same_text, sign
from node.engine.feed import Audience
from node.errors import RequestFailed
from node.native.protocol import ApiKeyQuery, BalancesQuery, FailCode, Hello, LogQuery, OrderQuery, OrdersQuery, Query
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
    """Who speaks. `operator` may act for every account; `row` is the replicated key they signed with, if they did."""

    name: str
    operator: bool
    account_id: str = ""
    permissions: int = 0
    row: ApiKeyRow | None = None

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
        if self.operator:
            return
        wanted = query.query
        if isinstance(wanted, LogQuery):
            raise RequestFailed(FailCode.FORBIDDEN, "query: the log is read by nodes and operators only")
        if isinstance(wanted, ApiKeyQuery):
            raise RequestFailed(FailCode.FORBIDDEN, "query: API keys are read by gateways and operators only")
        if isinstance(wanted, BalancesQuery | OrderQuery | OrdersQuery):
            if not self.permissions & Permission.VIEW:
                raise RequestFailed(FailCode.FORBIDDEN, f"query: {type(wanted).__name__} needs the permission VIEW")
            if wanted.account_id != self.account_id:
                raise RequestFailed(FailCode.FORBIDDEN, f"query.account_id: this key acts for {self.account_id!r} only")

    def check_operator(self, what: str) -> None:
        """Raises `RequestFailed` (FORBIDDEN) unless they are an operator; `what` they ask for."""
        if not self.operator:
            raise RequestFailed(FailCode.FORBIDDEN, f"{what} needs the permission ADMIN")


def gateway(name: str) -> Principal:
    """Who speaks over the node's own socket or with a node's certificate."""
    return Principal(name=name, operator=True)


def of_key(row: ApiKeyRow) -> Principal:
    """Who speaks with a replicated key. ADMIN could give itself any key, so it may act for every account at once."""
    operator = bool(row.permissions & Permission.ADMIN)
    return Principal(f"key {row.key_id}", operator, row.owner_id, row.permissions, row)


def refresh(principal: Principal, find: Callable[[str], ApiKeyRow | None]) -> Principal:
    """The same with today's permissions: a key may have changed since the greeting. A key with a new secret is another key: nothing is left."""
    signed = principal.row
    if signed is None:
        return principal
    row = find(signed.key_id)
    if row == signed:
        return principal
    if row is None or row.secret != signed.secret or row.passphrase != signed.passphrase:
        return Principal(f"revoked key {signed.key_id}", operator=False, row=signed)
    return of_key(row)


def authenticate(hello: Hello, admin: AdminConfig, find: Callable[[str], ApiKeyRow | None], now: float) -> Principal:
    """Check a signed greeting. `now` is Unix seconds.

    Raises:
        RequestFailed: UNAUTHORIZED, saying what is wrong; a wrong key, passphrase or signature look alike in time, not in words.
    """
    if not hello.key_id:
        raise RequestFailed(FailCode.UNAUTHORIZED, "key_id: sign the greeting with an API key, or show a node's certificate")
    _check_age(hello.timestamp, now)
    if same_text(hello.key_id, admin.key_id):
        _check_signature(hello, admin.secret, admin.passphrase)
        return Principal(name="operator", operator=True)
    row = find(hello.key_id)
    if row is None:
        raise RequestFailed(FailCode.UNAUTHORIZED, "key_id: invalid API key")
    _check_signature(hello, row.secret, row.passphrase)
    return of_key(row)


def _check_age(timestamp: str, now: float) -> None:
    try:
        age = now - float(timestamp)
    except ValueError:
        age = float("nan")
    if not abs(age) <= HELLO_AGE_MAX:
        text = f"timestamp: expected Unix seconds within {HELLO_AGE_MAX:g} s of this node's clock ({now:.0f})"
        raise RequestFailed(FailCode.UNAUTHORIZED, text)


def _check_signature(hello: Hello, secret: str, passphrase: str) -> None:
    try:
        expected = sign(secret, hello.timestamp)
    except ValueError:
        expected = None
    if expected is None or not same_text(expected, hello.signature):
        raise RequestFailed(FailCode.UNAUTHORIZED, "signature: invalid signature")
    if not same_text(passphrase, hello.passphrase):
        raise RequestFailed(FailCode.UNAUTHORIZED, "passphrase: invalid passphrase")

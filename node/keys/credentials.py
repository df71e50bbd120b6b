"""A client's API key: how it is made, signs and is revoked, and the names of its permissions.

A signature is base64(HMAC-SHA256(base64-decoded secret, timestamp + METHOD + target + body)). The native protocol signs
its `Hello` as method "HELLO" on target "/native" with an empty body. HTTP requests sign their own method, target and
body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

import msgspec

from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission

HELLO_METHOD = "HELLO"
HELLO_TARGET = "/native"

SECRET_BYTES = 48
PASSPHRASE_BYTES = 12
"""Random bytes of a new secret and of a new passphrase."""
PERMISSIONS = {permission.name.lower(): permission for permission in Permission}
"""The permissions by their names in the API, the configuration and the command line."""

NO_SECRET = "AAAA"
"""The secret of a revoked key. The exchange requires a secret, and a key without permissions cannot sign."""


class Credentials(msgspec.Struct, frozen=True):
    """An API key: its id, its secret (base64 text) and its passphrase."""

    key_id: str
    secret: str
    passphrase: str

    def __repr__(self) -> str:
        """Omit the secrets, because a repr ends up in logs."""
        return f"Credentials(key_id={self.key_id!r})"


def sign(secret: str, timestamp: str, method: str = HELLO_METHOD, target: str = HELLO_TARGET, body: bytes = b"") -> str:
    """Return the signature as base64 text.

    Raises:
        ValueError: `secret` is not base64.
    """
    try:
        key = base64.b64decode(secret, validate=True)
    except binascii.Error as error:
        raise ValueError("the secret is not base64") from error
    message = f"{timestamp}{method}{target}".encode() + body
    return base64.b64encode(hmac.digest(key, message, hashlib.sha256)).decode("ascii")


def same_text(left: str, right: str) -> bool:
    """Compare two texts in a time that does not depend on where they differ. Any text is allowed, also beyond ASCII."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))


def generate(key_id: str = "") -> Credentials:
    """Return an API key with a new random secret and passphrase, and with a new random id unless one is given."""
    secret = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")
    return Credentials(key_id or secrets.token_hex(16), secret, secrets.token_urlsafe(PASSPHRASE_BYTES))


def permission_names(permissions: int) -> list[str]:
    """Return the names of a sum of permissions."""
    return [name for name, permission in PERMISSIONS.items() if permissions & permission]


def revocation(row: ApiKeyRow, command_id: str) -> PutApiKey:
    """Return the command that revokes a key. It also removes the secret and the passphrase."""
    return PutApiKey(OPERATOR, command_id, row.key_id, row.owner_id, NO_SECRET, "", 0, user_id=row.user_id)


def is_revocation(command: PutApiKey) -> bool:
    """Return whether a command is a revocation, which contains nothing secret."""
    return not command.permissions and (command.secret, command.passphrase) == (NO_SECRET, "")

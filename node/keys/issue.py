"""Making and revoking API keys: fresh secrets, permissions by name, and the command that revokes."""

from __future__ import annotations

import base64
import secrets

from node.keys.credentials import Credentials
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission

SECRET_BYTES = 48
PASSPHRASE_BYTES = 12
PERMISSIONS = {permission.name.lower(): permission for permission in Permission}
"""Every permission by its name outside."""

NO_SECRET = "AAAA"
"""What a revoked key has for a secret: nobody may sign with it, and the exchange wants one."""


def generate(key_id: str = "") -> Credentials:
    """An API key with a fresh secret and passphrase, and a fresh id unless one is given."""
    secret = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")
    return Credentials(key_id or secrets.token_hex(16), secret, secrets.token_urlsafe(PASSPHRASE_BYTES))


def names(permissions: int) -> list[str]:
    """The names of a sum of permissions."""
    return [name for name, permission in PERMISSIONS.items() if permissions & permission]


def revocation(row: ApiKeyRow, command_id: str) -> PutApiKey:
    """The command that revokes a key. Its secret and passphrase are gone then."""
    return PutApiKey(OPERATOR, command_id, row.key_id, row.owner_id, NO_SECRET, "", 0, user_id=row.user_id)


def is_revocation(command: PutApiKey) -> bool:
    """Whether a command is such a one: there is nothing secret in it."""
    return not command.permissions and (command.secret, command.passphrase) == (NO_SECRET, "")

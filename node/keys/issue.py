"""Makes and revokes API keys, and names their permissions."""

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
"""Random bytes of a new secret and of a new passphrase."""
PERMISSIONS = {permission.name.lower(): permission for permission in Permission}
"""The permissions by their names in the API, the configuration and the command line."""

NO_SECRET = "AAAA"
"""The secret of a revoked key. The exchange requires a secret, and a key without permissions cannot sign."""


def generate(key_id: str = "") -> Credentials:
    """Return an API key with a new random secret and passphrase, and with a new random id unless one is given."""
    secret = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")
    return Credentials(key_id or secrets.token_hex(16), secret, secrets.token_urlsafe(PASSPHRASE_BYTES))


def names(permissions: int) -> list[str]:
    """Return the names of a sum of permissions."""
    return [name for name, permission in PERMISSIONS.items() if permissions & permission]


def revocation(row: ApiKeyRow, command_id: str) -> PutApiKey:
    """Return the command that revokes a key. It also removes the secret and the passphrase."""
    return PutApiKey(OPERATOR, command_id, row.key_id, row.owner_id, NO_SECRET, "", 0, user_id=row.user_id)


def is_revocation(command: PutApiKey) -> bool:
    """Return whether a command is a revocation, which contains nothing secret."""
    return not command.permissions and (command.secret, command.passphrase) == (NO_SECRET, "")

"""A client's API key, and signatures.

A signature is base64(HMAC-SHA256(base64-decoded secret, timestamp + METHOD + target + body)). The native protocol signs
its `Hello` as method "HELLO" on target "/native" with an empty body. HTTP requests sign their own method, target and
body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

HELLO_METHOD = "HELLO"
HELLO_TARGET = "/native"


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

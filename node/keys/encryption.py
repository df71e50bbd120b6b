"""The cluster's keys, and API keys encrypted under them.

The secret and the passphrase of an API key are replicated, so they are in the log and in the snapshots, backups and
exports of every node. They are therefore encrypted before they enter the log, under a *cluster key* of 64 random bytes.
Each node has the cluster keys in a file beside its certificate. Cluster keys are numbered from 1. The key with the
highest number encrypts. The others decrypt what they have encrypted, until it is encrypted under the newest key.

The cipher is AES-SIV (RFC 5297). It is deterministic, so a command that is sent again is the same command, byte for
byte. The key's id and the name of the field are authenticated with the text, so a ciphertext cannot be moved to another
key or field.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from node.errors import ClusterKeyError, UnfitSecretError
from node.keys import addresses
from node.keys.addresses import Network
from node.keys.credentials import is_revocation
from node.system import files
from statemachine import access
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR, SECRET_MAX
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission

log = logging.getLogger(__name__)

KEY_BYTES = 64
"""Bytes of a cluster key: two AES-256 keys, as AES-SIV needs."""
NUMBER_MAX = 2**31 - 1
"""The highest number of a cluster key."""
TEXT_BYTES_MAX = SECRET_MAX * 3 // 4 - 16
"""Bytes of a secret or passphrase. Encryption adds 16 bytes, and base64 a third. The result fits the exchange's limit."""

UNENCRYPTED = 0
"""`sealed_by` of a key that is not encrypted."""
_BLOCK = 64
"""Bytes of a block of SHA-256."""


@dataclass(frozen=True)
class ApiKey:
    """A decrypted API key, with its networks parsed."""

    key_id: str
    owner_id: str
    secret: str = field(repr=False)
    passphrase: str = field(repr=False)
    permissions: int
    networks: tuple[Network, ...] = ()
    user_id: str = ""
    bootstrap: bool = False
    """Whether this is the operator's key of the configuration file."""

    @cached_property
    def sender(self) -> str:
        """The account id of the operator's commands that this key sends (`statemachine.access`)."""
        if self.user_id:
            return access.sender_of_user(self.user_id)
        return OPERATOR if self.bootstrap else access.sender_of_key(self.key_id)

    def allows(self, address: str) -> bool:
        """Return whether the key may be used from an address."""
        return not self.networks or addresses.allowed(address, self.networks)

    def proves(self, signature: str, message: bytes) -> bool:
        """Return whether the signature is the base64 text of the message's HMAC-SHA256 under the key's secret."""
        first, second = self._hmac_states
        inner, outer = first.copy(), second.copy()
        inner.update(message)
        outer.update(inner.digest())
        proof = binascii.b2a_base64(outer.digest(), newline=False)
        return hmac.compare_digest(proof, signature.encode("utf-8", "surrogatepass"))

    @cached_property
    def _hmac_states(self) -> tuple[hashlib._Hash, hashlib._Hash]:
        """SHA-256 states after the inner and the outer padded secret (RFC 2104). With them a signature costs 4 us; with
        `hmac.digest` it costs 15 us.
        """
        padded = (self._secret if len(self._secret) <= _BLOCK else hashlib.sha256(self._secret).digest()).ljust(_BLOCK, b"\0")
        return hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)), hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    @property
    def _secret(self) -> bytes:
        """The decoded secret. A key of an old log may have a secret that does not decode. A random secret takes its
        place, so that no signature matches.
        """
        try:
            decoded = base64.b64decode(self.secret, validate=True)
        except ValueError:
            decoded = b""
        return decoded or secrets.token_bytes(32)


def operator_key(key_id: str, secret: str, passphrase: str, networks: tuple[Network, ...]) -> ApiKey:
    """Return the operator's key, which is in the configuration file."""
    return ApiKey(key_id, OPERATOR, secret, passphrase, sum(Permission), networks, bootstrap=True)


def check_texts(secret: str, passphrase: str) -> None:
    """Check the secret and the passphrase of a new API key. The secret must be base64, and the passphrase may be empty.

    Raises:
        UnfitSecretError: one of them is not valid; the text names it.
    """
    try:
        decoded = base64.b64decode(secret, validate=True)
    except ValueError:
        decoded = b""
    if not decoded or len(secret) > TEXT_BYTES_MAX:
        raise UnfitSecretError(f"secret: expected base64 of at most {TEXT_BYTES_MAX} characters")
    try:
        size = len(passphrase.encode())
    except UnicodeEncodeError:
        size = TEXT_BYTES_MAX + 1
    if size > TEXT_BYTES_MAX:
        raise UnfitSecretError(f"passphrase: expected at most {TEXT_BYTES_MAX} bytes of UTF-8")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON object in a file of cluster keys. `keys` maps each number to its key in base64."""

    keys: dict[int, bytes]


class ClusterKeys:
    """The cluster keys of a node. The file is read again when it has changed, so a new key needs no restart.

    Raises:
        ClusterKeyError: the file exists and has no valid cluster keys. A missing file counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stat: tuple[int, int, int] | None = None
        self._keys: Mapping[int, bytes] = {}
        self._read()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the keys, in ascending order."""
        self._refresh()
        return sorted(self._keys)

    @property
    def newest(self) -> int:
        """The number of the key that encrypts. Raises ClusterKeyError if there is no key."""
        if not self.numbers:
            raise ClusterKeyError(f"there is no cluster key at {self.path}, and API keys are only stored encrypted. {_ADVICE}")
        return self.numbers[-1]

    def encrypt(self, command: PutApiKey) -> PutApiKey:
        """Return the command with its secret and passphrase encrypted under the newest key. A command that is encrypted
        already is returned as it is. So is a revocation if there is no cluster key.

        Raises:
            ClusterKeyError: this node has no cluster key.
            UnfitSecretError: see `check_texts`.
        """
        if command.sealed_by != UNENCRYPTED or (is_revocation(command) and not self.numbers):
            return command
        check_texts(command.secret, command.passphrase)
        number = self.newest
        return msgspec.structs.replace(
            command,
            secret=self._encrypted(number, command.key_id, "secret", command.secret),
            passphrase=self._encrypted(number, command.key_id, "passphrase", command.passphrase),
            sealed_by=number,
        )

    def open(self, row: ApiKeyRow) -> ApiKey:
        """Return the decrypted key.

        Raises:
            ClusterKeyError: this node lacks the cluster key that encrypted the key, or has another one of that number.
        """
        secret, passphrase = row.secret, row.passphrase
        if row.sealed_by != UNENCRYPTED:
            secret = self._opened(row.sealed_by, row.key_id, "secret", secret)
            passphrase = self._opened(row.sealed_by, row.key_id, "passphrase", passphrase)
        return ApiKey(row.key_id, row.owner_id, secret, passphrase, row.permissions, addresses.of_key(row.addresses), row.user_id)

    def opens(self, row: ApiKeyRow) -> bool:
        """Return whether this node can decrypt the key."""
        try:
            self.open(row)
        except ClusterKeyError:
            return False
        return True

    def _encrypted(self, number: int, key_id: str, name: str, text: str) -> str:
        if not text:
            return ""
        return base64.b64encode(AESSIV(self._keys[number]).encrypt(text.encode(), _associated(key_id, name))).decode("ascii")

    def _opened(self, number: int, key_id: str, name: str, text: str) -> str:
        """Decrypt one text of an API key. Raises ClusterKeyError."""
        self._refresh()
        if number not in self._keys:
            raise ClusterKeyError(
                f"cluster key {number}, under which API key {key_id!r} is encrypted, is not in {self.path}. {_ADVICE}"
            )
        if not text:
            return ""
        try:
            return AESSIV(self._keys[number]).decrypt(base64.b64decode(text, validate=True), _associated(key_id, name)).decode()
        except (InvalidTag, ValueError):
            raise ClusterKeyError(
                f"cluster key {number} in {self.path} is not the one under which API key {key_id!r} is encrypted. {_ADVICE}"
            ) from None

    def _refresh(self) -> None:
        """Read the file again if it has changed. If the file cannot be read, a running node keeps the keys that it has."""
        try:
            self._read()
        except ClusterKeyError as error:
            log.warning("%s", error)

    def _read(self) -> None:
        """Read the file of keys again if it has changed. Raises ClusterKeyError."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ClusterKeyError(f"{self.path}: cannot be read: {error.strerror}") from error
        # ctime also changes with the file's owner and mode, and a file may become readable without being written.
        stat = (status.st_ctime_ns, status.st_size, status.st_ino)
        if stat != self._stat:
            self._stat = stat
            self._keys = read_keys(self.path)


_ADVICE = "Copy the file from another node of the cluster, or make a cluster key: quorumbook cluster rotate-key"


def read_keys(path: Path) -> dict[int, bytes]:
    """Return the cluster keys in a file by number.

    Raises:
        ClusterKeyError: the file cannot be read, or has no valid cluster keys. The text contains no part of a key.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File).keys
    except OSError as error:
        raise ClusterKeyError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClusterKeyError(f'{path}: expected JSON such as {{"keys": {{"1": "base64 of {KEY_BYTES} bytes"}}}}') from None
    for number, key in found.items():
        if not 1 <= number <= NUMBER_MAX or len(key) != KEY_BYTES:
            raise ClusterKeyError(f"{path}: key {number}: expected a number from 1 on, and base64 of {KEY_BYTES} bytes")
    return found


def file_bytes(keys: Mapping[int, bytes]) -> bytes:
    """Return the contents of a file of cluster keys."""
    return msgspec.json.format(msgspec.json.encode(_File(dict(sorted(keys.items()))))) + b"\n"


def with_another(keys: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return the keys and a new random key with the next number."""
    return {**keys, max(keys, default=0) + 1: secrets.token_bytes(KEY_BYTES)}


def write_keys(path: Path, keys: Mapping[int, bytes]) -> None:
    """Replace a file of cluster keys durably and atomically. Only its owner may read it. Raises OSError."""
    files.replace(path, file_bytes(keys), 0o600)


def _associated(key_id: str, name: str) -> list[bytes]:
    return [b"quorumbook api key", key_id.encode(), name.encode()]

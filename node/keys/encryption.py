"""The cluster's keys, and API keys encrypted under them.

The secret and the passphrase of an API key are replicated: they are in the log, in snapshots, backups and exports of
every node. So they are encrypted before they get there, under a *cluster key* of 64 random bytes that each node has in
a file of its own, beside its certificate. Cluster keys are numbered from 1, and the highest number encrypts; the others
open what they have encrypted until it is encrypted again.

The cipher is AES-SIV (RFC 5297), which is deterministic: a command that is sent again is the same command, byte for
byte. The key's id and the name of the field are authenticated with it, so a ciphertext is worth nothing in another
place.
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
from node.keys.issue import is_revocation
from node.system import files
from statemachine import access
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR, SECRET_MAX
from statemachine.tables import ApiKeyRow
from statemachine.types import Permission

log = logging.getLogger(__name__)

KEY_BYTES = 64
NUMBER_MAX = 2**31 - 1
TEXT_BYTES_MAX = SECRET_MAX * 3 // 4 - 16
"""Bytes of a secret or passphrase: with AES-SIV's 16 more, in base64, the exchange takes just that much."""

UNENCRYPTED = 0
_BLOCK = 64
"""Bytes of a block of SHA-256."""


@dataclass(frozen=True)
class ApiKey:
    """An API key as it is used: opened, and its networks read."""

    key_id: str
    owner_id: str
    secret: str = field(repr=False)
    passphrase: str = field(repr=False)
    permissions: int
    networks: tuple[Network, ...] = ()
    user_id: str = ""
    bootstrap: bool = False
    """It is the operator's key of the configuration file."""

    @cached_property
    def sender(self) -> str:
        """The account of the operator's commands that this key sends (`statemachine.access`)."""
        if self.user_id:
            return access.sender_of_user(self.user_id)
        return OPERATOR if self.bootstrap else access.sender_of_key(self.key_id)

    def allows(self, address: str) -> bool:
        """Whether it may be used from an address."""
        return not self.networks or addresses.allowed(address, self.networks)

    def proves(self, signature: str, message: bytes) -> bool:
        """Whether the signature, base64 of an HMAC-SHA256, was made of the message with the key's secret."""
        inner, outer = (state.copy() for state in self._hmac_states)
        inner.update(message)
        outer.update(inner.digest())
        return hmac.compare_digest(base64.b64encode(outer.digest()), signature.encode("utf-8", "surrogatepass"))

    @cached_property
    def _hmac_states(self) -> tuple[hashlib._Hash, hashlib._Hash]:
        """SHA-256 after the inner and the outer padded secret (RFC 2104): a signature then costs 4 us in place of 15 by
        `hmac.digest`.
        """
        padded = (self._secret if len(self._secret) <= _BLOCK else hashlib.sha256(self._secret).digest()).ljust(_BLOCK, b"\0")
        return hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)), hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    @property
    def _secret(self) -> bytes:
        """The secret itself. Keys are put with a secret that decodes to something; one of an old log that does not
        proves nothing.
        """
        try:
            decoded = base64.b64decode(self.secret, validate=True)
        except ValueError:
            decoded = b""
        return decoded or secrets.token_bytes(32)


def operator_key(key_id: str, secret: str, passphrase: str, networks: tuple[Network, ...]) -> ApiKey:
    """The operator's key, which stands in the configuration."""
    return ApiKey(key_id, OPERATOR, secret, passphrase, sum(Permission), networks, bootstrap=True)


def check_texts(secret: str, passphrase: str) -> None:
    """Check what an API key is given: a secret in base64, and a passphrase, which may be empty.

    Raises:
        UnfitSecretError: one of them will not do.
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
    """The JSON of a file of cluster keys: number -> base64."""

    keys: dict[int, bytes]


class ClusterKeys:
    """The cluster keys that a node has. The file is read again when it has changed, so a node needs no restart for
    another key.

    Raises:
        ClusterKeyError: the file is there and is not one of cluster keys. One that is not there holds none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark: tuple[int, int, int] | None = None
        self._keys: Mapping[int, bytes] = {}
        self._read()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the keys, ascending."""
        self._refresh()
        return sorted(self._keys)

    @property
    def newest(self) -> int:
        """The number of the key that encrypts. Raises ClusterKeyError where there is none."""
        if not self.numbers:
            raise ClusterKeyError(f"there is no cluster key at {self.path}, and API keys are only stored encrypted. {_ADVICE}")
        return self.numbers[-1]

    def encrypt(self, command: PutApiKey) -> PutApiKey:
        """The command with its secret and passphrase encrypted under the newest key; one that is encrypted already stays as
        it is, and a revocation where there is no cluster key.

        Raises:
            ClusterKeyError: there is no cluster key here.
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
        """The key, ready for use.

        Raises:
            ClusterKeyError: the cluster key that encrypted it is not here, or is another one.
        """
        secret, passphrase = row.secret, row.passphrase
        if row.sealed_by != UNENCRYPTED:
            secret = self._opened(row.sealed_by, row.key_id, "secret", secret)
            passphrase = self._opened(row.sealed_by, row.key_id, "passphrase", passphrase)
        return ApiKey(row.key_id, row.owner_id, secret, passphrase, row.permissions, addresses.of_key(row.addresses), row.user_id)

    def opens(self, row: ApiKeyRow) -> bool:
        """Whether the key can be opened here."""
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
        self._refresh()
        if number not in self._keys:
            raise ClusterKeyError(
                f"cluster key {number}, under which API key {key_id!r} is encrypted, is not in {self.path}. {_ADVICE}"
            )
        if not text:
            return ""
        try:
            return AESSIV(self._keys[number]).decrypt(base64.b64decode(text, validate=True), _associated(key_id, name)).decode()
        except (InvalidTag, ValueError, binascii.Error):
            raise ClusterKeyError(
                f"cluster key {number} in {self.path} is not the one under which API key {key_id!r} is encrypted. {_ADVICE}"
            ) from None

    def _refresh(self) -> None:
        """Read the file again if it has changed. What cannot be read changes nothing here: a running node keeps what it
        has.
        """
        try:
            self._read()
        except ClusterKeyError as error:
            log.warning("%s", error)

    def _read(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ClusterKeyError(f"{self.path}: cannot be read: {error.strerror}") from error
        # Of these times the one that a change of the file's owner moves, too: it may become readable without being
        # written.
        mark = (status.st_ctime_ns, status.st_size, status.st_ino)
        if mark != self._mark:
            self._mark = mark
            self._keys = read_keys(self.path)


_ADVICE = "Copy the file from another node of the cluster, or make a cluster key: quorumbook cluster rotate-key"


def read_keys(path: Path) -> dict[int, bytes]:
    """The cluster keys in a file, by number.

    Raises:
        ClusterKeyError: it cannot be read or is not such a file. The text shows nothing of the keys.
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
    """The contents of a file of cluster keys."""
    return msgspec.json.format(msgspec.json.encode(_File(dict(sorted(keys.items()))))) + b"\n"


def with_another(keys: Mapping[int, bytes]) -> dict[int, bytes]:
    """The keys and a fresh one, with the next number."""
    return {**keys, max(keys, default=0) + 1: secrets.token_bytes(KEY_BYTES)}


def write_keys(path: Path, keys: Mapping[int, bytes]) -> None:
    """Write a file of cluster keys anew: durable, atomic, and its owner's alone. Raises OSError."""
    files.replace(path, file_bytes(keys), 0o600)


def _associated(key_id: str, name: str) -> list[bytes]:
    return [b"quorumbook api key", key_id.encode(), name.encode()]

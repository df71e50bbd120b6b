"""A node's certificate: checks of the TLS files in a configuration (readable, valid now, issued for this node, and
consistent), and, while the node runs, warnings before it expires and renewal without a restart.

TLS contexts that `pki` makes for a configuration are renewed in place. New connections present the new certificate and
trust the authorities in the new file; open connections continue. An authority that was removed from the file stays
trusted until the process ends.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from node.config.settings import NodeConfig
from node.errors import ConfigError
from node.tls import pki
from node.tls.pki import certified_node_id, node_name

Fault = Callable[[str, str], ConfigError]


def check_tls(config: NodeConfig, fault: Fault, now: datetime.datetime | None = None, *, dates: bool = True) -> None:
    """Check the files of `[tls]`. `now` is the time for the certificates' validity, the current time by default.
    Without `dates` neither the validity is checked nor that the key fits: `pki renew` mends both.

    Raises:
        ConfigError: made by `fault`.
    """
    moment = now or datetime.datetime.now(datetime.UTC)
    ca_path, own_path = config.path(config.tls.ca), config.path(config.tls.certificate)
    authorities = _certificates("tls.ca", ca_path, fault)
    own, *chain = _certificates("tls.certificate", own_path, fault)
    if dates:
        _check_dates("tls.ca", ca_path, authorities[0], moment, fault)
        _check_dates("tls.certificate", own_path, own, moment, fault)
    if not any(signed_by(own, issuer) for issuer in (*authorities, *chain)):
        raise fault("tls.certificate", f"expected a certificate signed by {ca_path}; {own_path} is not")
    named = certified_node_id(own)
    if named != config.node_id:
        problem = "names no node" if named is None else f"is that of node {named!r}"
        raise fault(
            "tls.certificate",
            f"expected the certificate of node {config.node_id!r}, with the subject alternative name {node_name(config.node_id)}; "
            f"{own_path} {problem}",
        )
    _check_key(config, own, fault, fits=dates)


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether an authority signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_key(config: NodeConfig, certificate: x509.Certificate, fault: Fault, *, fits: bool) -> None:
    """Check that the private key can be read and fits the certificate."""
    path = config.path(config.tls.key)
    try:
        fitting = pki.fits(certificate, _bytes("tls.key", path, fault))
    except (ValueError, TypeError) as error:
        raise fault("tls.key", f"expected a private key in PEM, without a passphrase; {path} is not one") from error
    if fits and not fitting:
        raise fault(
            "tls.key",
            f"expected the key of {config.tls.certificate}; {path} is another one. If `quorumbook pki renew` was interrupted, repeat it",
        )


def _bytes(key: str, path: Path, fault: Fault) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise fault(key, f"expected a readable PEM file; {path} cannot be read: {error.strerror}") from error


def _certificates(key: str, path: Path, fault: Fault) -> list[x509.Certificate]:
    """Return the certificates of a file, at least one."""
    try:
        return x509.load_pem_x509_certificates(_bytes(key, path, fault))
    except ValueError as error:
        raise fault(key, f"expected a certificate in PEM; {path} is not one") from error


def _check_dates(key: str, path: Path, certificate: x509.Certificate, now: datetime.datetime, fault: Fault) -> None:
    """Check that a certificate is valid now."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise fault(key, f"expected a certificate that is valid now; {path} expired on {end:%Y-%m-%d}")
    if now < begin:
        raise fault(
            key, f"expected a certificate that is valid now; {path} is valid from {begin:%Y-%m-%d} on (is the clock right?)"
        )


log = logging.getLogger(__name__)

WARN_DAYS = 30
"""The node logs a warning this many days before the end and on every following day, and once more at the end."""

LOOK_SECONDS = 5.0
"""Seconds between two checks of the files."""

DAY = 86_400.0


class Validity(msgspec.Struct, frozen=True):
    """The validity of a certificate, in seconds since the epoch, with its subject and serial number."""

    subject: str
    begins: int
    ends: int
    serial: str


def validity(certificate: x509.Certificate) -> Validity:
    """Return how long a certificate is valid."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return Validity(
        str(names[0].value) if names else "",
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
        f"{certificate.serial_number:x}",
    )


def expiry(certificate: Path, authorities: Path) -> int:
    """Return when a node's certificate is no longer accepted, in seconds since the epoch: at its own end, or at that of
    the authority that signed it.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not a certificate in PEM.
    """
    own = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    signers = [each for each in x509.load_pem_x509_certificates(authorities.read_bytes()) if signed_by(own, each)]
    return min([validity(own).ends, *(validity(each).ends for each in signers)])


def days_left(ends: int, now: float) -> float:
    """Return the days until `ends`, both in seconds since the epoch; below 0 afterwards."""
    return (ends - now) / DAY


class CertificateWatch:
    """Watches the certificate of one process of a node.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, config: NodeConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._paths = [config.path(name) for name in (config.tls.ca, config.tls.certificate, config.tls.key)]
        self._seen = self._stamps()
        self._refused = ""
        self._warned_at = float("-inf")
        self._said_ended = False
        self.expires = expiry(self._paths[1], self._paths[0])

    async def run(self) -> None:
        """Check the files at intervals for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Load changed files, and warn of a certificate that expires soon."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._take_up(stamps)
        left = days_left(self.expires, self._clock())
        ended_now = left <= 0 and not self._said_ended
        if left < WARN_DAYS and (ended_now or self._clock() - self._warned_at >= DAY):
            self._warned_at, self._said_ended = self._clock(), left <= 0
            log.log(
                logging.WARNING if left > 0 else logging.ERROR,
                "the certificate of %s %s on %s: renew it with `quorumbook pki renew`, no restart is needed",
                self._config.node_id,
                "expires" if left > 0 else "HAS EXPIRED",
                _date(self.expires),
            )

    def _take_up(self, stamps: list[tuple[int, ...]]) -> None:
        """Renew the process's contexts if all files are valid and fit each other. Two files are never replaced at the
        same moment.
        """
        try:
            check_tls(self._config, lambda key, text: ConfigError("node.toml", key, text))
            pki.renew_contexts(self._config)
            self.expires = expiry(self._paths[1], self._paths[0])
        except (ConfigError, OSError, ValueError) as error:
            if str(error) != self._refused:
                log.warning(
                    "the certificate of %s is not renewed, and the previous one stays in use: %s", self._config.node_id, error
                )
            self._refused = str(error)
            return
        self._seen, self._refused, self._warned_at, self._said_ended = stamps, "", float("-inf"), False
        log.info("the certificate of %s is renewed, valid until %s", self._config.node_id, _date(self.expires))

    def _stamps(self) -> list[tuple[int, ...]]:
        """Return what distinguishes each file from a previous one in its place."""
        found: list[tuple[int, ...]] = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                found.append(())
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found


def _date(seconds: int) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M}Z"

"""Checks of the TLS files in a configuration: readable, valid now, issued for this node, and consistent."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

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
        found = "names no node" if named is None else f"is that of node {named!r}"
        raise fault(
            "tls.certificate",
            f"expected the certificate of node {config.node_id!r}, with the subject alternative name {node_name(config.node_id)}; "
            f"{own_path} {found}",
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

"""The identity of nodes: the cluster's certificate authority, a certificate for each node, and TLS settings.

A cluster has a certificate authority of its own, so its signature means "of this cluster". Connections between nodes
need a certificate on both sides. The node's id is in the subject alternative name `quorumbook-node-<node_id>`, and the
caller compares it with the id that the peer claims (`peer_node_id`). Host names are not compared: nodes move between
addresses, and an address proves nothing here.

Only TLS 1.3 is allowed. Keys are EC P-256. Certificates are valid for ten years unless another lifetime is requested.
`certificates.py` renews them while a node runs.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import weakref
from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.config.settings import NodeConfig

LIFETIME = datetime.timedelta(days=3650)
"""Default lifetime of certificates."""

NODE_NAME_PREFIX = "quorumbook-node-"
"""Prefix of a node's id in its certificate."""

CLOCK_SKEW = datetime.timedelta(days=1)
"""Certificates are valid from this much earlier on, for machines whose clocks differ from that of their maker."""


_contexts: weakref.WeakKeyDictionary[ssl.SSLContext, tuple[Path, Path, Path | None]] = weakref.WeakKeyDictionary()
"""This process's contexts for a node's files, with the authority, certificate and key in use; see `renew_contexts`."""


class KeyPair(msgspec.Struct, frozen=True):
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Omit the key, because a repr ends up in logs."""
        return f"KeyPair(certificate={self.certificate!r})"


def node_name(node_id: str) -> str:
    """Return the subject alternative name of a node."""
    return NODE_NAME_PREFIX + node_id


def make_authority(cluster_id: str, now: datetime.datetime) -> KeyPair:
    """Make a new self-signed certificate authority for a cluster, valid for `LIFETIME`. `now` needs a time zone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{cluster_id} certificate authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, name, key.public_key(), now, LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return _signed(builder, key, key)


def issue(
    authority: KeyPair, node_id: str, hosts: Iterable[str], now: datetime.datetime, *, lifetime: datetime.timedelta = LIFETIME
) -> KeyPair:
    """Make a new certificate for a node, as server and as client, valid until `lifetime` after `now`.

    Besides the node's id it names `hosts` (host names or IP addresses), localhost and 127.0.0.1, for HTTP clients that
    compare names.

    Raises:
        ValueError: `authority` is not PEM of a certificate and its key.
    """
    ca = x509.load_pem_x509_certificate(authority.certificate)
    ca_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(node_name(node_id)), ca.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(node_id, hosts)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return _signed(builder, key, ca_key)


def fits(certificate: x509.Certificate, key: bytes) -> bool:
    """Return whether a certificate belongs to a private key in PEM. Raises ValueError or TypeError if the key cannot be
    read.
    """
    private = serialization.load_pem_private_key(key, password=None)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)


def server_context(config: NodeConfig, *, require_client_cert: bool = True) -> ssl.SSLContext:
    """Make a context for accepting connections as this node.

    With `require_client_cert` only peers with a certificate of this cluster can connect. Without it a peer may present
    a certificate, which is then verified as well.

    Raises:
        OSError: a file cannot be read (`ssl.SSLError`, a kind of it: does not fit). `config.file.load` has checked them
            before.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED if require_client_cert else ssl.CERT_OPTIONAL
    # No session tickets: a resumed session would outlive the certificate with which it was opened.
    context.num_tickets = 0
    _load(context, config, with_cert=True)
    return context


def client_context(config: NodeConfig, *, with_cert: bool = True) -> ssl.SSLContext:
    """Make a context for connecting to nodes of this cluster, as this node or, with `with_cert=False`, without a
    certificate.

    It trusts this cluster's authority only. Host names are not compared; node-to-node callers compare `peer_node_id`.

    Raises:
        OSError: as `server_context`.
    """
    context = _client_side()
    _load(context, config, with_cert=with_cert)
    return context


def _client_side() -> ssl.SSLContext:
    """Make a context that speaks TLS 1.3, asks for a certificate and does not compare host names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, config: NodeConfig, *, with_cert: bool) -> None:
    """Load the node's files into a context, and record them."""
    authority, certificate, key = (config.path(name) for name in (config.tls.ca, config.tls.certificate, config.tls.key))
    context.load_verify_locations(authority)
    if with_cert:
        context.load_cert_chain(certificate, key)
    _contexts[context] = (authority, certificate, key if with_cert else None)


def renew_contexts(config: NodeConfig) -> None:
    """Load the node's files again into all contexts of this process that use them.

    New connections use the new files. An authority that is no longer in the file stays trusted until the process ends,
    because a TLS context cannot forget it.

    Raises:
        OSError: as `server_context`.
    """
    own = config.path(config.tls.certificate)
    for context, (authority, certificate, key) in list(_contexts.items()):
        if certificate == own:
            context.load_verify_locations(authority)
            if key is not None:
                context.load_cert_chain(certificate, key)


def trusting_context(authority: str) -> ssl.SSLContext:
    """Make a context for connecting to nodes of the cluster with this authority (PEM), without a certificate. Host
    names are not compared.

    Raises:
        ValueError: `authority` is not a certificate in PEM.
    """
    context = _client_side()
    try:
        context.load_verify_locations(cadata=authority)
    except ssl.SSLError as error:
        raise ValueError(f"expected a certificate in PEM: {error.reason}") from error
    return context


def peer_node_id(channel: ssl.SSLObject | ssl.SSLSocket | None) -> str | None:
    """Return the node id in the peer's verified certificate; None without TLS or a certificate, or if it does not name
    exactly one node.
    """
    certificate = channel.getpeercert() if channel is not None else None
    if not certificate:
        return None
    alternatives = certificate.get("subjectAltName", ())
    names = [entry[1] for entry in alternatives if isinstance(entry, tuple) and entry[0] == "DNS"]
    return _only_node_id(names)


def certified_node_id(certificate: x509.Certificate) -> str | None:
    """Return the node id in a certificate; None if it does not name exactly one node."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    return _only_node_id(extension.value.get_values_for_type(x509.DNSName))


def certified_hosts(certificate: x509.Certificate) -> list[str]:
    """Return the host names and IP addresses in a node's certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    hosts = [name for name in names.get_values_for_type(x509.DNSName) if not name.startswith(NODE_NAME_PREFIX)]
    return [*hosts, *map(str, names.get_values_for_type(x509.IPAddress))]


def _only_node_id(names: Iterable[object]) -> str | None:
    """Return the node id in the names of a certificate, or None unless there is exactly one."""
    found = [name.removeprefix(NODE_NAME_PREFIX) for name in names if isinstance(name, str) and name.startswith(NODE_NAME_PREFIX)]
    return found[0] if len(found) == 1 and found[0] else None


def _name(common_name: str) -> x509.Name:
    # The format allows 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    """Return the builder of a certificate, without extensions."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return the key usage of an authority, or of a node."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(node_id: str, hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Return the subject alternative names of a node's certificate."""
    names: list[x509.GeneralName] = [x509.DNSName(node_name(node_id))]
    for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1"]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey) -> KeyPair:
    """Sign a certificate for `key`. Returns both in PEM."""
    certificate = builder.sign(signer, hashes.SHA256())
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )

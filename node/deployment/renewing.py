"""Renews the certificates of a cluster's nodes, changes its certificate authority, and rotates its cluster keys.

Running nodes load renewed files automatically (`node.tls.certificates`). The authority is changed in three steps, so
that every node trusts every other one at each moment: `begin_roll` adds a new authority to the trusted ones, `renew`
gives the nodes certificates of the new authority, and `finish_roll` removes the former one.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node.cluster_directory import ClusterDirectory, read_key
from node.config.settings import NodeConfig
from node.deployment.setup import hosts_of
from node.errors import ClusterKeyError, SetupError
from node.keys.encryption import read_keys, with_another, write_keys
from node.system import files
from node.tls import pki
from node.tls.certificates import Validity, signed_by, validity

FORMER_KEY = "ca.key.former"
"""File with the key of the former authority, until a roll is finished."""


class Held(msgspec.Struct, frozen=True):
    """A certificate in a directory. `place`: "authority", or the id of its node. `trusted`: an authority that the nodes
    trust has signed it.
    """

    place: str
    validity: Validity
    trusted: bool


def certificates_of(layout: ClusterDirectory) -> list[Held]:
    """Return the certificates in the cluster's directory: the authorities, newest first, and the nodes'.

    Raises:
        SetupError: a file cannot be read or is not a certificate.
    """
    authorities = _certificates(layout.directory / "ca.pem")
    found = [Held("authority", validity(each), True) for each in authorities]
    for node_id in layout.node_ids:
        own = _certificates(_certificate_path(layout.configs[node_id]))[0]
        found.append(Held(node_id, validity(own), any(signed_by(own, each) for each in authorities)))
    return found


def renew(
    layout: ClusterDirectory, node_ids: Sequence[str], now: datetime.datetime, lifetime: datetime.timedelta
) -> dict[str, Validity]:
    """Give nodes new keys and certificates, signed by the newest authority, for the hosts that they have. Returns them
    by node. An interrupted call may be repeated: a node between its two files does not start until then.

    Raises:
        SetupError: the authority's key is not here, or would end before the certificates; nothing was changed then.
        OSError: a file cannot be written.
    """
    authority = _authority(layout.directory)
    ends = _certificates(layout.directory / "ca.pem")[0].not_valid_after_utc
    if ends < now + lifetime:
        lifetime = ends - now
        if lifetime <= datetime.timedelta(0):
            raise SetupError(
                f"the authority in {layout.directory / 'ca.pem'} has expired; make another one: quorumbook pki roll --begin"
            )
    renewed = {}
    for node_id in node_ids:
        config = layout.configs[node_id]
        former = validity(_certificates(_certificate_path(config))[0])
        pair = pki.issue(authority, node_id, _hosts(config), now, lifetime=lifetime)
        if validity(x509.load_pem_x509_certificate(pair.certificate)).ends == former.ends:
            # Both end with the authority. The end is what a running node says of the certificate that it uses.
            pair = pki.issue(authority, node_id, _hosts(config), now, lifetime=lifetime - datetime.timedelta(seconds=1))
        # The key first: a process that reads between the two writes finds a pair that does not fit, and reads again.
        files.replace(config.path(config.tls.key), pair.key, 0o600)
        files.replace(_certificate_path(config), pair.certificate)
        renewed[node_id] = validity(x509.load_pem_x509_certificate(pair.certificate))
    return renewed


def begin_roll(layout: ClusterDirectory, now: datetime.datetime) -> Validity:
    """Make another authority, which all nodes of the directory trust beside the present one. Returns its validity. An
    interrupted call may be repeated.

    Raises:
        SetupError: a roll is already in progress, or the present authority is not here.
        OSError: a file cannot be written.
    """
    key = _authority_key(layout.directory)
    former, *others = _certificates(layout.directory / "ca.pem")
    if others:
        raise SetupError(
            "another authority is trusted already: renew the nodes' certificates, then `quorumbook pki roll --finish`"
        )
    made = pki.make_authority(layout.cluster_id, now)
    if _fits(former, key, layout.directory):  # else an interrupted call has kept the former key already
        files.replace(layout.directory / FORMER_KEY, key, 0o600)
    files.replace(layout.directory / "ca.key", made.key, 0o600)
    _trust(layout, made.certificate + _pem(former))
    return validity(x509.load_pem_x509_certificate(made.certificate))


def finish_roll(layout: ClusterDirectory) -> list[str]:
    """Remove the former authority. Returns the nodes whose files no longer name it.

    Raises:
        SetupError: no roll is in progress, or a node still has a certificate of the former authority.
        OSError: a file cannot be written.
    """
    authorities = _certificates(layout.directory / "ca.pem")
    if len(authorities) == 1:
        raise SetupError("only one authority is trusted: there is nothing to finish")
    late = [
        node_id
        for node_id in layout.node_ids
        if not signed_by(_certificates(_certificate_path(layout.configs[node_id]))[0], authorities[0])
    ]
    if late:
        raise SetupError(
            f"{', '.join(late)}: still with a certificate of the former authority; renew first: quorumbook pki renew"
        )
    _trust(layout, _pem(authorities[0]))
    (layout.directory / FORMER_KEY).unlink(missing_ok=True)
    return layout.node_ids


def _trust(layout: ClusterDirectory, authorities: bytes) -> None:
    """Write these authorities into the files of the nodes, the operator's key and the directory. The directory's own is
    the last one: a step of a roll that was interrupted before can be repeated.
    """
    for node_id in layout.node_ids:
        config = layout.configs[node_id]
        files.replace(config.path(config.tls.ca), authorities)
    path = layout.directory / "admin.json"
    if path.exists():
        key = msgspec.structs.replace(read_key(path), ca=authorities.decode("ascii"), nodes=layout.addresses)
        files.replace(path, msgspec.json.format(msgspec.json.encode(key)) + b"\n", 0o600)
    files.replace(layout.directory / "ca.pem", authorities)


def _authority(directory: Path) -> pki.KeyPair:
    """Return the newest authority that the nodes trust. Raises SetupError if its key is not here."""
    key, newest = _authority_key(directory), _certificates(directory / "ca.pem")[0]
    if not _fits(newest, key, directory):
        raise SetupError(
            f"{directory / 'ca.key'} is not the key of the authority in ca.pem. If `quorumbook pki roll --begin` was interrupted, repeat it"
        )
    return pki.KeyPair(_pem(newest), key)


def _authority_key(directory: Path) -> bytes:
    """Return the private key of the cluster's authority. Raises SetupError."""
    key = directory / "ca.key"
    if not key.exists():
        raise SetupError(
            f"{key} is not here: the cluster's authority signs certificates. Put it back until this command has ended"
        )
    return key.read_bytes()


def _fits(certificate: x509.Certificate, key: bytes, directory: Path) -> bool:
    try:
        return pki.fits(certificate, key)
    except (ValueError, TypeError) as error:
        raise SetupError(f"{directory / 'ca.key'}: expected a private key in PEM") from error


def _certificate_path(config: NodeConfig) -> Path:
    return config.path(config.tls.certificate)


def _hosts(config: NodeConfig) -> list[str]:
    """Return the node's hosts by its configuration, and the others that its present certificate names."""
    present = pki.certified_hosts(_certificates(_certificate_path(config))[0])
    return list(dict.fromkeys([*hosts_of(config.address(config.node_id)), *present]))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a file. Raises SetupError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"{path}: expected a certificate in PEM") from error


class Rotation(msgspec.Struct, frozen=True):
    """The result of a key rotation. `number` is the newest cluster key, `made` whether it is new; `paths` are the
    written files.
    """

    number: int
    made: bool
    paths: list[Path]


def rotate(layout: ClusterDirectory) -> Rotation:
    """Give every node of the directory one more cluster key. If some nodes lack keys that others have, give them only
    those.

    An interrupted command can be repeated. Running nodes load the file automatically.

    Raises:
        ClusterKeyError: a file cannot be read, or two nodes have different keys under one number.
        OSError: a file cannot be written.
    """
    keys_by_node = {node_id: _keys(layout.configs[node_id].cluster_key_path) for node_id in layout.node_ids}
    union: dict[int, bytes] = {}
    for node_id, keys in keys_by_node.items():
        for number, key in keys.items():
            if union.setdefault(number, key) != key:
                raise ClusterKeyError(f"{node_id} has another cluster key {number} than the nodes before it; nothing was changed")
    uneven = any(keys != union for keys in keys_by_node.values())
    keys = union if uneven else with_another(union)
    paths = [layout.configs[node_id].cluster_key_path for node_id in keys_by_node if keys_by_node[node_id] != keys]
    for path in paths:
        write_keys(path, keys)
    return Rotation(max(keys), not uneven, paths)


def _keys(path: Path) -> dict[int, bytes]:
    return read_keys(path) if path.exists() else {}

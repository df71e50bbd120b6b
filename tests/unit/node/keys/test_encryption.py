"""Encryption: only the cluster's keys decrypt what they encrypted, and only in its place."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.cluster_directory import KeyFile
from node.config.settings import AdminConfig
from node.errors import ClusterKeyError, UnfitSecretError
from node.gateway.auth import Claim
from node.keys.credentials import Credentials
from node.keys.encryption import KEY_BYTES, TEXT_BYTES_MAX, ApiKey, ClusterKeys, read_keys, with_another, write_keys
from statemachine.commands import Batch, PutApiKey
from statemachine.engine import Engine
from statemachine.events import Done
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow

SECRET = base64.b64encode(b"a secret").decode()
PUT = PutApiKey(OPERATOR, "put", "key-1", OPERATOR, SECRET, "sesame", 3, "192.0.2.0/24")


def row_of(command: PutApiKey) -> ApiKeyRow:
    return ApiKeyRow(*[getattr(command, name) for name in ApiKeyRow.__struct_fields__])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    write_keys(path, {1: bytes(KEY_BYTES)})
    return path


def test_an_encrypted_command_shows_no_secret_and_can_be_decrypted(path: Path) -> None:
    keys = ClusterKeys(path)
    encrypted = keys.encrypt(PUT)
    assert encrypted.sealed_by == 1
    assert SECRET.encode() not in msgspec.msgpack.encode(encrypted)
    assert b"sesame" not in msgspec.msgpack.encode(encrypted)
    opened = keys.open(row_of(encrypted))
    assert (opened.secret, opened.passphrase, str(opened.networks[0])) == (SECRET, "sesame", "192.0.2.0/24")
    assert SECRET not in repr(opened)
    assert "sesame" not in repr(opened)


def test_the_same_command_is_encrypted_the_same(path: Path) -> None:
    assert ClusterKeys(path).encrypt(PUT) == ClusterKeys(path).encrypt(PUT)
    assert ClusterKeys(path).encrypt(ClusterKeys(path).encrypt(PUT)) == ClusterKeys(path).encrypt(PUT)


def test_an_unencrypted_key_of_an_earlier_version_is_used(path: Path) -> None:
    assert ClusterKeys(path).open(row_of(PUT)).secret == SECRET


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=TEXT_BYTES_MAX * 3 // 4), passphrase=st.text(max_size=60))
def test_a_secret_of_any_allowed_length_is_decrypted_and_accepted_by_the_exchange(
    path: Path, data: bytes, passphrase: str
) -> None:
    keys = ClusterKeys(path)
    secret = base64.b64encode(data).decode()
    if len(passphrase.encode()) > TEXT_BYTES_MAX:
        return
    encrypted = keys.encrypt(msgspec.structs.replace(PUT, secret=secret, passphrase=passphrase))
    engine = Engine()
    (outcome,) = engine.apply(Batch(1, [encrypted])).outcomes
    assert isinstance(outcome, Done)
    row = engine.api_key("key-1")
    assert row is not None
    opened = keys.open(row)
    assert (opened.secret, opened.passphrase) == (secret, passphrase)


@pytest.mark.parametrize(
    ("secret", "passphrase", "message"),
    [
        ("", "p", "secret: expected base64"),
        ("no base64!", "p", "secret: expected base64"),
        ("A" * 180, "p", "secret: expected base64 of at most 176"),
        ("é", "p", "secret: expected base64"),
        (SECRET, "p" * 177, "passphrase: expected at most 176 bytes"),
        (SECRET, "é" * 89, "passphrase: expected at most 176 bytes"),
        (SECRET, "\ud800", "passphrase: expected at most 176 bytes of UTF-8"),
    ],
)
def test_a_secret_that_cannot_be_encrypted_is_refused(path: Path, secret: str, passphrase: str, message: str) -> None:
    with pytest.raises(UnfitSecretError, match=message) as caught:
        ClusterKeys(path).encrypt(msgspec.structs.replace(PUT, secret=secret, passphrase=passphrase))
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize(
    "moved",
    [
        lambda row: msgspec.structs.replace(row, key_id="key-2"),
        lambda row: msgspec.structs.replace(row, secret=row.passphrase),
        lambda row: msgspec.structs.replace(row, secret="AAAA" + row.secret[4:]),
        lambda row: msgspec.structs.replace(row, secret="no base64"),
    ],
)
def test_a_ciphertext_is_worth_nothing_in_another_place(path: Path, moved: object) -> None:
    assert callable(moved)
    keys = ClusterKeys(path)
    row = row_of(keys.encrypt(PUT))
    assert keys.open(row).secret == SECRET
    with pytest.raises(ClusterKeyError, match="is not the one under which API key"):
        keys.open(moved(row))


def test_another_key_under_the_same_number_is_reported(path: Path, tmp_path: Path) -> None:
    row = row_of(ClusterKeys(path).encrypt(PUT))
    write_keys(tmp_path / "other", {1: bytes([1]) * KEY_BYTES})
    with pytest.raises(
        ClusterKeyError, match=r"cluster key 1 in .*other is not the one under which API key 'key-1' is encrypted"
    ):
        ClusterKeys(tmp_path / "other").open(row)


def test_a_rotation_is_taken_up_without_a_restart(path: Path, tmp_path: Path) -> None:
    keys = ClusterKeys(path)
    old = row_of(keys.encrypt(PUT))
    write_keys(path, with_another(read_keys(path)))
    assert keys.numbers == [1, 2]
    new = row_of(keys.encrypt(PUT))
    assert (new.sealed_by, keys.open(old).secret, keys.open(new).secret) == (2, SECRET, SECRET)
    write_keys(path, {2: read_keys(path)[2]})
    with pytest.raises(ClusterKeyError, match="cluster key 1, under which API key 'key-1' is encrypted, is not in"):
        keys.open(old)


def test_a_running_node_is_unaffected_by_a_broken_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ClusterKeys(path)
    row = row_of(keys.encrypt(PUT))
    path.write_text("half a fi")
    assert keys.open(row).secret == SECRET
    assert "expected JSON such as" in caplog.text
    path.unlink()
    assert keys.open(row).secret == SECRET


def test_a_file_of_somebody_else_is_taken_up_when_it_becomes_readable(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    keys = ClusterKeys(path)
    write_keys(path, with_another(read_keys(path)))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        assert keys.numbers == [1]
    assert "cannot be read: Permission denied" in caplog.text
    end = time.monotonic() + 5.0
    while keys.numbers != [1, 2]:  # a file's times are coarse
        assert time.monotonic() < end, "the file is not read again"
        path.chmod(0o600)


def test_without_a_file_nothing_is_encrypted(tmp_path: Path) -> None:
    keys = ClusterKeys(tmp_path / "none")
    with pytest.raises(ClusterKeyError, match=r"there is no cluster key at .*none"):
        keys.encrypt(PUT)
    assert keys.open(row_of(PUT)).secret == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"keys": {"0": ""}}',
        '{"keys": {"one": ""}}',
        '{"keys": {"1": "AAAA"}}',
        '{"keys": {"1": 5}}',
        '{"keys": {}, "x": 1}',
    ],
)
def test_a_file_that_has_no_cluster_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.key").write_text(text)
    with pytest.raises(ClusterKeyError, match=r"cluster\.key: "):
        ClusterKeys(tmp_path / "cluster.key")


def test_no_repr_shows_a_secret() -> None:
    texts = ("c2VjcmV0", "sesame")
    shown = (Credentials("k", *texts), AdminConfig("k", *texts), KeyFile("k", *texts), ApiKey("k", "alice", *texts, 1))
    for each in (*shown, Claim("k", "signature", "1", "sesame")):
        assert not any(text in repr(each) for text in texts), type(each).__name__


def test_the_file_is_readable_by_its_owner_only(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    write_keys(path, with_another(read_keys(path)))
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_keys(path)[2]) == KEY_BYTES
    assert read_keys(path)[2] != with_another({1: os.urandom(KEY_BYTES)})[2]

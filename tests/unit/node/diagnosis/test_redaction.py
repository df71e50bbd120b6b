"""Secrets are removed from what leaves a machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from node.config.settings import HistoryConfig, StreamsConfig
from node.diagnosis.redaction import scrub, secrets_of
from tests.unit.node.fakes import config_of


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://u:geheimnis@h/db", "geheimnis"),
        ("postgresql://u:ge#heimnis@h/db", "ge#heimnis"),
        ("postgresql://u:ge/heim?nis@h/db", "ge/heim?nis"),
        ("postgresql://u:ge@heimnis@h:5432/db?sslmode=require", "ge@heimnis"),
        ("postgresql://u:ge%23heimnis@h/db", "ge#heimnis"),
        ("postgresql://u:ge%23heimnis@h/db", "ge%23heimnis"),
        ("postgresql://h/db?password=geheimnis", "geheimnis"),
    ],
)
def test_a_database_s_password_may_have_any_character(tmp_path: Path, url: str, password: str) -> None:
    """`urllib` cuts a password at "#", "/" or "?". Formerly its rest was left in a bundle."""
    config = msgspec.structs.replace(config_of(tmp_path), history=HistoryConfig(database=url))
    assert password.encode() not in scrub(f"cannot connect with {password}".encode(), secrets_of(config))
    assert password.encode() not in scrub(f"cannot connect to {url}".encode(), secrets_of(config))


@pytest.mark.parametrize("name", ["sasl.password", "ssl.key.pem", "sasl.oauthbearer.client.secret", "nats.token"])
def test_a_broker_s_secrets_are_options(tmp_path: Path, name: str) -> None:
    config = msgspec.structs.replace(config_of(tmp_path), streams=StreamsConfig(options=(f"{name}=geheimnis",)))
    assert b"geheimnis" not in scrub(b"refused: geheimnis", secrets_of(config))

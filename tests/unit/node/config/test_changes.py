"""Single keys of a configuration's text are changed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from node.config.file import Setting, change_settings

TEXT = """cluster_id = "x"  # which cluster
log_level = "info"

[raft]
# how often a snapshot is taken
heartbeat = 20000  # entries
listen = "127.0.0.1:1"

[http]
listen = "127.0.0.1:2"

[[nodes]]
node_id = "n1"
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("raft.heartbeat", 50),
        ("raft.archive_log", True),
        ("http.listen", "127.0.0.1:3"),
        ("http.deadline", 2.5),
        ("log_level", "debug"),
        ("tls.ca", "ca.pem"),
        ("http.trusted_proxies", ("10.0.0.0/8", "::1/128")),
        ("http.trusted_proxies", ()),
        ("log_level", 'a "quoted" word, a back\\slash, a #hash and \x7f'),
        ("tls.ca", "C:\\new\\1"),
    ],
)
def test_one_key_changes_and_nothing_else(tmp_path: Path, name: str, value: Setting) -> None:
    path = tmp_path / "node.toml"
    path.write_text(TEXT, encoding="utf-8")
    change_settings(path, {name: value})
    expected = tomllib.loads(TEXT)
    section, _, key = name.rpartition(".")
    (expected.setdefault(section, {}) if section else expected)[key] = list(value) if isinstance(value, tuple) else value
    assert tomllib.loads(path.read_text(encoding="utf-8")) == expected


def test_a_change_keeps_comments(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(TEXT, encoding="utf-8")
    change_settings(path, {"raft.heartbeat": 50})
    text = path.read_text(encoding="utf-8")
    assert "# how often a snapshot is taken" in text
    assert "# entries" in text

"""The section `[streams]`: what is accepted, and that an error names its key without showing what may be a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config.file import load
from node.deployment.setup import initialise
from node.errors import ConfigError
from node.supervisor import children


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return initialise(tmp_path / "exchange", 1)[0]


def with_streams(path: Path, *lines: str) -> Path:
    path.write_text(path.read_text().replace("[streams]", "\n".join(["[streams]", *lines]), 1))
    return path


def test_streams_are_off_by_default(path: Path) -> None:
    config = load(path)
    assert not config.streams.enabled
    assert not config.keeps_log
    assert "streams" not in [spec.name for spec in children(config, path)[1]]


def test_a_stream_is_a_process_of_the_node_and_keeps_the_log(path: Path) -> None:
    config = load(with_streams(path, 'url = "kafka://10.0.0.9:9092,[::1]:9093"', 'format = "msgpack"', 'options = ["a.b=c"]'))
    assert config.keeps_log
    (spec,) = (spec for spec in children(config, path)[1] if spec.name == "streams")
    assert spec.may_give_up, "the node runs without the stream"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('url = "10.0.0.9:9092"', "streams.url"),
        ('url = "rabbit://10.0.0.9:9092"', "streams.url"),
        ('url = "kafka://"', "streams.url"),
        ('url = "kafka://10.0.0.9"', "streams.url"),
        ('url = "kafka://10.0.0.9:99999"', "streams.url"),
        ('url = "kafka://a:1"\nprefix = ""', "streams.prefix"),
        ('url = "kafka://a:1"\nprefix = "a b"', "streams.prefix"),
        ('url = "kafka://a:1"\norders = "a/b"', "streams.orders"),
        (f'url = "kafka://a:1"\norders = "{"o" * 65}"', "streams.orders"),
        ('url = "kafka://a:1"\nformat = "xml"', "streams.format"),
        ('url = "kafka://a:1"\npartitions = 0', "streams.partitions"),
        ('url = "kafka://a:1"\nreplication = 11', "streams.replication"),
        ('url = "kafka://a:1"\ntakeover = 0.1', "streams.takeover"),
        ('url = "kafka://a:1"\noptions = ["hushhush"]', "streams.options[0]"),
        ('url = "kafka://a:1"\nnonsense = 1', "streams.nonsense"),
    ],
)
def test_faults_name_their_key(path: Path, line: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(with_streams(path, line))
    assert caught.value.key == key
    assert "hushhush" not in str(caught.value)

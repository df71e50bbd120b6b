"""`config.file.load` reports every kind of mistake with the file, the key, and what was expected."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from node.config.checks import RANGES, split_address
from node.config.file import changed, load
from node.config.settings import RENAMED, NodeConfig, gateways_of_node
from node.deployment.setup import Host, initialise
from node.errors import ConfigError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of node n1 of a cluster of three."""
    return initialise(tmp_path_factory.mktemp("cluster") / "c", cluster_id="demo")[0].parent


def put(text: str, key: str, value: str) -> str:
    """Change the first line `key = ...` of `text`, commented out or not. `key` has to name the section before it."""
    section, _, name = key.rpartition(".")
    begin = text.index(f"[{section}]\n") if section else 0
    changed, count = re.subn(rf"(?m)^(# )?{name} = .*$", lambda _found: f"{name} = {value}", text[begin:], count=1)
    assert count == 1, key
    return text[:begin] + changed


def fault(home: Path, text: str) -> ConfigError:
    """Return the error that `text` gives as n1's configuration."""
    path = home / "changed.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value


def test_a_configuration_written_by_init_loads(home: Path) -> None:
    config = load(home / "node.toml")
    assert (config.cluster_id, config.node_id, config.log_level) == ("demo", "n1", "info")
    assert [node.node_id for node in config.nodes] == ["n1", "n2", "n3"]
    assert config.directory == str(home)
    assert config.data_path == home / "data"


def test_the_defaults_in_comments_are_the_defaults(home: Path) -> None:
    text = (home / "node.toml").read_text(encoding="utf-8")
    shown, count = re.subn(r"(?m)^# ([a-z_]+ = [a-z0-9.]+)$", r"\1", text)
    assert count == 32
    path = home / "shown.toml"
    path.write_text(shown, encoding="utf-8")
    assert load(path) == load(home / "node.toml")


CHANGES: list[tuple[str, str, str]] = [
    ("http.followers", '"ask"', "expected one of forward, redirect"),
    ("raft.heartbeat", '"soon"', "expected a number, not text in quotes"),
    ("native.queue_max", "1.5", "expected a whole number, not a number"),
    ("raft.fsync", "1", "expected true or false, not a whole number"),
    ("http.tls", '"no"', "expected true or false, not text in quotes"),
    ("cluster_id", "7", "expected text in quotes, not a whole number"),
    ("cluster_id", '""', "expected 1 to 64 letters"),
    ("cluster_id", '"a b"', "expected 1 to 64 letters"),
    ("node_id", '"../x"', "expected 1 to 32 letters"),
    ("node_id", '"n9"', "expected the node_id of one of [[nodes]] (n1, n2, n3), not 'n9'"),
    ("data_dir", '""', "expected the path of a directory"),
    ("log_level", '"loud"', "expected one of debug, info, warning, error, not 'loud'"),
    ("cluster_key", '""', "expected the path of a file"),
    ("cluster_key", '"a\\u0000b"', "expected the path of a file"),
    ("tls.key", '"\\u0000"', "expected the path of a file"),
    ("start.dataset", '"\\u0000"', "expected the path of a directory"),
    ("cluster_key", '"node.pem"', "node.pem: expected JSON such as"),
    ("cluster_key", '"."', "cannot be read: Is a directory"),
    ("raft.heartbeat", "0.0", "expected 0.005 to 10 seconds, not 0.0"),
    ("raft.heartbeat", "nan", "expected 0.005 to 10 seconds, not nan"),
    ("raft.heartbeat", "-0.05", "expected 0.005 to 10 seconds"),
    ("raft.leader_fallback", "inf", "expected 0.03 to 300 seconds, not inf"),
    ("snapshot.keep", "0", "expected 1 to 100 snapshots, not 0"),
    ("start.from", '"disk"', "expected one of auto, snapshot, log, dataset, not 'disk'"),
    ("native.batch_commands_max", "1001", "expected 1 to 1,000 commands, not 1,001"),
    ("http.gateways", "65", "expected 0 to 64 processes, not 65"),
    ("http.deadline", "0.01", "expected 0.1 to 300 seconds"),
    ("raft.listen", '"localhost"', "expected host:port with a port from 1 to 65535, not 'localhost'"),
    ("raft.listen", '"localhost:0"', "expected host:port"),
    ("raft.listen", '"localhost:65536"', "expected host:port"),
    ("native.listen", '":7011"', "expected host:port"),
    ("native.listen", '"::1:7011"', "expected host:port"),
    ("http.listen", '"a b:80"', "expected host:port"),
    ("http.listen", '"127.0.0.1:7001"', "expected an address of its own; 127.0.0.1:7001 is also raft.listen"),
    ("fix.listen", '"127.0.0.1:7001"', "expected an address of its own; 127.0.0.1:7001 is also raft.listen"),
    ("fix.listen", '"nowhere"', "expected host:port"),
    ("fix.logon_age_max", "0", "expected 1 to 3,600 seconds"),
    ("http.public_url", '"127.0.0.1:7021"', "expected http://host:port"),
    ("http.public_url", '"http://127.0.0.1:7021/"', "without a path"),
    ("http.public_url", '"http://u@h:7021"', "expected http://host:port"),
    ("http.public_url", '"http://h:0"', "expected http://host:port"),
    ("http.public_url", '"http://[::1"', "expected http://host:port"),
    ("http.public_url", '"http://elsewhere:7021"', "expected 'http://127.0.0.1:7021', as nodes[0].http says"),
    ("history.archive_days", "1", "expected at least 2, or 0 for no archive"),
    ("history.database", '"mysql://u:p@h/d"', "expected postgresql://... or sqlite:////absolute/path"),
    ("history.database", '"postgresql://[::1"', "expected postgresql://... or sqlite:////absolute/path"),
    ("history.database", '"postgresql://h:port/d"', "expected postgresql://... or sqlite:////absolute/path"),
    ("tracing.endpoint", '"http://"', "expected http://host:port/v1/traces"),
    ("tracing.endpoint", '"http://[::1"', "expected http://host:port/v1/traces"),
    ("admin.key_id", '"a key"', "expected 1 to 64 letters"),
    ("admin.secret", '"not base64!"', "expected base64 of at least 16 bytes"),
    ("admin.secret", '"c2hvcnQ="', "expected base64 of at least 16 bytes"),
    ("admin.passphrase", '""', "expected 1 to 256 characters"),
    ("tls.ca", '"absent.pem"', "absent.pem cannot be read: No such file or directory"),
    ("tls.ca", '"node.toml"', "expected a certificate in PEM"),
    ("tls.certificate", '"../n2/node.pem"', "expected the certificate of node 'n1'"),
    ("tls.key", '"absent.key"', "cannot be read: No such file or directory"),
    ("tls.key", '"node.pem"', "expected a private key in PEM, without a passphrase"),
    ("tls.key", '"../n2/node.key"', "expected the key of node.pem"),
]


@pytest.mark.parametrize(("key", "value", "text"), CHANGES)
def test_a_wrong_value_is_named(home: Path, key: str, value: str, text: str) -> None:
    error = fault(home, put((home / "node.toml").read_text(encoding="utf-8"), key, value))
    assert error.key == key
    assert text in error.text


@pytest.mark.parametrize(
    ("proxies", "key"),
    [
        ('["10.0.0.0/8", "proxy"]', "http.trusted_proxies[1]"),
        ('["10.0.0.1/8"]', "http.trusted_proxies[0]"),
        ('"10.0.0.0/8"', "http.trusted_proxies"),
        ("[10]", "http.trusted_proxies[0]"),
    ],
)
def test_a_proxy_that_is_not_a_network_is_named(home: Path, proxies: str, key: str) -> None:
    text = (home / "node.toml").read_text(encoding="utf-8")
    assert fault(home, put(text, "http.trusted_proxies", proxies)).key == key


def test_a_cluster_key_may_be_absent(home: Path) -> None:
    (home / "cluster.key").unlink()
    assert not load(home / "node.toml").cluster_key_path.exists()


@pytest.mark.parametrize("key", RANGES)
def test_every_number_has_bounds(home: Path, key: str) -> None:
    low, high, _ = RANGES[key]
    text = (home / "node.toml").read_text(encoding="utf-8")
    for value in (low - 1, high + 1):
        assert fault(home, put(text, key, str(value))).key == key


@pytest.mark.parametrize(
    ("heartbeat", "low", "high", "fallback", "key"),
    [
        (0.05, 0.2, 0.6, 0.8, "raft.election_timeout_min"),
        (0.05, 0.3, 0.3, 0.8, "raft.election_timeout_max"),
        (0.05, 0.3, 0.6, 0.59, "raft.leader_fallback"),
    ],
)
def test_times_that_contradict_each_other_are_refused(
    home: Path, heartbeat: float, low: float, high: float, fallback: float, key: str
) -> None:
    text = (home / "node.toml").read_text(encoding="utf-8")
    for name, value in (
        ("heartbeat", heartbeat),
        ("election_timeout_min", low),
        ("election_timeout_max", high),
        ("leader_fallback", fallback),
    ):
        text = put(text, f"raft.{name}", str(value))
    error = fault(home, text)
    assert error.key == key
    assert "so that" in error.text


@pytest.mark.parametrize(
    ("old", "new", "key", "text"),
    [
        ("[raft]", "[raft]\nheartbeet = 0.1", "raft.heartbeet", "unknown key; did you mean 'heartbeat'?"),
        ("[raft]", "[raft]\nzzz = 0.1", "raft.zzz", "unknown key; expected one of listen, heartbeat"),
        ("[raft]", "[raff]", "raff", "unknown key; did you mean 'raft'?"),
        ('log_level = "info"', 'log_level = "info"\ndirectory = "."', "directory", "unknown key; "),
        ('cluster_id = "demo"', "", "cluster_id", "is missing; expected text in quotes"),
        ("[tls]\nca", "[tls]\n#", "tls.ca", "is missing; expected text in quotes"),
        ("[native]\nlisten = ", "[native]\n# ", "native.listen", "is missing; expected text in quotes"),
        ('raft = "127.0.0.1:7002"\n', "", "nodes[1].raft", "is missing; expected text in quotes"),
        ('raft = "127.0.0.1:7002"\n', "raft = 7002\n", "nodes[1].raft", "expected text in quotes, not a whole number"),
        ('raft = "127.0.0.1:7002"\n', 'raft = "7002"\n', "nodes[1].raft", "expected host:port"),
        ('raft = "127.0.0.1:7002"\n', 'raft = "127.0.0.1:7002"\nport = 1\n', "nodes[1].port", "unknown key; "),
        ('native = "127.0.0.1:7012"', 'native = "127.0.0.1:7011"', "nodes[1].native", "is also nodes[0].native"),
        ('native = "127.0.0.1:7012"', 'native = "127.0.0.1:7021"', "nodes[1].native", "is also nodes[0].http"),
        ('http = "http://127.0.0.1:7022"', 'http = "ftp://127.0.0.1:7022"', "nodes[1].http", "expected http://host:port"),
        ('node_id = "n2"', 'node_id = "n1"', "nodes[1].node_id", "expected an id of its own; 'n1' is also nodes[0]"),
        ('node_id = "n2"', 'node_id = "n 2"', "nodes[1].node_id", "expected 1 to 32 letters"),
    ],
)
def test_a_wrong_line_is_named(home: Path, old: str, new: str, key: str, text: str) -> None:
    original = (home / "node.toml").read_text(encoding="utf-8")
    assert old in original
    error = fault(home, original.replace(old, new, 1))
    assert error.key == key
    assert text in error.text


def test_a_value_in_place_of_a_table_is_refused(home: Path) -> None:
    text = (home / "node.toml").read_text(encoding="utf-8")
    head, _, _ = text.partition("\n[[nodes]]\n")
    assert fault(home, 'nodes = "n1"\n' + head).text == "expected an array of tables, not text in quotes"
    no_raft = text[: text.index("[raft]")] + text[text.index("[native]") :]
    assert fault(home, no_raft).text == "is missing; expected a table"
    assert fault(home, "raft = 1\n" + no_raft).text == "expected a table, not a whole number"
    assert fault(home, head).key == "nodes"


def test_text_that_is_not_toml_is_refused(home: Path) -> None:
    error = fault(home, 'cluster_id = "demo"\nnode_id = n1\n')
    assert error.key == ""
    assert "not TOML" in error.text
    assert "line 2" in error.text
    assert "byte order mark" in fault(home, "\ufeff" + (home / "node.toml").read_text(encoding="utf-8")).text
    path = home / "latin.toml"
    path.write_bytes(b'cluster_id = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="expected UTF-8 text; byte 17 is not"):
        load(path)


def test_a_database_whose_library_is_missing_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the gateways would end at each start, and the node would have no HTTP."""
    settings: dict[str, bool | str] = {"history.enabled": True, "history.database": "postgresql://u:p@db.example/market"}
    text = changed((home / "node.toml").read_text(encoding="utf-8"), settings)
    monkeypatch.setattr("node.config.checks.find_spec", lambda _name: None)
    error = fault(home, text)
    assert error.key == "history.database"
    assert "pip install 'quorumbook[postgresql]'" in error.text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_secrets_stay_out_of_messages(home: Path) -> None:
    secret = "c2VjcmV0LXRoYXQ"
    error = fault(home, put((home / "node.toml").read_text(encoding="utf-8"), "admin.secret", f'"{secret}"'))
    assert secret not in str(error)


def test_the_certificate_of_another_cluster_is_refused(home: Path, tmp_path: Path) -> None:
    other = initialise(tmp_path / "c", cluster_id="other")[0].parent
    copied = tmp_path / "n1"
    shutil.copytree(home, copied)
    shutil.copy(other / "ca.pem", copied / "ca.pem")
    with pytest.raises(ConfigError, match=r"tls\.certificate: expected a certificate signed by .*ca\.pem"):
        load(copied / "node.toml")


def test_a_configuration_with_https_loads(home: Path) -> None:
    text = put((home / "node.toml").read_text(encoding="utf-8"), "http.tls", "true")
    assert fault(home, text).text.startswith("expected https://")
    path = home / "https.toml"
    path.write_text(text.replace("http://127.0.0.1:7021", "https://127.0.0.1:7021"), encoding="utf-8")
    config: NodeConfig = load(path)
    assert config.http.tls


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("localhost:80", ("localhost", 80)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:7001", ("[::1]", 7001)),
        ("node-1.example.org:1", ("node-1.example.org", 1)),
        ("", None),
        ("host", None),
        ("host:", None),
        ("host:+1", None),
        ("host:1_0", None),
        ("host:٣", None),
        ("host:99999999999999999999", None),
        ("-host:1", None),
        ("a/b:1", None),
        ("::1:7001", None),
        ("a..b:1", None),
        ("a.:1", None),
        (f"{'a' * 64}:1", None),
        (f"{'a.' * 127}a:1", None),
        ("10.0.0.256:1", None),
        ("10.0.1:1", None),
        ("node.1:1", None),
        ("10.0.0.1:80:1", None),
        ("[10.0.0.1]:1", None),
        ("[::1%eth0]:1", None),
        ("[::g]:1", None),
        ("[]:1", None),
        (":1", None),
    ],
)
def test_addresses_are_checked(text: str, parts: tuple[str, int] | None) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_key_of_older_files_names_the_one_in_its_place(home: Path, old: str, new: str) -> None:
    section, _, name = old.partition(".")
    text = (home / "node.toml").read_text(encoding="utf-8").replace(f"[{section}]\n", f"[{section}]\n{name} = 5\n", 1)
    error = fault(home, text)
    assert (error.key, error.text) == (old, f"is called {new} now")


@pytest.mark.parametrize(
    ("processors", "nodes", "gateways"), [(1, 1, 1), (2, 1, 1), (4, 1, 3), (64, 1, 4), (2, 3, 1), (8, 3, 1), (12, 3, 3)]
)
def test_a_node_has_a_gateway_for_each_processor_beyond_its_engines(
    monkeypatch: pytest.MonkeyPatch, processors: int, nodes: int, gateways: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)))
    assert gateways_of_node(nodes) == gateways


def test_init_writes_a_number_of_gateways_only_for_nodes_that_share_a_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    together = load(initialise(tmp_path / "together", 3)[0]).http
    apart = load(initialise(tmp_path / "apart", [Host(f"n{number}", f"10.0.0.{number}") for number in (1, 2, 3)])[0]).http
    assert (together.gateways, together.processes) == (3, 3)
    assert (apart.gateways, apart.processes) == (None, 4)

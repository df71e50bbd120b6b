"""The cluster that a command addresses: by a directory, a key file, or addresses with a key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from node.cli.target import Target, cluster_option, earlier_place, place_option
from node.cluster_directory import ClusterDirectory
from node.deployment.setup import initialise
from node.errors import DirectoryError


@click.command()
@cluster_option
@earlier_place()
def where(target: Target) -> None:
    """Print what the command would connect to."""
    access = target.access()
    click.echo(json.dumps([access.addresses, access.credentials.key_id, access.authority[:27]]))


@click.command()
@place_option
def here(target: Target) -> None:
    """Print the directory of a command on files."""
    click.echo(str(target.directory))


def ask(command: click.Command, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("QUORUMBOOK_CLUSTER", "QUORUMBOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    initialise(tmp_path / "exchange", 3, base_port=8000)
    return tmp_path / "exchange"


NODES = {"n1": "127.0.0.1:8011", "n2": "127.0.0.1:8012", "n3": "127.0.0.1:8013"}
PEM = "-----BEGIN CERTIFICATE-----"


def test_the_usual_place_is_not_a_package_of_the_source_tree(exchange: Path) -> None:
    assert json.loads(ask(where).stdout) == [NODES, "operator", PEM]
    assert not (Path(__file__).parents[4] / "exchange").exists()


def test_the_directory_a_key_file_and_an_earlier_argument_mean_the_same(
    exchange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "key.json"
    (exchange / "admin.json").rename(moved)
    moved.write_text(moved.read_text())
    expected = [NODES, "operator", PEM]
    assert json.loads(ask(where, "--cluster", str(moved)).stdout) == expected
    assert json.loads(ask(where, "--key", str(moved)).stdout) == expected
    earlier = ask(where, str(exchange))
    assert json.loads(earlier.stdout) == expected
    assert "deprecated; use --cluster" in earlier.stderr
    monkeypatch.setenv("QUORUMBOOK_CLUSTER", str(moved))
    assert json.loads(ask(where).stdout) == expected


def test_addresses_count_instead_of_those_in_the_file(exchange: Path) -> None:
    found = json.loads(ask(where, "--url", "tls://far:1,near:2", "--key", str(exchange / "admin.json")).stdout)
    assert found[0] == {"far:1": "far:1", "near:2": "near:2"}


def test_a_key_file_of_an_earlier_version_needs_addresses_and_an_authority(exchange: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    known = json.loads((exchange / "admin.json").read_text())
    old.write_text(json.dumps({name: known[name] for name in ("key_id", "secret", "passphrase")}))
    with pytest.raises(DirectoryError, match="--url HOST:PORT"):
        CliRunner().invoke(where, ["--cluster", str(old)], catch_exceptions=False)
    with pytest.raises(DirectoryError, match="--ca"):
        CliRunner().invoke(where, ["--cluster", str(old), "--url", "far:1"], catch_exceptions=False)
    assert json.loads(ask(where, "--cluster", str(old), "--url", "far:1", "--ca", str(exchange / "ca.pem")).stdout)[2] == PEM


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "https://n1:7021"], "native address"),
        (["--url", "n1"], "expected tls://HOST:PORT or HOST:PORT, not 'n1'"),
        (["--url", "n1:7011"], "needs a key"),
    ],
)
def test_an_invalid_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in ask(where, *arguments, code=2).stderr


def test_a_command_on_files_says_that_it_needs_them(exchange: Path) -> None:
    assert ask(here, "--cluster", "exchange").stdout == "exchange\n"
    assert "works on the files of nodes" in ask(here, "--cluster", "exchange/admin.json", code=2).stderr


def test_the_default_of_version_0_2_0_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    initialise(tmp_path / "cluster", 1, base_port=8000)
    result = ask(where)
    assert json.loads(result.stdout)[0] == {"n1": "127.0.0.1:8011"}
    assert "--cluster cluster" in result.stderr


def test_a_removed_node_is_not_looked_for_when_its_directory_is_gone(exchange: Path) -> None:
    """Formerly `cluster status` listed nodes that had been removed long ago if all nodes were down."""
    ClusterDirectory(exchange).note_removed("n3")
    shutil.rmtree(exchange / "n3")
    layout = ClusterDirectory(exchange)
    assert list(layout.addresses) == layout.node_ids == ["n1", "n2"]

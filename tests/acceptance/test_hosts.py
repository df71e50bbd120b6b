"""An operator makes a cluster on three hosts. No file is edited by hand, and one key file is enough to work from a
fourth host.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli import main
from node.system.processes import descendants
from tests.chaos.errors import CommandFailedError, NotPossibleError
from tests.chaos.network import Network, address
from tests.chaos.system import need_root
from tests.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
NODES = ("n1", "n2", "n3")
SECONDS = 60.0
CHECKED = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1])
print(urllib.request.urlopen(sys.argv[2], context=context, timeout=30).read().decode())
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """Make four hosts, which are network namespaces: one for each node and one for the operator. They are removed in
    every case.
    """
    try:
        need_root("ip", "sysctl")
    except NotPossibleError as error:
        pytest.skip(f"network namespaces: {error}")
    made = Network(f"qh{os.getpid()}")
    try:
        try:
            made.make()
        except CommandFailedError as error:
            pytest.skip(f"network namespaces: {error}")
        yield made
    finally:
        made.remove()


class Hosts:
    """The hosts: each node's host has the node's directory, the operator's has the key file only."""

    def __init__(self, network: Network, directory: Path) -> None:
        self._network = network
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        options = [word for node_id in NODES for word in ("--node", f"{node_id}={address(node_id)}")]
        result = CliRunner().invoke(main, ["init", str(directory / "made"), *options])
        assert result.exit_code == 0, result.output
        for node_id in NODES:
            shutil.move(directory / "made" / node_id, directory / f"host-{node_id}" / node_id)
        (directory / "operator").mkdir()
        for name in ("admin.json", "ca.pem"):
            shutil.copy2(directory / "made" / name, directory / "operator" / name)

    def start(self, node_id: str) -> None:
        """Run a node on its host, in the foreground as systemd does."""
        home = self.directory / f"host-{node_id}" / node_id
        with (home / "output_file").open("ab") as output_file:
            self.processes[node_id] = subprocess.Popen(
                [*self._network.inside(node_id), sys.executable, "-m", "node.supervisor", "--config", str(home / "node.toml")],
                stdout=output_file,
                stderr=output_file,
                cwd=ROOT,
                start_new_session=True,
            )

    def kill(self, node_id: str) -> None:
        """Kill everything that runs on a host, as the loss of the machine does."""
        process = self.processes.pop(node_id)
        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(10)

    def operator(self, *arguments: str, code: int | None = 0) -> str:
        """Run a command line on the operator's host, with the key file and without a directory. Returns what it
        printed.
        """
        return self._there("-c", "from node.cli import main; main()", *arguments, "--cluster", "admin.json", code=code)

    def https(self, node_id: str) -> str:
        """Return what a node answers to a client that checks that the certificate names the host, "" while it does not
        answer.
        """
        return self._there("-c", CHECKED, "ca.pem", f"https://{address(node_id)}:7021/healthz", code=None)

    def _there(self, *arguments: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [*self._network.inside("h"), sys.executable, *arguments],
            cwd=self.directory / "operator",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert code is None or done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def leader(self) -> str:
        """Return the leader, "" while there is none."""
        return json.loads(self.operator("cluster", "status", "--json", code=None))["leader"] or ""


@pytest.fixture
def hosts(network: Network, tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(network, tmp_path)
    try:
        yield made
    finally:
        for node_id in list(made.processes):
            made.kill(node_id)


def test_three_hosts_form_a_cluster_that_an_operator_on_a_fourth_controls(hosts: Hosts) -> None:
    for node_id in NODES:
        hosts.start(node_id)
    wait_until(lambda: bool(hosts.leader()), "a leader", SECONDS)
    for node_id in NODES:
        wait_until(lambda node_id=node_id: '"ok"' in hosts.https(node_id), f"{node_id} answers", SECONDS)  # type: ignore[misc]
    for name in ("BTC", "USD"):
        hosts.operator("currency", "put", name, "--scale", "8")
    hosts.operator("product", "put", "BTC-USD")
    for name, currency in (("alice", "USD"), ("bob", "BTC")):
        hosts.operator("account", "open", name)
        hosts.operator("deposit", name, currency, "1000", "--transfer-id", f"{name}-1")
    successor = next(node_id for node_id in NODES if node_id != hosts.leader())
    assert f"{successor} leads" in hosts.operator("cluster", "transfer-leadership", "--to", successor)
    hosts.operator("order", "place", "BTC-USD", "sell", "1", "--price", "100", "--as", "bob")
    hosts.kill(successor)
    assert "done filled" in hosts.operator("order", "place", "BTC-USD", "buy", "1", "--price", "100", "--as", "alice")
    assert hosts.leader() in set(NODES) - {successor}
    (trade,) = json.loads(hosts.operator("trades", "BTC-USD", "--json"))
    assert (trade["price"], trade["size"]) == ("100", "1")
    hosts.start(successor)
    wait_until(
        lambda: json.loads(hosts.operator("cluster", "status", "--json"))["nodes"][successor] is not None,
        f"{successor} is back",
        SECONDS,
    )
    assert hosts.operator("snapshot", "take", successor)
    for node_id in NODES:
        hosts.kill(node_id)
    hosts.operator("cluster", "status", code=69)
    hosts.operator("deposit", "alice", "USD", "1", "--transfer-id", "later", code=69)

"""The network of a run: a namespace for each node, one for the clients, and a bridge between all. It needs root and `ip`.

    namespace PREFIXh    the clients; bridge hub0, 10.77.0.254, and 10.77.0.253 for attackers
    namespace PREFIXn1   node n1; eth0, 10.77.0.1; its other end is port v1 of the bridge

The addresses exist inside these namespaces only. The process that makes the network runs the rest as a child in it
(`run_inside`), and removes it when the child has ended, in any case.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from node.cluster_directory import ClusterDirectory
from node.deployment.local_cluster import LocalCluster
from tests.chaos.errors import CommandFailedError, NotPossibleError
from tests.chaos.system import call, need_root

NODES = ("n1", "n2", "n3", "n4")
"""The last one is there for a node that takes another one's place."""
SUBNET = "10.77.0"
BRIDGE = "hub0"
ATTACKER = f"{SUBNET}.253"
"""Where an attacker's connections come from: not where honest clients are."""
CLIENTS = "h"
"""The namespace of the clients."""
LOCAL_RULE = "1000"
CUT_RULE = "10"
CHILD_SECONDS = 60
"""For the child to stop its nodes after the signal to end."""


class Network:
    """The network with the name `prefix`. It can cut nodes from each other, or a node from all others. `heal` ends all
    cuts.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._rules: list[tuple[str, str]] = []

    def make(self) -> None:
        """Make the network. Raises `CommandFailedError`; then also call `remove`."""
        hub = f"{self._prefix}h"
        call("ip", "netns", "add", hub)
        call("ip", "-n", hub, "link", "set", "lo", "up")
        call("ip", "-n", hub, "link", "add", BRIDGE, "type", "bridge")
        call("ip", "-n", hub, "addr", "add", f"{SUBNET}.254/24", "dev", BRIDGE)
        call("ip", "-n", hub, "addr", "add", f"{ATTACKER}/24", "dev", BRIDGE)
        call("ip", "-n", hub, "link", "set", BRIDGE, "up")
        for node_id in NODES:
            self._add(hub, node_id)

    def _add(self, hub: str, node_id: str) -> None:
        space, number = self._prefix + node_id, node_id[1:]
        call("ip", "netns", "add", space)
        call("ip", "-n", hub, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        call("ip", "-n", hub, "link", "set", f"v{number}", "master", BRIDGE, "up")
        call("ip", "-n", space, "addr", "add", f"{address(node_id)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            call("ip", "-n", space, "link", "set", device, "up")
        # The table of local addresses is asked first of all; behind a cut's rule, that rule can refuse what comes in.
        call("ip", "-n", space, "rule", "add", "pref", LOCAL_RULE, "lookup", "local")
        call("ip", "-n", space, "rule", "del", "pref", "0")
        # Packets of open connections would pass by all rules.
        call("ip", "netns", "exec", space, "sysctl", "-qw", "net.ipv4.ip_early_demux=0")

    def remove(self) -> None:
        """Remove everything that exists of the network."""
        present = {line.split()[0] for line in call("ip", "netns", "list").splitlines() if line.strip()}
        for name in ("h", *NODES):
            if self._prefix + name in present:
                call("ip", "netns", "del", self._prefix + name)

    def settle(self, directory: Path) -> LocalCluster:
        """Write the nodes' addresses into a new cluster directory. Returns the cluster, whose nodes start in their namespaces."""
        layout = ClusterDirectory(directory)
        wanted = {
            listen: listen.replace("127.0.0.1", address(node_id))
            for node_id, config in layout.configs.items()
            for listen in (config.raft.listen, config.native.listen, config.http.listen)
        }
        for path in layout.config_paths.values():
            text = path.read_text(encoding="utf-8")
            for old, new in wanted.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
        return LocalCluster(directory, command=(sys.executable, "-m", "tests.chaos.network", self._prefix))

    def inside(self, node_id: str) -> tuple[str, ...]:
        """Return a command prefix that runs a command in a node's namespace, or with "h" in the clients' namespace."""
        return ("ip", "netns", "exec", self._prefix + node_id)

    def places(self, node_id: str) -> tuple[str, str, str]:
        """Return the Raft, native and public HTTP addresses of a joining node."""
        host = address(node_id)
        return f"{host}:7000", f"{host}:7010", f"http://{host}:7020"

    def unplug(self, node_id: str) -> None:
        """Cut a node from all others, clients included."""
        call("ip", "-n", f"{self._prefix}h", "link", "set", f"v{node_id[1:]}", "down")

    def plug(self, node_id: str) -> None:
        """Undo `unplug`."""
        call("ip", "-n", f"{self._prefix}h", "link", "set", f"v{node_id[1:]}", "up")

    def deafen(self, node_id: str, other: str) -> None:
        """Drop everything from `other`, a node or the clients, to a node. The other direction works."""
        call("ip", "-n", self._prefix + node_id, "rule", "add", "pref", CUT_RULE, "from", address(other), "blackhole")
        self._rules.append((node_id, other))

    def disturb(self, node_id: str, *how: str) -> None:
        """Apply a queueing discipline to a node's traffic in both directions. Raises `NotPossibleError` if the kernel lacks
        it.
        """
        for space, device in ((f"{self._prefix}h", f"v{node_id[1:]}"), (self._prefix + node_id, "eth0")):
            try:
                call("tc", "-n", space, "qdisc", "replace", "dev", device, "root", *how)
            except CommandFailedError as error:
                raise NotPossibleError(f"tc {how[0]}: {str(error).partition(': ')[2]}") from error

    def heal(self) -> None:
        """End every cut and disturbance."""
        while self._rules:
            node_id, other = self._rules.pop()
            call("ip", "-n", self._prefix + node_id, "rule", "del", "pref", CUT_RULE, "from", address(other), "blackhole")
        for node_id in NODES:
            self.plug(node_id)
            for space, device in ((f"{self._prefix}h", f"v{node_id[1:]}"), (self._prefix + node_id, "eth0")):
                if "noqueue" not in call("tc", "-n", space, "qdisc", "show", "dev", device):
                    call("tc", "-n", space, "qdisc", "del", "dev", device, "root")


def address(node_id: str) -> str:
    """Return the IP address of a node, or of the clients."""
    return f"{SUBNET}.{254 if node_id == CLIENTS else node_id[1:]}"


def run_inside(arguments: Sequence[str]) -> int:
    """Run `tests.chaos.run` as a child in a new network. Returns its exit code. Raises `NotPossibleError` if the network
    cannot be made.
    """
    need_root("ip", "tc", "sysctl")
    prefix = f"qb{os.getpid()}"
    network = Network(prefix)
    try:
        try:
            network.make()
        except CommandFailedError as error:
            raise NotPossibleError(str(error)) from error
        argv = ["ip", "netns", "exec", f"{prefix}h", sys.executable, "-m", "tests.chaos.run", *arguments, "--inside", prefix]
        child = subprocess.Popen(argv, start_new_session=True)
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)
            return child.wait(CHILD_SECONDS)
        finally:
            child.kill()
    finally:
        network.remove()


def main(prefix: str, arguments: Sequence[str]) -> None:
    """Replace this process by the supervisor of a node, in the node's namespace."""
    node_id = Path(arguments[arguments.index("--config") + 1]).parent.name
    command = ["ip", "netns", "exec", prefix + node_id, sys.executable, "-m", "node.supervisor", *arguments]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

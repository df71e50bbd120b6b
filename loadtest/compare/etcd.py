"""Three etcd members on loopback, with fsync on. etcd is the most used replicated store; it is Debian's package
`etcd-server`.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtest.errors import LoadTestError

MEMBERS = 3
VALUE_BYTES = 120
"""About the size of an order's command in the log."""

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class Etcd:
    """A cluster of three members in `directory`; a context manager that starts and stops it.

    Args:
        peer_tls: whether the members encrypt what they send to each other, as the nodes of Quorumbook always do.

    Raises:
        LoadTestError: the program is missing, or the members do not become ready.
    """

    def __init__(self, directory: Path, *, peer_tls: bool = False) -> None:
        self._directory = directory
        self._peer_tls = peer_tls
        self._members: list[subprocess.Popen[bytes]] = []
        self._clients: list[str] = []

    def __enter__(self) -> Self:
        if shutil.which("etcd") is None:
            raise LoadTestError("etcd is missing: apt-get install etcd-server")
        ports = free_ports(2 * MEMBERS)
        self._clients = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
        scheme = "https" if self._peer_tls else "http"
        peers = [f"{scheme}://127.0.0.1:{port}" for port in ports[MEMBERS:]]
        initial = ",".join(f"e{number}={url}" for number, url in enumerate(peers))
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            for number, (client, peer) in enumerate(zip(self._clients, peers, strict=True)):
                self._members.append(self._spawn(number, client, peer, initial))
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def _spawn(self, number: int, client: str, peer: str, initial: str) -> subprocess.Popen[bytes]:
        """Start one member with its log in a file."""
        log = (self._directory / f"e{number}.log").open("wb")
        with log:
            return subprocess.Popen(
                [
                    "etcd",
                    f"--name=e{number}",
                    f"--data-dir={self._directory / f'e{number}'}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={initial}",
                    "--initial-cluster-state=new",
                    "--logger=zap",
                    *(["--peer-auto-tls"] if self._peer_tls else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _stop(self) -> None:
        """Stop all members. One that does not end in time is killed."""
        for member in self._members:
            member.send_signal(signal.SIGTERM)
        for member in self._members:
            try:
                member.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                member.kill()
                member.wait()
        self._members.clear()

    @property
    def pids(self) -> list[int]:
        """The members' processes."""
        return [member.pid for member in self._members]

    def leader_url(self) -> str:
        """Return the client URL of the leader."""
        for client in self._clients:
            status = _post(client, "/v3/maintenance/status", {})
            if status["leader"] == status["header"]["member_id"]:
                return client
        raise LoadTestError("etcd has no leader")

    def _wait_ready(self) -> None:
        """Wait until the leader stores a key. Raises LoadTestError after the time limit."""
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                _post(self.leader_url(), "/v3/kv/put", {"key": _text("ready"), "value": _text("yes")})
            except (OSError, LoadTestError, KeyError, urllib.error.URLError) as error:
                if time.monotonic() > end:
                    raise LoadTestError(f"etcd is not ready after {_START_SECONDS:g} s: {error}") from error
                time.sleep(0.1)
            else:
                return


def put_requests(count: int, host: str) -> Iterator[bytes]:
    """Return raw HTTP/1.1 requests, each of which puts another key."""
    value = _text("v" * VALUE_BYTES)
    for number in range(count):
        body = f'{{"key":"{_text(f"k{number:09d}")}","value":"{value}"}}'.encode()
        yield (
            f"POST /v3/kv/put HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def free_ports(count: int) -> list[int]:
    """Return ports on loopback on which nothing listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def _post(url: str, path: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=2.0) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()

"""A support bundle: status, settings and logs of all nodes in one archive, without secrets.

For every node: its status, GET /status and GET /metrics. For nodes on this machine also: the settings in effect, the
end of the log, the stacks of its processes, the system's information on them, names and sizes of the files in the data
directory, and the doctor's findings. `manifest.json` lists each file with its size and SHA-256, and what is missing.

API keys, cluster keys, private keys, passwords and all data of traders are left out. Every file is searched for the
secrets of this machine's nodes before it goes into the archive.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import os
import platform
import shutil
import ssl
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from node.cluster_directory import ClusterDirectory
from node.config.settings import NodeConfig
from node.deployment.statuses import Statuses, ask_all, certified
from node.diagnosis.doctor import Doctor
from node.diagnosis.redaction import scrub, secrets_of, settings
from node.errors import RequestFailed
from node.keys.credentials import Credentials
from node.native.protocol import NodeStatus
from node.system import logs, software
from node.system.processes import PID_FILE, descendants, locked_pid
from snapshots.abi import ABI
from statemachine import CORE

LOG_BYTES = 8 * 1024 * 1024
"""Bytes from the end of each node's log."""

ANSWER_BYTES_MAX = 16 * 1024 * 1024
HTTP_SECONDS = 3.0
JOURNAL_LINES = "50000"
STACKS_SECONDS = 0.3
FILES_MAX = 20_000
"""The number of file names in a data directory that are listed."""

PROCESS_FILES = ("cmdline", "status", "limits", "io", "schedstat", "wchan")


class Entry(msgspec.Struct, frozen=True):
    """A file of the bundle, or the reason why it is missing."""

    name: str
    bytes: int = 0
    sha256: str = ""
    missing: str = ""


class BundleManifest(msgspec.Struct, frozen=True):
    """The contents of a bundle. `cluster_id` is "" if no node answered and no directory was given."""

    made_at: str
    cluster_id: str
    software: str
    abi: str
    core: str
    left_out: str
    files: list[Entry]


class Bundle:
    """Collects files and writes the archive.

    Args:
        addresses: native addresses of the nodes.
        tls: trusts the cluster's nodes.
        credentials: the operator's.
        layout: the directory of the nodes that are on this machine, None where none is.
        report: called with the present step.
        log_bytes: how much of each log.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        tls: ssl.SSLContext,
        credentials: Credentials,
        layout: ClusterDirectory | None,
        *,
        report: Callable[[str], None] = lambda _what: None,
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self._addresses = addresses
        self._tls = tls
        self._credentials = credentials
        self._layout = layout
        self._report = report
        self._log_bytes = log_bytes
        self._files: dict[str, bytes] = {}
        self._missing: list[Entry] = []
        configs = layout.configs.values() if layout is not None else ()
        secrets = {secret for config in configs for secret in secrets_of(config)}
        secrets |= {credentials.secret.encode(), credentials.passphrase.encode()} - {b""}
        self._secrets = sorted(secrets, key=len, reverse=True)

    async def collect(self) -> None:
        """Collect everything. A part that cannot be collected is recorded and is not an error."""
        self._report("status of all nodes")
        statuses: Statuses = {}
        try:
            present = [self._layout.configs[node_id] for node_id in self._layout.node_ids] if self._layout is not None else []
            statuses = await ask_all(self._addresses, self._tls, self._credentials, lambda: certified(present))
        except RequestFailed as error:
            self._lacks("status.json", str(error))
        self._add_json("environment.json", _environment())
        urls = {member.node_id: member.http for status in statuses.values() if status is not None for member in status.members}
        for node_id, status in statuses.items():
            if status is None:
                self._lacks(f"{node_id}/status.json", "the node does not answer")
            else:
                self._add_json(f"{node_id}/status.json", status)
        for node_id, url in urls.items():
            self._report(f"{node_id}: metrics")
            for path, name in (("/status", "http-status.json"), ("/metrics", "metrics.txt")):
                await asyncio.to_thread(self._fetch, f"{node_id}/{name}", f"{url}{path}")
        if self._layout is not None:
            for node_id, config in self._layout.configs.items():
                await asyncio.to_thread(self._local, node_id, config, self._layout, statuses)
        self._cluster_id = next((status.cluster_id for status in statuses.values() if status is not None), "")
        if not self._cluster_id and self._layout is not None:
            self._cluster_id = self._layout.cluster_id

    def write(self, path: Path, now: datetime.datetime) -> BundleManifest:
        """Write the archive, readable by its owner only. Returns its manifest.

        Raises:
            FileExistsError: there is such a file.
            OSError: it cannot be written.
        """
        files = {name: scrub(data, self._secrets) for name, data in sorted(self._files.items())}
        entries = [Entry(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()]
        manifest = BundleManifest(
            now.isoformat(timespec="seconds"),
            self._cluster_id,
            software.title(),
            ABI,
            CORE,
            "API keys, cluster keys, private keys, passwords, the log of commands, snapshots",
            [*entries, *self._missing],
        )
        files["manifest.json"] = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        root = path.name.partition(".tar")[0]
        with open(descriptor, "wb") as target, tarfile.open(fileobj=target, mode="w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(f"{root}/{name}")
                info.size, info.mtime, info.mode = len(data), int(now.timestamp()), 0o600
                archive.addfile(info, io.BytesIO(data))
        return manifest

    # ------------------------------------------------------------------ nodes

    def _local(self, node_id: str, config: NodeConfig, layout: ClusterDirectory, statuses: Statuses) -> None:
        """Collect what only the node's machine knows."""
        self._add_json(f"{node_id}/settings.json", settings(config))
        self._add_json(f"{node_id}/files.json", _listing(config.data_path))
        pid = locked_pid(config.data_path / PID_FILE)
        if pid is not None:
            self._report(f"{node_id}: stacks")
            for each in (pid, *descendants(pid)):
                self._process(f"{node_id}/processes/{each}", each)
            signalled = [each for each in (pid, *descendants(pid)) if logs.request_stacks(each)]
            if signalled:
                time.sleep(STACKS_SECONDS)  # the handlers wait for nothing, so they write at once
            else:
                self._lacks(f"{node_id}/stacks", "no process of the node writes them: another user's, or of an older version")
        else:
            self._lacks(f"{node_id}/processes", "the node does not run")
        self._report(f"{node_id}: log")
        self._log(node_id, layout.log_file(node_id))
        self._report(f"{node_id}: doctor")
        self._doctor(node_id, layout.config_paths[node_id], statuses.get(node_id))

    def _log(self, node_id: str, path: Path) -> None:
        """Add the end of a node's log, with the stacks that its processes have just written."""
        if path.exists():
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - self._log_bytes))
                self._files[f"{node_id}/node.log"] = file.read(self._log_bytes)
            older = path.with_name(path.name + ".1")
            if size < self._log_bytes and older.exists():
                self._files[f"{node_id}/node.log.1"] = older.read_bytes()[-(self._log_bytes - size) :]
        elif shutil.which("journalctl") is not None:
            command = ["journalctl", "--unit", f"quorumbook@{node_id}", "--lines", JOURNAL_LINES, "--no-pager", "--quiet"]
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
            if done.stdout:
                self._files[f"{node_id}/journal.txt"] = done.stdout[-self._log_bytes :]
            else:
                self._lacks(f"{node_id}/journal.txt", "the journal has nothing of the node's unit")
        else:
            self._lacks(f"{node_id}/node.log", f"there is no {path}, and no journal")

    def _process(self, name: str, pid: int) -> None:
        """Add what the system says about a process."""
        for file in PROCESS_FILES:
            with contextlib.suppress(OSError):
                self._files[f"{name}/{file}"] = Path(f"/proc/{pid}/{file}").read_bytes().replace(b"\0", b" ")

    def _doctor(self, node_id: str, path: Path, status: NodeStatus | None) -> None:
        self._add_json(f"{node_id}/doctor.json", Doctor(path, status=status).examine())

    def _fetch(self, name: str, url: str) -> None:
        """Add what a URL answers."""
        try:
            context = self._tls if url.startswith("https:") else None
            with urllib.request.urlopen(url, timeout=HTTP_SECONDS, context=context) as answer:
                self._files[name] = answer.read(ANSWER_BYTES_MAX)
        except (OSError, urllib.error.URLError, ValueError) as error:
            self._lacks(name, f"{url}: {error}")

    def _add_json(self, name: str, value: object) -> None:
        self._files[name] = msgspec.json.format(msgspec.json.encode(value), indent=2)

    def _lacks(self, name: str, why: str) -> None:
        """Record that a file is missing, and why."""
        self._missing.append(Entry(name, missing=why))


def _environment() -> dict[str, object]:
    """Return the machine on which the bundle is made, and the packages of its Python."""
    packages = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "software": software.title(),
        "packages": dict(sorted(packages.items())),
    }


def _listing(directory: Path) -> dict[str, object]:
    """Return names, sizes and times of the files in a data directory, and how full its disk is."""
    found = {}
    for path in sorted(directory.rglob("*"))[:FILES_MAX]:
        with contextlib.suppress(OSError):
            stat = path.lstat()
            found[str(path.relative_to(directory))] = {
                "bytes": stat.st_size,
                "mode": oct(stat.st_mode),
                "modified": int(stat.st_mtime),
            }
    usage: dict[str, int] = {}
    with contextlib.suppress(OSError):
        usage = dict(shutil.disk_usage(directory)._asdict())
    return {"disk": usage, "files": found}

"""The foreign clients, installed as their users install them. Each has its own environment, which is kept between runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

INSTALL_SECONDS = 300
READY = "installed"


@dataclass(frozen=True)
class Package:
    """A client library of a fixed version. `needs` are installed in place of its own dependencies."""

    name: str
    version: str
    needs: tuple[str, ...] = ()
    npm: bool = False


CCXT = Package("ccxt", "4.5.90")
CBPRO = Package(
    "cbpro", "1.1.4", ("sortedcontainers==2.4.0", "requests==2.34.2", "six==1.17.0", "websocket-client==1.9.2", "pymongo==4.20.0")
)
"""The versions that cbpro pins do not build any more: it is installed without them, beside later ones."""
SCHEMATHESIS = Package("schemathesis", "4.32.5")
COINBASE_PRO = Package("coinbase-pro", "0.9.0", npm=True)
COINBASE_PRO_NODE = Package("coinbase-pro-node", "9.1.0", npm=True)


def cache() -> Path:
    """Return the directory of the environments, outside this repository."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "quorumbook-clients"


def environment(package: Package) -> Path:
    """Return the directory of the package's environment, which is created if necessary. Skips the test if the registry
    cannot be reached.
    """
    mark = hashlib.sha256(f"{sys.version_info[:2]} {package}".encode()).hexdigest()[:12]
    place = cache() / f"{package.name}-{package.version}-{mark}"
    if not (place / READY).exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (_install_npm if package.npm else _install_python)(package, place)
        (place / READY).touch()
    return place


def python(package: Package) -> str:
    """Return the environment's interpreter."""
    return str(environment(package) / "venv" / "bin" / "python")


def modules(package: Package) -> str:
    """Return the environment's `node_modules`."""
    return str(environment(package) / "node_modules")


def node() -> str:
    """Return the path of Node.js. Skips the test if it is not installed."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        pytest.skip("Node.js or npm is not installed")
    return found


def _install_python(package: Package, place: Path) -> None:
    pip = (str(place / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(sys.executable, "-m", "venv", str(place / "venv"))
    wanted = f"{package.name}=={package.version}"
    if package.needs:
        _run(*pip, *package.needs)
        _run(*pip, "--no-deps", wanted)
    else:
        _run(*pip, wanted)


def _install_npm(package: Package, place: Path) -> None:
    node()
    (place / "package.json").write_text('{"private": true}\n')
    _run("npm", "install", "--prefix", str(place), "--no-audit", "--no-fund", f"{package.name}@{package.version}")


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        pytest.skip(f"cannot be installed here: {' '.join(command[-2:])}: {lines[-1]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"cannot be installed here in {INSTALL_SECONDS} s: {' '.join(command[-2:])}")

"""The wheel outside the checkout: its contents, and that the demonstration, the command line and the client library
work from it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.tree import copy_tree

ROOT = Path(__file__).parents[2]
LOAD_GENERATORS = {"locust", "gevent", "flask"}

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from what git has of this tree, without the compiled core, which takes minutes to compile."""
    place = tmp_path_factory.mktemp("wheel")
    copy_tree(place / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place)]
    subprocess.run([*pip, str(place / "source")], env={**os.environ, "QUORUMBOOK_CORE": "plain"}, check=True, timeout=600)
    (path,) = place.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Make an environment of its own with the wheel and this environment's dependencies. It does not contain the
    checkout.
    """
    place = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, timeout=300)
    python = place / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, timeout=300)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (own / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update(dict.fromkeys(" + repr(sorted(LOAD_GENERATORS)) + "))  # as if they were not installed\n"
    )
    return place / "bin"


def run(program: Path, *words: str, directory: Path, code: int = 0) -> str:
    done = subprocess.run([str(program), *words], cwd=directory, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_brings_no_load_generator_and_all_its_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        needs = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])
    plain = {need.split(" ")[0].split(">")[0].split("=")[0].lower() for need in needs if "extra ==" not in need}
    assert not plain & (LOAD_GENERATORS | {"confluent-kafka", "nats-py", "simplefix", "psycopg", "pyarrow", "pytest"})
    assert {"node/py.typed", "node/deployment/node.toml.txt", "statemachine/engine.pxd"} <= set(names)
    assert any(name.startswith("snapshots/abi/released/") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "deploy/"))]


def test_every_module_is_read_without_the_extras(installed: Path, tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, sys, node, loadtest, cluster, snapshots, statemachine\n"
        "assert 'environment' in node.__file__, node.__file__\n"
        "failed = []\n"
        "for package in (node, loadtest, cluster, snapshots, statemachine):\n"
        "    for each in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if each.name.startswith(('loadtest.locust', 'node.history.migrations')) or '._compiled' in each.name:\n"
        "            continue\n"
        "        try:\n"
        "            importlib.import_module(each.name)\n"
        "        except ImportError as error:\n"
        "            failed.append((each.name, str(error)))\n"
        "print(failed)\n"
    )
    assert run(installed / "python", "-c", program, directory=tmp_path).strip() == "[]"


def test_the_locust_file_names_the_missing_extra(installed: Path, tmp_path: Path) -> None:
    output = run(installed / "python", "-m", "loadtest.traffic", "--users", "1", directory=tmp_path, code=2)
    assert "quorumbook[loadtest]" in output
    assert "Traceback" not in output


def test_the_demonstration_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    output = run(installed / "quorumbook", "demo", "--seconds", "6", directory=tmp_path)
    assert "every acknowledged command" in output


def test_a_cluster_and_a_client_run_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    quorumbook = installed / "quorumbook"
    assert run(quorumbook, "--version", directory=tmp_path).startswith("quorumbook 0.")
    run(quorumbook, "init", "exchange", "--nodes", "1", "--base-port", "29100", directory=tmp_path)
    try:
        run(quorumbook, "cluster", "up", directory=tmp_path)
        for words in (
            "currency put BTC --scale 8",
            "currency put USD --scale 8",
            "product put BTC-USD",
            "account open alice",
            "deposit alice USD 1000",
        ):
            run(quorumbook, *words.split(), directory=tmp_path)
        program = (
            "from node.client import Client\n"
            "with Client('exchange', account='alice') as client:\n"
            "    order = client.place('BTC-USD', 'buy', size='0.5', price='100')\n"
            "    print(order.status, order.price, next(client.events('BTC-USD', order.opened_sequence)).product_sequence)\n"
        )
        assert run(installed / "python", "-c", program, directory=tmp_path).split()[:2] == ["open", "100.00000000"]
    finally:
        run(quorumbook, "cluster", "down", directory=tmp_path)

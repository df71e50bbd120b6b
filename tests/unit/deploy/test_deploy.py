"""The files in `deploy/` agree with the program: commands, files, signals, ports, and the time that a stop may take."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from node import exit_codes
from node.cli.program import main
from node.config.file import load
from node.deployment.setup import Host, initialise
from node.gateway import health
from node.system import stop_times

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "deploy" / "systemd" / "quorumbook@.service"
COMPOSE = ROOT / "deploy" / "compose.yaml"
STATEFUL_SET = ROOT / "deploy" / "kubernetes" / "statefulset.yaml"
IMAGE = ROOT / "deploy" / "Dockerfile"
IGNORED = ROOT / "deploy" / "Dockerfile.dockerignore"


def found(pattern: str, path: Path) -> list[str]:
    """Return what a pattern's group matches in a file, at least one text."""
    values: list[str] = re.findall(pattern, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert values, f"{path}: nothing like {pattern}"
    return values


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (UNIT, r"^TimeoutStopSec=(\d+)$"),
        (COMPOSE, r"^  stop_grace_period: (\d+)s$"),
        (STATEFUL_SET, r"^      terminationGracePeriodSeconds: (\d+)$"),
    ],
)
def test_each_way_to_stop_a_node_waits_long_enough(path: Path, pattern: str) -> None:
    assert all(int(seconds) > stop_times.NODE for seconds in found(pattern, path))


@pytest.mark.parametrize(
    ("path", "pattern"), [(UNIT, r"^TimeoutStopSec=(\d+)$"), (STATEFUL_SET, r"^      terminationGracePeriodSeconds: (\d+)$")]
)
def test_there_is_time_for_the_question_before(path: Path, pattern: str) -> None:
    """`can-stop --wait` runs first, and its time counts."""
    waits = {int(seconds) for seconds in found(r'--wait,? "?(\d+)', path)}
    assert all(int(seconds) > stop_times.NODE + max(waits) for seconds in found(pattern, path))


def test_kubernetes_accepts_the_manifests() -> None:
    """The manifests are checked strictly against the API's own schemas: an unknown or misplaced field is an error."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    manifests = documents(STATEFUL_SET)
    for manifest in manifests:
        validate.validate(manifest, "1.31", strict=True)
    broken = documents(STATEFUL_SET)[1]
    broken["spec"]["maxUnavailabel"] = 1
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, "1.31", strict=True)


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_compose_accepts_its_file() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("docker has no compose plugin")
    command = ["docker", "compose", "--file", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_image_can_be_built_again_the_same() -> None:
    """The base is named by a digest and packages by hashes, no byte code contains build times, and the user is no name,
    which Kubernetes cannot check.
    """
    text = IMAGE.read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert all("--no-compile" in line for line in found(r"^RUN (pip install .*)$", IMAGE))
    assert "SOURCE_DATE_EPOCH" in text
    assert found(r"^USER (\S+)$", IMAGE) == ["1000"]
    (compose,) = documents(COMPOSE)
    assert all(service["read_only"] and service["tmpfs"] for service in compose["services"].values())


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (UNIT, r"^ExecStart=(?:\S*/)?quorumbook (.*)$"),
        (UNIT, r"^ExecStop=-(?:\S*/)?quorumbook (.*)$"),
        (COMPOSE, r"^    command: \[(.*)\]$"),
        (COMPOSE, r"^    test: \[CMD-SHELL, quorumbook (.*)\]$"),
        (IMAGE, r"^HEALTHCHECK .* CMD quorumbook (.*)$"),
        (STATEFUL_SET, r"^                command: \[quorumbook, (.*)\]$"),
        (STATEFUL_SET, r"exec quorumbook (.*)$"),
        (STATEFUL_SET, r"^#     kubectl exec .* -- quorumbook (.*)$"),
    ],
)
def test_the_command_lines_are_those_of_the_program(path: Path, pattern: str) -> None:
    for line in found(pattern, path):
        words = shlex.split(line.replace(",", " "))
        command: click.Command = main
        while isinstance(command, click.Group):
            name = words.pop(0)
            named = command.get_command(click.Context(command), name)
            assert named is not None, f"{path}: no command {name}"
            command = named
        command.make_context("test", words)


def test_the_unit_knows_the_exit_codes_that_no_restart_helps() -> None:
    assert found(r"^RestartPreventExitStatus=(.*)$", UNIT) == [
        f"{exit_codes.CANNOT_START} {exit_codes.NOT_MIGRATED} {exit_codes.REMOVED} {exit_codes.TOO_OLD} {exit_codes.IN_DOUBT}"
    ]
    assert found(r"^KillMode=(.*)$", UNIT) == ["mixed"], "the supervisor stops its children in order"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace("/opt/quorumbook/.venv/bin/quorumbook", "/bin/true")
    unit = tmp_path / "quorumbook@n1.service"
    unit.write_text(re.sub(r"^User=.*$", "User=root", text, flags=re.MULTILINE), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "quorumbook" in line]
    assert not ours, done.stderr


def test_ports_are_those_that_init_gives(tmp_path: Path) -> None:
    hosts = [Host(name, name) for name in ("n1", "n2", "n3")]
    configs = [path.read_text(encoding="utf-8") for path in initialise(tmp_path / "c", hosts, listen="0.0.0.0", fix=True)]
    given = [re.findall(r'^listen = "0\.0\.0\.0:(\d+)"$', text, flags=re.MULTILINE) for text in configs]
    assert given[0] == given[1] == given[2]
    inside = [
        port.split(":")[1]
        for pair in re.findall(r"ports: \[(.*)\]", COMPOSE.read_text())
        for port in re.findall(r'"(\S+?)"', pair)
    ]
    assert inside == given[0][1:] * 3
    assert sorted(set(found(r"(?:containerPort|port): (\d+)", STATEFUL_SET))) == sorted(given[0])


@pytest.mark.parametrize("path", [COMPOSE, STATEFUL_SET])
def test_the_clusters_that_the_comments_make_can_be_made(path: Path, tmp_path: Path) -> None:
    (line,) = found(r"^# +quorumbook init (.*)$", path)
    words = line.split()
    result = CliRunner().invoke(main, ["init", str(tmp_path / "c"), *words[1:]])
    assert result.exit_code == 0, result.output
    config = load(tmp_path / "c" / "n2" / "node.toml")
    assert config.http.tls, "data that leaves the machine is encrypted"
    assert config.http.listen.startswith("0.0.0.0:")
    assert config.fix.listen.startswith("0.0.0.0:")


def test_the_secrets_are_the_files_that_init_makes(tmp_path: Path) -> None:
    made = {path.name for path in initialise(tmp_path / "c", 3)[0].parent.iterdir()} - {"data"}
    assert found(r"^# \((.*)\) are all that", STATEFUL_SET) == [", ".join(sorted(made))]
    assert set(found(r"--from-file=(\S+)", STATEFUL_SET)[0].rstrip(")").split()) <= made
    named = re.findall(r"--from-file=([a-z.]+)", STATEFUL_SET.read_text())
    assert sorted(named) == sorted(made)


def test_probes_use_routes_that_the_gateways_have() -> None:
    assert set(found(r"httpGet: \{path: (\S+),", STATEFUL_SET)) <= {call.path for call in health.CALLS}


KEYWORDS = frozenset(
    {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "EXPOSE", "LABEL"}
)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile as keyword and arguments, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def test_the_dockerfile_follows_the_rules_of_its_linters() -> None:
    """These are the rules of hadolint that can be checked from the text, by their numbers."""
    found = instructions(IMAGE)
    assert {keyword for keyword, _ in found} <= KEYWORDS
    assert [keyword for keyword, _ in found][:2] == ["ARG", "FROM"]
    stage: list[tuple[str, str]] = []
    for keyword, arguments in found:
        stage = [] if keyword == "FROM" else [*stage, (keyword, arguments)]
        if keyword == "WORKDIR":
            assert arguments.startswith("/"), "DL3000: absolute"
        if keyword == "RUN":
            assert not re.search(r"\bsudo\b|\bcd /|\bssh\b|\bchmod 777\b", arguments), "DL3004, DL3003, DL3001"
            if "apt-get install" in arguments:
                assert "--no-install-recommends" in arguments, "DL3015"
                assert " -y " in arguments, "DL3014"
                assert "apt-get update" in arguments, "DL3009 and a stale cache"
            if "pip install" in arguments:
                assert "--no-cache-dir" in arguments, "DL3042"
                assert "--require-hashes" in arguments or "--no-deps ." in arguments or "--no-deps --" in arguments, "DL3013"
        if keyword == "COPY":
            assert len(arguments.split()) == 2 or arguments.split()[-1].endswith("/") or "--from" in arguments, "DL3021"
        if keyword in ("CMD", "ENTRYPOINT"):
            assert arguments.startswith("["), "DL3025: JSON"
    last = dict(stage)
    assert last["USER"] not in ("root", "0"), "DL3002"
    assert sum(keyword == "HEALTHCHECK" for keyword, _ in stage) == 1, "DL3012"
    assert sum(keyword == "ENTRYPOINT" for keyword, _ in stage) == 1, "DL4004"


def test_the_image_has_every_file_that_it_names() -> None:
    for names in found(r"^COPY ((?!--from).*) \S+$", IMAGE):
        for name in names.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in IGNORED.read_text(encoding="utf-8").splitlines(), name
    assert found(r"^STOPSIGNAL (.*)$", IMAGE) == ["SIGTERM"]


def documents(path: Path) -> list[dict[str, Any]]:
    """Return all documents of a YAML file."""
    return [dict(document) for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def test_the_compose_file_gives_each_service_a_node_of_its_own() -> None:
    (compose,) = documents(COMPOSE)
    for name, service in compose["services"].items():
        assert service["command"] == ["node", "start", "--config", f"/srv/{name}/node.toml"]
        assert service["volumes"] == [f"./cluster/{name}:/srv/{name}"]
        assert (service["hostname"], service["stop_signal"], service["restart"]) == (name, "SIGTERM", "on-failure")
        assert int(service["stop_grace_period"].removesuffix("s")) > stop_times.NODE
        assert service["ulimits"]["core"] == 0
        assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == IMAGE
    assert list(compose["services"]) == ["n1", "n2", "n3"]


def test_no_pod_has_another_nodes_secrets() -> None:
    """Formerly each pod had the private keys of all three nodes."""
    sets = [each for each in documents(STATEFUL_SET) if each["kind"] == "StatefulSet"]
    for each, node_id in zip(sets, ("n1", "n2", "n3"), strict=True):
        secrets = [volume["secret"]["secretName"] for volume in each["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
        assert secrets == [f"quorumbook-{node_id}"]
        assert each["spec"]["replicas"] == 1


def test_the_stateful_sets_fit_together() -> None:
    service, budget, policy, *sets = documents(STATEFUL_SET)
    kinds = [each["kind"] for each in (service, budget, policy, *sets)]
    assert kinds == ["Service", "PodDisruptionBudget", "NetworkPolicy", *["StatefulSet"] * 3]
    texts = STATEFUL_SET.read_text(encoding="utf-8").split("\n---\n")[-3:]
    assert len({text.strip().replace(f"n{number}", "n1") for number, text in enumerate(texts, 1)}) == 1, (
        "but for the name they are the same"
    )
    spec, pod = sets[0]["spec"], sets[0]["spec"]["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["serviceName"] == service["metadata"]["name"]
    assert spec["selector"]["matchLabels"] == labels
    shared = {"app": labels["app"]}
    assert (
        budget["spec"]["selector"]["matchLabels"]
        == service["spec"]["selector"]
        == policy["spec"]["podSelector"]["matchLabels"]
        == shared
    )
    assert pod["terminationGracePeriodSeconds"] > stop_times.NODE
    (container,) = pod["containers"]
    published = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == published
    assert "livenessProbe" not in container, "a busy gateway is not a reason to kill an engine"
    assert container["readinessProbe"]["httpGet"]["port"] in published
    volumes = {volume["name"] for volume in (*pod["volumes"], *(claim["metadata"] for claim in spec["volumeClaimTemplates"]))}
    for each in (container, *pod["initContainers"]):
        assert {mount["name"] for mount in each["volumeMounts"]} == volumes
        assert each["resources"]["requests"]
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "ulimit -c 0" in container["command"][-1]


def test_the_unit_is_confined() -> None:
    for line in ("LimitCORE=0", "LimitNOFILE=65536", "NoNewPrivileges=yes", "SystemCallFilter=@system-service", "UMask=0077"):
        assert line in UNIT.read_text(encoding="utf-8").splitlines()


def test_the_image_has_no_test_tools() -> None:
    """Formerly the image contained pytest, mypy, locust and flask."""
    done = subprocess.run(
        [sys.executable, "deploy/runtime_lock.py"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    locked = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
    assert done.stdout == locked, "requirements.lock changed: python deploy/runtime_lock.py > deploy/requirements.lock"
    names = set(re.findall(r"^([a-z][\w.-]*)==", locked, flags=re.MULTILINE))
    assert {"pysyncobj", "rocksdict", "msgspec", "cryptography", "simplefix"} <= names
    assert "pip uninstall --yes cython setuptools" in IMAGE.read_text(encoding="utf-8")
    assert not names & {"pytest", "mypy", "ruff", "locust", "flask", "gevent", "hypothesis"}
    assert "COPY requirements.lock" not in IMAGE.read_text(encoding="utf-8")

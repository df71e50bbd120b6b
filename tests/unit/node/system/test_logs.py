"""Log lines: one line an event, harmless for a terminal, as text or JSON. A log file does not grow for ever."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.system import logs

SCRIPT = """
import logging, sys
from node.system import logs
logs.set_up("info", "n1 engine")
for line in sys.stdin:
    logging.getLogger("x").info("%s", line.strip())
    print("said", line.strip(), flush=True)
"""


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def test_a_logged_text_cannot_move_the_cursor_or_forge_a_line(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "n1 gateway-0")
    logging.getLogger("x").info("asked for %s", "/a\r\x1b[2Kn1 engine CRITICAL\nnext\x00\x9b\u202e")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("asked for /a\\x0d\\x1b[2Kn1 engine CRITICAL | next\\x00\\x9b\\u202e")
    assert "n1 gateway-0 INFO x " in line


def test_json_is_one_object_a_line(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "n1 engine", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("it\x1b failed")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    named = ("node", "process", "level", "logger", "message")
    assert tuple(found[name] for name in named) == ("n1", "engine", "ERROR", "x", "it\x1b failed")
    assert "ValueError" in found["traceback"]
    assert found["time"].endswith("Z")


def test_libraries_are_quiet(root: logging.Logger) -> None:
    logs.set_up("info", "n1 history")
    assert not logging.getLogger("alembic.runtime.plugins").isEnabledFor(logging.INFO)


def test_a_file_of_which_no_line_is_lost_when_it_is_renamed(tmp_path: Path) -> None:
    """Another process writes to the log while it is renamed again and again. Its answers on another pipe arrive as
    before.
    """
    path = tmp_path / "node.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, logs.LOG_FILE: str(path)},
            cwd=Path(__file__).parents[4],
        )
    assert process.stdin is not None
    assert process.stdout is not None
    rotations = 0
    for number in range(40):
        process.stdin.write(f"line {number}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"said line {number}\n"
        rotations += logs.rotate(path, 400, 20)
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
    assert rotations > 3
    files = [path.with_name(f"node.log.{number}") for number in range(rotations, 0, -1)]
    lines = [line for each in [*files, path] if each.exists() for line in each.read_text().splitlines()]
    assert [line.rpartition("line ")[2] for line in lines] == [str(number) for number in range(40)]
    assert all(each.stat().st_size < 600 for each in files)


@pytest.mark.parametrize("files", [0, 2])
def test_older_files_are_bounded(tmp_path: Path, files: int) -> None:
    path = tmp_path / "node.log"
    for number in range(6):
        path.write_text(f"{number}" * 100)
        assert logs.rotate(path, 50, files)
    assert not logs.rotate(path, 50, files)
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"node.log.{number}" for number in range(1, files + 1)]
    if files:
        assert path.with_name("node.log.1").read_text()[0] == "5"

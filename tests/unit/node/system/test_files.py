"""Files that exist completely or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.system.files import write_lines


def test_a_file_of_lines_leaves_other_files_alone(tmp_path: Path) -> None:
    """It deleted x.new beside x."""
    (tmp_path / "x.new").write_text("a user's")
    write_lines(tmp_path / "x", [b"one", b"two"])
    assert (tmp_path / "x").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "x.new").read_text() == "a user's"
    with pytest.raises(FileExistsError):
        write_lines(tmp_path / "x", [b"three"])


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    def lines() -> Iterator[bytes]:
        yield b"one"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: .*/x'"):
        write_lines(tmp_path / "x", lines())
    assert list(tmp_path.iterdir()) == []

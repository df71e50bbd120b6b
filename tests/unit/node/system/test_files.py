"""Files that exist completely or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.system.files import replace, write_lines, write_new


def test_a_file_of_lines_leaves_other_files_alone(tmp_path: Path) -> None:
    """Formerly it deleted x.new beside x."""
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


def test_a_new_file_on_a_full_disk_is_named_and_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly `key put --out` left an empty file, and its repetition failed because of that."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "old").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*/key'"):
            write_new(tmp_path / "key", b"secret", 0o600)
        with pytest.raises(OSError, match=r"No space left on device: .*/old"):
            replace(tmp_path / "old", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"

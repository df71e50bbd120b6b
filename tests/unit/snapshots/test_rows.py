"""Rows go to the writer in chunks of any size, and their hash does not depend on that size."""

from __future__ import annotations

import errno
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.errors import SnapshotRefusedError
from snapshots.frames import FRAME_ROW_BYTES, Begin, End, Rows, frames, read_frames
from snapshots.manifest import Row, RowHasher
from snapshots.store import SnapshotStore
from snapshots.writer import write
from tests.unit.snapshots.making import as_bytes, check_whole_or_absent, fields, made, tables

ROWS = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=200)), max_size=30)


@given(st.dictionaries(st.text(min_size=1, max_size=5), ROWS, max_size=4))
def test_framed_rows_are_read_back(content: dict[str, list[Row]]) -> None:
    begin = Begin(fields(5), "abi", list(content))
    data = b"".join(frames(begin, content))
    found = list(read_frames(io.BytesIO(data)))
    assert found[0] == begin
    assert found[-1] == End({name: len(rows) for name, rows in content.items()})
    came: dict[str, list[Row]] = {name: [] for name in content}
    for frame in found[1:-1]:
        assert isinstance(frame, Rows)
        came[frame.table].extend(frame.rows)
    assert came == content


def test_frames_stay_small_but_for_a_row_that_is_not() -> None:
    rows = [(b"%03d" % number, b"x" * 1_000) for number in range(500)] + [(b"large", b"y" * 10**6)]
    sizes = [len(frame) for frame in frames(Begin(fields(5), "abi", ["t"]), {"t": rows})]
    assert max(sizes[:-2]) < FRAME_ROW_BYTES + 2_000
    assert len(sizes) > 8


def test_a_row_larger_than_any_buffer_is_kept(tmp_path: Path) -> None:
    content = {"t": [(b"\x01", os.urandom(3_000_000)), (b"\x02", b"")]}
    manifest = made(tmp_path, 5, content)
    assert SnapshotStore(tmp_path).load(manifest) == content


@given(ROWS, st.lists(st.integers(0, 30)))
def test_the_hash_does_not_depend_on_the_chunks(rows: list[Row], cuts: list[int]) -> None:
    whole, pieced = RowHasher(), RowHasher()
    for hasher in (whole, pieced):
        hasher.begin("t", len(rows))
    whole.rows(rows)
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for start, end in itertools.pairwise(places):
        pieced.rows(rows[start:end])
    assert whole.finish() == pieced.finish()


@pytest.mark.parametrize(("announced", "came"), [(2, 1), (1, 2), (0, 1)])
def test_another_number_of_rows_than_announced_is_refused(announced: int, came: int) -> None:
    hasher = RowHasher()
    hasher.begin("t", announced)
    hasher.rows([(b"k", b"v")] * came)
    with pytest.raises(ValueError, match=f"table t: {announced} rows were announced and {came} came"):
        hasher.finish()


def failing(function: Callable[..., None], at: int) -> Callable[..., None]:
    """Return `function` with an I/O error at its `at`-th call."""
    calls = 0

    def wrapper(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.EIO, "Input/output error")
        function(*args)

    return wrapper


def outcome(action: Callable[[], object]) -> str:
    """Return the error of an action, "" if there was none."""
    try:
        action()
    except (OSError, SnapshotRefusedError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_an_io_error_while_writing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data, content = as_bytes(5, tables()), tables()
    original = getattr(os, name)
    for at in range(1, 50):
        directory = tmp_path / str(at)
        directory.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(original, at))
            failure = outcome(lambda place=directory: write(place, io.BytesIO(data)))  # type: ignore[misc] # binds the loop's value
        check_whole_or_absent(directory, {5: content})
        if not failure:
            break
        assert "Input/output error" in failure
    assert at > (10 if name == "fsync" else 1)


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_an_io_error_while_receiving_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    content = tables()
    made(tmp_path / "sender", 5, content)
    source = SnapshotStore(tmp_path / "sender").open_source()
    data = source.read(0, source.size)
    source.close()
    original = getattr(os, name)
    for at in range(1, 50):
        directory = tmp_path / str(at)
        store = SnapshotStore(directory)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(original, at))
            sink = store.open_sink()
            sink.write(data)
            failure = outcome(sink.finish)
        check_whole_or_absent(directory, {5: content})
        if not failure:
            break
        assert "Input/output error" in failure
    assert at > (8 if name == "fsync" else 1)

"""The parent's side of a snapshot that a separate process writes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from snapshots.manifest import Manifest, manifest_decoder

_REASON_BYTES = 2_000
EXIT_CONTRADICTION = 4
"""See `writer`."""


class JobState(Enum):
    """The progress of a snapshot."""

    RUNNING = 1
    DONE = 2
    """It is complete, checked, and on the disk."""
    FAILED = 3
    """It was discarded."""


class WriteJob:
    """Sends the rows to the writer and reports the result. No method blocks for longer than it takes to start a
    process.

    A thread sends the rows, because the pipe is full most of the time and the engine must not wait for it. `os.fork` is
    not used: a fork of the engine would copy its threads' locks and its sockets.

    Args:
        chunks: the frames for the writer (`frames`), iterated in another thread.
        on_done: called once, from `poll`, with the manifest of a finished snapshot.

    Attributes:
        contradiction: whether it failed because the state itself is wrong.
    """

    def __init__(self, directory: Path, chunks: Iterator[bytes], on_done: Callable[[Manifest], None]) -> None:
        self._on_done = on_done
        self._state = JobState.RUNNING
        # Files in memory, because creating one on a busy disk may take long.
        self._output: BinaryIO = open(os.memfd_create("manifest"), "w+b")  # noqa: SIM115 - closed in `_end`
        self._errors: BinaryIO = open(os.memfd_create("complaint"), "w+b")  # noqa: SIM115 - closed in `_end`
        self.reason = ""
        self.contradiction = False
        self.manifest: Manifest | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "snapshots.writer", str(directory)],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            env=_environment(),
        )
        assert self._process.stdin is not None
        self._feeder = threading.Thread(target=_feed, args=(chunks, self._process.stdin), name="snapshot feeder", daemon=True)
        self._feeder.start()

    @property
    def pid(self) -> int:
        """The process id of the writer."""
        return self._process.pid

    @property
    def settled(self) -> bool:
        """Whether the result was polled or the job was cancelled."""
        return self._state is not JobState.RUNNING

    def poll(self) -> JobState:
        """Return the progress of the job. `manifest` is set when DONE, `reason` when FAILED."""
        if self._state is JobState.RUNNING and self._process.poll() is not None:
            self._end()
        return self._state

    def cancel(self) -> None:
        """Kill the writer if it still runs. The snapshot is then absent, or complete if the writer had just finished
        it.
        """
        if self._state is JobState.RUNNING:
            self._process.kill()
            self._process.wait()
            self._end()

    def _end(self) -> None:
        """Read what the ended process has printed: the manifest, or the reason of its failure."""
        self._feeder.join()
        code = self._process.returncode
        with self._output as output, self._errors as errors:
            output.seek(0)
            errors.seek(0)
            printed, complaint = output.read(), errors.read()[-_REASON_BYTES:].decode("utf-8", "replace").strip()
        if code == 0:
            self.manifest = manifest_decoder.decode(printed)
            self._state = JobState.DONE
            self._on_done(self.manifest)
            return
        self.contradiction = code == EXIT_CONTRADICTION
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self.reason = f"the snapshot's writer {ended}" + (f": {complaint}" if complaint else "")
        self._state = JobState.FAILED


def _feed(chunks: Iterator[bytes], pipe: BinaryIO) -> None:
    """Send the frames, in a thread of its own, until all are sent or the writer has ended."""
    try:
        with pipe:
            for chunk in chunks:
                pipe.write(chunk)
    except BrokenPipeError:
        # The writer has ended; `poll` reports the reason.
        return


def _environment() -> dict[str, str]:
    """Return this process's environment, with a path to the package where it is not installed."""
    root = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}

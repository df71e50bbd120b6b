"""The load generator `wrk` (Debian's package of that name), with requests that are made before the measurement.

Formatting and signing a request costs more than sending it, so the requests are in one file for each of wrk's threads:
a four-byte big-endian length, then the raw request, repeated. wrk's script reads one request after the other.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

from loadtest.errors import LoadTestError

THREADS = 2

_SCRIPT = """
local threads = 0
local bad = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end
function init(args)
  file = assert(io.open(string.format("%s.%d", args[1], number), "rb"))
end
function request()
  local head = file:read(4)
  if not head then
    exhausted = true
    wrk.thread:stop()
    return "GET /time HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
  end
  local a, b, c, d = string.byte(head, 1, 4)
  return file:read(((a * 256 + b) * 256 + c) * 256 + d)
end
function done(summary, latency, requests)
  print(string.format("RESULT %d %d %d %d %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    summary.errors.status, summary.errors.connect, summary.errors.read + summary.errors.write, summary.errors.timeout))
end
"""
_RESULT = re.compile(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)


class Load(msgspec.Struct, frozen=True):
    """The report of wrk: answers, the duration, latencies in seconds, and the answers that are not 2xx or 3xx."""

    answers: int
    seconds: float
    p50: float
    p99: float
    p999: float
    refused: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def store(requests: Iterable[bytes], base: Path, threads: int) -> None:
    """Write raw requests, distributed to the threads in turns."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Path(f"{base}.{number}").open("wb")) for number in range(threads)]
        for number, request in enumerate(requests):
            file = files[number % threads]
            file.write(len(request).to_bytes(4, "big"))
            file.write(request)


def run(url: str, requests: Path, *, connections: int, seconds: float) -> Load:
    """Send the stored requests over `connections` keep-alive connections, with one request in flight on each, until the
    time is over or all are sent.

    Raises:
        LoadTestError: wrk is missing, fails, or met socket errors.
    """
    if shutil.which("wrk") is None:
        raise LoadTestError("wrk is missing: apt-get install wrk")
    script = requests.with_suffix(".lua")
    script.write_text(_SCRIPT, encoding="ascii")
    threads = threads_for(connections)
    argv = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(script), url]
    ended = subprocess.run([*argv, "--", str(requests)], capture_output=True, text=True, timeout=seconds + 30, check=False)
    found = _RESULT.search(ended.stdout)
    if ended.returncode or found is None:
        raise LoadTestError(f"wrk failed: {(ended.stderr or ended.stdout).strip()[:400]}")
    answers, micros, p50, p99, p999, status, connect, broken, timeouts = map(int, found.groups())
    if connect or broken or timeouts:
        raise LoadTestError(f"wrk met {connect} failed connections, {broken} broken ones and {timeouts} time-outs")
    return Load(answers, micros / 1e6, p50 / 1e6, p99 / 1e6, p999 / 1e6, status)


def threads_for(connections: int) -> int:
    """Return the number of threads that wrk uses for so many connections."""
    return min(THREADS, connections)

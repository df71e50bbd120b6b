"""`python -m tests.attack.attacker NAME DIRECTORY [--prepare]`: one attack, in a process of its own, until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

from tests.attack.registry import load_attacks
from tests.attack.target import Target


async def run(name: str, directory: Path, *, prepare: bool) -> None:
    """Run the attack, or its preparation."""
    attack = load_attacks()[name]
    work = attack.prepare if prepare else attack.run
    assert work is not None
    task = asyncio.ensure_future(work(Target(directory)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


NICE = 15
"""The attacker's own work must not count: elsewhere it runs on another machine. What it makes the nodes do counts."""

if __name__ == "__main__":
    os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), prepare="--prepare" in sys.argv[3:]))

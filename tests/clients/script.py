"""Runs a foreign client's script, and reads its results."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOREIGN = ROOT / "tests" / "clients" / "foreign"
SECONDS = 150.0


@dataclass
class Script:
    """A running script. `lines` are the objects that it has printed."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)

    @classmethod
    async def start(cls, *command: str, given: dict[str, object]) -> Script:
        """Start the script."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *command,
            json.dumps(given),
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**24,
        )
        return cls(process)

    async def until(self, key: str) -> dict[str, Any]:
        """Return the next line with `key`."""
        async with asyncio.timeout(SECONDS):
            while True:
                line = await self._line()
                if key in line:
                    return line

    async def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while raw := await self.process.stdout.readline():
            try:
                line = json.loads(raw)
            except ValueError:
                self.noise.append(raw.decode(errors="replace").rstrip())
                continue
            if isinstance(line, dict):
                self.lines.append(line)
                return line
        raise AssertionError("the script ended early:\n" + "\n".join(self.noise[-30:]))

    async def end(self) -> None:
        """Kill the script if it still runs."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def results(self) -> dict[str, str]:
        """Return the result of each call."""
        return {line["call"]: line["result"] for line in self.lines if "call" in line}

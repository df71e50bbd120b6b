"""An attack of `tests.attack` while the honest clients of the chaos run trade. It is judged like every fault."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from loadtest.market import set_up
from tests.attack.registry import load_attacks
from tests.attack.target import ATTACKERS
from tests.chaos.faults import Fault
from tests.chaos.network import ATTACKER
from tests.chaos.stage import Stage

END_SECONDS = 10.0


class Attacked(Fault):
    """One of the attacks that need no preparation, for some seconds. Nothing that was acknowledged may be lost."""

    name = "attacked"
    seconds = (3.0, 6.0)

    def __init__(self) -> None:
        super().__init__()
        self._attacker: asyncio.subprocess.Process | None = None

    async def begin(self, stage: Stage) -> None:
        await self._open_accounts(stage)
        chosen = stage.random.choice([attack for attack in load_attacks().values() if attack.prepare is None])
        self.nodes = [chosen.name]
        words = ("-m", "tests.attack.attacker", chosen.name, str(stage.scenario.access.directory))
        variables = {**os.environ, "QUORUMBOOK_ATTACKER_HOST": ATTACKER} if stage.in_namespaces else None
        self._attacker = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=asyncio.subprocess.DEVNULL, env=variables
        )

    async def _open_accounts(self, stage: Stage) -> None:
        """Open the attackers' accounts. Their money counts in the verdict."""
        known = {person.account_id for person in stage.scenario.people}
        if ATTACKERS[0].account_id in known:
            return
        operator = stage.scenario.access.client()
        try:
            await set_up(operator, ATTACKERS)
        finally:
            await operator.close()
        stage.scenario.people += ATTACKERS
        stage.scenario.others = True

    async def end(self, stage: Stage) -> None:
        attacker, self._attacker = self._attacker, None
        if attacker is None:
            return
        if attacker.returncode is None:
            attacker.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_SECONDS):
                await attacker.wait()
        except TimeoutError:
            attacker.kill()
            await attacker.wait()

    async def repair(self, stage: Stage) -> None:
        await stage.all_vote()

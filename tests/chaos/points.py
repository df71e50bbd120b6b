"""Faults at named points of a node's code, where the node dies or sleeps. See `failing.sitecustomize`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from loadtest.watch import reached
from tests.chaos.failing.sitecustomize import POINTS
from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.chaos.system import environment

FAILING = Path(__file__).with_name("failing")

PANICS = 4
"""Points at which the node dies in one fault."""

REACHED_SECONDS = 6.0
"""Seconds after which a point that was not reached is left: no snapshot was due, or nobody asked for a vote."""


class Panic(Fault):
    """A node dies by SIGKILL immediately before or after a named step, for several steps in turn. It is started again each
    time."""

    name = "fail-points-panic"
    seconds = (0.0, 0.1)

    async def begin(self, stage: Stage) -> None:
        node_id = await stage.any_node()
        self.nodes = [node_id]
        plan = await prepare(stage, node_id)
        for point in stage.random.sample(POINTS, PANICS):
            plan.write_text(f"{point} panic {stage.random.randrange(1, 4)}\n", encoding="ascii")
            died = await reached(lambda: stage.engine(node_id) is None, REACHED_SECONDS)
            plan.unlink()
            if died:
                await stage.kill(node_id)
                await _start(stage, node_id, plan)
            stage.scenario.check_tasks()

    async def repair(self, stage: Stage) -> None:
        await _restart_plain(stage, self.nodes)


class Sleep(Fault):
    """A node sleeps for a moment, repeatedly, at a few named steps."""

    name = "fail-points-sleep"
    seconds = (3.0, 5.0)

    async def begin(self, stage: Stage) -> None:
        node_id = await stage.any_node()
        self.nodes = [node_id]
        plan = await prepare(stage, node_id)
        chosen = stage.random.sample(POINTS, PANICS)
        lines = [f"{point} sleep {stage.random.uniform(0.01, 0.2):.3f}" for point in chosen]
        plan.write_text("\n".join(lines) + "\n", encoding="ascii")

    async def end(self, stage: Stage) -> None:
        for node_id in self.nodes:
            _plan(stage, node_id).unlink(missing_ok=True)

    async def repair(self, stage: Stage) -> None:
        await _restart_plain(stage, self.nodes)


async def prepare(stage: Stage, node_id: str) -> Path:
    """Restart a node with fail points. Returns the path of the file that activates them, which does not exist yet."""
    plan = _plan(stage, node_id)
    plan.unlink(missing_ok=True)
    await asyncio.to_thread(stage.cluster.stop, [node_id])
    await _start(stage, node_id, plan)
    return plan


async def _start(stage: Stage, node_id: str, plan: Path) -> None:
    search = os.pathsep.join([str(FAILING), *filter(None, [os.environ.get("PYTHONPATH")])])
    with environment(PYTHONPATH=search, FAIL_POINTS=str(plan)):
        await stage.start(node_id)
    await stage.all_vote()


async def _restart_plain(stage: Stage, nodes: list[str]) -> None:
    for node_id in nodes:
        await asyncio.to_thread(stage.cluster.stop, [node_id])
        await stage.start(node_id)
        await stage.all_vote()


def _plan(stage: Stage, node_id: str) -> Path:
    return stage.data(node_id).with_name("fail-points")

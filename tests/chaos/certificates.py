"""A fault by an expired certificate. It needs no root."""

from __future__ import annotations

import asyncio
import datetime
import sys

from loadtest.errors import DeadlineError
from loadtest.watch import reached
from node.deployment.renewing import renew
from tests.chaos.errors import UnsafeError
from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.chaos.system import call

ENDED, LASTED = datetime.timedelta(days=2), datetime.timedelta(days=1)
"""The certificate was made so long ago, and was valid for so long."""

NOTICED_SECONDS = 20.0
"""A node checks its files every 5 s, and later on a busy machine."""

OTHERS_ACKS = 200


class ExpiredCertificate(Fault):
    """A node's certificate is replaced by an expired one, and the node is restarted. The start must be refused, the log
    and the status must name the certificate, and `quorumbook pki renew` must let the node start again.
    """

    name = "expired-certificate"

    async def begin(self, stage: Stage) -> None:
        node_id = await stage.any_node()
        self.nodes = [node_id]
        layout = stage.scenario.access.layout
        log = layout.log_file(node_id)
        before = log.stat().st_size
        renew(layout, [node_id], datetime.datetime.now(datetime.UTC) - ENDED, LASTED)
        kept = f"the certificate of {node_id} is not renewed, and the previous one stays in use"
        if not await reached(lambda: kept in log.read_bytes()[before:].decode("utf-8", "replace"), NOTICED_SECONDS):
            raise DeadlineError(f"{node_id} does not say within {NOTICED_SECONDS:g} s that its new certificate has ended")
        await stage.kill(node_id)
        config = layout.configs[node_id]
        await stage.refused(node_id, "tls.certificate", f"{config.path(config.tls.certificate)} expired on")
        output = await _quorumbook(stage, "cluster", "status")
        if f"the certificate of {node_id} HAS EXPIRED" not in output:
            raise UnsafeError(f"`quorumbook cluster status` does not name the certificate of {node_id}: {output}")
        await stage.traded(OTHERS_ACKS)

    async def repair(self, stage: Stage) -> None:
        await _quorumbook(stage, "pki", "renew", "--node", self.nodes[0])
        await super().repair(stage)


async def _quorumbook(stage: Stage, *arguments: str) -> str:
    """Return what `quorumbook` prints. Raises `CommandFailedError`."""
    program = (sys.executable, "-c", "from node.cli import main; main()")
    return await asyncio.to_thread(call, *program, *arguments, "--cluster", str(stage.cluster.layout.directory))

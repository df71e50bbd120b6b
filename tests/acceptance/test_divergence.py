"""A follower whose log was changed on its disk applies other entries than the other nodes. The cluster detects it, and
the node leaves service and says why.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from cluster.log import DurableLog
from cluster.messages import COMMAND
from cluster.storage import RealDisk
from loadtest.access import ClusterAccess
from loadtest.market import set_up, traders
from loadtest.watch import Watcher, all_caught_up, reached
from node.errors import NodeStartError
from snapshots.abi import ABI
from statemachine.commands import Deposit, PutCurrency, decode_batch, encode_batch
from statemachine.limits import OPERATOR
from tests.real_cluster import READY_SECONDS, MakeGround

pytestmark = pytest.mark.cluster


def change_a_deposit(directory: Path, node_id: str) -> int:
    """Give the first depositor one unit more in a stopped node's log, and correct the checksums. Returns the entry's
    index.
    """
    log = DurableLog(RealDisk(directory), node_id=node_id, abi=ABI)
    entries = log.load()
    log.cut_torn_end()
    for position, entry in enumerate(entries):
        if entry.payload[0] != COMMAND or len(entry.payload) == 1:
            continue
        batch = decode_batch(entry.payload[1:])
        for place, command in enumerate(batch.commands):
            if isinstance(command, Deposit):
                batch.commands[place] = msgspec.structs.replace(command, amount=command.amount + 1)
                entries[position] = entry._replace(payload=bytes([COMMAND]) + encode_batch(batch))
                log.cut_from(entry.index)
                for changed in entries[position:]:
                    log.append(changed)
                log.sync()
                log.close()
                return entry.index
    raise AssertionError("no deposit in the log")


def test_a_changed_log_takes_the_node_out_of_service_until_it_has_a_new_disk(make_ground: MakeGround) -> None:
    # A snapshot at the stop would stand for the log that is changed then.
    ground = make_ground(settings={"snapshot.on_stop": False})
    cluster, access = ground.cluster, ClusterAccess(ground.directory)

    async def play() -> None:
        operator, watcher = access.client(), Watcher(access)
        try:
            await set_up(operator, traders(6, 7))
            leader = await watcher.wait_leader(READY_SECONDS)
            follower = next(name for name in cluster.node_ids if name != leader)
            data = access.layout.configs[follower].data_path
            await asyncio.to_thread(cluster.stop, [follower])
            index = change_a_deposit(data / "log", follower)
            # It may leave again before it has been seen to be up.
            with suppress(NodeStartError):
                await asyncio.to_thread(cluster.start, [follower])
            # The block's first command was compared long ago if the changed one lies behind it: the others trade into the
            # next.
            for number in range(3 * 64):
                await operator.submit(
                    [PutCurrency(account_id=OPERATOR, command_id=f"more-{number}", currency=f"C{number}", scale=2)]
                )
                if cluster.pid(follower) is None:
                    break
            assert await reached(lambda: cluster.pid(follower) is None, READY_SECONDS)
            evidence = json.loads((data / "diverged.json").read_bytes())
            assert evidence["index"] >= index
            assert evidence["state_hash"] != evidence["majority_hash"]
            assert evidence["agreeing"] == sorted({"n1", "n2", "n3"} - {follower})
            with pytest.raises(NodeStartError, match=r"has diverged. At index.*--rejoin"):
                await asyncio.to_thread(cluster.start, [follower])
            shutil.move(data, data.with_name("evidence"))
            await asyncio.to_thread(lambda: cluster.start([follower], rejoin=True))
            statuses = await watcher.wait(all_caught_up, "equal nodes", READY_SECONDS)
            assert len({status.state_hash for status in statuses.values() if status}) == 1
        finally:
            await watcher.close()
            await operator.close()

    asyncio.run(play())

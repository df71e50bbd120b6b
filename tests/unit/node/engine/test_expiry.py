"""The leader writes an entry without commands when an order is due to expire, or when work is left over."""

from __future__ import annotations

import msgspec

from node.native.protocol import ControlAction, OrderQuery
from statemachine.commands import Batch, CancelAll, decode_batch, encode_batch
from statemachine.events import OrderState
from statemachine.types import DoneReason, TimeInForce
from tests.unit.node.engine.desk import Desk
from tests.unit.node.fakes import WORLD, buy


class TestExpiry:
    LIFE = 10 * 10**9

    def place(self, desk: Desk) -> int:
        """Place an order with an expiry. Returns when it leaves."""
        order = msgspec.structs.replace(buy(1), time_in_force=TimeInForce.GTT, cancel_after=self.LIFE)
        desk.submit(1, *WORLD, order)
        desk.run()
        return desk.machine.engine.next_expiry

    def entries(self, desk: Desk) -> list[Batch]:
        return [decode_batch(payload) for payload in desk.raft.entries]

    def test_the_leader_moves_the_time_on_when_an_orders_is_over(self, desk: Desk) -> None:
        due = self.place(desk)
        desk.now_ns = due - 2
        desk.service.expire()
        assert len(self.entries(desk)) == 1, "its time is not over"
        desk.service.expire()
        desk.service.expire()
        assert desk.raft.under_way == 1, "one entry is enough"
        desk.run()
        (_, batch) = self.entries(desk)
        assert batch.commands == []
        assert batch.time > due
        assert desk.machine.engine.next_expiry == 0
        assert desk.read(OrderQuery("alice", 1), OrderState).done_reason is DoneReason.EXPIRED
        desk.service.expire()
        assert len(self.entries(desk)) == 2, "nothing expires any more"

    def unfinished(self, desk: Desk) -> bool:
        return desk.machine.engine.has_pending_work

    def test_unfinished_work_continues_entry_by_entry(self, desk: Desk) -> None:
        desk.submit(1, *WORLD)
        desk.run()
        engine = desk.machine.engine
        for first in range(0, 6_000, 1_000):
            orders = [buy(first + n, price=1) for n in range(1_000)]
            desk.machine.apply(1, encode_batch(Batch(desk._time(), list(orders))))
        desk.machine.apply(1, encode_batch(Batch(desk._time(), [CancelAll("alice", "all")])))
        assert self.unfinished(desk)
        desk.now_ns -= 100
        desk.service.expire()
        assert desk.raft.under_way == 0, "an entry of the same time would change nothing"
        desk.now_ns += 100
        desk.service.expire()
        desk.run()
        assert not self.unfinished(desk)
        assert len(self.entries(desk)) == 1 + 3
        assert engine.orders("alice") == []

    def test_commands_in_progress_move_the_time_on(self, desk: Desk) -> None:
        desk.now_ns = self.place(desk) + 1
        desk.submit(2, buy(2))
        desk.service.expire()
        desk.run()
        assert [len(batch.commands) for batch in self.entries(desk)] == [len(WORLD) + 1, 1]
        assert desk.machine.engine.next_expiry == 0

    def test_only_a_leader_that_serves_does(self, desk: Desk) -> None:
        desk.now_ns = self.place(desk) + 1
        desk.raft.lose_leadership("n2")
        desk.service.expire()
        desk.raft.lead()
        desk.control(7, ControlAction.TRANSFER_LEADERSHIP)
        desk.service.expire()
        desk.service.begin_stop()
        desk.service.expire()
        assert len(self.entries(desk)) == 1

    def test_an_entry_that_is_lost_is_made_again(self, desk: Desk) -> None:
        desk.now_ns = self.place(desk) + 1
        desk.service.expire()
        desk.raft.lose_leadership("n2")
        desk.raft.lead()
        desk.service.expire()
        desk.run()
        assert desk.machine.engine.next_expiry == 0

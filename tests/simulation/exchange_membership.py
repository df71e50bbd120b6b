"""The whole exchange on a cluster whose members change: nodes with real engines, snapshots, services and clients are
added, removed and replaced.

This world combines those of `exchange.py` and `membership.py`, with the checks of both: new nodes get their state as
snapshots or entries under the load of clients, answers and feeds continue while members are removed, and a snapshot
contains the membership.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.exchange import SNAPSHOT_ENTRIES, ExchangeFaults, ExchangeInjector, ExchangeWorld
from tests.simulation.incidents import Incident
from tests.simulation.membership import Changes, MembershipWorld, Operator


class ExchangeOperator(Operator, ExchangeInjector):
    """Draws changes of the membership, and all faults of an exchange. No member is removed while the disk of another
    one is bad, which nobody knows yet: of three voters two would be left, and only one of them sound.
    """

    def carry_out(self, incident: Incident) -> None:
        if incident.kind != "remove" or self.world.all_vote():
            super().carry_out(incident)


class ExchangeMembershipWorld(MembershipWorld, ExchangeWorld):
    """See the module."""

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        *,
        faults: ExchangeFaults | None = None,
        changes: Changes | None = None,
        trace: bool = False,
        incidents: Sequence[Incident] | None = None,
    ) -> None:
        chances = faults or ExchangeFaults()
        super().__init__(
            seed, nodes, faults=chances, changes=changes, snapshot_entries=SNAPSHOT_ENTRIES, trace=trace, incidents=incidents
        )
        self.injector = ExchangeOperator(self)

"""Logs why nothing can be committed: voters are missing, or there is no leader although a majority is connected."""

from __future__ import annotations

import logging
from collections.abc import Set

from cluster.membership import Membership
from cluster.ports import Clock

log = logging.getLogger(__name__)

NOTED_AFTER = 2.0
"""Seconds for which a majority or a leader must be missing before it is logged: elections take a few tenths of a
second.
"""

REPEATED_EVERY = 60.0


class Outlook:
    """Watches the connections of a node, and logs changes of what the cluster can do."""

    def __init__(self, node_id: str, clock: Clock) -> None:
        self._node_id = node_id
        self._clock = clock
        self._missing_since: float | None = None
        self._leaderless_since: float | None = None
        self._said_at = -REPEATED_EVERY
        self._said = False

    def look(self, members: Membership, reached: Set[str], leader: str, *, votes: bool, refusers: Set[str] = frozenset()) -> None:
        """Log a change. `reached` are the connected nodes, including this one. `votes` says whether this node may vote.
        `refusers` are the followers that refuse this leader's entries because of their stamps.
        """
        now = self._clock()
        if members.have_majority(reached) and not members.have_majority(reached - refusers):
            if self._missing_since is None:
                self._missing_since = now
            if self._due(now, self._missing_since):
                missing = [voter for voter in members.voters if voter not in reached]
                log.warning(
                    "nothing is committed for %.0f s: %s refuses the entries of this leader, which are stamped too far ahead of its clock, and "
                    "this node does not reach %s. Set the clocks, or bring the missing node back",
                    now - self._missing_since, ", ".join(sorted(refusers)), ", ".join(missing) or "no other node",
                )  # fmt: skip
            return
        if not members.have_majority(reached):
            self._leaderless_since = None
            if self._missing_since is None:
                self._missing_since = now
            if self._due(now, self._missing_since):
                missing = [voter for voter in members.voters if voter not in reached]
                log.warning(
                    "no majority for %.0f s: of the voters %s this node does not reach %s. Nothing is committed until %d of %d voters are there",
                    now - self._missing_since, ", ".join(members.voters), ", ".join(missing), members.majority, len(members.voters),
                )  # fmt: skip
            return
        self._missing_since = None
        if leader:
            self._leaderless_since = None
            if self._said:
                self._said, self._said_at = False, -REPEATED_EVERY
                log.info("a majority of the voters is connected, and %s leads", leader)
            return
        if self._leaderless_since is None:
            self._leaderless_since = now
        if self._due(now, self._leaderless_since):
            log.warning(
                "no leader for %.0f s, although a majority of the voters %s is connected%s",
                now - self._leaderless_since,
                ", ".join(members.voters),
                "" if votes else f"; {self._node_id} has no vote until it has caught up",
            )

    def _due(self, now: float, since: float) -> bool:
        """Return whether a lasting problem is due to be logged, or logged again."""
        if now - since < NOTED_AFTER or now - self._said_at < REPEATED_EVERY:
            return False
        self._said, self._said_at = True, now
        return True

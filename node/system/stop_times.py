"""How long a stop may take. Whoever waits for a node (`cluster down`, systemd, a container runtime) must wait for
longer than `NODE`.
"""

from __future__ import annotations

DRAIN = 1.5
"""Seconds for what is under way to be answered."""

TRANSFER = 2.0
"""Seconds for another node to lead."""

SNAPSHOT = 60.0
"""Seconds for the last snapshot. One that takes longer is given up: the log behind the one before holds everything."""

GATEWAY = 3.0
"""Seconds for a gateway to finish its requests, before it is killed."""

ENGINE = DRAIN + TRANSFER + SNAPSHOT + 6.5
"""Seconds for the engine, before it is killed."""

NODE = GATEWAY + ENGINE
"""Seconds that a whole node takes to stop, at most."""

"""Time limits of a stop. Everything that waits for a node (`cluster down`, systemd, a container runtime) must wait
longer than `NODE`.
"""

from __future__ import annotations

DRAIN = 1.5
"""Seconds to answer requests in flight."""

TRANSFER = 2.0
"""Seconds to transfer leadership."""

SNAPSHOT = 60.0
"""Seconds for the last snapshot. A slower one is cancelled, because the log after the previous snapshot has everything.
"""

GATEWAY = 3.0
"""Seconds for a gateway to finish its requests before it is killed."""

ENGINE = DRAIN + TRANSFER + SNAPSHOT + 6.5
"""Seconds for the engine before it is killed."""

NODE = GATEWAY + ENGINE
"""Seconds that a whole node takes to stop, at most."""

"""File descriptors: as many as the system allows, and never fewer than a node needs.

A process without free descriptors cannot store a vote or open a log segment, and must stop. Therefore each process of a
node raises its soft limit to the hard limit at its start, refuses to start below a minimum, and limits its connections
so that its files always have room.
"""

from __future__ import annotations

import resource

from node.errors import QuorumbookError

DESCRIPTORS_MIN = 8_192
"""Descriptors that each process of a node must be able to open. An engine has at most `engine.connection_limits.CONNECTIONS_MAX`
connections (2,752), about 80 on its Raft port, and fewer than 200 files and pipes; a gateway has up to 4,096
connections of clients and a few to engines."""

DESCRIPTORS_WANTED = 65_536
"""No process needs more."""


class DescriptorsError(QuorumbookError):
    """This process may open too few files."""


def raise_limit() -> int:
    """Raise the soft limit to the hard limit, or to `DESCRIPTORS_WANTED` if that is less. Returns the limit in force.

    Raises:
        DescriptorsError: even the hard limit is below `DESCRIPTORS_MIN`; the text says what to change.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    reachable = DESCRIPTORS_WANTED if hard == unlimited else min(hard, DESCRIPTORS_WANTED)
    if soft != unlimited and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        soft = reachable
    if soft != unlimited and soft < DESCRIPTORS_MIN:
        raise DescriptorsError(
            f"this process may open {soft} files (hard limit {hard}); a node needs {DESCRIPTORS_MIN}. Raise the hard limit: "
            "LimitNOFILE=65536 in a systemd unit, --ulimit nofile=65536 for a container, nofile in /etc/security/limits.conf for a login"
        )
    return DESCRIPTORS_WANTED if soft == unlimited else soft

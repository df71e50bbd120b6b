"""A child that does not outlive its supervisor.

The supervisor keeps the write end of a pipe and never writes; each child gets the read end, its number in the
environment variable `PARENT_PIPE`. Whatever ends the supervisor, SIGKILL included, closes the pipe, and the child then
ends itself at once. That is safe at any moment: everything that a node has promised is on disk before it says so.
"""

from __future__ import annotations

import os
import sys
import threading

from node import exit_codes

PARENT_PIPE = "QUORUMBOOK_PARENT_PIPE"
"""Environment variable with the number of the pipe's file descriptor."""


def watch_parent() -> bool:
    """End this process as soon as its supervisor ends. False when it was not started by one; nothing is watched then.

    Call it once, early. The variable is taken out of the environment and the pipe is not handed on to grandchildren.
    """
    text = os.environ.pop(PARENT_PIPE, "")
    if not text.isdigit():
        return False
    descriptor = int(text)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_wait_for_end, args=(descriptor,), name="parent-watch", daemon=True).start()
    return True


def _wait_for_end(descriptor: int) -> None:
    while os.read(descriptor, 64):
        continue
    sys.stderr.write("the supervisor is gone; this process ends too\n")
    sys.stderr.flush()
    os._exit(exit_codes.ORPHANED)

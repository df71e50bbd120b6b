"""The command line, `quorumbook`: one file a group of commands.

Whatever a person gets wrong is one line on stderr and exit code 1 (the exchange refused, or a file or node is not
there) or 2 (the command line itself is wrong). With `--json`, stdout carries one JSON document and nothing else.
"""

from __future__ import annotations

from node.cli.program import main

__all__ = ["main"]

"""The command line, `quorumbook`: one file a group of commands.

Every error of a user is one line on stderr, with exit code 1 (the exchange rejected the command, or a file or node does
not exist) or 2 (the command line is invalid). With `--json`, stdout has one JSON document and nothing else.
"""

from __future__ import annotations

from node.cli.program import main

__all__ = ["main"]

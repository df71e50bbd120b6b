"""The native protocol: frames, messages, and the client that finds the leader."""

from node.compiled import choose

choose(__name__, __path__)

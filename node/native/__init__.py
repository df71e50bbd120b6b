"""The native protocol: frames, messages, and the client that finds the leader."""

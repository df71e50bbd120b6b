"""The native protocol: frames, messages, the server, and the client that finds the leader."""
